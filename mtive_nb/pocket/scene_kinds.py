"""Four kinds of general scenes: several shapes, printed lines, a page of characters, a labelled shape; dense labels."""

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw

from mtive_nb.pocket.scene_shapes import CONTAINERS, SHAPES, random_shape
from mtive_nb.pocket.scene_wear import harmless_mark, in_the_way
from mtive_nb.pocket.scenes import (
    CELL_PX,
    CHARACTERS,
    COLOURS,
    GLYPHS,
    PATTERNS,
    SCALE,
    SIZES_PX,
    SLOTS,
    STATES,
    Scene,
    Thing,
    background,
    contrasting,
    draw_string,
    draw_thing,
    finish,
    random_box,
    random_string,
    view,
    wear_thing,
)

LABELLED = ("square", "circle", "pillar", "hexagon", *CONTAINERS)  # shapes with room for print
BADGES = 0.2, 0.0, 0.35, 0.45  # shares of plain shapes, containers, symbols, signs


def dense_labels(scene: Scene) -> dict[str, np.ndarray]:
    """Return the dense labels of every merged patch; 0 means nothing, so class indices are shifted by one.

    `character` (gh, gw, SLOTS): its characters in reading order. `glyph` (gh, gw, 4, GLYPHS): the characters of its
    four patches, row by row, from left to right. `shape`, `colour`, `state` (gh, gw): those of the thing at its centre.
    A worn thing has the state "whole" where its state changed nothing."""
    h, w = scene.image.shape[0] // CELL_PX, scene.image.shape[1] // CELL_PX
    characters = _by_cell(scene, (h, w), CELL_PX, SLOTS)
    glyphs = _by_cell(scene, (2 * h, 2 * w), CELL_PX // 2, GLYPHS)
    glyphs = glyphs.reshape(h, 2, w, 2, GLYPHS).transpose(0, 2, 1, 3, 4).reshape(h, w, 4, GLYPHS)
    things = np.zeros((3, h, w), np.int64)
    for thing in scene.things:
        values = SHAPES.index(thing.shape), list(COLOURS).index(thing.colour), 0
        for plane, value in zip(things, values, strict=True):
            plane[_cells(thing.box)] = value + 1
    for thing in scene.things:
        if thing.worn:
            things[2][_cells(thing.worn)] = STATES.index(thing.state) + 1
    return {
        "character": characters,
        "glyph": glyphs,
        "shape": things[0],
        "colour": things[1],
        "state": things[2],
    }


def _cells(box: tuple[float, ...]) -> tuple[slice, slice]:
    """Return rows and columns of the merged patches whose centres lie in a box, at least one of each."""
    x0, y0, x1, y1 = (c / CELL_PX - 0.5 for c in box)
    return slice(max(0, round(y0)), max(1, round(y1) + 1)), slice(max(0, round(x0)), max(1, round(x1) + 1))


def _by_cell(scene: Scene, grid: tuple[int, int], cell_px: int, slots: int) -> np.ndarray:
    """Return (h, w, slots): the first `slots` characters centred in each cell, in reading order, shifted by one."""
    found, used = np.zeros((*grid, slots), np.int64), np.zeros(grid, int)
    for x, y, index in sorted(scene.characters, key=lambda c: (round(c[1] / 14), c[0])):
        i, j = int(y // cell_px), int(x // cell_px)
        if 0 <= i < grid[0] and 0 <= j < grid[1] and used[i, j] < slots:
            found[i, j, used[i, j]] = index + 1
            used[i, j] += 1
    return found


def _random_thing(rng: np.random.Generator, size: tuple[int, int], side: float, fixed: Mapping[str, str]) -> Thing:
    shape = fixed.get("shape") or random_shape(rng)
    kind = {
        "colour": list(COLOURS)[rng.integers(len(COLOURS))],
        "pattern": PATTERNS[rng.integers(3)] if rng.random() < 0.4 else "plain",
        "state": STATES[rng.integers(1, len(STATES))] if rng.random() < 0.5 else "whole",
    } | {name: value for name, value in fixed.items() if name != "shape"}
    return Thing(shape, box=random_box(size, side, shape, rng), **kind)


def _print_on(canvas: Image.Image, thing: Thing, text: str, rng: np.random.Generator) -> list[tuple[float, float, int]]:
    """Print `text` on a thing's middle in a contrasting ink; returns the characters' centres and indices."""
    ink = contrasting(COLOURS[thing.colour], rng)
    width = (thing.box[2] - thing.box[0]) * (0.9 if thing.shape in ("square", "bar", "pillar") else 0.62)
    height = float(np.clip(width / (max(len(text), 2) * 0.82), 7, 22))
    return draw_string(canvas, text, thing.centre, height_px=height, ink=ink, rng=rng)


def _overlaps(box: tuple[float, ...], others: list[Thing]) -> bool:
    return any(box[0] < o.box[2] and o.box[0] < box[2] and box[1] < o.box[3] and o.box[1] < box[3] for o in others)


def _canvas(rng: np.random.Generator, photos: list | None) -> tuple[tuple[int, int], Image.Image]:
    """Draw the size of the finished image; returns it and a background of SCALE times that size."""
    size = SIZES_PX[rng.integers(len(SIZES_PX))]
    return size, background(size, rng, photos).resize((size[0] * SCALE, size[1] * SCALE), Image.BILINEAR)


def _mean_colour(canvas: Image.Image) -> tuple[int, ...]:
    return tuple(int(v) for v in np.asarray(canvas).reshape(-1, 3).mean(0))


def objects_scene(rng: np.random.Generator, photos: list | None = None) -> Scene:
    """Draw one to six shapes that do not overlap, some with a short string on them."""
    size, canvas = _canvas(rng, photos)
    n, scene = int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.25, 0.25, 0.2, 0.12, 0.1, 0.08])), Scene(np.empty(0))
    repeated = random_shape(rng) if rng.random() < 0.4 else None
    for _ in range(n * 4):
        if len(scene.things) == n:
            break
        side = rng.uniform(62, 105) if n == 1 else rng.uniform(26, 60 if n < 4 else 40)
        thing = _random_thing(rng, size, side, {"shape": repeated})
        if _overlaps(thing.box, scene.things):
            continue
        if n <= 3 and rng.random() < 0.3 and side > 36:
            thing = Thing(thing.shape, thing.colour, "plain", "whole", thing.box, random_string(rng, 5))
        thing, mask = draw_thing(canvas, thing, rng)
        thing = wear_thing(canvas, thing, mask, rng)
        if thing.text:
            scene.characters += _print_on(canvas, thing, thing.text, rng)
        scene.things.append(thing)
    scene.image = finish(canvas, size, rng)
    return scene


