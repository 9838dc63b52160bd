"""General scenes for the pocket base: shapes, containers, symbols, wear, colours, positions, print; none from a shop.

A scene is drawn from `np.random.default_rng([seed, index])`, so sample `index` is the same in every process, and a
resumed training run sees the same samples as an uninterrupted run. Images are RGB, HWC uint8 in [0, 255].
"""

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from mtive_nb.pocket.scene_shapes import ASPECT, SIGNS, shape_mask
from mtive_nb.pocket.scene_wear import WORN, wear

COLOURS = {
    "red": (208, 40, 44), "orange": (240, 138, 30), "yellow": (246, 214, 52), "green": (52, 150, 72),
    "blue": (38, 92, 196), "purple": (124, 62, 160), "pink": (240, 140, 176), "brown": (124, 80, 46),
    "black": (28, 28, 32), "white": (246, 246, 244), "grey": (134, 136, 140),
}  # fmt: skip
PATTERNS = ("plain", "striped", "dotted")
STATES = ("whole", "notched", "scribbled", "dimpled", *WORN)  # a dimpled shape carries a dark smudge with a bright rim
SIZES_PX = ((140, 140), (168, 112), (112, 112), (140, 140), (168, 112), (112, 168))  # (width, height), multiples of 28
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./-:"
CELL_PX, SLOTS = 28, 4  # side of a merged patch; most character centres in it
GLYPHS = 2  # most character centres in one patch before merging
SCALE = 2  # drawn at twice the size, then halved for smooth edges


@dataclass(frozen=True)
class Thing:
    """One shape of a scene; boxes are XYXY in pixels of the finished image, `worn` that of its state's changes."""

    shape: str
    colour: str
    pattern: str
    state: str
    box: tuple[float, float, float, float]
    text: str = ""  # printed on it
    worn: tuple[float, float, float, float] | None = None

    @property
    def name(self) -> str:
        """The thing's name: its shape, or "sign" for a sign, which has no name of its own."""
        return "sign" if self.shape in SIGNS else self.shape

    @property
    def centre(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass
class Scene:
    """An image with its ground truth: things, free strings, and every character's centre (x, y, index)."""

    image: np.ndarray
    things: list[Thing] = field(default_factory=list)
    strings: list[str] = field(default_factory=list)  # from top to bottom
    characters: list[tuple[float, float, int]] = field(default_factory=list)


@lru_cache(maxsize=1)
def _font_files() -> tuple[Path, ...]:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    names = (
        "DejaVuSans-Bold",
        "DejaVuSans",
        "DejaVuSansMono-Bold",
        "DejaVuSansMono",
        "DejaVuSerif-Bold",
        "DejaVuSerif",
    )
    return tuple(folder / f"{name}.ttf" for name in names)


@lru_cache(maxsize=512)
def _font(index: int, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_font_files()[index]), size)


def tint(colour: str, rng: np.random.Generator, spread: int = 16) -> tuple[int, int, int]:
    """Return a shade of a named colour, each channel moved by at most `spread`."""
    return tuple(int(np.clip(c + rng.integers(-spread, spread + 1), 0, 255)) for c in COLOURS[colour])


def background(size: tuple[int, int], rng: np.random.Generator, photos: list[np.ndarray] | None = None) -> Image.Image:
    """Draw a background: plain, gradient, noise, blocks or, with `photos`, a crop of one of them."""
    kind = rng.random()
    if photos and kind < 0.3:
        photo = Image.fromarray(photos[rng.integers(len(photos))])
        side = int(min(photo.size) * rng.uniform(0.4, 1.0))
        x, y = rng.integers(photo.width - side + 1), rng.integers(photo.height - side + 1)
        return photo.crop((x, y, x + side, y + side)).resize(size, Image.BILINEAR)
    first = rng.integers(40, 256, 3) if rng.random() < 0.5 else np.full(3, rng.integers(30, 256))
    if kind < 0.6:
        plain = Image.new("RGB", size, tuple(int(c) for c in first))
        return plain if kind < 0.45 else _blocks(plain, rng)
    second = np.clip(first + rng.integers(-70, 71, 3), 0, 255)
    ramp = np.linspace(0, 1, 16) if rng.random() < 0.5 else rng.random(16)
    grid = ramp[:, None] if rng.random() < 0.5 else ramp[None, :]
    if kind > 0.85:
        grid = rng.random((12, 16))
    mix = first + (second - first) * np.broadcast_to(grid[..., None], (*np.broadcast_shapes(grid.shape, (1, 1)), 3))
    return Image.fromarray(mix.astype(np.uint8)).resize(size, Image.BICUBIC)


