"""Reads the bytes of a table, JSON lines or CSV, into rows of the export's own columns; a broken line costs only itself.

Encoding and delimiter are found out.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Iterator

from mtive_nb.data.rows import Fault

MAX_DEPTH = 20  # levels of objects and lists in a row
DELIMITERS = (",", ";", "\t", "|")
BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))

_BETWEEN = re.compile(r"\s*(?:,\s*|(?=\])|\Z)")
_NEXT_OBJECT = re.compile(r"\}\s*,\s*(?=\{\s*\")")

Row = tuple[int, dict | None, Fault | None]  # line from 1; the row, or what is wrong with the line


def json_lines(raw: bytes) -> Iterator[Row]:
    """The objects of a file of JSON lines."""
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


def json_rows(raw: bytes) -> Iterator[Row]:
    """The objects of a file of JSON lines, or of one JSON array; a broken object of an array costs only itself.

    The number is the line, in an array the place from 1. An array is decoded object by object, never as a whole.
    """
    text = decoded(raw)
    if not (start := re.match(r"\s*\[\s*", text)):
        yield from json_lines(raw)
        return
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)
    at, number = start.end(), 0
    while at < len(text) and text[at] != "]":
        number += 1
        try:
            row, end = decoder.raw_decode(text, at)
            _check_depth(row)
            reason = None if isinstance(row, dict) else f"expected a JSON object, found {type(row).__name__}"
            after = _BETWEEN.match(text, end)
            if not after and reason is None:
                reason = "expected a comma or the end of the array behind the object"
        except (ValueError, RecursionError) as error:
            row, end, after, reason = None, at, None, f"not an object of JSON: {error}"
        yield (number, row, None) if reason is None else (number, None, ("", text[at : at + 200], reason))
        # An object begins with {", which inside a text is always {\".
        after = after or _NEXT_OBJECT.search(text, end)
        at = after.end() if after else len(text)
    if not text.rstrip().endswith("]"):
        yield number + 1, None, ("", "", "the array has no end: the file is cut off")


def read_json(text: str | bytes) -> object:
    """JSON as strictly as its standard: no key twice, no NaN. Errors: ValueError, also for a row too deep to be one."""
    value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    _check_depth(value)
    return value


def _check_depth(value: object) -> None:
    waiting = [(value, 1)]
    while waiting:
        one, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(one, (dict, list)):
            waiting += [(member, depth + 1) for member in (one.values() if isinstance(one, dict) else one)]


def _object(pairs: list[tuple[str, object]]) -> dict:
    found: dict = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice in one object; expected it once")
        found[key] = value
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON; expected a number or null")


def decoded(raw: bytes) -> str:
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


def csv_lines(raw: bytes, header: list[str], *, wanted: Collection[str]) -> Iterator[Row]:
    """The records of a CSV file with their non-empty cells; a broken record costs only itself. Fills `header`."""
    lines = list(io.StringIO(decoded(raw), newline=""))
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
            reason = f'not a record of CSV: {error}; a quote (") inside a text is written twice'
            yield line, None, ("", lines[line - 1].rstrip(), reason)
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
