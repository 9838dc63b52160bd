"""Backgrounds of a customer's photo (on a shelf, in a hand, on the floor, in a carton), and objects in the foreground.

Backgrounds are drawn at photo size and softened a little, as if out of focus. `backdrop` draws what lies behind the
product; `fingers` and `occluder` draw what lies in front.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from mtive_nb.data.mart.label import Rgb, mix

SIDE = 280  # photo edge in pixels
_SKINS = ((247, 214, 188), (232, 184, 148), (198, 140, 102), (146, 94, 64), (98, 62, 44))
_MUTED = (
    (150, 160, 170),
    (176, 150, 140),
    (140, 164, 150),
    (186, 176, 150),
    (160, 146, 176),
    (128, 140, 160),
    (190, 160, 160),
)
_DARK = (30, 26, 24)
_WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Backdrop:
    """A photo's background, and the y of the ground under a standing product (None: it does not stand)."""

    image: Image.Image
    ground_y: int | None


def _gradient(top: Rgb, bottom: Rgb) -> Image.Image:
    ramp = np.linspace(0, 1, SIDE, dtype=np.float32)[:, None, None]
    pixels = np.array(top, np.float32) * (1 - ramp) + np.array(bottom, np.float32) * ramp
    return Image.fromarray(np.broadcast_to(pixels, (SIDE, SIDE, 3)).astype(np.uint8))


def _pick(rng: np.random.Generator, colours: tuple[Rgb, ...]) -> Rgb:
    return colours[int(rng.integers(len(colours)))]


def _shelf(rng: np.random.Generator, low_y: int) -> Backdrop:
    wall = _pick(rng, ((214, 218, 222), (224, 214, 198), (196, 204, 208), (206, 196, 190)))
    image = _gradient(mix(wall, _DARK, 0.28), wall)
    pen = ImageDraw.Draw(image)
    board = _pick(rng, ((176, 130, 86), (238, 238, 236), (128, 90, 60), (158, 164, 170)))
    for x in (
        rng.integers(-46, -20),
        rng.integers(28, 48),
        rng.integers(210, 226),
        rng.integers(262, 280),
    ):  # neighbouring products
        colour, high = _pick(rng, _MUTED), int(rng.integers(110, 190))
        width = int(rng.integers(56, 72))
        pen.rounded_rectangle((x, low_y - high, x + width, low_y), radius=int(rng.integers(2, 18)), fill=colour)
        pen.rectangle((x + 6, low_y - high * 0.7, x + width - 6, low_y - high * 0.3), fill=mix(colour, _WHITE, 0.5))
        pen.line((x + 8, low_y - high + 12, x + 8, low_y - 4), fill=mix(colour, _WHITE, 0.3), width=4)
    upper = int(rng.integers(8, 30))
    pen.rectangle((0, 0, SIDE, upper), fill=board)
    pen.rectangle((0, upper, SIDE, upper + 12), fill=mix(wall, _DARK, 0.55))
    pen.rectangle((0, low_y - 6, SIDE, low_y + 6), fill=mix(board, _WHITE, 0.25))
    pen.rectangle((0, low_y + 6, SIDE, SIDE), fill=mix(board, _DARK, 0.15))
    for x in range(int(rng.integers(0, 40)), SIDE, 92):  # price rail
        pen.rectangle((x, low_y + 9, x + 46, low_y + 24), fill=(250, 248, 236))
        pen.line((x + 8, low_y + 15, x + 36, low_y + 15), fill=(90, 90, 96), width=3)
    return Backdrop(image, low_y)


