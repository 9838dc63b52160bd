"""Paint wear on general things (cracks, tears, stains, scratches, creases, drips), and marks that are no damage.

All functions paint onto an RGB canvas (SCALE times the image), inside the thing's mask if they have one.
Boxes are XYXY in pixels of the canvas.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WORN = ("cracked", "torn", "stained", "scratched", "crushed", "dripping")

Box = tuple[float, float, float, float]


def _spot(box: Box, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Draw a spot of wear on a thing: its centre (x, y) and about how far it reaches."""
    x0, y0, x1, y1 = box
    at = np.array([x0 + (x1 - x0) * rng.uniform(0.25, 0.75), y0 + (y1 - y0) * rng.uniform(0.25, 0.78)])
    return at, float(np.sqrt((x1 - x0) * (y1 - y0)) * rng.uniform(0.2, 0.36))


def _outline(at: np.ndarray, reach: float, rng: np.random.Generator, *, rough: float, squash: float = 1.0) -> np.ndarray:  # fmt: skip
    """Return an irregular closed outline (28, 2): a circle with three waves and a jitter."""
    angle = np.linspace(0, 2 * np.pi, 29)[:-1]
    radius = 1 + rng.uniform(-rough, rough, 28) * 0.4
    for k in (2, 3, 5):
        radius = radius + rough * rng.uniform(-0.5, 0.5) * np.cos(k * (angle - rng.uniform(0, 6.3)))
    return at + reach * radius[:, None] * np.stack([np.cos(angle), squash * np.sin(angle)], 1)


def _cracked(draw: ImageDraw.ImageDraw, at: np.ndarray, reach: float, rng: np.random.Generator) -> None:
    dark, bright = (18, 18, 22), (250, 250, 250)
    start, arms = rng.uniform(0, 6.3), int(rng.integers(3, 6))
    for arm in range(arms):
        turn, here, width = start + 6.3 * arm / arms + rng.uniform(-0.4, 0.4), at, 4.0
        for _ in range(5):
            turn += rng.uniform(-0.7, 0.7)
            there = here + reach * rng.uniform(0.2, 0.42) * np.array([np.cos(turn), np.sin(turn)])
            draw.line([*(here + 2), *(there + 2)], fill=bright, width=2)
            draw.line([*here, *there], fill=dark, width=round(width))
            if rng.random() < 0.4:
                twig = turn + rng.choice((-1, 1)) * rng.uniform(0.6, 1.1)
                end = there + reach * 0.25 * np.array([np.cos(twig), np.sin(twig)])
                draw.line([*there, *end], fill=dark, width=2)
            here, width = there, max(2.0, width - 0.5)


def _torn(draw: ImageDraw.ImageDraw, at: np.ndarray, reach: float, rng: np.random.Generator) -> None:
    hole = _outline(at, reach * 0.8, rng, rough=0.5, squash=rng.uniform(0.55, 1))
    rim = at + (hole - at) * rng.uniform(1.1, 1.4, (28, 1))
    draw.polygon([tuple(p) for p in rim], fill=tuple(int(v) for v in rng.integers(205, 250, 3)))
    draw.polygon([tuple(p) for p in hole], fill=tuple(int(v) for v in rng.integers(15, 100, 3)))


def _scratched(draw: ImageDraw.ImageDraw, at: np.ndarray, reach: float, rng: np.random.Generator, tone: int) -> None:
    heading = rng.uniform(0, 3.14)
    along, across = np.array([np.cos(heading), np.sin(heading)]), np.array([-np.sin(heading), np.cos(heading)])
    ink = (246, 246, 242) if tone < 185 else (70, 70, 74)
    shade = tuple(int(v * 0.4) for v in ink)
    for offset in np.linspace(-1, 1, int(rng.integers(4, 9))):
        middle = at + across * offset * reach * 0.7 + along * rng.uniform(-0.3, 0.3) * reach
        half = along * reach * rng.uniform(0.6, 1.4)
        draw.line([*(middle - half + 2), *(middle + half + 2)], fill=shade, width=2)
        draw.line([*(middle - half), *(middle + half)], fill=ink, width=int(rng.integers(2, 5)))


def _blotch(size: tuple[int, int], at: np.ndarray, reach: float, rng: np.random.Generator) -> Image.Image:
    """Return a stain's opacity mask: weaker in its middle than at its rim, with splashes around."""
    mask = Image.new("L", size)
    draw, outline = ImageDraw.Draw(mask), _outline(at, reach, rng, rough=0.3)
    draw.polygon([tuple(p) for p in outline], fill=int(rng.integers(180, 230)))
    draw.polygon([tuple(at + (p - at) * 0.8) for p in outline], fill=int(rng.integers(110, 190)))
    for _ in range(int(rng.integers(2, 7))):
        turn, r = rng.uniform(0, 6.3), reach * rng.uniform(0.06, 0.14)
        x, y = at + reach * rng.uniform(1.1, 1.5) * np.array([np.cos(turn), np.sin(turn)])
        draw.ellipse((x - r, y - r, x + r, y + r), fill=200)
    return mask.filter(ImageFilter.BoxBlur(2))


def _drips(size: tuple[int, int], at: np.ndarray, reach: float, foot: float, rng: np.random.Generator) -> Image.Image:
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    draw.polygon([tuple(p) for p in _outline(at, reach * 0.45, rng, rough=0.3)], fill=240)
    for k in range(int(rng.integers(2, 5))):
        x, width = at[0] + reach * rng.uniform(-0.5, 0.5), reach * rng.uniform(0.07, 0.16)
        end = foot if k == 0 else at[1] + (foot - at[1]) * rng.uniform(0.3, 0.95)
        draw.line([x, at[1], x, end], fill=240, width=max(2, round(width)))
        draw.ellipse((x - width, end - width, x + width, end + width), fill=240)
    x = float(np.clip(at[0], reach, size[0] - reach))
    draw.ellipse((x - reach, foot - reach * 0.2, x + reach, foot + reach * 0.2), fill=240)
    return mask


