"""Damage of seven kinds, and harmless marks, drawn onto a package of Pocket Mart.

Each kind of damage is drawn onto an RGBA canvas (twice photo size) around a spot of the package's body.
`damage_package` returns a changed copy of the canvas and the XYXY box of the pixels that changed.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from mtive_nb.data.mart.bend import crush, dent
from mtive_nb.data.mart.draw import Package
from mtive_nb.data.mart.label import Box, font, luminance, mix
from mtive_nb.data.mart.shapes import CANVAS_W, FLOOR_Y
from mtive_nb.data.mart.vocabulary import COLOUR_RGB, DAMAGES

_CONTENTS = ((120, 66, 26), (226, 186, 74), (150, 190, 60), (232, 214, 178), (176, 40, 60), (90, 170, 200))


def _blob(
    rng: np.random.Generator,
    centre: tuple[float, float],
    radius: float,
    *,
    rough: float,
    points: int = 36,
    squash: float = 1.0,
):
    """A closed irregular outline around a centre."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    wave = sum(rng.uniform(-1, 1) * np.sin(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 5, 7))
    reach = radius * (1 + rough * wave / 2 + rough * 0.35 * rng.uniform(-1, 1, points))
    return [(centre[0] + r * np.cos(a), centre[1] + squash * r * np.sin(a)) for r, a in zip(reach, angle, strict=True)]


