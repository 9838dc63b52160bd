"""Reads a shop's own export, JSON lines or CSV, into rows of our fields; a line that cannot be read is a named fault.

`columns.yaml` maps our fields to the export's own columns; a column that names no field of ours is ignored, and the
reader says so once a file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from mtive_nb.data.door.lines import Row, csv_lines, decoded, json_lines, read_json
from mtive_nb.data.emdiv.questions import AE_ATTRIBUTES
from mtive_nb.data.rows import FACT_TYPES, FEEDBACK_FIELDS, PRODUCT_FIELDS, REQUIRED, Fault, near, texts_of

COLUMNS_FILE = "columns.yaml"
JSON_CELLS = ("images", "facts", "attributes", *FACT_TYPES)  # their text may be JSON
FIELDS = {"products": PRODUCT_FIELDS, "feedback": FEEDBACK_FIELDS}
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class Columns:
    """Which column holds which field: our field -> the export's columns, the first that a file has counts."""

    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    met: set[str] = field(default_factory=set)  # all columns of all files read so far

    def unmet(self) -> list[Fault]:
        """The mapped fields of which no file has the column."""
        reason = "no file has this column; the field's own name is looked for"
        return [
            (ours, ", ".join(theirs), reason + near(theirs[0], sorted(self.met), cutoff=0.6))
            for ours, theirs in self.names.items()
            if not self.met & set(theirs)
        ]


def read_columns(root: Path) -> tuple[Columns, list[Fault]]:
    """The mapping of `columns.yaml`, empty without the file, and the faults of its entries, which are left out."""
    path = root / COLUMNS_FILE
    if not os.path.lexists(path):
        return Columns(), []
    try:
        read = yaml.safe_load(decoded(path.read_bytes())) or {}
        if not isinstance(read, dict):
            raise ValueError(f"expected a mapping of our fields to your columns, found {type(read).__name__}")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        return Columns(), [("", "", f"not usable, columns keep their own names: {' '.join(str(error).split())}")]
    known = dict.fromkeys((*PRODUCT_FIELDS, *FEEDBACK_FIELDS, *(f"facts.{name}" for name in FACT_TYPES)))
    names, faults = {}, []
    for ours, theirs in read.items():
        theirs = [theirs] if isinstance(theirs, (str, int, float)) and not isinstance(theirs, bool) else theirs
        if ours not in known and not re.match(r"(attributes|facts)\..", str(ours)):
            reason = f"expected one of our fields, attributes.NAME or facts.NAME{near(ours, known)}"
            faults.append((str(ours), theirs, reason))
        elif not isinstance(theirs, list) or not all(isinstance(one, (str, int, float)) for one in theirs):
            faults.append((str(ours), theirs, "expected the name of your column, or a list of names"))
        else:
            names[ours] = tuple(str(one).strip() for one in theirs)
    return Columns(names), faults


def find_table(root: Path, kind: str) -> Path | None:
    """The file of `products` or `feedback`: KIND.jsonl, else KIND.csv; None without either."""
    return next((path for ending in ("jsonl", "csv") if (path := root / f"{kind}.{ending}").is_file()), None)


