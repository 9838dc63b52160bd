"""Reads a catalogue's folder: tables, then photos, then splits; each fault with its place, none of them a stop."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import reprlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

from mtive_nb.data.catalogue import Catalogue, Feedback, Product, Quarantined
from mtive_nb.data.door.coerce import coerced_feedback, coerced_product, one_spelling
from mtive_nb.data.door.lines import read_json
from mtive_nb.data.door.shared import Print, placeholders, print_of, same_photos, shop_splits
from mtive_nb.data.door.tables import COLUMNS_FILE, FIELDS, Columns, find_table, read_columns, read_table
from mtive_nb.data.emdiv.own import own_tasks
from mtive_nb.data.photos import PhotoError, path_fault
from mtive_nb.data.rows import Fault, near, row_faults, row_warnings
from mtive_nb.data.splits import SPLITS


def read_folder(root: Path) -> Catalogue:
    """The catalogue of a folder that has products.

    Errors: OSError when these cannot be read, ParameterError for a wrong tasks.yaml.
    """
    tasks, (columns, faults) = own_tasks(root), read_columns(root)
    own_facts = frozenset(task.fact for task in tasks.values())
    reader = _Reader(Catalogue(root.name, root, [], []), columns, own_facts=own_facts)
    reader._leave_out(COLUMNS_FILE, None, "", faults)
    catalogue = reader.read()
    facts = [row.facts for row in catalogue.feedback]
    catalogue.tasks = {name: task.settled(facts) for name, task in tasks.items()}
    catalogue.warnings += _unusable_own_facts(catalogue)
    return catalogue


@dataclass
class _Reader:
    """Reads one folder into a catalogue: tables, then photos, then splits, each with its faults."""

    catalogue: Catalogue
    columns: Columns
    prints: dict[str, Print] = field(default_factory=dict)  # by the photo's path in the rows
    photo_faults: dict[str, str] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)  # photo -> the first of those that are the same
    lost: dict[str, int] = field(default_factory=dict)  # id of a product that is left out -> its line
    stems: dict[Path, dict[str, str]] = field(default_factory=dict)  # folder -> its files by their names without ending
    names: dict[Path, dict[str, list[str]]] = field(default_factory=dict)  # folder -> its files by names in NFC
    own_facts: frozenset[str] = frozenset()  # facts that tasks of the shop's own read
    warned: dict[tuple[str, str, str], list] = field(default_factory=dict)  # file, field, reason -> warning, its rows

    def read(self) -> Catalogue:
        products = list(self._rows("products", coerced_product))
        feedback = list(self._rows("feedback", coerced_feedback))
        self._warn(COLUMNS_FILE, None, "", self.columns.unmet())
        self._warn("attributes", None, "", one_spelling([row for _, _, row in (*products, *feedback)]))
        for _, _, row in (*products, *feedback):
            row["images"] = [self._as_written(image) for image in row["images"]]
        self._look_at({image for _, _, row in (*products, *feedback) for image in row["images"]})
        self._refuse_placeholders([row for _, _, row in products], [row for _, _, row in feedback])
        for name, line, row in products:
            if images := self._usable_images(name, line, row["product_id"], row["images"]):
                self.catalogue.products.append(Product(**row | {"images": images}))
            else:
                self.lost[row["product_id"]] = line
        known = {product.product_id for product in self.catalogue.products}
        alike = {_folded(product_id): product_id for product_id in sorted(known)}
        taken = known | {row["feedback_id"] for _, _, row in feedback}
        for name, line, row in feedback:
            own = row["feedback_id"]
            if own in known:  # an id names a split, so that no two rows may share one
                row["feedback_id"] = _free(f"feedback-{own}", taken)
                reason = "a product has this id as well; here the feedback's begins with feedback-"
                self._warn(name, line, own, [("feedback_id", "", reason)])
            if row["product_id"] not in known:
                self._leave_out(name, line, row["feedback_id"], [self._orphan(row["product_id"], alike)])
            elif images := self._usable_images(name, line, row["feedback_id"], row["images"]):
                if fault := self._fact_fault(row):
                    self._leave_out(name, line, row["feedback_id"], [fault])
                    continue
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
                self._warn(path.name, line, own, row_warnings(row, own_facts=self.own_facts))
                yield path.name, line, row

    def _look_at(self, images: Iterable[str]) -> None:
        """Decode every photo once, in threads: Pillow frees the interpreter while it decodes."""

        def look(image: str) -> tuple[str, Print | str]:
            fault = path_fault(self.catalogue.root, image)
            try:
                return image, fault or print_of(self.catalogue.root / image)
            except PhotoError as error:
                return image, f"{error}{self._meant(image)}"

        # Filters of warnings belong to the process: what the threads set is taken back here.
        with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
            for image, found in pool.map(look, sorted(images)):
                if isinstance(found, Print):
                    self.prints[image] = found
                else:
                    self.photo_faults[image] = found
        self.same = same_photos(self.prints)

    def _as_written(self, image: str) -> str:
        """The path with its file's own form of Unicode: archives of a Mac write "ä" as two characters, tables as one."""
        path = self.catalogue.root / image
        try:
            if image.isascii() or path.exists():
                return image
            if path.parent not in self.names:
                self.names[path.parent] = defaultdict(list)
                for one in path.parent.iterdir():
                    self.names[path.parent][normalize("NFC", one.name)].append(one.name)
            alike = self.names[path.parent].get(normalize("NFC", path.name), [])
        except (OSError, ValueError):
            return image
        return image.removesuffix(path.name) + alike[0] if len(alike) == 1 else image

    def _meant(self, image: str) -> str:
        """The end of a reason for a path without a file: a file whose name differs in case or ending alone."""
        path = self.catalogue.root / image
        try:
            if path.exists():
                return ""
            if path.parent not in self.stems:
                names = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
                self.stems[path.parent] = {one.stem.casefold(): one.name for one in names}
        except (OSError, ValueError):
            return ""
        meant = self.stems[path.parent].get(path.stem.casefold())
        several = "; separate several photos by |" if re.search("[,;]", image) else ""
        return f"; did you mean {meant}?" if meant else several

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

    def _fact_fault(self, row: dict) -> Fault | None:
        """Facts are about the first photo: it must be there, and the box of the damage must lie on it."""
        first, box = row["images"][0], (row["facts"] or {}).get("damage_box")
        if row["facts"] and first in self.photo_faults:
            return "images", first, "the facts are about this photo, which is left out: row left out"
        width, height = self.prints[first].size if first in self.prints else (0, 0)
        if box and (box[2] > width + 1 or box[3] > height + 1):
            return "facts.damage_box", box, f"expected a box on the upright photo, {width} x {height} pixels"
        return None

    def _orphan(self, product_id: str, alike: Mapping[str, str]) -> Fault:
        reason = f"no usable product of {find_table(self.catalogue.root, 'products').name} has this id"
        if product_id in self.lost:
            return "product_id", product_id, f"{reason}: line {self.lost[product_id]} was left out"
        meant = alike.get(_folded(product_id))
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
        splits, group, moved = shop_splits(photos, named)
        members = defaultdict(list)
        for one, leader in group.items():
            members[leader].append(one)
        reason = "these share a photo, so they go into one split"
        shared = [(leader, ", ".join(own), reason) for leader, own in members.items() if len(own) > 1]
        self._warn(find_table(self.catalogue.root, "products").name, None, "", shared)
        for one, leader, split in moved:
            reason = f"shares a photo with {leader}, which is in {split}: goes there as well"
            self._leave_out("splits.json", None, "", [(one, named[one], reason)])
        return splits

    def _named_splits(self, ids: set[str]) -> dict[str, str]:
        path = self.catalogue.root / "splits.json"
        try:
            splits = read_json(path.read_bytes()) if os.path.lexists(path) else {}
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
        self.catalogue.quarantine += [quarantined(name, line, own, fault) for fault in faults]

    def _warn(self, name: str, line: int | None, own: str, faults: Iterable[Fault]) -> None:
        """Note warnings: one for all rows of a file that have the same."""
        for fault in faults:
            one = quarantined(name, line, own, fault)
            self.warned.setdefault((name, one.field, one.reason), [one, 0])[1] += 1


