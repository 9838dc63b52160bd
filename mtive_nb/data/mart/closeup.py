"""Close-ups of the date print on a package of Pocket Mart: CLOSE_W x CLOSE_H RGB, readable at half the size."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from mtive_nb.data.dates import random_dates
from mtive_nb.data.mart.label import INK, PAPER, Rgb, luminance, mix, text_mask
from mtive_nb.data.mart.photo import grain
from mtive_nb.data.mart.vocabulary import COLOUR_RGB

CLOSE_W, CLOSE_H = 336, 224
PRINTS = ("ink", "stamp", "dots", "emboss")
_LETTERS = "ABCDEFGHKLMNPRSTUVX"


@dataclass(frozen=True)
class CloseUp:
    """A close-up: the image, the printed lines, and its true dates (see the facts of a photo)."""

    image: Image.Image
    lines: tuple[str, ...]
    dates: dict[str, str | None]


def _other_print(rng: np.random.Generator) -> str:
    """A line that is not a date: a lot, a batch, a price, a time."""
    letter = _LETTERS[int(rng.integers(len(_LETTERS)))]
    choices = (
        f"L {rng.integers(0, 1000):03d}",
        f"LOT {letter}{rng.integers(10, 1000)}",
        f"BATCH {rng.integers(10, 100)}{letter}",
        f"RS {rng.integers(2, 60) * 10}.00",
        f"{letter}{rng.integers(1000, 10000)} {rng.integers(0, 24):02d}:{rng.integers(0, 60):02d}",
    )
    return choices[int(rng.integers(len(choices)))]


def _dots_mask(text: str, cap_px: int, max_width_px: int) -> Image.Image:
    """Text as a dot-matrix printer sets it: each pixel of a small bitmap font becomes a round dot."""
    face = ImageFont.load_default_imagefont()
    x0, y0, x1, y1 = face.getbbox(text)
    small = Image.new("1", (int(x1) + 2, int(y1) + 2))
    ImageDraw.Draw(small).text((1, 1), text, font=face, fill=1)
    ys, xs = np.nonzero(np.asarray(small))
    pitch = 2 * cap_px / 7
    mask = Image.new("L", (round((xs.max() - xs.min() + 1) * pitch), round((ys.max() - ys.min() + 1) * pitch)))
    pen = ImageDraw.Draw(mask)
    for x, y in zip((xs - xs.min()) * pitch, (ys - ys.min()) * pitch, strict=True):
        pen.ellipse((x, y, x + pitch * 1.02, y + pitch * 1.02), fill=255)
    mask = mask.reduce(2)
    return mask if mask.width <= max_width_px else mask.resize((max_width_px, mask.height), Image.Resampling.BILINEAR)


def _surface(body: Rgb, rng: np.random.Generator) -> Image.Image:
    """The piece of the package that carries the print: a round body, a pouch's seal, a carton's edge, a tin's rim."""
    y, x = np.mgrid[:CLOSE_H, :CLOSE_W].astype(np.float32)
    turn = rng.uniform(0, 6.3)
    light = 1 + 0.16 * (float(np.cos(turn)) * (x / CLOSE_W - 0.5) + float(np.sin(turn)) * (y / CLOSE_H - 0.5))
    kind = int(rng.integers(4))
    if kind == 0:  # round body
        light *= 1.02 - 0.3 * np.abs(x / CLOSE_W - 0.5) ** 2 * 4 * 0.5
    image = Image.fromarray(np.clip(np.array(body, np.float32) * light[..., None], 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    lift, low = mix(body, PAPER, 0.35), mix(body, INK, 0.35)
    if kind == 1:  # crimped seal
        for top in range(2, 30, 6):
            pen.line((0, top, CLOSE_W, top), fill=lift if luminance(body) < 150 else low, width=2)
    elif kind == 2:  # the edge of a carton and what lies behind it
        edge = int(rng.integers(196, 208))
        pen.rectangle((0, edge, CLOSE_W, CLOSE_H), fill=mix(body, INK, 0.4))
        pen.line((0, edge, CLOSE_W, edge), fill=lift, width=3)
    elif kind == 3:  # a steel rim
        pen.rectangle((0, 0, CLOSE_W, 20), fill=(196, 200, 206))
        pen.line((0, 8, CLOSE_W, 8), fill=(232, 234, 238), width=4)
        pen.line((0, 20, CLOSE_W, 20), fill=low, width=3)
    return image


def _stamp_lines(
    image: Image.Image, lines: list[str], *, style: str, body: Rgb, panel: bool, rng: np.random.Generator
) -> None:
    """Prints the lines onto `image`, one below the other, all in letters of one height."""
    ground = (248, 246, 238) if panel else body
    middle = CLOSE_H / 2 + 4
    left = int(rng.integers(20, 30))
    width = CLOSE_W - 2 * left
    step = min(62, (CLOSE_H - 34) // len(lines))
    cap = int(min(0.62 * step, width / (0.84 * max(len(line) for line in lines))))  # as large as all lines allow
    typeface = str(rng.choice(("sans", "mono", "mono")))
    dark = ((24, 24, 30), (26, 38, 110), (60, 20, 30))[int(rng.integers(3))]
    ink = dark if luminance(ground) > 118 else (248, 248, 244)
    if panel:
        half = step * len(lines) / 2 + 8
        box = (left - 16, middle - half, CLOSE_W - left + 16, middle + half)
        ImageDraw.Draw(image).rounded_rectangle(box, radius=8, fill=ground, outline=mix(ground, INK, 0.3), width=2)
    for row, line in enumerate(lines):
        mask = _dots_mask(line, cap, width) if style == "dots" else text_mask(line, typeface, cap, width)
        x = left + int(rng.integers(0, max(1, min(24, width - mask.width + 1))))
        y = round(middle + (row - (len(lines) - 1) / 2) * step - mask.height / 2)
        if style == "emboss":  # pressed into the surface: a lit and a shaded edge
            image.paste(mix(ground, (255, 255, 255), 0.75), (x + 2, y + 2), mask)
            image.paste(mix(ground, (0, 0, 0), 0.62 if luminance(ground) > 70 else 0.9), (x - 1, y - 1), mask)
            if luminance(ground) < 118:
                image.paste(mix(ground, (255, 255, 255), 0.72), (x, y), mask)
        else:
            if style == "stamp":  # uneven ink
                worn = rng.integers(150, 256, (mask.height // 6 + 1, mask.width // 6 + 1)).astype(np.uint8)
                press = np.asarray(Image.fromarray(worn).resize(mask.size, Image.Resampling.BILINEAR), np.uint16)
                mask = Image.fromarray((np.asarray(mask, np.uint16) * press // 255).astype(np.uint8))
            image.paste(ink, (x, y), mask)


def take_closeup(colour: str, *, rng: np.random.Generator, share_none: float = 0.12) -> CloseUp:
    """Draws one close-up of a package of `colour`; with probability `share_none` it has no date (all None)."""
    found = random_dates(rng, share_none=share_none)
    lines = [str(line) for line in found.pop("lines")]
    others = [_other_print(rng) for _ in range(2 if not lines else int(rng.random() < 0.6 and len(lines) < 4))]
    for other in others:
        lines.insert(0 if rng.random() < 0.3 else len(lines), other)
    body = tuple(int(np.clip(v + rng.integers(-8, 9), 0, 255)) for v in COLOUR_RGB[colour])
    image = _surface(body, rng)
    style = PRINTS[int(rng.integers(len(PRINTS)))]
    _stamp_lines(image, lines, style=style, body=body, panel=bool(rng.random() < 0.3), rng=rng)
    image = image.rotate(float(rng.uniform(-8, 8)), Image.Resampling.BILINEAR, fillcolor=mix(body, INK, 0.2))
    if rng.random() < 0.6:
        image = image.filter(ImageFilter.BoxBlur(float(rng.uniform(0.2, 1.0))))
    ramp = np.linspace(-0.5, 0.5, CLOSE_W, dtype=np.float32)[None, :, None]
    light = rng.uniform(0.78, 1.08) * (1 + rng.uniform(-0.3, 0.3) * ramp)
    pixels = np.asarray(image) * light.astype(np.float32)
    pixels += grain(CLOSE_H, CLOSE_W, rng=rng) * rng.uniform(2, 7)
    return CloseUp(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), tuple(lines), found)
