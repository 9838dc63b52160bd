"""Questions and answers on general scenes: the training data and the exam of the pocket base (notebook 00).

A sample has up to two images (none for text-only turns), one to four turns (question, answer, skill) and the dense
labels of each image. SKILLS lists the skills.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mtive_nb.model.imagenet import open_photo
from mtive_nb.pocket.plain_text import plain_turns
from mtive_nb.pocket.plain_world import world_turns
from mtive_nb.pocket.scene_kinds import dense_labels, labelled_scene, objects_scene, page_scene, text_scene
from mtive_nb.pocket.scene_pairs import Turn, by_lot, fields, pair_scenes, pair_turns
from mtive_nb.pocket.scene_shapes import CONTAINERS, PLAIN, SYMBOLS, random_shape
from mtive_nb.pocket.scene_wordings import reword
from mtive_nb.pocket.scenes import (
    COLOURS,
    SCALE,
    SIZES_PX,
    STATES,
    Scene,
    Thing,
    finish,
    random_string,
)

SKILLS = ("shape", "colour", "count", "position", "read", "state", "yes/no", "compare", "two images", "json", "describe", "copy",
          "speak", "facts", "facts yes/no")  # the last three: plain words, of "world" samples  # fmt: skip
SHARES = {
    "objects": 0.07,
    "text": 0.19,
    "labelled": 0.24,
    "pair": 0.33,
    "views": 0.03,
    "page": 0.03,
    "plain": 0.11,
}  # share of each kind of sample; "plain" has no image; training adds "world", which has none either
DENSE_SHARES = {"page": 0.2, "objects": 0.2, "text": 0.1, "labelled": 0.5}  # views have no dense labels
NAMED = CONTAINERS, PLAIN, tuple(SYMBOLS)
WITH_NAMES = 0.4, 0.25, 0.35, 0.0  # shares of plain shapes, containers, symbols, signs
FLAWS = {"notched": "notch", "scribbled": "scribble", "dimpled": "dent", "cracked": "crack", "torn": "tear",
         "stained": "stain", "scratched": "scratch", "crushed": "crease", "dripping": "drip"}  # fmt: skip
NUMBERS = ("none", "one", "two", "three", "four", "five", "six")


@dataclass
class Sample:
    """`images` HWC uint8; `turns` (question, answer, skill); `dense` one label dict per image; `views` beside them."""

    images: list[np.ndarray]
    turns: list[tuple[str, str, str]]
    dense: list[dict[str, np.ndarray]]
    views: object = None  # pocket/distill.py: Taught


def page_turns(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """Return one easy question on a page, yes and no equally likely: pages serve the dense labels."""
    if rng.random() < 0.5:
        return [("Is anything printed? Answer yes or no.", "yes", "yes/no")]
    return [(f"Is there a {random_shape(rng, WITH_NAMES)}? Answer yes or no.", "no", "yes/no")]


def _pick(rng: np.random.Generator, options: list[str] | tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _yes_no(rng: np.random.Generator, true: str, others: list[str] | tuple[str, ...]) -> tuple[str, str]:
    """Return a value to ask about and the answer; yes and no are equally likely."""
    if rng.random() < 0.5:
        return true, "yes"
    return _pick(rng, [o for o in others if o != true]), "no"


def one_thing_turns(thing: Thing, name: str, rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """Return questions on one shape, which they call `name` ("it" if the scene has no other shape)."""
    colour, c_answer = _yes_no(rng, thing.colour, list(COLOURS))
    shape, s_answer = _yes_no(rng, thing.name, _like(thing.shape, rng))
    state, t_answer = _yes_no(rng, thing.state, STATES)
    turns = [
        (f"Which colour is {name}?", thing.colour, "colour"),
        (f"Is {name} {colour}? Answer yes or no.", c_answer, "yes/no"),
        (f"Is {name} {state}? Answer yes or no.", t_answer, "yes/no"),
        (f"Is {name} whole? Answer yes or no.", "yes" if thing.state == "whole" else "no", "state"),
        (f"In which state is {name}?", thing.state, "state"),
        (f"Which flaw does {name} have?", FLAWS.get(thing.state, "none"), "state"),
        (f"Is {name} plain, striped or dotted?", thing.pattern, "describe"),
    ]
    if name == "it":
        turns += [
            ("Which shape is it?", thing.name, "shape"),
            (f"Is it a {shape}? Answer yes or no.", s_answer, "yes/no"),
        ]
    if thing.text:
        turns.append((f"What is printed on {name}?", thing.text, "read"))
    return turns


def _like(shape: str, rng: np.random.Generator) -> tuple[str, ...]:
    """Return shapes to ask for, mostly of the same kind."""
    kind = next((kind for kind in NAMED if shape in kind), tuple(SYMBOLS))
    return kind if rng.random() < 0.7 else (*sum(NAMED, ()), "sign")


def _describe(things: list[Thing]) -> str:
    return " and ".join(f"a {t.colour} {t.name}" for t in things)


def objects_turns(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """Return questions on a scene of shapes: count, position, colour by shape and shape by colour."""
    things = scene.things
    if len(things) == 1:
        t = things[0]
        row = {"shape": t.name, "colour": t.colour, "pattern": t.pattern, "state": t.state}
        keys = [k for k in row if rng.random() < 0.7] or ["shape"]
        ask = "Answer in JSON with the keys " + ", ".join(keys) + "."
        where = (
            ("left" if t.centre[0] < scene.image.shape[1] / 2 else "right"),
            ("top" if t.centre[1] < scene.image.shape[0] / 2 else "bottom"),
        )
        return one_thing_turns(t, "it", rng) + [
            (ask, json.dumps({k: row[k] for k in keys}), "json"),
            ("Is it on the left or on the right?", where[0], "position"),
            ("Is it at the top or at the bottom?", where[1], "position"),
            ("Describe the image.", f"a {t.colour} {t.name}, {t.pattern}, {t.state}", "describe"),
        ]
    shapes, colours = [t.name for t in things], [t.colour for t in things]
    shape, colour = (
        random_shape(rng, WITH_NAMES) if rng.random() < 0.4 else _pick(rng, shapes),
        _pick(rng, list(COLOURS) if rng.random() < 0.4 else colours),
    )
    turns = [
        ("How many shapes are there?", NUMBERS[len(things)], "count"),
        (f"Is there a {shape}? Answer yes or no.", "yes" if shape in shapes else "no", "yes/no"),
        (f"Is anything {colour}? Answer yes or no.", "yes" if colour in colours else "no", "yes/no"),
        (f"How many {shape} shapes are there?", NUMBERS[shapes.count(shape)], "count"),
    ]
    a, b = (things[i] for i in rng.permutation(len(things))[:2])
    left, top = sorted(things, key=lambda t: t.centre[0]), sorted(things, key=lambda t: t.centre[1])
    turns += [
        ("Which shape is furthest left?", left[0].name, "position"),
        ("Which colour is the shape at the very top?", top[0].colour, "position"),
    ]
    if len(things) <= 3:
        turns.append(("Describe the image from left to right.", _describe(left), "describe"))
    if shapes.count(a.name) == 1:
        turns += one_thing_turns(a, f"the {a.name}", rng)[:5] + (
            [(f"What is printed on the {a.name}?", a.text, "read")] if a.text else []
        )
        if shapes.count(b.name) == 1 and abs(a.centre[0] - b.centre[0]) > 15:
            side, answer = _yes_no(rng, "left" if a.centre[0] < b.centre[0] else "right", ("left", "right"))
            turns.append((f"Is the {a.name} {side} of the {b.name}? Answer yes or no.", answer, "position"))
    if colours.count(b.colour) == 1:
        turns.append((f"Which shape is {b.colour}?", b.name, "shape"))
    return turns


def text_turns(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """Return questions on printed lines."""
    lines = scene.strings
    all_lines = ("Read all lines.", " | ".join(lines), "read")
    other = random_string(rng, 8)
    asked, answer = _yes_no(rng, _pick(rng, lines).split(" ")[0], [other, f"{other}0"])
    is_there = (f"Is {asked} printed? Answer yes or no.", answer, "yes/no")
    if len(lines) == 1:
        turns = [_pick(rng, [("What is printed?", lines[0], "read"), all_lines])]
        return turns + _behind(lines, rng) + [is_there]
    k = int(rng.integers(len(lines)))
    which = ("first", "second", "third", "fourth")[k]
    spelled = json.dumps({f"line{i + 1}": line for i, line in enumerate(lines)})
    options = [all_lines, (f"Read the {which} line.", lines[k], "read"), ("Give every line in JSON.", spelled, "json")]
    count = [("How many lines are there?", NUMBERS[len(lines)], "count")] if rng.random() < 0.1 else []
    return [options[int(rng.integers(3))], *_behind(lines, rng), is_there, *count]


def _behind(lines: list[str], rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """Return a question on the text after letters that begin exactly one line, or no question."""
    parts = [re.match(r"([A-Z]+)[: ]+(.+)", line) for line in lines]
    found = [part.groups() for part in parts if part]
    alone = [(key, rest) for key, rest in found if sum(line.startswith(key) for line in lines) == 1]
    if not alone:
        return []
    key, rest = alone[int(rng.integers(len(alone)))]
    return [(f"What is printed behind {key}?", rest, "read")]


def labelled_turns(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """Return questions on a large shape, its text and its badge."""
    main, badge, text = scene.things[0], scene.things[1], scene.strings[0]
    row = {"text": text, "shape": main.shape, "colour": main.colour, "badge": badge.name, "state": main.state}
    keys = [k for k in row if rng.random() < 0.6] or ["text"]
    return one_thing_turns(main, "the large shape", rng) + [
        ("What is printed?", text, "read"), ("What is printed?", text, "read"),
        ("Which shape is the large shape?", main.shape, "shape"),
        ("Which shape is the badge?", badge.name, "shape"),
        ("Which colour is the badge?", badge.colour, "colour"),
        ("Answer in JSON with the keys " + ", ".join(keys) + ".", json.dumps({k: row[k] for k in keys}), "json"),
        ("Describe the image.", f"a {main.colour} {main.shape} with the text {text} and a {badge.colour} {badge.name}", "describe"),
    ]  # fmt: skip


def view_sample(rng: np.random.Generator, photos: list[np.ndarray]) -> tuple[list[Scene], list[tuple[str, str, str]]]:
    """Crop one photo twice, or two photos once: unlabelled photos teach the vision tower to match views."""
    i, j = rng.integers(len(photos), size=2)
    same = rng.random() < 0.5 or i == j
    scenes = []
    for photo in (photos[i], photos[i] if same else photos[j]):
        image, size = Image.fromarray(photo), SIZES_PX[rng.integers(len(SIZES_PX))]
        side = int(min(image.size) * rng.uniform(0.6, 1.0))
        x, y = rng.integers(image.width - side + 1), rng.integers(image.height - side + 1)
        crop = image.crop((x, y, x + side, y + side))
        crop = crop.transpose(Image.FLIP_LEFT_RIGHT) if rng.random() < 0.3 else crop
        scenes.append(Scene(finish(crop.resize((size[0] * SCALE, size[1] * SCALE)), size, rng)))
    return scenes, [
        ("Are these two views of the same picture? Answer yes or no.", "yes" if same else "no", "two images")
    ]


def make_sample(index: int, *, seed: int = 0, photos: list[np.ndarray] | None = None, words: list[str] | None = None,
                shares: dict[str, float] | None = None) -> Sample:  # fmt: skip
    """Return sample `index` of the stream `seed`.

    `photos`: unlabelled HWC uint8 images for backgrounds and views; without them, there are no "views". `words`: the
    material of text-only turns; without them, there are no "plain" samples. `shares` of the kinds: default SHARES,
    which has no "world" (pocket/plain_world.py)."""
    rng = np.random.default_rng([seed, index])
    shares = dict(shares or SHARES)
    if not photos:
        shares.pop("views", None)
    if not words:
        shares.pop("plain", None)
    kind = by_lot(shares, rng)
    if kind == "views":
        scenes, turns = view_sample(rng, photos or [])
    elif kind == "pair":
        scenes = pair_scenes(rng, photos)
        turns = pair_turns(*(fields(scene) for scene in scenes), rng)
    elif kind == "plain":
        scenes, turns = [], plain_turns(rng, words or [])
    elif kind == "world":
        scenes, turns = [], world_turns(rng)
    else:
        draw, ask = {
            "objects": (objects_scene, objects_turns),
            "text": (text_scene, text_turns),
            "page": (page_scene, page_turns),
            "labelled": (labelled_scene, labelled_turns),
        }[kind]
        scenes = [draw(rng, photos)]
        turns = ask(scenes[0], rng)
    chosen = [turns[i] for i in rng.permutation(len(turns))[: int(rng.integers(2, 5))]]
    if scenes:
        chosen = [(*reword(question, answer, rng), skill) for question, answer, skill in chosen]
    return Sample([s.image for s in scenes], chosen, [dense_labels(s) for s in scenes])


def first_question(index: int, *, folder: Path, seed: int, photos: list[np.ndarray] | None, words: list[str]) -> tuple[Turn, list[str]]:  # fmt: skip
    """Return the first turn of sample `index` of the stream `seed`, and the paths of its images, written as PNG."""
    sample = make_sample(index, seed=seed, photos=photos, words=words)
    images = [str(folder / f"{index:05d}_{i}.png") for i in range(len(sample.images))]
    for path, image in zip(images, sample.images, strict=True):
        Image.fromarray(image).save(path, compress_level=1)
    return sample.turns[0], images


def load_squares(paths: list[Path], *, side_px: int = 160) -> list[np.ndarray]:
    """Load photos as HWC uint8 squares of `side_px`, each the photo's centre: the grounds of scenes."""
    photos = []
    for image in map(open_photo, paths):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        photos.append(np.asarray(square.resize((side_px, side_px), Image.BICUBIC)))
    return photos
