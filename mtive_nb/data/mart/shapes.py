"""The silhouettes of Pocket Mart's packages: each of six packagings in three variants, drawn part by part and lit.

Coordinates are pixels of a canvas of CANVAS_W x CANVAS_H, twice the size in a photo; boxes XYXY, colours RGB.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from mtive_nb.data.mart.label import INK, Box, Rgb, mix

CANVAS_W, CANVAS_H = 480, 560
FLOOR_Y = 532  # where a standing package touches the ground

Points = list[tuple[float, float]]


def _shade(length: int, kind: str) -> np.ndarray:
    """Light across a surface, (length,): 1 keeps the colour, below 1 darkens, above 1 goes towards white."""
    u = np.linspace(0, 1, length, dtype=np.float32)
    if kind == "round":
        glint = 0.3 * np.exp(-(((u - 0.2) / 0.055) ** 2)) + 0.1 * np.exp(-(((u - 0.93) / 0.03) ** 2))
        return 1.04 - 0.5 * np.abs(2 * u - 1.06) ** 3.4 + glint
    if kind == "soft":
        return 1.05 - 0.36 * np.abs(2 * u - 1.04) ** 3 + 0.12 * np.exp(-(((u - 0.24) / 0.12) ** 2))
    if kind == "metal":
        return (
            0.8
            + 0.45 * np.exp(-(((u - 0.25) / 0.1) ** 2))
            + 0.25 * np.exp(-(((u - 0.75) / 0.07) ** 2))
            - 0.3 * (u > 0.95)
        )
    return 1.06 - 0.13 * u  # flat


def _light(art: Image.Image, factor: np.ndarray) -> Image.Image:
    """Applies a light field (broadcast against H x W) to an RGB image."""
    pixels = np.asarray(art, dtype=np.float32)
    factor = factor[..., None]
    lit = pixels * np.minimum(factor, 1) + (255 - pixels) * np.clip(factor - 1, 0, 1)
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))


class Bench:
    """A canvas onto which the parts of one package are drawn, from back to front."""

    def __init__(self) -> None:
        self.canvas = Image.new("RGBA", (CANVAS_W, CANVAS_H))

    def part(
        self,
        outline: Points | Box,
        colour: Rgb,
        kind: str,
        *,
        radius: float = 0,
        paint: Callable | None = None,
        down: float = 0,
    ):
        """Draws one part: a polygon, or a box with rounded corners. `paint(art)` prints on the part."""
        mask = Image.new("L", (CANVAS_W, CANVAS_H))
        pen = ImageDraw.Draw(mask)
        if isinstance(outline, list):
            pen.polygon(outline, fill=255)
        else:
            pen.rounded_rectangle(outline, radius=radius, fill=255)
        box = mask.getbbox()
        art = Image.new("RGB", (CANVAS_W, CANVAS_H), colour)
        if paint:
            paint(art)
        art = art.crop(box)
        factor = _shade(art.width, kind)[None, :].repeat(art.height, 0)
        if down:  # darker towards the ground
            factor = factor - down * np.linspace(0, 1, art.height, dtype=np.float32)[:, None] ** 2
        lit = _light(art, factor)
        self.canvas.paste(lit, box[:2], mask.crop(box))


def _taper(x0: float, x1: float, y0: float, y1: float, neck: float, shoulder: float) -> Points:
    """A bottle's outline: neck of half-width `neck` at y0, rounded shoulders of height `shoulder`, straight sides."""
    cx, half = (x0 + x1) / 2, (x1 - x0) / 2
    turn = np.linspace(0, np.pi / 2, 14)
    right = [(cx + neck + (half - neck) * np.sin(t), y0 + shoulder * (1 - np.cos(t))) for t in turn]
    foot = [(x1 - 16 + 16 * np.cos(t), y1 - 16 + 16 * np.sin(t)) for t in turn]
    side = right + foot
    return side + [(2 * cx - x, y) for x, y in reversed(side)]


def _ribs(bench: Bench, box: Box, colour: Rgb) -> None:
    """A ribbed screw cap."""
    bench.part(box, colour, "round", radius=10)
    pen = ImageDraw.Draw(bench.canvas)
    for x in np.arange(box[0] + 10, box[2] - 6, 11):
        pen.line((x, box[1] + 12, x, box[3] - 6), fill=(*mix(colour, INK, 0.3), 255), width=2)