def _blocks(ground: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Draw coloured rectangles, ellipses and lines on `ground`, like shelves, tiles and furniture from afar."""
    draw, (w, h) = ImageDraw.Draw(ground), ground.size
    for _ in range(int(rng.integers(3, 12))):
        x, y = rng.integers(-w // 4, w), rng.integers(-h // 4, h)
        box = (x, y, x + rng.integers(8, w), y + rng.integers(8, h))
        fill = tuple(int(c) for c in rng.integers(20, 250, 3))
        form = rng.random()
        if form < 0.5:
            draw.rectangle(box, fill=fill)
        elif form < 0.7:
            draw.ellipse(box, fill=fill)
        else:
            draw.line(box, fill=fill, width=int(rng.integers(1, 5)))
    return ground.filter(ImageFilter.BoxBlur(rng.uniform(0.5, 4)))


def _paint_state(layer: Image.Image, thing: Thing, mask: Image.Image, rng: np.random.Generator) -> Image.Image:
    x0, y0, x1, y1 = (c * SCALE for c in thing.box)
    w, h = x1 - x0, y1 - y0
    draw = ImageDraw.Draw(layer)
    if thing.state == "scribbled":
        ink = (20, 20, 20) if sum(COLOURS[thing.colour]) > 300 else (235, 235, 235)
        points = [(x0 + w * rng.uniform(0.05, 0.95), y0 + h * rng.uniform(0.1, 0.9)) for _ in range(rng.integers(4, 8))]
        draw.line(points, fill=ink, width=int(rng.integers(2, 5)))
    elif thing.state == "dimpled":
        a, b = w * rng.uniform(0.16, 0.26), h * rng.uniform(0.16, 0.26)
        cx, cy = x0 + w * rng.uniform(0.35, 0.65), y0 + h * rng.uniform(0.35, 0.65)
        dark = tuple(int(c * 0.5) for c in COLOURS[thing.colour])
        draw.ellipse((cx - a, cy - b, cx + a, cy + b), fill=dark)
        draw.arc((cx - a, cy - b, cx + a, cy + b), 20, 170, fill=(245, 245, 245), width=4)
    elif thing.state == "notched":
        side, bite = rng.integers(4), 0.3
        cx, cy = [(x0, y0 + h / 2), (x1, y0 + h / 2), (x0 + w / 2, y0), (x0 + w / 2, y1)][side]
        ImageDraw.Draw(mask).polygon(
            [(cx + w * bite * rng.uniform(0.6, 1.1) * math.cos(a), cy + h * bite * rng.uniform(0.6, 1.1) * math.sin(a))
             for a in np.linspace(0, 2 * math.pi, 9)[:-1]], fill=0)  # fmt: skip
    return mask


def draw_thing(canvas: Image.Image, thing: Thing, rng: np.random.Generator) -> tuple[Thing, Image.Image]:
    """Paint one shape, without wear, onto a canvas of SCALE times the image's size; returns it and its mask there."""
    box = tuple(c * SCALE for c in thing.box)
    x0, y0 = int(box[0]) - 2, int(box[1]) - 2
    size = int(box[2] - box[0]) + 5, int(box[3] - box[1]) + 5
    local = tuple(c - o for c, o in zip(box, (x0, y0, x0, y0), strict=True))
    fill = tint(thing.colour, rng)
    layer = Image.new("RGB", size, fill)
    other = tuple(int(c * 0.55) if sum(fill) > 330 else int(c + (255 - c) * 0.5) for c in fill)
    draw, step = ImageDraw.Draw(layer), int(rng.integers(12, 20))
    if thing.pattern == "striped":
        for x in range(-size[1], size[0], step):
            draw.line((x, size[1], x + size[1] // 2, 0), fill=other, width=step // 3)
    elif thing.pattern == "dotted":
        for x in range(0, size[0], step):
            for y in range(0, size[1], step):
                draw.ellipse((x, y, x + step // 2, y + step // 2), fill=other)
    mask, part = shape_mask(thing.shape, local, size, rng)
    own = (
        COLOURS[list(COLOURS)[rng.integers(len(COLOURS))]] if rng.random() < 0.6 else tuple(int(c * 0.7) for c in fill)
    )
    layer.paste(own, (0, 0, *size), part)
    if rng.random() < 0.5:  # round: shaded sides
        u = np.linspace(-1, 1, size[0])
        light = 1 - rng.uniform(0.15, 0.5) * np.abs(u - rng.uniform(-0.2, 0.2)) ** 3
        layer = Image.fromarray((np.asarray(layer) * light[None, :, None]).clip(0, 255).astype(np.uint8))
    shifted = Thing(thing.shape, thing.colour, thing.pattern, thing.state, tuple(c / SCALE for c in local))
    before = layer.copy(), mask.copy()
    mask = _paint_state(layer, shifted, mask, rng)
    if changed := _changed(before[0], layer) or _changed(before[1], mask):
        thing = replace(thing, worn=tuple((c + o) / SCALE for c, o in zip(changed, (x0, y0, x0, y0), strict=True)))
    canvas.paste(layer, (x0, y0), mask)
    whole = Image.new("L", canvas.size)
    whole.paste(mask, (x0, y0))
    return thing, whole


def _changed(before: Image.Image, after: Image.Image) -> tuple[int, ...] | None:
    """Return the box of the pixels that differ clearly, or None."""
    return ImageChops.difference(before, after).point(lambda v: 255 if v > 40 else 0).getbbox()


def wear_thing(canvas: Image.Image, thing: Thing, mask: Image.Image, rng: np.random.Generator) -> Thing:
    """Paint the wear of a thing's state, if any, over the thing and its print so far; returns the thing."""
    if thing.state not in WORN:
        return thing
    before = canvas.copy()
    wear(canvas, thing.state, tuple(c * SCALE for c in thing.box), mask, rng)
    changed = _changed(before, canvas)
    return replace(thing, worn=tuple(c / SCALE for c in changed)) if changed else thing


def view(canvas: Image.Image, scene: Scene, rng: np.random.Generator, angle: float = 18.0) -> Image.Image:
    """Return the canvas rotated by up to `angle` degrees and in perspective; updates `scene` accordingly."""
    size = np.array(canvas.size) / SCALE
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * size
    c, s = math.cos(turned := math.radians(rng.uniform(-angle, angle))), math.sin(turned)
    moved = (corners - size / 2) @ np.array([(c, -s), (s, c)]) + size / 2 + rng.uniform(-0.06, 0.06, (4, 2)) * size
    forth, back = _homography(corners, moved), _homography(moved * SCALE, corners * SCALE)

    def at(x: float, y: float) -> tuple[float, float]:
        u, v, w = forth @ (x, y, 1)
        return float(u / w), float(v / w)

    def shifted(box: tuple[float, ...]) -> tuple[float, ...]:
        x, y = at((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        w, h = (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
        return x - w, y - h, x + w, y + h

    scene.characters = [(*at(x, y), k) for x, y, k in scene.characters]
    scene.things = [replace(t, box=shifted(t.box), worn=t.worn and shifted(t.worn)) for t in scene.things]
    ground = tuple(int(v) for v in np.asarray(canvas)[:: canvas.height - 1].reshape(-1, 3).mean(0))
    coefficients = tuple(back.reshape(-1)[:8])
    return canvas.transform(canvas.size, Image.PERSPECTIVE, coefficients, Image.BILINEAR, fillcolor=ground)


def _homography(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the 3 x 3 matrix that maps four source points (4, 2) onto four target points."""
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [(x, y, 1, 0, 0, 0, -u * x, -u * y), (0, 0, 0, x, y, 1, -v * x, -v * y)]
    return np.append(np.linalg.solve(np.array(rows), target.reshape(-1)), 1.0).reshape(3, 3)


def _dot_matrix(text: str, cap_px: float) -> Image.Image:
    """Render text as round dots on a grid, like the printers on production lines; capitals are 7 dots high."""
    face = ImageFont.load_default_imagefont()
    small = Image.new("1", (int(face.getlength(text)), 11))
    ImageDraw.Draw(small).text((0, 0), text, font=face, fill=1)
    pitch = max(2, round(cap_px / 7))
    y, x = np.mgrid[:pitch, :pitch] - (pitch - 1) / 2
    dot = (x * x + y * y <= (pitch / 2) ** 2).astype(np.uint8) * 255
    return Image.fromarray(np.kron(np.asarray(small), dot))


def draw_string(canvas: Image.Image, text: str, at: tuple[float, float], *, height_px: float, ink: tuple[int, ...],
                rng: np.random.Generator, font: int | None = None, angle: float | None = None, style: str = "",
                narrow: float = 1.0) -> list[tuple[float, float, int]]:  # fmt: skip
    """Print `text` centred on `at` (pixels of the finished image); returns every character's centre and index.

    `style` is "ink", "dots" or "emboss" (a lit and a shaded edge in place of ink); if empty, it is random.
    `narrow` scales the letters' width; 1 keeps the font's width."""
    font = int(rng.integers(len(_font_files()))) if font is None else font
    style = style or str(rng.choice(("ink", "dots", "emboss"), p=(0.76, 0.12, 0.12)))
    angle = float(rng.normal(0, 4)) if angle is None else angle
    if style == "dots":
        layer = _dot_matrix(text, height_px * SCALE)
        advances = [layer.width / len(text) * (i + 0.5) for i in range(len(text))]
    else:
        face = _font(font, max(8, int(height_px * SCALE * 1.35)))
        layer = Image.new("L", (int(face.getlength(text)) + 8, int(face.size * 1.2) + 4))
        ImageDraw.Draw(layer).text((4, 0), text, font=face, fill=255)
        advances = [4 + face.getlength(text[:i]) + face.getlength(char) / 2 for i, char in enumerate(text)]
    layer = layer.resize((max(1, round(layer.width * narrow)), layer.height), Image.BILINEAR)
    turned = layer.rotate(angle, expand=True, resample=Image.BILINEAR)
    corner = int(at[0] * SCALE - turned.width / 2), int(at[1] * SCALE - turned.height / 2)
    for shift, colour in (
        [(1, (250, 250, 250)), (-1, (20, 20, 20))] if style == "emboss" and min(ink) < 128 else [(0, ink)]
    ):
        canvas.paste(Image.new("RGB", turned.size, colour), (corner[0] + shift, corner[1] + shift), turned)
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    spots = []
    for char, x in zip(text, advances, strict=True):
        if char != " ":
            dx = x * narrow - layer.width / 2
            spots.append((at[0] + dx * c / SCALE, at[1] - dx * s / SCALE, CHARACTERS.index(char)))
    return spots


def random_string(rng: np.random.Generator, longest: int = 8) -> str:
    """Draw a string of capitals, digits and marks without meaning: a word-like run, a number with marks, or a mix."""
    kind, n = rng.random(), int(rng.integers(1, longest + 1))
    letters, digits = CHARACTERS[:26], CHARACTERS[26:36]
    if kind < 0.3:
        return "".join(rng.choice(list(letters), n))
    if kind < 0.5:
        return "".join(rng.choice(list(digits), n))
    if kind < 0.65 and n >= 6:  # groups of fixed length, as in dates and serial numbers
        mark = "./-  "[rng.integers(5)]
        groups = ((2, 2, 4), (2, 2, 2), (4, 2, 2), (2, 4), (2, -3, 4), (2, -3, 2), (-3, 4))[rng.integers(7)]
        return mark.join("".join(rng.choice(list(digits if g > 0 else letters), abs(g))) for g in groups)
    if kind < 0.75 and n >= 4:
        mark = "./-: "[rng.integers(5)]
        parts = [
            "".join(rng.choice(list(digits if rng.random() < 0.8 else letters), rng.integers(1, 5))) for _ in range(3)
        ]
        return mark.join(parts[: 2 + (n > 5)])
    words = ["".join(rng.choice(list(letters if rng.random() < 0.6 else digits), rng.integers(1, 5))) for _ in range(2)]
    return " ".join(words) if n > 3 else words[0]


def contrasting(colour: tuple[int, ...], rng: np.random.Generator) -> tuple[int, int, int]:
    """Draw an ink that is legible on `colour`: dark on light, light on dark."""
    light = np.dot(colour, (0.3, 0.59, 0.11)) > 128
    return tuple(int(c) for c in (rng.integers(0, 70, 3) if light else rng.integers(190, 256, 3)))


def random_box(
    size: tuple[int, int], side: float, shape: str, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Draw a box of about `side` px somewhere in the image; bars are wide, pillars and containers tall."""
    w, h = ASPECT.get(shape, (1.0, 1.0))
    w, h = min(w * side, size[0] - 2), min(h * side, size[1] - 2)
    x, y = rng.uniform(1, size[0] - w - 1), rng.uniform(1, size[1] - h - 1)
    return x, y, x + w, y + h


def finish(canvas: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Scale the canvas down to `size`; add lighting, blur and noise like a phone's."""
    image = canvas.resize(size, Image.BOX)
    if rng.random() < 0.15:
        image = image.resize((int(size[0] * 0.7), int(size[1] * 0.7)), Image.BILINEAR).resize(size, Image.BILINEAR)
    pixels = np.asarray(image, np.float32) * rng.uniform(0.35 if rng.random() < 0.3 else 0.8, 1.1)
    if rng.random() < 0.5:
        far = rng.uniform(-0.35, 0.35, 2)
        pixels *= (
            1
            + far[0] * np.linspace(-0.5, 0.5, size[0])[:, None]
            + far[1] * np.linspace(-0.5, 0.5, size[1])[:, None, None]
        )
    if rng.random() < 0.4:
        pixels = pixels + rng.normal(0, rng.uniform(2, 9), (size[1], size[0], 1))
    return np.clip(pixels, 0, 255).astype(np.uint8)
