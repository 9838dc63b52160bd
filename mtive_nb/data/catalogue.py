"""A catalogue: products with the shop's photos, and customers' feedback with the customers' photos.

On disk a catalogue is a folder with products and feedback, as JSON lines or CSV, the photos they name, and optionally
`splits.json` and `columns.yaml`; docs/catalogue.md is its contract. Pocket Mart is rendered into this layout;
`sources.py` builds the same objects from public sets. Every unusable row or photo becomes a `Quarantined` row: loading
neither crashes nor drops it silently. Boxes are XYXY in pixels of the upright photo.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from mtive_nb.data.door.coerce import coerced_feedback, coerced_product
from mtive_nb.data.door.shared import Print, placeholders, print_of, same_photos, shop_splits
from mtive_nb.data.door.tables import COLUMNS_FILE, FIELDS, Columns, find_table, read_columns, read_json, read_table
from mtive_nb.data.photos import PhotoError, load_image, path_fault
from mtive_nb.data.rows import DAMAGES, PACKAGINGS, PLACEMENTS, Fault, near, row_faults, row_warnings
from mtive_nb.data.splits import SPLITS
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
    """

    name: str
    root: Path
    products: list[Product]
    feedback: list[Feedback]
    quarantine: list[Quarantined] = field(default_factory=list)
    splits: dict[str, str] | None = None
    warnings: list[Quarantined] = field(default_factory=list)


def load_catalogue(folder: str | Path) -> Catalogue:
    """Read a catalogue folder, decode every photo once, and give every product its split.

    Errors: FileNotFoundError, with the expected fields and an example, if the folder or its products are missing or
    cannot be read. Every lesser fault goes to the catalogue's `quarantine`, what only looks wrong to its `warnings`.
    """
    root = Path(folder)
    try:
        if find_table(root, "products") is None:
            found = "the folder holds no products.jsonl or products.csv" if root.is_dir() else "there is no such folder"
            raise FileNotFoundError(f"catalogue {root}: {found}. Expected a folder with the images and\n{EXAMPLE}")
        columns, faults = read_columns(root)
        quarantine = [Quarantined(COLUMNS_FILE, None, place, _short(found), why) for place, found, why in faults]
        return _Reader(Catalogue(root.name, root, [], [], quarantine), columns).read()
    except PermissionError as error:
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