def bottle(bench: Bench, variant: int, body: Rgb, lid: Rgb, paint: Callable) -> Box:
    if variant == 0:  # round shoulders, screw cap
        _ribs(bench, (190, 28, 290, 92), lid)
        bench.part(_taper(84, 396, 84, FLOOR_Y, 44, 90), body, "round", paint=paint, down=0.1)
        return (84, 150, 396, FLOOR_Y)
    if variant == 1:  # pump dispenser, square body
        bench.part((150, 30, 262, 56), lid, "metal", radius=12)
        bench.part((226, 40, 256, 110), lid, "round")
        bench.part((188, 84, 292, 118), lid, "round", radius=8)
        bench.part((82, 112, 398, FLOOR_Y), body, "soft", radius=46, paint=paint, down=0.1)
        return (82, 130, 398, FLOOR_Y)
    bench.part((168, 26, 312, 100), lid, "round", radius=22)  # wide flip cap
    outline = [(120, 96), (360, 96), (392, 150), (402, 300), (378, FLOOR_Y - 14), (366, FLOOR_Y), (114, FLOOR_Y)]
    outline += [(102, FLOOR_Y - 14), (78, 300), (88, 150)]
    bench.part(outline, body, "round", paint=paint, down=0.1)
    return (80, 110, 400, FLOOR_Y)


def can(bench: Bench, variant: int, body: Rgb, lid: Rgb, paint: Callable) -> Box:
    steel = (196, 200, 206)
    top = {0: 70, 1: 120, 2: 96}[variant]
    if variant == 2:  # aerosol: dome and nozzle
        bench.part((206, 24, 274, 70), lid, "round", radius=10)
        bench.part(_taper(84, 396, 58, 140, 60, 40), steel, "metal")
        bench.part((80, top, 400, FLOOR_Y - 10), body, "round", radius=14, paint=paint, down=0.08)
        bench.part((84, FLOOR_Y - 18, 396, FLOOR_Y), steel, "metal", radius=8)
        return (80, top, 400, FLOOR_Y - 10)
    bench.part((84, FLOOR_Y - 40, 396, FLOOR_Y), steel, "metal", radius=18)
    bench.part((76, top, 404, FLOOR_Y - 12), body, "round", radius=20, paint=paint, down=0.08)
    bench.part((84, top - 22, 396, top + 22), steel, "metal", radius=22)
    pen = ImageDraw.Draw(bench.canvas)
    pen.ellipse(
        (98, top - 16, 382, top + 14), fill=(*mix(steel, INK, 0.28), 255), outline=(226, 228, 232, 255), width=4
    )
    pen.rounded_rectangle((216, top - 9, 280, top + 5), radius=7, outline=(232, 234, 238, 255), width=5)
    if variant == 1:  # ribs of a food tin
        for y in (top + 34, FLOOR_Y - 34):
            pen.line((78, y, 402, y), fill=(*mix(body, INK, 0.3), 255), width=4)
    return (76, top + 10, 404, FLOOR_Y - 14)


def jar(bench: Bench, variant: int, body: Rgb, lid: Rgb, paint: Callable) -> Box:
    if variant == 0:  # straight jar
        _ribs(bench, (76, 120, 404, 196), lid)
        bench.part((58, 188, 422, FLOOR_Y), body, "round", radius=38, paint=paint, down=0.1)
        return (58, 200, 422, FLOOR_Y)
    if variant == 1:  # bellied honey jar with a cloth-like lid
        bench.part((110, 96, 370, 172), lid, "metal", radius=16)
        bench.part(_taper(48, 432, 164, FLOOR_Y, 120, 80), body, "round", paint=paint, down=0.12)
        return (56, 210, 424, FLOOR_Y)
    bench.part((50, 150, 430, 236), lid, "round", radius=26)  # cream jar: wide flat lid
    bench.part(
        [(52, 228), (428, 228), (410, FLOOR_Y - 20), (396, FLOOR_Y), (84, FLOOR_Y), (70, FLOOR_Y - 20)],
        body,
        "round",
        paint=paint,
    )
    return (62, 232, 418, FLOOR_Y)


