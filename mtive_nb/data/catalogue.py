"""A catalogue: products with the shop's photos, and customers' feedback with the customers' photos.

On disk a catalogue is a folder with `products.jsonl`, `feedback.jsonl` (one JSON object a line), the photos they name,
and optionally `splits.json` (`{"id": "train" | "val" | "test"}`) and `tasks.yaml` (emdiv/own.py). Pocket Mart is rendered into this layout;
`sources.py` builds the same objects from public sets. Every unusable row or photo becomes a `Quarantined` row: loading
neither crashes nor drops it silently. Boxes are XYXY in pixels of the upright photo.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mtive_nb.data.emdiv.own import OwnTask, own_tasks, write_tasks
from mtive_nb.data.photos import PhotoError, load_image, path_fault, photo_fault
from mtive_nb.data.rows import DAMAGES, FEEDBACK_FIELDS, PACKAGINGS, PLACEMENTS, PRODUCT_FIELDS, row_faults
from mtive_nb.run.atomic import replacing, write_atomic

__all__ = [
    "DAMAGES",
    "PACKAGINGS",
    "PLACEMENTS",
    "Catalogue",
    "Feedback",
    "PhotoError",
    "Product",
    "Quarantined",
    "load_catalogue",
    "load_image",
    "write_catalogue",
    "write_quarantine",
]

SPLITS = ("train", "val", "test")
EXAMPLE = """products.jsonl, one product a line:
  {"product_id": "P1", "title": "Zevo shampoo 250 ml", "description": "For dry hair.", "category": "shampoo", \
"coarse": "care", "attributes": {"brand": "Zevo"}, "images": ["images/P1.jpg"], "facts": null}
feedback.jsonl, one customer's message a line:
  {"feedback_id": "F1", "product_id": "P1", "text": "the cap was cracked", "images": ["images/F1.jpg"], \
"facts": null}"""


@dataclass(frozen=True)
class Product:
    """One product as the shop lists it; image paths are relative to the catalogue's root."""

    product_id: str
    title: str
    description: str
    category: str
    coarse: str
    attributes: dict[str, str]
    images: tuple[str, ...]
    facts: dict | None = None


@dataclass(frozen=True)
class Feedback:
    """One customer's message on one product; `facts` is what is known to be true of its photos."""

    feedback_id: str
    product_id: str
    text: str
    images: tuple[str, ...]
    facts: dict | None = None


@dataclass(frozen=True)
class Quarantined:
    """A row or photo left out: its place (line from 1, None for a whole file), what was found, why it is unusable."""

    file: str
    line: int | None
    field: str
    found: str
    reason: str


@dataclass
class Catalogue:
    """The usable products and feedback, and the quarantined rows and photos.

    `splits` maps product_id or feedback_id to train, val or test if the source defines splits, else it is None.
    `tasks` are its own tasks by name.
    """

    name: str
    root: Path
    products: list[Product]
    feedback: list[Feedback]
    quarantine: list[Quarantined] = field(default_factory=list)
    splits: dict[str, str] | None = None
    tasks: dict[str, OwnTask] = field(default_factory=dict)


def load_catalogue(folder: str | Path) -> Catalogue:
    """Read a catalogue folder, decoding every photo once.

    Errors: FileNotFoundError, with the expected fields and an example, if the folder or products.jsonl is missing;
    ParameterError for a wrong tasks.yaml. Every lesser fault goes to the catalogue's `quarantine`.
    """
    root = Path(folder)
    if not (root / "products.jsonl").is_file():
        found = "the folder holds no products.jsonl" if root.is_dir() else "there is no such folder"
        raise FileNotFoundError(f"catalogue {root}: {found}. Expected a folder with the images and\n{EXAMPLE}")
    catalogue = Catalogue(root.name, root, [], [])
    catalogue.products = [Product(**row) for row in _rows(catalogue, "products.jsonl", PRODUCT_FIELDS)]
    if not (root / "feedback.jsonl").is_file():
        catalogue.quarantine.append(Quarantined("feedback.jsonl", None, "", "no file", "no customer feedback to read"))
    else:
        known = {product.product_id for product in catalogue.products}
        rows = _rows(catalogue, "feedback.jsonl", FEEDBACK_FIELDS, known=known)
        catalogue.feedback = [Feedback(**row) for row in rows]
    catalogue.splits = _read_splits(catalogue)
    facts = [row.facts for row in catalogue.feedback]
    catalogue.tasks = {name: task.settled(facts) for name, task in own_tasks(root).items()}
    return catalogue


