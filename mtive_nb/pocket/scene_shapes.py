"""Outlines of general things, as masks: plain shapes, household containers of random proportions, printed symbols.

Symbols have names. Signs have none: only the dense labels and pairs of images distinguish them.
"""

import math
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

PLAIN = tuple("circle square triangle star hexagon cross ring diamond bar pillar drop heart".split())
CONTAINERS = ("bottle", "jar", "can", "tube", "carton", "bag")
SYMBOLS = {
    "sun": "☀", "cloud": "☁", "umbrella": "☂", "snowman": "☃", "phone": "☎", "clover": "☘", "skull": "☠",
    "peace": "☮", "yin": "☯", "wheel": "☸", "frown": "☹", "smile": "☺", "moon": "☾", "king": "♚", "queen": "♛",
    "tower": "♜", "horse": "♞", "spade": "♠", "club": "♣", "steam": "♨", "note": "♫", "loop": "♻", "flag": "⚑",
    "hammer": "⚒", "anchor": "⚓", "swords": "⚔", "scales": "⚖", "flask": "⚗", "gear": "⚙", "atom": "⚛", "lily": "⚜",
    "scissors": "✂", "plane": "✈", "letter": "✉", "pencil": "✏", "tick": "✔", "snow": "❄", "flower": "✿", "arrow": "➔",
}  # fmt: skip
SIGNS = tuple(
    "⌂⌘⌨⌬⏏▣▤▥▦▩▰◈◉◍◎◐◒◕◙◢◧◩◬◮☄☆☍☑☒☔☕☖☚☝☢☣☤☥☦☩☪☫☬☭☻☼☽♀♂♃♄♅♆♈♉♊♋♌♍♎♏♐♑♒♓♗♝♟♡♢♧♤♩♬♭♯♾♿"
    "⚀⚂⚃⚅⚇⚉⚐⚕⚘⚠⚡⚢⚭⚱⚲⛁✁✆✇✌✍✑✗✙✜✠✡✢✤✥✦✪✯✱✴✷✸✺✻✽❀❁❂❃❅❉❖❡❣❦❧➊➋➌➎➑➥➲➳⟳⟰⬓⬕⬖⬟"
)
KINDS = PLAIN, CONTAINERS, tuple(SYMBOLS), SIGNS
SHAPES = sum(KINDS, ())
ASPECT = {"bar": (1.5, 0.6), "pillar": (0.6, 1.5)} | {  # (width, height) for a side of 1
    "bottle": (0.72, 1.35), "jar": (1.0, 1.12), "can": (0.8, 1.2), "tube": (0.74, 1.35), "carton": (0.85, 1.25),
    "bag": (0.85, 1.25),
}  # fmt: skip

Points = list[tuple[float, float]]
Box = tuple[float, float, float, float]


def random_shape(rng: np.random.Generator, shares: tuple[float, ...] = (0.35, 0.25, 0.25, 0.15)) -> str:
    """Draw a plain shape, a container, a symbol or a sign, with the probabilities `shares`."""
    kind = KINDS[int(rng.choice(len(KINDS), p=shares))]
    return kind[int(rng.integers(len(kind)))]


def shape_mask(shape: str, box: Box, size: tuple[int, int], rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:  # fmt: skip
    """Return a shape's mask of `size` (width, height), and the mask of its part in another colour: a lid, a rim."""
    mask, part = Image.new("L", size), Image.new("L", size)
    draw, second = ImageDraw.Draw(mask), ImageDraw.Draw(part)
    if shape in ("circle", "ring"):
        draw.ellipse(box, fill=255)
        if shape == "ring":
            x0, y0, x1, y1 = box
            w, h = (x1 - x0) * 0.27, (y1 - y0) * 0.27
            draw.ellipse((x0 + w, y0 + h, x1 - w, y1 - h), fill=0)
    elif shape in ("square", "bar", "pillar"):
        draw.rounded_rectangle(box, radius=(box[2] - box[0]) * 0.06, fill=255)
    elif shape in SYMBOLS or shape in SIGNS:
        glyph = _symbol(SYMBOLS.get(shape, shape)).resize(
            (round(box[2] - box[0]), round(box[3] - box[1])), Image.BILINEAR
        )
        mask.paste(glyph, (round(box[0]), round(box[1])))
    elif shape in CONTAINERS:
        body, lids = _container(shape, rng)
        for outline in (body, *lids):
            draw.polygon(_placed(outline, box), fill=255)
        for outline in lids:
            second.polygon(_placed(outline, box), fill=255)
    else:
        draw.polygon(_polygon(shape, box), fill=255)
    return mask, part


@lru_cache(maxsize=256)
def _symbol(char: str) -> Image.Image:
    """Render a symbol in a font that ships with matplotlib, as a mask cropped to its ink."""
    face = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 120)
    image = Image.new("L", (240, 240))
    ImageDraw.Draw(image).text((50, 50), char, font=face, fill=255)
    return image.crop(image.getbbox())