def _unusable_own_facts(catalogue: Catalogue) -> Iterator[Quarantined]:
    """Warnings of facts that a task of the shop's own reads and cannot use; known once the choices have their answers."""
    for row in catalogue.feedback:
        for task in catalogue.tasks.values():
            value, (answer, why) = (row.facts or {}).get(task.fact), task.read(row.facts or {})
            if not answer and value not in (None, ""):
                fault = f"facts.{task.fact}", str(value), f"no question for {task.name}: {why}"
                yield quarantined("feedback", None, row.feedback_id, fault)


def _view_warnings(images: tuple[str, ...]) -> list[Fault]:
    reason = (
        "questions are about the first photo, further ones are views of it; give a photo its own row to ask about it"
    )
    return [("images", list(images), reason)] if len(images) > 1 else []


def _free(own: str, taken: set[str]) -> str:
    while own in taken:
        own += "-"
    taken.add(own)
    return own


def _folded(own: str) -> str:
    """An id without case, punctuation and leading zeros, to find the one that was meant."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"[\W_]", "", own).casefold())


def quarantined(name: str, line: int | None, own: str, fault: Fault) -> Quarantined:
    """The fault of a row as one of quarantine.csv: its texts are cut to what a table can show."""
    place, found, why = fault
    return Quarantined(name, line, _short(place), _short(found), _short(why, 400), _short(own))


def _short(found: object, limit: int = 120) -> str:
    """A text of at most `limit` characters that every encoding can write."""
    if isinstance(found, (list, dict)):
        found = reprlib.repr(found)  # the start alone: YAML's aliases make gigabytes of a few lines
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, default=repr)
    text = text[: 2 * limit].encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= limit else text[: limit - 3] + "..."
