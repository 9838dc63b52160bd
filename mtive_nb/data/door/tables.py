"""Reads a shop's own export, JSON lines or CSV, into rows of our fields; a line that cannot be read is a named fault.

Encoding and delimiter are found out. `columns.yaml` maps our fields to the export's own columns; a column that names no
field of ours is ignored, and the reader says so once a file.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from mtive_nb.data.emdiv.questions import AE_ATTRIBUTES
from mtive_nb.data.rows import FACT_TYPES, FEEDBACK_FIELDS, PRODUCT_FIELDS, REQUIRED, Fault, near, texts_of

MAX_DEPTH = 20  # levels of objects and lists in a row
DELIMITERS = (",", ";", "\t", "|")
BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
COLUMNS_FILE = "columns.yaml"
JSON_CELLS = ("images", "facts", "attributes", *FACT_TYPES)  # their text may be JSON
FIELDS = {"products": PRODUCT_FIELDS, "feedback": FEEDBACK_FIELDS}

Row = tuple[int, dict | None, Fault | None]  # line from 1; the row, or what is wrong with the line


@dataclass
class Columns:
    """Which column holds which field: our field -> the export's columns, the first that a file has counts."""

    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    met: set[str] = field(default_factory=set)  # all columns of all files read so far

    def unmet(self) -> list[Fault]:
        """The mapped fields of which no file has the column."""
        reason = "no file has this column; the field's own name is looked for"
        return [
            (ours, ", ".join(theirs), reason + near(theirs[0], self.met, cutoff=0.6))
            for ours, theirs in self.names.items()
            if not self.met & set(theirs)
        ]


def read_columns(root: Path) -> tuple[Columns, list[Fault]]:
    """The mapping of `columns.yaml`, empty without the file, and the faults of its entries, which are left out."""
    path = root / COLUMNS_FILE
    if not path.is_file():
        return Columns(), []
    try:
        read = yaml.safe_load(_decoded(path.read_bytes())) or {}
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

    Errors: OSError if the file cannot be read.
    """
    raw, header = path.read_bytes(), []
    wanted = {*FIELDS[kind], *(name for theirs in columns.names.values() for name in theirs)}
    lines = _json_lines(raw) if path.suffix == ".jsonl" else _csv_lines(raw, header, wanted=wanted)
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
    return row, _text_fault(row)


def _text_fault(row: dict) -> Fault | None:
    for place, text in texts_of(row):
        if any("\ud800" <= character <= "\udfff" for character in text):  # lone surrogate, or a byte in no encoding
            return place, ascii(text), "not valid Unicode text; save the file as UTF-8"
    return None


def _json_lines(raw: bytes) -> Iterator[Row]:
    mark, encoding = next(((m, e) for m, e in BYTE_ORDER_MARKS if raw.startswith(m)), (b"", "utf-8"))
    content = raw.removeprefix(mark)
    if encoding != "utf-8":
        content = content.decode(encoding, "replace").encode()
    # Split as bytes, so that one line in a wrong encoding does not make the whole file unreadable.
    for line, text in enumerate(content.split(b"\n"), start=1):
        if not text.strip():
            continue
        try:
            row = read_json(text.decode("utf-8"))
            reason = None if isinstance(row, dict) else f"expected a JSON object, found {type(row).__name__}"
        except (ValueError, RecursionError) as error:  # ValueError: bad JSON, bad UTF-8
            reason = f"not a line of JSON: {error}"
        yield (line, row, None) if reason is None else (line, None, ("", text.decode("utf-8", "replace"), reason))


def read_json(text: str | bytes) -> object:
    """JSON as strictly as its standard: no key twice, no NaN. Errors: ValueError, also for a row too deep to be one."""
    value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    waiting = [(value, 1)]
    while waiting:
        one, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(one, (dict, list)):
            waiting += [(member, depth + 1) for member in (one.values() if isinstance(one, dict) else one)]
    return value


def _object(pairs: list[tuple[str, object]]) -> dict:
    found: dict = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice in one object; expected it once")
        found[key] = value
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON; expected a number or null")


def _decoded(raw: bytes) -> str:
    """The text of a file: UTF-8 or UTF-16 by its byte order mark, else UTF-8, else Windows-1252.

    Bytes that fit no encoding become lone surrogates, which make a fault of their row alone.
    """
    for mark, encoding in BYTE_ORDER_MARKS:
        if raw.startswith(mark):
            return raw.removeprefix(mark).decode(encoding, "surrogateescape" if encoding == "utf-8" else "replace")
    head = raw[:2000]
    if head.count(0) * 4 > len(head):  # UTF-16 without a mark: every second byte of Latin text is 0
        return raw.decode("utf-16-be" if head[:1] == b"\0" else "utf-16-le", "replace")
    lines = [line for line in raw.split(b"\n") if not line.isascii()]
    broken = sum(_is_broken(line) for line in lines)
    # A few broken lines among many good ones are an accident; many are another encoding.
    return raw.decode("cp1252", "replace") if 2 * broken > len(lines) else raw.decode("utf-8", "surrogateescape")


def _is_broken(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def _csv_lines(raw: bytes, header: list[str], *, wanted: Collection[str]) -> Iterator[Row]:
    """The records of a CSV file with their non-empty cells; a broken record costs only itself. Fills `header`."""
    lines = list(io.StringIO(_decoded(raw), newline=""))
    while lines and not lines[-1].strip():
        lines.pop()
    start = next((k for k, line in enumerate(lines) if line.strip()), len(lines))
    if start == len(lines):
        return
    stated = re.fullmatch(r"sep=(.)\s*", lines[start], re.I)  # Excel may write this line before the header
    start += bool(stated)
    delimiter = stated[1] if stated else _delimiter(lines[start], wanted)
    while start < len(lines):
        reader = csv.reader((lines[k] for k in range(start, len(lines))), delimiter=delimiter, strict=True)
        done = 0  # the lines of the reader's whole records
        try:
            for cells in reader:
                line, done = start + done + 1, reader.line_num
                if header and any(cell.strip() for cell in cells):
                    yield (line, *_record(header, cells))
                header += [] if header else _unique([cell.strip() for cell in cells])
            return
        except csv.Error as error:  # a quote that is never closed, or text after a closing quote
            line = start + done + 1
            yield (
                line,
                None,
                (
                    "",
                    lines[line - 1].rstrip(),
                    f'not a record of CSV: {error}; a quote (") inside a text is written twice',
                ),
            )
            start = line


def _delimiter(head: str, wanted: Collection[str]) -> str:
    """The delimiter under which the header has the most names that we know, and then the most columns.

    `csv.Sniffer` guesses from punctuation, which descriptions are full of; the names of the header decide.
    """

    def score(delimiter: str) -> tuple[int, int]:
        names = [name.strip().strip('"').strip() for name in head.split(delimiter)]
        plain = {re.sub(r"[\s-]+", "_", name.casefold()) for name in names}
        return len({*names, *plain} & set(wanted)), len(names)

    return max(DELIMITERS, key=score)


def _unique(names: list[str]) -> list[str]:
    """The header with a number behind a name that stands there again, so that it is an ignored column."""
    return [name if names.index(name) == k else f"{name} (column {k + 1})" for k, name in enumerate(names)]


def _record(header: list[str], cells: list[str]) -> tuple[dict | None, Fault | None]:
    if any(cell.strip() for cell in cells[len(header) :]):
        reason = (
            f"expected {len(header)} cells as in the header, found {len(cells)}; quote a text that holds the delimiter"
        )
        return None, ("", cells, reason)
    return {name: cell for name, cell in zip(header, cells, strict=False) if name and cell.strip()}, None