def text_scene(rng: np.random.Generator, photos: list | None = None) -> Scene:
    """Draw one to four printed lines on a plain or busy background."""
    size, canvas = _canvas(rng, photos if rng.random() < 0.3 else None)
    ground = _mean_colour(canvas)
    if rng.random() < 0.4:
        ground = tuple(int(v) for v in rng.integers(0, 256, 3))
        plate = Image.new("RGB", (int(canvas.width * 0.96), int(canvas.height * 0.94)), ground)
        canvas.paste(plate, (int(canvas.width * 0.02), int(canvas.height * 0.03)))
    n, scene = int(rng.choice([1, 2, 3, 4], p=[0.35, 0.3, 0.2, 0.15])), Scene(np.empty(0))
    band, narrow = size[1] / n, float(rng.uniform(0.55, 1.05))
    alike = {"ink": contrasting(ground, rng), "font": int(rng.integers(6)), "angle": float(rng.normal(0, 3.5))}
    for line in range(n):
        text = random_string(rng, int(rng.integers(2, 13)))
        if rng.random() < 0.35:  # a few letters introduce the rest of the line
            letters = "".join(rng.choice(list(CHARACTERS[:26]), int(rng.integers(1, 5))))
            text = f"{letters}{(' ', ':', ': ')[rng.integers(3)]}{text[:10]}"
        wide = len(text) * 0.8 * narrow  # line width at a capital height of one pixel
        height = float(np.clip(rng.uniform(0.6, 1.0) * min(size[0] * 0.92 / wide, band * 0.62), 8, 34))
        room = max(0.0, size[0] * 0.46 - wide * height * 0.53)
        at = size[0] / 2 + rng.uniform(-room, room), band * (line + 0.5) + rng.uniform(-0.1, 0.1) * band
        scene.characters += draw_string(canvas, text, at, height_px=height, narrow=narrow, rng=rng, **alike)
        scene.strings.append(text)
    if rng.random() < 0.4:
        canvas = view(canvas, scene, rng, angle=6)
    scene.image = finish(canvas, size, rng)
    return scene