def _under(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The mask, limited to the pixels of the package."""
    return Image.composite(
        mask, Image.new("L", image.size), image.getchannel("A").point(lambda a: 255 if a > 128 else 0)
    )


def crack(
    image: Image.Image, spot: tuple[float, float], size: float, rng: np.random.Generator, pack: Package
) -> Image.Image:
    """Branching dark lines with a bright edge, running out from one point."""
    lines = []
    start = rng.uniform(0, 6.3)
    for arm in range(int(rng.integers(4, 6))):
        heading, point, width = start + arm * 1.35 + rng.uniform(-0.3, 0.3), spot, 11.0
        for step in range(6):
            heading += rng.uniform(-0.65, 0.65)
            reach = size / 6 * rng.uniform(0.7, 1.3)
            nxt = (point[0] + reach * np.cos(heading), point[1] + reach * np.sin(heading))
            lines.append((point, nxt, width))
            if step in (1, 3):
                twig = heading + rng.choice((-0.9, 0.9))
                end = (nxt[0] + reach * np.cos(twig), nxt[1] + reach * np.sin(twig))
                lines.append((nxt, end, width * 0.6))
            point, width = nxt, max(4.0, width - 1.3)
    for ink, shift, grow in (((255, 255, 255), 4, 0.75), ((14, 12, 14), 0, 1.0)):
        mask = Image.new("L", image.size)
        pen = ImageDraw.Draw(mask)
        for (ax, ay), (bx, by), width in lines:
            pen.line(
                (ax + shift, ay + shift, bx + shift, by + shift),
                fill=255 if shift == 0 else 200,
                width=max(2, round(width * grow)),
            )
        image.paste((*ink, 255), (0, 0), _under(image, mask))
    return image


def tear(
    image: Image.Image, spot: tuple[float, float], size: float, rng: np.random.Generator, pack: Package
) -> Image.Image:
    """A ragged hole: white fibre along its edge, the dark inside, and a flap folded back."""
    hole = _blob(rng, spot, size * 0.43, rough=0.42, points=30, squash=rng.uniform(0.6, 0.9))
    fibre = [
        (spot[0] + (x - spot[0]) * rng.uniform(1.12, 1.34), spot[1] + (y - spot[1]) * rng.uniform(1.12, 1.4))
        for x, y in hole
    ]
    inside = mix(_CONTENTS[int(rng.integers(len(_CONTENTS)))], (30, 24, 20), 0.72)
    for outline, ink in ((fibre, (238, 232, 218)), (hole, inside)):
        mask = Image.new("L", image.size)
        ImageDraw.Draw(mask).polygon(outline, fill=255)
        image.paste((*ink, 255), (0, 0), _under(image, mask))
    third = len(hole) // 3
    first = int(rng.integers(third, 2 * third))
    edge = hole[first : first + third]
    out = np.array(edge) - np.array(spot)
    flap = edge + [tuple(p) for p in (np.array(edge) + out * rng.uniform(0.35, 0.6) + (0, size * 0.12))[::-1]]
    mask = Image.new("L", image.size)
    pen = ImageDraw.Draw(mask)
    pen.polygon(flap, fill=255)
    image.paste((206, 196, 176, 255), (0, 0), _under(image, mask))
    ImageDraw.Draw(image).line(edge, fill=(150, 138, 120, 255), width=5)
    return image


def leak(
    image: Image.Image, spot: tuple[float, float], size: float, rng: np.random.Generator, pack: Package
) -> Image.Image:
    """Liquid that runs down the body from a hole and stands in a puddle at the foot."""
    body = COLOUR_RGB[pack.look.colour]
    far = [c for c in _CONTENTS if sum(abs(a - b) for a, b in zip(c, body, strict=True)) > 170] or [_CONTENTS[3]]
    ink = far[int(rng.integers(len(far)))]
    mask = Image.new("L", image.size)
    pen = ImageDraw.Draw(mask)
    pen.polygon(_blob(rng, spot, size * 0.2, rough=0.3), fill=235)
    runs = []
    for k in range(int(rng.integers(3, 5))):
        x = spot[0] + (k - 1.3) * size * 0.17 + rng.uniform(-8, 8)
        end = FLOOR_Y - 6 if k == 1 else spot[1] + rng.uniform(0.3, 0.95) * (FLOOR_Y - spot[1])
        width = rng.uniform(11, 20)
        pen.line((x, spot[1], x, end), fill=235, width=round(width))
        pen.ellipse((x - width * 0.8, end - width, x + width * 0.8, end + width * 0.9), fill=235)
        runs.append((x - width * 0.22, spot[1] + 8, end))
    foot = min(max(spot[0], 150), CANVAS_W - 150)
    reach = size * 0.85
    pool = Image.new("L", image.size)
    ImageDraw.Draw(pool).polygon(_blob(rng, (foot, FLOOR_Y + 2), reach, rough=0.16, squash=0.2), fill=240)
    mask = ImageChops.lighter(_under(image, mask), pool)
    image.paste((*ink, 255), (0, 0), mask)
    pen = ImageDraw.Draw(image)
    glint = (*mix(ink, (255, 255, 255), 0.6), 255)
    for x, top, bottom in runs:
        pen.line((x, top, x, bottom), fill=glint, width=4)
    pen.arc((foot - reach * 0.8, FLOOR_Y - 18, foot + reach * 0.5, FLOOR_Y + 16), 120, 200, fill=glint, width=4)
    return image


def stain(
    image: Image.Image, spot: tuple[float, float], size: float, rng: np.random.Generator, pack: Package
) -> Image.Image:
    """A soaked blotch with a darker rim and a few splashes."""
    dark = luminance(COLOUR_RGB[pack.look.colour]) < 90
    inks = ((196, 158, 92), (158, 176, 104)) if dark else ((92, 52, 20), (58, 66, 24), (70, 30, 44))
    ink = inks[int(rng.integers(len(inks)))]
    outer, inner = Image.new("L", image.size), Image.new("L", image.size)
    pens = ImageDraw.Draw(outer), ImageDraw.Draw(inner)
    shape = _blob(rng, spot, size * 0.56, rough=0.3)
    pens[0].polygon(shape, fill=222)
    pens[1].polygon([(spot[0] + (x - spot[0]) * 0.86, spot[1] + (y - spot[1]) * 0.86) for x, y in shape], fill=82)
    for _ in range(7):
        turn, far, radius = rng.uniform(0, 6.3), size * rng.uniform(0.62, 0.92), rng.uniform(6, 17)
        x, y = spot[0] + far * np.cos(turn), spot[1] + far * np.sin(turn)
        pens[0].ellipse((x - radius, y - radius, x + radius, y + radius), fill=205)
    soft = outer.reduce(4).filter(ImageFilter.BoxBlur(0.8))
    soak = inner.reduce(4).filter(ImageFilter.BoxBlur(2))
    mask = ImageChops.subtract(soft, soak).resize(image.size, Image.Resampling.BILINEAR)
    image.paste((*ink, 255), (0, 0), _under(image, mask))
    return image


def scratch(
    image: Image.Image, spot: tuple[float, float], size: float, rng: np.random.Generator, pack: Package
) -> Image.Image:
    """A bundle of strokes that remove the print, each with a thin shadow below it."""
    bright = luminance(COLOUR_RGB[pack.look.colour]) > 195
    inks = ((120, 122, 126), (60, 60, 64)) if bright else ((244, 244, 240), (30, 28, 30))
    heading = rng.uniform(-0.9, 0.9) + (np.pi if rng.random() < 0.5 else 0)
    along, across = np.array((np.cos(heading), np.sin(heading))), np.array((-np.sin(heading), np.cos(heading)))
    masks = Image.new("L", image.size), Image.new("L", image.size)
    pens = [ImageDraw.Draw(mask) for mask in masks]
    for k in np.linspace(-1, 1, int(rng.integers(7, 10))):
        middle = np.array(spot) + across * k * size * 0.36 + along * rng.uniform(-0.2, 0.2) * size
        half = size * rng.uniform(0.45, 0.85)
        bend = across * rng.uniform(-0.08, 0.08) * size
        points = [tuple(middle + along * half * t + bend * (1 - t * t)) for t in np.linspace(-1, 1, 7)]
        width = int(rng.integers(3, 8))
        pens[1].line([(x + 3, y + 3) for x, y in points], fill=150, width=width)
        pens[0].line(points, fill=245, width=width)
    for mask, ink in zip(masks[::-1], inks[::-1], strict=True):
        image.paste((*ink, 255), (0, 0), _under(image, mask))
    return image


_DRAW: dict[str, Callable] = {
    "dent": dent,
    "crack": crack,
    "tear": tear,
    "leak": leak,
    "crush": crush,
    "stain": stain,
    "scratch": scratch,
}


def damage_package(pack: Package, kind: str, *, rng: np.random.Generator) -> tuple[Image.Image, Box]:
    """The package's canvas with damage of one kind (see DAMAGES), and the XYXY box of the pixels that changed."""
    if kind not in _DRAW:
        raise ValueError(f"damage: found {kind!r}, expected one of {DAMAGES}")
    x0, y0, x1, y1 = pack.body
    size = 0.5 * float(np.sqrt((x1 - x0) * (y1 - y0))) * rng.uniform(0.85, 1.1)
    spots = [(x0 + (x1 - x0) * rng.uniform(0.26, 0.74), y0 + (y1 - y0) * rng.uniform(0.3, 0.78)) for _ in range(4)]
    low = pack.label.brand[3] + 0.3 * size
    spot = next((s for s in spots if s[1] > low), spots[0])  # so that the brand mostly stays legible
    changed = _DRAW[kind](pack.image.copy(), spot, size, rng, pack)
    difference = ImageChops.difference(changed, pack.image).point(lambda v: 255 if v > 24 else 0)
    return changed, tuple(float(v) for v in difference.getbbox(alpha_only=False))


def mark_package(image: Image.Image, pack: Package, kind: str, *, rng: np.random.Generator) -> Image.Image:
    """A harmless mark, so that not every mark is damage: `sticker` (a price), `tape` (clear) or `shine`."""
    x0, y0, x1, y1 = pack.body
    layer = Image.new("RGBA", image.size)
    pen = ImageDraw.Draw(layer)
    if kind == "sticker":
        x, y, r = rng.uniform(x0 + 46, x1 - 46), y1 - rng.uniform(46, 90), 42
        pen.ellipse(
            (x - r, y - r, x + r, y + r), fill=(255, 222, 40, 255) if rng.random() < 0.6 else (255, 255, 255, 255)
        )
        pen.text(
            (x, y),
            f"{rng.integers(1, 9)}.{rng.integers(0, 10)}9",
            font=font("sans", 30),
            fill=(190, 20, 30, 255),
            anchor="mm",
        )
    elif kind == "tape":
        y, lift = y1 - rng.uniform(40, 120), rng.uniform(-60, 60)
        pen.polygon(
            [(0, y - lift), (CANVAS_W, y + lift), (CANVAS_W, y + lift + 44), (0, y - lift + 44)],
            fill=(226, 206, 150, 120),
        )
    else:
        x = rng.uniform(x0 + 60, x1 - 60)
        pen.polygon([(x, y0), (x + 34, y0), (x - 46, y1), (x - 80, y1)], fill=(255, 255, 255, 70))
    out = image.copy()
    out.paste(layer.convert("RGB"), (0, 0), _under(image, layer.getchannel("A")))
    return out