def read_table(path: Path, kind: str, *, columns: Columns) -> tuple[list[Row], list[Fault]]:
    """The rows of a file in our fields, and a warning for each ignored column and absent field.

    Errors: OSError if the file cannot be read, or is a workbook.
    """
    raw, header = path.read_bytes(), []
    if raw.startswith(b"PK\x03\x04"):
        raise OSError(f"{path.name} is a workbook or another archive, expected text; save the table as CSV (UTF-8)")
    wanted = {*FIELDS[kind], *(name for theirs in columns.names.values() for name in theirs)}
    lines = json_lines(raw) if path.suffix == ".jsonl" else csv_lines(raw, header, wanted=wanted)
    places: dict[str, list[str]] = {}  # the export's column -> our fields
    rows: list[Row] = []
    for line, cells, fault in lines:
        if cells is not None:
            for name in (*header, *cells):
                if name not in places:
                    mapped = [our for our, theirs in columns.names.items() if name in theirs and _is_of(our, kind)]
                    places[name] = mapped or _ours(name, kind)
            cells, fault = _shaped(cells, places, kind, columns=columns, split_images=path.suffix == ".csv")
        rows.append((line, cells, fault))
    columns.met |= {*header, *places}
    known = (*FIELDS[kind], *(f"facts.{name}" for name in FACT_TYPES))
    ignored = [(name, "", f"no field of ours: ignored{near(name, known)}") for name, ours in places.items() if not ours]
    there = {our for ours in places.values() for our in ours}
    lacking = [name for name in FIELDS[kind] if name in REQUIRED and name not in there] if places else []
    return rows, [
        *((name, "", f"no column has this field; {COLUMNS_FILE} can name yours") for name in lacking),
        *ignored,
    ]


def _is_of(ours: str, kind: str) -> bool:
    """Whether a field of ours belongs to products or to feedback; attributes of feedback are those that the photo shows."""
    return ours.split(".")[0] in (*FIELDS[kind], "facts", "attributes")


def _ours(name: str, kind: str) -> list[str]:
    """The fields that a column without a mapping means by its own name; [] when it means none."""
    plain = re.sub(r"[\s-]+", "_", name.strip().casefold())
    if plain in FIELDS[kind] or plain == "facts":
        return [plain]
    head, _, tail = name.strip().partition(".")
    if head.casefold() == "facts" and tail:
        return [f"facts.{tail.strip()}"]
    if head.casefold() == "attributes" and tail:
        return [f"attributes.{tail.strip()}" if kind == "products" else f"facts.attributes.{tail.strip()}"]
    if kind == "products" and plain in AE_ATTRIBUTES:
        return [f"attributes.{plain}"]
    return [f"facts.{plain}"] if kind == "feedback" and plain in FACT_TYPES else []


def _shaped(
    cells: Mapping[str, object], places: Mapping[str, list[str]], kind: str, *, columns: Columns, split_images: bool
) -> tuple[dict | None, Fault | None]:
    """A row in our fields, or a fault: dotted names become members, and texts of JSON objects are read."""

    def rank(pair: tuple[str, str]) -> tuple[int, int]:
        # Plain fields go before their members, and mapped columns in their order before one with the field's own name.
        ours, name = pair
        mapped = columns.names.get(ours, ())
        return ours.count("."), mapped.index(name) if name in mapped else len(mapped)

    row: dict = {}
    pairs = [(ours, name) for name in cells for ours in places[name]]
    for ours, name in sorted(pairs, key=rank):
        value, (*parents, last) = cells[name], ours.split(".", 2)
        if ours.split(".")[0] == "attributes" and kind == "feedback":
            parents = ["facts", *parents]
        if isinstance(value, str) and last in JSON_CELLS and re.fullmatch(r"\s*(\{.*\}|\[.*\])\s*", value, re.S):
            try:
                value = read_json(value)
            except (ValueError, RecursionError) as error:
                return None, (ours, value, f"not a text of JSON: {error}")
        if split_images and ours == "images" and isinstance(value, str):
            value = [one.strip() for one in value.split("|") if one.strip()]
        inner = row
        for parent in parents:
            if isinstance(inner, dict):
                inner[parent] = {} if inner.get(parent) is None else inner[parent]
                inner = inner[parent]
        if isinstance(inner, dict):
            inner.setdefault(last, value)
    return row, text_fault(row)


def text_fault(row: dict) -> Fault | None:
    """The first text of a row that no file can hold: a lone surrogate, from a byte in no encoding."""
    for place, text in texts_of(row):
        if _SURROGATE.search(text):
            return place, ascii(text), "not valid Unicode text; save the file as UTF-8"
    return None