def write_catalogue(catalogue: Catalogue, folder: str | Path) -> Path:
    """Write the catalogue in the folder layout, copying its photos unless they are there already; returns the folder.

    Photos keep their relative paths. quarantine.csv is always written, with only a header when nothing was quarantined.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("products.jsonl", catalogue.products), ("feedback.jsonl", catalogue.feedback)):
        lines = (json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n" for row in rows)
        write_atomic(folder / name, "".join(lines))
    if catalogue.splits is not None:
        write_atomic(folder / "splits.json", json.dumps(catalogue.splits, indent=0, ensure_ascii=False) + "\n")
    if catalogue.root.resolve() != folder.resolve():
        write_tasks(catalogue.tasks.values(), folder)
        for row in (*catalogue.products, *catalogue.feedback):
            for image in row.images:
                if fault := path_fault(folder, image):
                    raise ValueError(f"write_catalogue: image {image!r} of {row}: {fault}")
                (folder / image).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(catalogue.root / image, folder / image)
    write_quarantine(catalogue.quarantine, folder / "quarantine.csv")
    return folder


def write_quarantine(rows: list[Quarantined], path: str | Path) -> Path:
    """Write quarantined rows as CSV with the columns file, line, field, found, reason; returns the path."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.writer(stream)
        writer.writerow([column.name for column in dataclasses.fields(Quarantined)])
        writer.writerows(dataclasses.astuple(row) for row in rows)
    return Path(path)


def _rows(
    catalogue: Catalogue, name: str, fields: dict[str, type | tuple[type, ...]], *, known: set[str] | None = None
) -> Iterator[dict]:
    """The usable rows of one JSONL file, photos decoded; faulty rows go to the quarantine. `known`: ids of products."""
    id_field, seen = next(iter(fields)), {}
    for line, row in _parsed(catalogue, name):
        faults = row_faults(row, fields)
        if not faults and (first := seen.setdefault(row[id_field], line)) != line:
            faults = [(id_field, row[id_field], f"duplicate id; line {first} has it already and is kept")]
        if not faults and known is not None and row["product_id"] not in known:
            faults = [("product_id", row["product_id"], "no usable product of products.jsonl has this id")]
        catalogue.quarantine += [Quarantined(name, line, field, _short(found), why) for field, found, why in faults]
        if faults:
            continue
        images = tuple(_good_images(catalogue, name, line, row["images"]))
        if images:
            yield {"facts": None, **row, "images": images}
        else:
            found = _short(row["images"])
            catalogue.quarantine.append(Quarantined(name, line, "images", found, "no readable photo: row left out"))


def _parsed(catalogue: Catalogue, name: str) -> Iterator[tuple[int, dict]]:
    content = (catalogue.root / name).read_bytes().removeprefix(b"\xef\xbb\xbf")  # a byte order mark, from Windows
    # Split as bytes, so that one line in a wrong encoding does not make the whole file unreadable.
    for line, raw in enumerate(content.split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw.decode("utf-8"))
            reason = None if isinstance(row, dict) else f"expected a JSON object, found {type(row).__name__}"
        except (ValueError, RecursionError) as error:  # ValueError: bad JSON, bad UTF-8
            reason = f"not a line of JSON: {error}"
        if reason is None:
            yield line, row
        else:
            catalogue.quarantine.append(Quarantined(name, line, "", _short(raw.decode("utf-8", "replace")), reason))


def _good_images(catalogue: Catalogue, name: str, line: int, images: list[str]) -> Iterator[str]:
    for index, image in enumerate(images):
        reason = path_fault(catalogue.root, image) or photo_fault(catalogue.root / image)
        if reason is None:
            yield image
        else:
            catalogue.quarantine.append(Quarantined(name, line, f"images[{index}]", _short(image), reason))


def _read_splits(catalogue: Catalogue) -> dict[str, str] | None:
    path = catalogue.root / "splits.json"
    if not path.is_file():
        return None
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(splits, dict):
            raise ValueError(f"expected an object, found {type(splits).__name__}")
    except ValueError as error:
        catalogue.quarantine.append(Quarantined(path.name, None, "", "", f"not usable, splits are drawn anew: {error}"))
        return None
    ids = {row.product_id for row in catalogue.products} | {row.feedback_id for row in catalogue.feedback}
    for key, split in splits.items():
        if split not in SPLITS or key not in ids:
            reason = f"expected the id of a usable row and one of {SPLITS}"
            catalogue.quarantine.append(Quarantined(path.name, None, key, _short(split), reason))
    return {key: split for key, split in splits.items() if split in SPLITS and key in ids}


def _short(found: object, limit: int = 120) -> str:
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, default=repr)
    return text if len(text) <= limit else text[: limit - 3] + "..."