def page_scene(rng: np.random.Generator, photos: list | None = None) -> Scene:
    """Draw a page full of characters for the dense labels: eight times as many letters as a normal scene."""
    size, canvas = _canvas(rng, photos if rng.random() < 0.2 else None)
    ground = _mean_colour(canvas)
    height, angle, scene = float(rng.uniform(10, 28)), float(rng.normal(0, 3.5)), Scene(np.empty(0))
    rows, narrow = max(1, int(size[1] * 0.95 / (height * 1.45))), float(rng.uniform(0.55, 1.05))
    for row in range(rows):
        n = max(1, int(size[0] * 0.95 / (height * 0.84 * narrow)))
        text = "".join(rng.choice(list(CHARACTERS + "  "), n)).strip() or "A"
        at = size[0] / 2 + rng.uniform(-4, 4), size[1] * (row + 0.5) / rows
        scene.characters += draw_string(
            canvas, text, at, height_px=height, ink=contrasting(ground, rng), rng=rng, angle=angle, narrow=narrow
        )
    scene.image = finish(canvas, size, rng)
    return scene


def labelled_scene(
    rng: np.random.Generator,
    photos: list | None = None,
    *,
    calm: bool = False,
    fixed: Mapping[str, str] | None = None,
) -> Scene:
    """Draw one large thing with a printed string and a small shape as a badge; pairs of images use it, too.

    The thing may be worn, marked, partly covered or seen at an angle. If `calm`, it stands straight on a light
    background, neither marked nor covered. `fixed` sets values that are otherwise random: shape, colour, text ..."""
    size, canvas = _canvas(rng, photos)
    if calm:
        canvas.paste(tuple(int(c) for c in rng.integers(225, 256, 3)), (0, 0, *canvas.size))
    given = dict(fixed or {})
    text, badge_shape = given.pop("text", None) or random_string(rng, 6), given.pop("badge", None)
    badge_colour = given.pop("badge_colour", None)
    main = _random_thing(rng, size, rng.uniform(72, 100), {"shape": LABELLED[rng.integers(len(LABELLED))]} | given)
    main, mask = draw_thing(canvas, main, rng)
    scene, (cx, cy) = Scene(np.empty(0)), main.centre
    width, h = main.box[2] - main.box[0], main.box[3] - main.box[1]
    room = width * (0.62 if main.shape in ("circle", "hexagon") else 0.88)
    narrow = float(rng.uniform(0.55, 1.0))
    height = float(np.clip(room / (max(len(text), 3) * 0.82 * narrow), 8, 22))
    at = cx, cy - h * rng.uniform(0.1, 0.22)
    ground = _plate(canvas, main, (at[0] - room / 2, at[1] - height * 0.8, at[0] + room / 2, at[1] + height * 0.8), rng)
    ink = contrasting(ground, rng)
    scene.characters += draw_string(canvas, text, at, height_px=height, ink=ink, rng=rng, narrow=narrow)
    side, low = h * rng.uniform(0.22, 0.42), cy + h * rng.uniform(0.2, 0.26)
    box = (cx - side / 2, low - side / 2, cx + side / 2, low + side / 2)
    around = tuple(c + d * side * 0.2 for c, d in zip(box, (-1, -1, 1, 1), strict=True))
    ground = _plate(canvas, main, around, rng, carries=badge_colour)
    colours = [c for c in COLOURS if c != main.colour and not _alike(COLOURS[c], ground)]
    colour = badge_colour or colours[rng.integers(len(colours))]
    badge = Thing(badge_shape or random_shape(rng, BADGES), colour, "plain", "whole", box)
    draw_thing(canvas, badge, rng)
    scene.things, scene.strings = [wear_thing(canvas, main, mask, rng), badge], [text]
    if not calm:
        if rng.random() < 0.4:
            harmless_mark(canvas, tuple(c * SCALE for c in main.box), mask, rng)
        if rng.random() < 0.3:
            in_the_way(canvas, [(x * SCALE, y * SCALE) for x, y, _ in scene.characters], rng)
        if rng.random() < 0.6:
            canvas = view(canvas, scene, rng)
    scene.image = finish(canvas, size, rng)
    return scene


def _plate(
    canvas: Image.Image, thing: Thing, box: tuple[float, ...], rng: np.random.Generator, *, carries: str | None = None
) -> tuple[int, ...]:
    """Draw, half of the time, a light or dark plate in `box` (pixels of the finished image) on a thing.

    No plate is drawn if the colour that it `carries` would not stand out. Returns the colour below the print."""
    dark = rng.random() < 0.3
    fill = tuple(int(c) for c in (rng.integers(0, 60, 3) if dark else rng.integers(215, 256, 3)))
    if rng.random() < 0.5 or (carries and _alike(COLOURS[carries], fill)):
        return COLOURS[thing.colour]
    draw, at = ImageDraw.Draw(canvas), tuple(c * SCALE for c in box)
    if rng.random() < 0.5:
        draw.rounded_rectangle(at, radius=float(rng.uniform(0, 10)), fill=fill)
    else:
        draw.ellipse(at, fill=fill)
    return fill


def _alike(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return np.abs(np.subtract(one, other)).max() <= 60