def box(bench: Bench, variant: int, body: Rgb, lid: Rgb, paint: Callable) -> Box:
    top = (84, 60, 150)[variant]
    left, right = ((56, 364), (78, 352), (36, 392))[variant]
    deep, rise = (52, 30) if variant < 2 else (46, 40)
    side = mix(body, INK, 0.34)
    bench.part(
        [(right, top), (right + deep, top - rise), (right + deep, FLOOR_Y - rise * 1.2), (right, FLOOR_Y)], side, "flat"
    )
    bench.part(
        [(left, top), (left + deep, top - rise), (right + deep, top - rise), (right, top)],
        mix(body, (255, 255, 255), 0.34),
        "flat",
    )
    if variant == 1:  # drinks carton: a gable
        bench.part(
            [(left + 26, top - 44), (right + 26, top - 44), (right + 38, top - 20), (left + 14, top - 20)],
            mix(body, (255, 255, 255), 0.5),
            "flat",
        )
        bench.part((200, 6, 268, 44), lid, "round", radius=8)
    bench.part((left, top, right, FLOOR_Y), body, "flat", radius=3, paint=paint, down=0.1)
    pen = ImageDraw.Draw(bench.canvas)
    pen.line((right, top + 2, right, FLOOR_Y - 2), fill=(*mix(body, (255, 255, 255), 0.4), 255), width=3)
    pen.line((left + 2, top, right, top), fill=(*mix(body, (255, 255, 255), 0.6), 255), width=3)
    return (left, top, right, FLOOR_Y)


def pouch(bench: Bench, variant: int, body: Rgb, lid: Rgb, paint: Callable) -> Box:
    top, waist = (64, 14) if variant < 2 else (92, -4)
    wave = np.linspace(0, 1, 24)
    right = [
        (404 - waist * np.sin(np.pi * t) ** 2 + 8 * np.sin(2.4 * np.pi * t), top + t * (FLOOR_Y - top)) for t in wave
    ]
    bottom = [(480 - x, y + 0) for x, y in reversed(right)]
    if variant == 1:  # spouted pouch
        bench.part((206, 20, 274, 60), lid, "round", radius=8)
        bench.part((214, 52, 266, 80), mix(lid, INK, 0.15), "round")
    bench.part(right + bottom, body, "soft", paint=paint, down=0.14)
    pen = ImageDraw.Draw(bench.canvas)
    seal = (*mix(body, (255, 255, 255), 0.45), 255)
    for y in range(top + 6, top + 34, 7):  # the crimped seal
        pen.line((82, y, 398, y), fill=seal, width=2)
    if variant == 2:
        pen.line((80, top + 44, 400, top + 44), fill=(*mix(body, INK, 0.4), 255), width=3)
        pen.rounded_rectangle((206, top + 8, 274, top + 26), radius=9, fill=(*mix(body, INK, 0.55), 255))  # hang hole
    shade = Image.new("L", (CANVAS_W, CANVAS_H))  # folds run in from the corners
    fold = ImageDraw.Draw(shade)
    for points in (
        (84, FLOOR_Y - 4, 150, FLOOR_Y - 96),
        (396, FLOOR_Y - 4, 336, FLOOR_Y - 84),
        (88, top + 42, 128, top + 110),
        (394, top + 44, 352, top + 120),
    ):
        fold.line(points, fill=120, width=9)
    shade = shade.reduce(4).filter(ImageFilter.GaussianBlur(1.6)).resize((CANVAS_W, CANVAS_H))
    alpha = bench.canvas.getchannel("A")
    bench.canvas.paste((*mix(body, INK, 0.6), 255), (0, 0), shade)
    bench.canvas.putalpha(alpha)
    return (84, top + 36, 396, FLOOR_Y)


def tube(bench: Bench, variant: int, body: Rgb, lid: Rgb, paint: Callable) -> Box:
    if variant == 2:  # stands on its seal end, cap on top
        _ribs(bench, (178, 20, 302, 96), lid)
        bench.part(
            [(150, 92), (330, 92), (372, 128), (404, FLOOR_Y), (76, FLOOR_Y), (108, 128)], body, "round", paint=paint
        )
        bench.part((72, FLOOR_Y - 26, 408, FLOOR_Y), mix(body, (255, 255, 255), 0.35), "flat", radius=4)
        return (92, 130, 388, FLOOR_Y - 28)
    cap_top = 456 if variant == 0 else 440
    _ribs(bench, (140, cap_top, 340, FLOOR_Y) if variant == 0 else (116, cap_top, 364, FLOOR_Y), lid)
    low = cap_top + 10
    bench.part(
        [(70, 30), (410, 30), (396, 150), (374, low - 34), (344, low), (136, low), (106, low - 34), (84, 150)],
        body,
        "round",
        paint=paint,
    )
    bench.part((64, 22, 416, 58), mix(body, (255, 255, 255), 0.35), "flat", radius=4)
    pen = ImageDraw.Draw(bench.canvas)
    for x in range(76, 410, 12):  # the crimp
        pen.line((x, 26, x, 54), fill=(*mix(body, INK, 0.2), 255), width=2)
    return (84, 60, 396, low)


DRAWERS: dict[str, Callable] = {"bottle": bottle, "box": box, "can": can, "jar": jar, "pouch": pouch, "tube": tube}
