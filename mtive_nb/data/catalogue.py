"""A catalogue: products with the shop's photos, and customers' feedback with the customers' photos.

On disk a catalogue is a folder with products and feedback, as JSON lines or CSV, the photos they name, and optionally
`splits.json`, `columns.yaml` and `tasks.yaml`; docs/catalogue.md is its contract. Pocket Mart has this layout;
`sources.py` builds the same objects from public sets. Every unusable row or photo becomes a `Quarantined` row: loading
neither crashes nor drops it silently. Boxes are XYXY in pixels of the upright photo.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from mtive_nb.data.door.tables import find_table
from mtive_nb.data.emdiv.own import OwnTask, write_tasks
from mtive_nb.data.photos import path_fault
from mtive_nb.run.atomic import replacing, write_atomic

EXAMPLE = """products.jsonl (or products.csv), one product a line:
  {"product_id": "P1", "title": "Zevo shampoo 250 ml", "description": "For dry hair.", "category": "shampoo", \
"coarse": "care", "attributes": {"brand": "Zevo"}, "images": ["images/P1.jpg"], "facts": null}
feedback.jsonl (or feedback.csv), one customer's message a line:
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
    """One customer's message on one product; `facts` is what is known to be true of its first photo.

    Questions are about the first photo. Further photos are other views of the item, for questions with several images.
    """

    feedback_id: str
    product_id: str
    text: str
    images: tuple[str, ...]
    facts: dict | None = None


@dataclass(frozen=True)
class Quarantined:
    """A row or photo left out: its place (line from 1, None for a whole file), what was found, why it is unusable.

    `row` is the id of the row, where it has one. Warnings have the same form; their rows are kept.
    """

    file: str
    line: int | None
    field: str
    found: str
    reason: str
    row: str = ""


@dataclass
class Catalogue:
    """The usable products and feedback, the quarantined rows and photos, and the warnings.

    `splits` maps product_id or feedback_id to train, val or test; None where the source neither defines nor draws any.
    `tasks` are its own tasks by name.
    """

    name: str
    root: Path
    products: list[Product]
    feedback: list[Feedback]
    quarantine: list[Quarantined] = field(default_factory=list)
    splits: dict[str, str] | None = None
    warnings: list[Quarantined] = field(default_factory=list)
    tasks: dict[str, OwnTask] = field(default_factory=dict)


def load_catalogue(folder: str | Path) -> Catalogue:
    """Read a catalogue folder, decode every photo once, and give every product its split.

    Errors: FileNotFoundError, with the expected fields and an example, if the folder or its products are missing or
    cannot be read; ParameterError for a wrong tasks.yaml. Every lesser fault goes to the catalogue's `quarantine`, what
    only looks wrong to its `warnings`.
    """
    from mtive_nb.data.door.reader import read_folder  # it fills the classes of this module

    root = Path(folder)
    try:
        if find_table(root, "products") is None:
            found = f"the folder holds no products.jsonl or products.csv{_tables_in(root)}"
            found = found if root.is_dir() else "there is no such folder"
            raise FileNotFoundError(f"catalogue {root}: {found}. Expected a folder with the images and\n{EXAMPLE}")
        return read_folder(root)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileNotFoundError(f"catalogue {root}: cannot be read: {error}") from None


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
    """Write quarantined rows as CSV with the columns file, line, field, found, reason, row; returns the path."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.writer(stream)
        writer.writerow([column.name for column in dataclasses.fields(Quarantined)])
        writer.writerows(dataclasses.astuple(row) for row in rows)
    return Path(path)


def _tables_in(root: Path) -> str:
    """The end of a message: tables in a folder that have another name."""
    names = sorted(path.name for path in root.glob("*") if path.suffix in (".csv", ".jsonl", ".tsv", ".xlsx", ".json"))
    if folders := [name for name in names if (root / name).is_dir()]:
        return f"; {folders[0]} is a folder, expected a file"
    return f", but {', '.join(names[:5])}: save your table as products.csv" if names else ""