def _crushed(canvas: Image.Image, at: np.ndarray, reach: float, rng: np.random.Generator) -> Image.Image:
    """Return the canvas bent towards the spot in folds, each with a light and a dark side."""
    pixels = np.asarray(canvas)
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]].astype(np.float32)
    heading, fold = rng.uniform(0, 3.14), reach * rng.uniform(0.35, 0.7)
    near = np.exp(-((((x - at[0]) ** 2 + (y - at[1]) ** 2) / (1.4 * reach) ** 2) ** 2))
    along = (x - at[0]) * np.cos(heading) + (y - at[1]) * np.sin(heading)
    bend = np.sin(along / fold * 3.14 + 0.8 * np.sin(y / fold)) * near
    shift = reach * rng.uniform(0.12, 0.25)
    rows = np.clip(y + bend * shift * np.sin(heading + 1.57), 0, len(pixels) - 1).astype(int)
    columns = np.clip(x + bend * shift + near * shift * np.sign(at[0] - x) * -0.8, 0, pixels.shape[1] - 1).astype(int)
    lit = pixels[rows, columns] * (1 + 0.5 * np.cos(along / fold * 3.14) * near)[..., None]
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))


def wear(canvas: Image.Image, state: str, box: Box, mask: Image.Image, rng: np.random.Generator) -> None:
    """Paint a state of WORN onto a thing, in place; `mask` (of the canvas's size) covers the thing."""
    at, reach = _spot(box, rng)
    if state == "crushed":
        canvas.paste(_crushed(canvas, at, reach * 1.2, rng))
        return
    layer, cover = canvas.copy(), mask
    draw = ImageDraw.Draw(layer)
    tone = sum(canvas.getpixel((int(at[0]), int(at[1])))) // 3
    if state == "cracked":
        _cracked(draw, at, reach, rng)
    elif state == "torn":
        _torn(draw, at, reach, rng)
    elif state == "scratched":
        _scratched(draw, at, reach, rng, tone)
    else:
        ink = rng.integers(20, 110, 3) if tone > 110 else rng.integers(120, 220, 3)
        ink = (ink * (1.2, 1.0, 0.7)).clip(0, 255)
        layer = Image.new("RGB", canvas.size, tuple(int(v) for v in ink))
        if state == "stained":
            cover = Image.composite(_blotch(canvas.size, at, reach, rng), Image.new("L", canvas.size), mask)
        else:
            cover = _drips(canvas.size, at, reach, box[3], rng)
    canvas.paste(layer, (0, 0), cover)


def harmless_mark(canvas: Image.Image, box: Box, mask: Image.Image, rng: np.random.Generator) -> None:
    """Paint a mark that is no wear, in place: a round sticker, a strip of tape or a streak of light."""
    x0, y0, x1, y1 = box
    w, h, layer, cover = x1 - x0, y1 - y0, canvas.copy(), Image.new("L", canvas.size)
    draw, kind = ImageDraw.Draw(cover), int(rng.integers(3))
    ink = tuple(int(v) for v in ((255, 220, 50), (250, 250, 250), (226, 206, 150))[int(rng.integers(3))])
    if kind == 0:
        x, y, r = x0 + w * rng.uniform(0.2, 0.8), y0 + h * rng.uniform(0.55, 0.9), w * rng.uniform(0.09, 0.16)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    elif kind == 1:
        y, lift, high = y0 + h * rng.uniform(0.1, 0.9), h * rng.uniform(-0.15, 0.15), h * rng.uniform(0.08, 0.14)
        draw.polygon([(x0, y - lift), (x1, y + lift), (x1, y + lift + high), (x0, y - lift + high)], fill=120)
    else:
        x, wide = x0 + w * rng.uniform(0.15, 0.85), w * rng.uniform(0.06, 0.14)
        draw.polygon([(x, y0), (x + wide, y0), (x - wide, y1), (x - 2 * wide, y1)], fill=80)
        ink = (255, 255, 255)
    layer.paste(ink, (0, 0, *canvas.size))
    canvas.paste(layer, (0, 0), Image.composite(cover, Image.new("L", canvas.size), mask))


def in_the_way(canvas: Image.Image, characters: list[tuple[float, float]], rng: np.random.Generator) -> None:
    """Paint a bar from an edge into the image, unless it hides the centre of one of `characters` (canvas pixels)."""
    w, h = canvas.size
    cover = Image.new("L", canvas.size)
    draw, wide = ImageDraw.Draw(cover), int(rng.integers(16, 60))
    side, along = int(rng.integers(4)), rng.uniform(0.1, 0.9)
    root = [(0, h * along), (w, h * along), (w * along, 0), (w * along, h)][side]
    tip = tuple(r + (m - r) * rng.uniform(0.2, 0.7) for r, m in zip(root, (w * 0.5, h * 0.5), strict=True))
    draw.line((*root, *tip), fill=255, width=wide)
    if rng.random() < 0.6:  # a rounded end
        draw.ellipse((tip[0] - wide / 2, tip[1] - wide / 2, tip[0] + wide / 2, tip[1] + wide / 2), fill=255)
    if not any(cover.getpixel((int(x), int(y))) for x, y in characters if 0 <= x < w and 0 <= y < h):
        canvas.paste(tuple(int(c) for c in rng.integers(40, 250, 3)), (0, 0), cover)