def _room(rng: np.random.Generator, skin: Rgb) -> Backdrop:
    wall = _pick(
        rng, ((178, 190, 178), (206, 188, 162), (168, 182, 204), (216, 204, 210), (150, 150, 156), (120, 140, 136))
    )
    image = _gradient(mix(wall, _WHITE, 0.25), mix(wall, _DARK, 0.25))
    pen = ImageDraw.Draw(image)
    for _ in range(5):  # furniture and lamps, far out of focus
        x, y, w = rng.integers(-30, SIDE), rng.integers(-20, SIDE), rng.integers(30, 120)
        colour = mix(wall, _pick(rng, (*_MUTED, _DARK, (255, 236, 190))), 0.6)
        if rng.random() < 0.5:
            pen.rectangle((x, y, x + w, y + rng.integers(40, 150)), fill=colour)
        else:
            pen.ellipse((x, y, x + w * 0.6, y + w * 0.6), fill=colour)
    image = image.reduce(4).filter(ImageFilter.BoxBlur(2.4)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    shade = mix(skin, _DARK, 0.22)
    pen.polygon([(70, 300), (58, 222), (110, 180), (236, 190), (262, 226), (240, 300)], fill=shade)  # palm and wrist
    pen.ellipse((46, 160, 262, 290), fill=shade)
    return Backdrop(image, None)


def _floor(rng: np.random.Generator) -> Backdrop:
    if rng.random() < 0.5:  # tiles
        tile = _pick(rng, ((222, 218, 208), (186, 192, 196), (204, 178, 152), (158, 166, 160)))
        image = Image.new("RGB", (SIDE, SIDE), tile)
        pen = ImageDraw.Draw(image)
        step, tilt = int(rng.integers(84, 120)), int(rng.integers(-34, 34))
        start = int(rng.integers(-step, 0))
        for k in range(5):
            for j in range(5):
                x, y = start + k * step, start + j * step
                pen.rectangle((x, y, x + step, y + step), fill=mix(tile, _DARK, float(rng.uniform(0, 0.09))))
        for k in range(start - step, SIDE + 2 * step, step):
            pen.line((k, -4, k + tilt, SIDE + 4), fill=mix(tile, _DARK, 0.4), width=4)
            pen.line((-4, k, SIDE + 4, k - tilt), fill=mix(tile, _DARK, 0.4), width=4)
        return Backdrop(image, None)
    plank = _pick(rng, ((188, 144, 98), (148, 104, 68), (206, 172, 128), (120, 92, 72)))
    image = Image.new("RGB", (SIDE, SIDE), plank)
    pen = ImageDraw.Draw(image)
    wide = int(rng.integers(44, 64))
    for k, y in enumerate(range(-int(rng.integers(0, wide)), SIDE, wide)):
        colour = mix(plank, _DARK, float(rng.uniform(0, 0.22)))
        pen.rectangle((0, y, SIDE, y + wide), fill=colour)
        for _ in range(4):
            gy, gx = y + rng.integers(5, wide - 4), rng.integers(-60, 220)
            pen.line((gx, gy, gx + 110, gy + rng.integers(-3, 4)), fill=mix(colour, _DARK, 0.16), width=2)
        pen.line((0, y, SIDE, y), fill=mix(plank, _DARK, 0.6), width=3)
        joint = (k * 137 + int(rng.integers(0, 90))) % SIDE
        pen.line((joint, y, joint, y + wide), fill=mix(plank, _DARK, 0.55), width=3)
    return Backdrop(image, None)


def _carton(rng: np.random.Generator) -> Backdrop:
    kraft = _pick(rng, ((196, 152, 104), (182, 138, 92), (208, 170, 124)))
    image = Image.new("RGB", (SIDE, SIDE), mix(kraft, _DARK, 0.42))
    pen = ImageDraw.Draw(image)
    a, b = int(rng.integers(26, 44)), int(rng.integers(22, 40))
    inner = (a, b, SIDE - a, SIDE - b)
    sides = (((0, 0), (SIDE, 0), (inner[2], b), (a, b)), ((0, SIDE), (SIDE, SIDE), (inner[2], inner[3]), (a, inner[3])))
    ends = (((0, 0), (a, b), (a, inner[3]), (0, SIDE)), ((SIDE, 0), (inner[2], b), (inner[2], inner[3]), (SIDE, SIDE)))
    for wall, share in zip((*sides, *ends), (0.2, -0.1, 0.1, 0.0), strict=True):  # four walls seen from above
        pen.polygon(wall, fill=mix(kraft, _DARK, share) if share >= 0 else mix(kraft, _WHITE, -share))
        pen.line((*wall, wall[0]), fill=mix(kraft, _DARK, 0.35), width=2)
    for x in range(0, SIDE, 7):  # corrugation on the upper edges
        pen.line((x, 0, x, 5), fill=mix(kraft, _DARK, 0.3), width=2)
        pen.line((x, SIDE - 6, x, SIDE), fill=mix(kraft, _DARK, 0.3), width=2)
    if rng.random() < 0.6:  # packing paper
        paper = _pick(rng, ((226, 216, 198), (236, 234, 228)))
        for _ in range(14):
            x, y, w = rng.integers(a, SIDE - a), rng.integers(b, SIDE - b), rng.integers(18, 46)
            points = [
                (x + w * np.cos(t) * rng.uniform(0.5, 1), y + w * np.sin(t) * rng.uniform(0.5, 1))
                for t in np.linspace(0, 5.5, 6)
            ]
            pen.polygon(points, fill=mix(paper, _DARK, float(rng.uniform(0, 0.28))))
    return Backdrop(image, None)


def backdrop(placement: str, *, rng: np.random.Generator, skin: int = 0) -> Backdrop:
    """The background of one placement. Errors: ValueError for a placement that is not in PLACEMENTS."""
    if placement == "on shelf":
        scene = _shelf(rng, int(rng.integers(244, 256)))
    elif placement == "in hand":
        return _room(rng, _SKINS[skin % len(_SKINS)])
    elif placement == "on floor":
        scene = _floor(rng)
    elif placement == "in carton":
        scene = _carton(rng)
    else:
        raise ValueError(f"placement: found {placement!r}, expected one of mart.vocabulary.PLACEMENTS")
    return Backdrop(scene.image.filter(ImageFilter.BoxBlur(0.7)), scene.ground_y)


def _finger(
    pen: ImageDraw.ImageDraw, tip: tuple[float, float], root: tuple[float, float], width: float, skin: Rgb
) -> None:
    """A finger as a thick round-ended stroke with a shaded edge and a nail."""
    for grow, ink in ((1.0, mix(skin, _DARK, 0.3)), (0.86, skin)):
        half = width * grow / 2
        pen.line((*root, *tip), fill=(*ink, 255), width=round(width * grow))
        pen.ellipse((tip[0] - half, tip[1] - half, tip[0] + half, tip[1] + half), fill=(*ink, 255))
    back = np.array(root, float) - np.array(tip, float)
    nail = np.array(tip) + back / (np.linalg.norm(back) + 1e-6) * width * 0.05
    pen.ellipse(
        (nail[0] - width * 0.24, nail[1] - width * 0.24, nail[0] + width * 0.24, nail[1] + width * 0.24),
        fill=(*mix(skin, _WHITE, 0.4), 255),
    )


def fingers(*, left_x: float, right_x: float, base_y: float, skin: int) -> Image.Image:
    """A hand's fingers around a product from left_x to right_x, as RGBA: three tips right, the thumb left."""
    layer = Image.new("RGBA", (2 * SIDE, 2 * SIDE))
    pen = ImageDraw.Draw(layer)
    tone = _SKINS[skin % len(_SKINS)]
    for k in range(3):
        y = base_y - 4 + k * 27
        _finger(pen, (2 * right_x - 26, 2 * y), (2 * right_x + 300, 2 * y + 110), 50, tone)
    _finger(pen, (2 * left_x + 40, 2 * base_y + 10), (2 * left_x - 330, 2 * base_y + 300), 60, tone)
    return layer.reduce(2)


def occluder(kind: str, *, rng: np.random.Generator, side: str, depth_px: float) -> Image.Image:
    """An object in front of the product, as RGBA: `card` (a neighbour's edge), `paper` or `finger`, from `side`."""
    layer = Image.new("RGBA", (SIDE, SIDE))
    pen = ImageDraw.Draw(layer)
    d, tilt = depth_px, float(rng.uniform(-16, 16))
    if kind == "finger":
        tone = _SKINS[int(rng.integers(len(_SKINS)))]
        _finger(pen, (d, 140 + 4 * tilt), (-60, 170 + 6 * tilt), 34, tone)
    else:
        colour = _pick(rng, _MUTED) if kind == "card" else (236, 230, 216)
        pen.polygon([(0, 0), (d - tilt, 0), (d + tilt, SIDE), (0, SIDE)], fill=(*colour, 255))
        pen.line((d - tilt - 5, 0, d + tilt - 5, SIDE), fill=(*mix(colour, _WHITE, 0.4), 255), width=4)
        for y in range(30, SIDE, 64):
            pen.rectangle((0, y, max(1, d - 16), y + 20), fill=(*mix(colour, _DARK, 0.14), 255))
    return layer.rotate({"left": 0, "bottom": 90, "right": 180}[side])
