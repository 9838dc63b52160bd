"""Printing for Pocket Mart: the fonts, words as coverage masks, and the label on a package.

Fonts are the DejaVu files shipped with matplotlib, so that a seed gives the same bytes on every machine.
"""

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mtive_nb.data.mart.icons import INKS, icon_mask

FONT_FILES = {
    "sans": "DejaVuSans-Bold.ttf",
    "serif": "DejaVuSerif-Bold.ttf",
    "mono": "DejaVuSansMono-Bold.ttf",
    "slant": "DejaVuSans-BoldOblique.ttf",
}
_CAP_SHARE = 0.729  # cap height of the DejaVu family, as a share of the font size
INK = (34, 32, 38)
PAPER = (250, 248, 240)

Box = tuple[float, float, float, float]
Rgb = tuple[int, int, int]


@lru_cache(maxsize=256)
def font(name: str, size_px: int) -> ImageFont.FreeTypeFont:
    """A DejaVu font by short name. Errors: FileNotFoundError when matplotlib is not installed."""
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        raise FileNotFoundError("Pocket Mart prints with matplotlib's DejaVu fonts: found no matplotlib; install it")
    path = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / FONT_FILES[name]
    return ImageFont.truetype(str(path), size_px)


@lru_cache(maxsize=2048)
def text_mask(text: str, name: str, cap_px: int, max_width_px: int = 0) -> Image.Image:
    """Coverage mask (`L`) of one line, cropped to its ink; squeezed sideways to max_width_px (0: never)."""
    face = font(name, max(6, round(cap_px / _CAP_SHARE)))
    x0, y0, x1, y1 = face.getbbox(text)
    mask = Image.new("L", (max(1, x1 - x0), max(1, y1 - y0)))
    ImageDraw.Draw(mask).text((-x0, -y0), text, font=face, fill=255)
    if max_width_px and mask.width > max_width_px:
        mask = mask.resize((max_width_px, mask.height), Image.Resampling.BILINEAR)
    return mask


def luminance(rgb: Rgb) -> float:
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def mix(first: Rgb, second: Rgb, share: float) -> Rgb:
    """The colour `share` of the way from first to second."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


@dataclass(frozen=True)
class Label:
    """The printed positions of a label's three parts: XYXY boxes on the package's canvas."""

    brand: Box
    icon: Box
    size: Box


def _stamp(art: Image.Image, mask: Image.Image, centre: tuple[float, float], ink: Rgb) -> Box:
    x, y = round(centre[0] - mask.width / 2), round(centre[1] - mask.height / 2)
    art.paste(ink, (x, y), mask)
    return (x, y, x + mask.width, y + mask.height)


def _plates(draw: ImageDraw.ImageDraw, face: Box, style: str, body: Rgb, spots: dict[str, Box]) -> dict[str, Rgb]:
    """Draws the background of the print, paper under the icon; returns the ink colours of brand and size."""
    x0, y0, x1, y1 = face
    direct = INK if luminance(body) > 132 else PAPER
    paper = PAPER if luminance(body) < 225 else mix(body, INK, 0.08)
    ix0, iy0, ix1, iy1 = spots["icon"]
    if style in ("band", "direct"):
        draw.rounded_rectangle((ix0 - 8, iy0 - 8, ix1 + 8, iy1 + 8), radius=14, fill=paper)
    if style == "panel":
        panel = (
            x0 - 2,
            y0 - 4,
            x1 + 2,
            min(spots["icon"][3] + 14, y1 - 52),
        )  # ends above the size: the body's colour must dominate
        draw.rounded_rectangle(panel, radius=18, fill=paper, outline=mix(body, INK, 0.35), width=3)
        return {"brand": INK, "size": direct}
    if style == "band":
        top, bottom = spots["brand"][1] - 16, spots["brand"][3] + 16
        fill = INK if direct == INK else PAPER
        draw.rectangle((x0 - 60, top, x1 + 60, bottom), fill=fill)
        draw.rectangle((x0 - 60, bottom + 7, x1 + 60, bottom + 11), fill=fill)
        return {"brand": PAPER if fill == INK else INK, "size": direct}
    if style == "badge":
        cx, cy, radius = (ix0 + ix1) / 2, (iy0 + iy1) / 2, (ix1 - ix0) * 0.66
        draw.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=paper)
    return {"brand": direct, "size": direct}


def print_label(
    art: Image.Image, face: Box, *, brand: str, category: str, size: str, style: str, typeface: str, body: Rgb
) -> Label:
    """Prints brand, pictogram and size into `face` of `art` (in place); style is panel, band, badge or direct."""
    draw = ImageDraw.Draw(art)
    x0, y0, x1, y1 = face
    width, height, cx = x1 - x0, y1 - y0, (x0 + x1) / 2
    stacked = height >= 1.02 * width
    if not stacked and style == "panel":
        style = "band"
    cap = 66 if stacked else 62
    brand_mask = text_mask(brand, typeface, cap, round(width - 8))
    rest = height - cap - 30
    if stacked:
        size_mask = text_mask(size, "sans", 36, round(width - 16))
        side = min(rest - 62, width * 0.74)
        icon_at = (cx, y0 + 10 + cap + 22 + (rest - 58) / 2)
        size_at = (cx, y1 - 28)
    else:
        amount, unit = size.split()
        size_mask = Image.new("L", (round(width * 0.42), 96))
        for row, word in enumerate((amount, unit)):
            mask = text_mask(word, "sans", 38, size_mask.width)
            size_mask.paste(mask, ((size_mask.width - mask.width) // 2, row * 54 + 2))
        side = min(rest - 14, width * 0.5)
        icon_at = (x0 + 8 + side / 2 + 6, y0 + 10 + cap + 20 + rest / 2 - 6)
        size_at = (x1 - width * 0.23, icon_at[1])
    side = max(40, round(side * (0.86 if style == "badge" else 1)))
    brand_at = (cx, y0 + 10 + cap / 2)
    spots = {
        "brand": (x0, brand_at[1] - cap / 2, x1, brand_at[1] + cap / 2),
        "icon": (icon_at[0] - side / 2, icon_at[1] - side / 2, icon_at[0] + side / 2, icon_at[1] + side / 2),
    }
    inks = _plates(draw, face, style, body, spots)
    return Label(
        brand=_stamp(art, brand_mask, brand_at, inks["brand"]),
        icon=_stamp(art, icon_mask(category, side), icon_at, INKS[category]),
        size=_stamp(art, size_mask, size_at, inks["size"]),
    )
