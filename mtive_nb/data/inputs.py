"""Changes how photos enter a prompt: shrunk, cut into tiles, made square, numbered or not, reordered.

Settings of VIT-Pro's T5 and appendix E, and of eBay's two vision encoders (s4.3).

Every function maps records to records, so that training, answering and serving need no change.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mtive_nb.data.ocr import Line, with_print
from mtive_nb.data.photos import file_sha256, load_image
from mtive_nb.data.records import announces_image
from mtive_nb.run.atomic import replacing

MARK = "###"  # VIT-Pro's delimiter between the parts of a prompt


def with_inputs(records: Sequence[dict], folder: Path, *, shrink_to_px: int = 0, split: bool = False) -> list[dict]:
    """The records with their photos shrunk, split or both; the new photos are saved in `folder` as JPEG.

    shrink_to_px: a larger photo is shrunk to the area of a square with this side, 0 keeps its size. split: each photo
    is followed by its four quarters, so that five images replace it.
    """
    folder, made = Path(folder), {}
    times = 5 if split else 1

    def repeat(parts: list[dict]) -> list[dict]:
        return [p for part in parts for p in [part] * (times if part["type"] == "image" else 1)]

    changed = []
    for record in records:
        for image in record["images"]:
            if image not in made:
                made[image] = _cut(Path(image), folder, shrink_to_px=shrink_to_px, split=split)
        images = [one for image in record["images"] for one in made[image]]
        changed.append(_with_parts(record, repeat) | {"images": images})
    return changed


def _cut(path: Path, folder: Path, *, shrink_to_px: int, split: bool) -> list[str]:
    """The files that replace one photo: the photo, shrunk or not, and with `split` its quarters."""
    if not shrink_to_px and not split:
        return [str(path)]
    name = file_sha256(path)[:16]
    files = [folder / f"{name}_{shrink_to_px}_{k}.jpg" for k in range(5 if split else 1)]
    if not all(file.is_file() for file in files):
        photo = load_image(path)
        scale = shrink_to_px / (photo.width * photo.height) ** 0.5 if shrink_to_px else 1.0
        if scale < 1:
            photo = photo.resize([max(1, round(scale * side)) for side in photo.size], Image.Resampling.BICUBIC)
        for image, file in zip([photo, *(_quarters(photo) if split else [])], files, strict=True):
            with replacing(file) as part:
                image.save(part, format="JPEG", quality=95)
    return [str(file) for file in files]


def _quarters(photo: Image.Image) -> list[Image.Image]:
    """The quarters of a photo: top left, top right, bottom left, bottom right."""
    x, y = photo.width // 2, photo.height // 2
    rows = [(0, y), (y, photo.height)]
    return [photo.crop((a, top, b, bottom)) for top, bottom in rows for a, b in ((0, x), (x, photo.width))]


def at_ratio(records: Sequence[dict], folder: Path, *, ratio: float, square: bool) -> list[dict]:
    """The records with photos `ratio` times as wide as high, or as high as wide by turns, saved in `folder` as PNG.

    Pocket Mart's photos are square. Each gets a margin, which mirrors its edges, so that it loses nothing and has a
    phone's ratio. `square` then squeezes it into a square of the same area, as an encoder of fixed resolution does;
    without, it stays as it is. Errors: ValueError for a ratio outside [1, 3].
    """
    if not 1 <= ratio <= 3:
        raise ValueError(f"at_ratio: found ratio={ratio}, expected 1 to 3 (a margin mirrors at most the whole photo)")
    folder, made = Path(folder), {}
    folder.mkdir(parents=True, exist_ok=True)
    for image in {image: None for record in records for image in record["images"]}:
        file = folder / f"{file_sha256(Path(image))[:16]}_{ratio:g}_{'square' if square else 'native'}.png"
        if not file.is_file():
            with replacing(file) as part:
                _stretched(load_image(image), ratio, wide=int(file.name[0], 16) % 2 == 0, square=square).save(
                    part, format="PNG"
                )
        made[image] = str(file)
    return [record | {"images": [made[image] for image in record["images"]]} for record in records]


def _stretched(photo: Image.Image, ratio: float, *, wide: bool, square: bool) -> Image.Image:
    """The photo with a mirrored margin up to the ratio, squeezed into a square of the same area or not."""
    width, height = photo.size
    across, down = (round(ratio * height), height) if wide else (width, round(ratio * width))
    x, y = max(0, across - width), max(0, down - height)
    margins = ((y // 2, y - y // 2), (x // 2, x - x // 2), (0, 0))
    whole = Image.fromarray(np.pad(np.asarray(photo), margins, mode="symmetric"))
    side = round((whole.width * whole.height) ** 0.5)
    return whole.resize((side, side), Image.Resampling.BICUBIC) if square else whole


def stacked(records: Sequence[dict]) -> list[dict]:
    """The records without the texts that announce images: several images follow each other directly."""
    return [_with_parts(r, lambda parts: [p for p in parts if not announces_image(p)]) for r in records]


def delimited(records: Sequence[dict]) -> list[dict]:
    """The records with MARK before each announced image and before the question, as in VIT-Pro's appendix E."""

    def mark(parts: list[dict]) -> list[dict]:
        several = any(map(announces_image, parts))
        return [p | {"text": f"{MARK} {p['text']}"} if several and p["type"] == "text" else p for p in parts]

    return [_with_parts(r, mark) for r in records]


def reordered(records: Sequence[dict], *, seed: int = 0) -> list[dict]:
    """Reorder the images of single-turn records: each record with several different images gets another order."""
    rng, changed = np.random.default_rng(seed), []
    for record in records:
        images = list(record["images"])
        while len(set(images)) > 1 and images == record["images"]:
            images = [images[i] for i in rng.permutation(len(images))]
        changed.append(record | {"images": images})
    return changed


def with_prompt(
    records: Sequence[dict],
    folder: Path,
    *,
    lines: Mapping[str, Sequence[Line]] | None = None,
    most_characters: int = 120,
    shrink_to_px: int = 0,
    split: bool = True,
    prompt: Callable[[Sequence[dict]], list[dict]] = delimited,
) -> list[dict]:
    """The records as VIT-Pro shows them to the model: printed text, quarters of each photo, marks between the parts.

    lines: printed lines of each photo, as in `with_print`; None leaves them out. folder, shrink_to_px, split: as in
    `with_inputs`. prompt: `delimited` or `stacked`.
    """
    if lines is not None:
        records = with_print(records, lines, most_characters=most_characters)
    return prompt(with_inputs(records, folder, shrink_to_px=shrink_to_px, split=split))


def partly_uncut(
    records: Sequence[dict], shown: Callable[..., list[dict]], *, share: float, seed: int = 0, **options: object
) -> list[dict]:
    """The records as `shown` renders them, a `share` without quarters: drawn at random, so that no answer has one form.

    shown: `with_prompt` with its folder; options: its other options, in both forms.
    """
    whole = np.random.default_rng(seed).random(len(records)) < share
    forms = zip(whole, shown(records, **options | {"split": False}), shown(records, **options), strict=True)
    return [uncut if is_whole else cut for is_whole, uncut, cut in forms]


def _with_parts(record: dict, change) -> dict:  # noqa: ANN001 - parts -> parts
    messages = [m | {"content": change(m["content"])} if m["role"] == "user" else m for m in record["messages"]]
    return record | {"messages": messages}