@dataclass
class _Reader:
    """Reads one folder into a catalogue: tables, then photos, then splits, each with its faults."""

    catalogue: Catalogue
    columns: Columns
    prints: dict[str, Print] = field(default_factory=dict)  # by the photo's path in the rows
    photo_faults: dict[str, str] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)  # photo -> the first of those that are the same
    lost: dict[str, int] = field(default_factory=dict)  # id of a product that is left out -> its line
    warned: dict[tuple[str, str, str], list] = field(
        default_factory=dict
    )  # place and reason -> warning, number of rows

    def read(self) -> Catalogue:
        products = list(self._rows("products", coerced_product))
        feedback = list(self._rows("feedback", coerced_feedback))
        self._warn(COLUMNS_FILE, None, "", self.columns.unmet())
        self._look_at({image for _, _, row in (*products, *feedback) for image in row["images"]})
        self._refuse_placeholders([row for _, _, row in products], [row for _, _, row in feedback])
        for name, line, row in products:
            if images := self._usable_images(name, line, row["product_id"], row["images"]):
                self.catalogue.products.append(Product(**row | {"images": images}))
            else:
                self.lost[row["product_id"]] = line
        known = {_folded(product.product_id): product.product_id for product in self.catalogue.products}
        for name, line, row in feedback:
            if known.get(_folded(row["product_id"])) != row["product_id"]:
                self._leave_out(name, line, row["feedback_id"], [self._orphan(row["product_id"], known)])
            elif images := self._usable_images(name, line, row["feedback_id"], row["images"]):
                self._warn(name, line, row["feedback_id"], _view_warnings(images))
                self.catalogue.feedback.append(Feedback(**row | {"images": images}))
        self.catalogue.splits = self._splits()
        counted = [(one, n) for one, n in self.warned.values()]
        self.catalogue.warnings = [
            dataclasses.replace(one, reason=f"{one.reason} ({n} rows)") if n > 1 else one for one, n in counted
        ]
        return self.catalogue

    def _rows(self, kind: str, coerced: Callable[[Mapping], dict]) -> Iterator[tuple[str, int, dict]]:
        """The usable rows of one file as (file, line, row); their photos are not looked at yet."""
        path = find_table(self.catalogue.root, kind)
        if path is None:
            self._leave_out(f"{kind}.jsonl", None, "", [("", "no file", "no customer feedback to read")])
            return
        if path.suffix == ".jsonl" and path.with_suffix(".csv").is_file():
            reason = f"not read: {path.name} stands beside it and goes first"
            self._warn(f"{kind}.csv", None, "", [("", "", reason)])
        try:
            rows, ignored = read_table(path, kind, columns=self.columns)
        except OSError as error:
            if kind == "products":
                raise
            return self._leave_out(path.name, None, "", [("", "", f"cannot be read: {error}")])
        self._warn(path.name, None, "", ignored)
        fields, first = FIELDS[kind], {}
        id_field = next(iter(fields))
        for line, raw, fault in rows:
            row = coerced(raw) if raw is not None else {}
            own = row[id_field] if isinstance(row.get(id_field), str) else ""
            faults = [fault] if fault else row_faults(row, fields)
            if not faults and first.setdefault(own, line) != line:
                faults = [(id_field, own, f"duplicate id; line {first[own]} has it already and is kept")]
            if faults:
                self._leave_out(path.name, line, own, faults)
                self.lost |= {own: line} if kind == "products" else {}
            else:
                self._warn(path.name, line, own, row_warnings(row))
                yield path.name, line, row

    def _look_at(self, images: Iterable[str]) -> None:
        """Decode every photo once, in threads: Pillow frees the interpreter while it decodes."""

        def look(image: str) -> tuple[str, Print | str]:
            fault = path_fault(self.catalogue.root, image)
            try:
                return image, fault or print_of(self.catalogue.root / image)
            except PhotoError as error:
                return image, f"{error}{_other_name(self.catalogue.root / image)}"

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for image, found in pool.map(look, sorted(images)):
                if isinstance(found, Print):
                    self.prints[image] = found
                else:
                    self.photo_faults[image] = found
        self.same = same_photos(self.prints)

    def _refuse_placeholders(self, products: list[dict], feedback: list[dict]) -> None:
        titles, owners = {row["product_id"]: row["title"] for row in products}, defaultdict(set)
        for row in (*products, *feedback):
            for image in self.same.keys() & set(row["images"]):
                owners[self.same[image]] |= {titles[row["product_id"]]} if row["product_id"] in titles else set()
        refused = placeholders(owners)
        self.photo_faults |= {image: refused[one] for image, one in self.same.items() if one in refused}

    def _usable_images(self, name: str, line: int, own: str, images: list[str]) -> tuple[str, ...]:
        faults = [(f"images[{k}]", i, self.photo_faults[i]) for k, i in enumerate(images) if i in self.photo_faults]
        good = tuple(image for image in images if image not in self.photo_faults)
        faults += [] if good else [("images", images, "no readable photo: row left out")]
        self._leave_out(name, line, own, faults)
        return good

    def _orphan(self, product_id: str, known: Mapping[str, str]) -> Fault:
        reason = f"no usable product of {find_table(self.catalogue.root, 'products').name} has this id"
        if product_id in self.lost:
            return "product_id", product_id, f"{reason}: line {self.lost[product_id]} was left out"
        meant = known.get(_folded(product_id))
        return "product_id", product_id, reason + (f"; did you mean {meant}?" if meant else "")

    def _splits(self) -> dict[str, str]:
        """The split of every product, and of the feedback that splits.json names.

        Where it names feedback alone, photos are split, not products: a product has a split only if some feedback needs it.
        """
        products, feedback = self.catalogue.products, self.catalogue.feedback
        ids = {product.product_id for product in products} | {row.feedback_id for row in feedback}
        named = self._named_splits(ids)
        by_product = not named or any(product.product_id in named for product in products)
        needed = {row.product_id for row in feedback if row.feedback_id not in named}
        units = {p.product_id: set(p.images) for p in products if by_product or p.product_id in needed}
        for row in feedback:
            units.setdefault(row.feedback_id if row.feedback_id in named else row.product_id, set()).update(row.images)
        photos = {one: {self.same[image] for image in images} for one, images in units.items()}
        splits, moved = shop_splits(photos, named)
        for one, leader, split in moved:
            reason = f"shares a photo with {leader}, which is in {split}: goes there as well"
            self._leave_out("splits.json", None, "", [(one, named[one], reason)])
        return splits

    def _named_splits(self, ids: set[str]) -> dict[str, str]:
        path = self.catalogue.root / "splits.json"
        try:
            splits = read_json(path.read_bytes()) if path.is_file() else {}
            if not isinstance(splits, dict):
                raise ValueError(f"expected an object, found {type(splits).__name__}")
        except (OSError, ValueError, RecursionError) as error:
            reason = f"not usable, a hash of each id decides: {error}"
            self._leave_out(path.name, None, "", [("", "", reason)])
            return {}
        for key, split in splits.items():
            if key not in ids:
                self._leave_out(path.name, None, "", [(key, split, "expected the id of a usable row")])
            elif split not in SPLITS:
                reason = (
                    f"expected one of {', '.join(SPLITS)}; a hash of the id decides{near(split, SPLITS, cutoff=0.5)}"
                )
                self._leave_out(path.name, None, "", [(key, split, reason)])
        return {key: split for key, split in splits.items() if split in SPLITS and key in ids}

    def _leave_out(self, name: str, line: int | None, own: str, faults: Iterable[Fault]) -> None:
        self.catalogue.quarantine += [
            Quarantined(name, line, place, _short(found), why, _short(own)) for place, found, why in faults
        ]

    def _warn(self, name: str, line: int | None, own: str, faults: Iterable[Fault]) -> None:
        """Note warnings: one for all rows of a file that have the same."""
        for place, found, why in faults:
            first = Quarantined(name, line, place, _short(found), why, _short(own))
            self.warned.setdefault((name, place, why), [first, 0])[1] += 1


def _view_warnings(images: tuple[str, ...]) -> list[Fault]:
    reason = (
        "questions are about the first photo, further ones are views of it; give a photo its own row to ask about it"
    )
    return [("images", list(images), reason)] if len(images) > 1 else []


def _folded(own: str) -> str:
    """An id without case, punctuation and leading zeros, to find the one that was meant."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"[\W_]", "", own).casefold())


def _other_name(path: Path) -> str:
    """The end of a reason: a file beside `path` whose name differs in case or ending alone, if `path` is no file."""
    try:
        if path.exists() or not path.parent.is_dir():
            return ""
        names = [other.name for other in path.parent.iterdir() if other.stem.casefold() == path.stem.casefold()]
    except (OSError, ValueError):
        return ""
    return f"; did you mean {min(names)}?" if names else ""


def _short(found: object, limit: int = 120) -> str:
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, default=repr)
    return text if len(text) <= limit else text[: limit - 3] + "..."