def _placed(points: Points, box: Box) -> Points:
    """Map points with x in [-1, 1] and y in [0, 1] from the top into a box in pixels."""
    x0, y0, x1, y1 = box
    return [((x0 + x1) / 2 + x * (x1 - x0) / 2, y0 + y * (y1 - y0)) for x, y in points]


def _turned(widths: Points) -> Points:
    """Return the outline of a body of revolution, from (height, half-width) pairs."""
    return [(w, y) for y, w in widths] + [(-w, y) for y, w in reversed(widths)]


def _container(kind: str, rng: np.random.Generator) -> tuple[Points, list[Points]]:
    """Return a container's body and lids with random proportions, in the coordinates of `_placed`."""
    u = rng.uniform
    if kind == "bottle":
        neck, top, turn = u(0.2, 0.45), u(0.16, 0.34), u(0.06, 0.2)
        t = np.linspace(0, 1, 8)
        shoulder = [(top + turn * (1 - math.cos(s * 1.57)), neck + (1 - neck) * math.sin(s * 1.57)) for s in t]
        wide = neck + u(-0.02, 0.2)
        cap = (0.0, wide), (top * u(0.55, 1.0), wide)
        return _turned([(0.03, neck), *shoulder, (0.96, u(0.85, 1)), (1.0, 0.86)]), [_turned(list(cap))]
    if kind == "jar":
        lid, high, belly = u(0.72, 0.98), u(0.13, 0.25), u(0.8, 1.0)
        body = [(high, belly * 0.86), (high + 0.08, belly), (u(0.4, 0.7), 1.0), (0.94, belly), (1.0, belly * 0.88)]
        return _turned(body), [_turned([(0.0, lid * 0.96), (0.03, lid), (high, lid)])]
    if kind == "can":
        rim, inset = u(0.04, 0.09), u(0.88, 0.97)
        body = [(rim, 0.99), (rim + 0.01, 1.0), (0.99 - rim, 1.0), (1 - rim, 0.99)]
        return _turned(body), [_turned([(0.0, inset), (rim, 0.98)]), _turned([(1 - rim, 0.98), (1.0, inset)])]
    if kind == "tube":
        cap, high, flat = u(0.4, 0.75), u(0.12, 0.22), u(0.04, 0.08)
        body = [(0.0, 1.0), (flat, 1.0), (0.92 - high, u(0.75, 0.9)), (1 - high, cap * 0.9)]
        tube = _turned(body), [_turned([(1 - high, cap), (1.0, cap * 0.94)])]
        if rng.random() < 0.4:  # stands on its flat end
            tube = [(x, 1 - y) for x, y in tube[0]], [[(x, 1 - y) for x, y in tube[1][0]]]
        return tube
    if kind == "carton":
        edge, rise = u(0.45, 0.8), u(0.04, 0.14)
        front = [(-1, rise), (edge, rise), (edge, 1), (-1, 1)]
        side = [(edge, rise), (1, 0), (1, 1 - rise), (edge, 1)]
        return front, [side, [(-1, rise), (edge, rise), (1, 0), (-1 + (1 - edge), 0)]]
    wave, deep = np.linspace(0, 1, 14), u(0.04, 0.12)
    widths = [(y, 1 - deep * (1 + math.sin(y * 9 + deep * 40)) * (0.15 < y)) for y in wave]
    return _turned(widths), [_turned([(0.0, 1.0), (u(0.05, 0.1), 1.0)])]


def _polygon(shape: str, box: Box) -> Points:
    x0, y0, x1, y1 = box
    cx, cy, rx, ry = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2

    def around(n: int, start: float, inner: float = 1.0) -> Points:
        radii = [1.0 if i % 2 == 0 else inner for i in range(n)]
        angles = [start + 2 * math.pi * i / n for i in range(n)]
        return [(cx + rx * r * math.cos(a), cy + ry * r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]

    if shape == "triangle":
        return [(cx, y0), (x1, y1), (x0, y1)]
    if shape == "star":
        return around(10, -math.pi / 2, 0.42)
    if shape == "hexagon":
        return around(6, 0)
    if shape == "diamond":
        return [(cx, y0), (x1, cy), (cx, y1), (x0, cy)]
    if shape == "cross":
        a, b = 0.32, 1.0
        quarter = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)]
        steps = quarter + [(-u, -v) for u, v in quarter]
        return [(cx + rx * u, cy + ry * v) for u, v in steps]
    t = np.linspace(0, 2 * math.pi, 28)
    if shape == "drop":
        return [(cx + rx * math.sin(a) * math.sin(a / 2) ** 1.2, cy - ry * math.cos(a)) for a in t]
    x, y = 16 * np.sin(t) ** 3, 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return list(zip((cx + rx * x / 16).tolist(), (cy - ry * y / 15).tolist(), strict=True))  # heart
