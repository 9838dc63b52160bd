"""Read the questions of `score`: from a folder of photos, a CSV or JSON-lines file, or rows in memory.

Fields of a row: `photo` (path relative to the file; several separated by `|`, or a list), and optionally `photo2`,
`task`, `question` and `id`. Other fields are ignored. A row without a task is asked by each of the given tasks.
"""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from mtive_nb.data.door.lines import csv_lines, json_lines
from mtive_nb.data.photos import PhotoError
from mtive_nb.data.records import parts_of, question_of

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif")
FIELDS = ("photo", "photo2", "task", "question", "id")
MAX_CHARS, MAX_PHOTOS = 100_000, 100  # of a question; the engine, which answers strangers, has lower bounds


@dataclass(frozen=True)
class Question:
    """A task's question about a photo or a pair: `photo` as written, `photos` as paths; no text: the task's own.

    `fault`: why its line cannot be read. `row`: the whole row that it stands in.
    """

    id: str
    photo: str
    photos: tuple[Path, ...]
    task: str
    text: str = ""
    fault: str = ""
    row: Mapping = field(default_factory=dict, compare=False)


def check_question(record: Mapping, *, max_chars: int = MAX_CHARS, max_photos: int = MAX_PHOTOS) -> None:
    """Refuse a record that no model can answer, before it waits for one.

    Errors: ValueError for a record without question, one longer than `max_chars` or with more photos than `max_photos`,
    or with another number of photos than it shows; PhotoError for a missing photo.
    """
    try:
        parts = [part for message in record["messages"][:-1] for part in parts_of(message)]
        asked = any(unicodedata.category(letter)[0] in "LNPS" for letter in question_of(record))
    except (LookupError, TypeError, AttributeError):
        raise ValueError("record: found no messages of a chat, expected those of a record (data/records.py)") from None
    if not asked:
        raise ValueError("question: found none, expected a question about the photos")
    if (chars := sum(len(part["text"]) for part in parts if part["type"] == "text")) > max_chars:
        raise ValueError(f"question: found {chars} characters, expected {max_chars} at most")
    photos, shown = record.get("pixels") or record["images"], sum(part["type"] == "image" for part in parts)
    if shown > max_photos:
        raise ValueError(f"photos: found {shown}, expected {max_photos} at most")
    if len(photos) != shown:
        raise ValueError(f"photos: found {len(photos)}, expected {shown}, as many as the question shows")
    for image in () if record.get("pixels") else photos:
        if not Path(image).is_file():
            raise PhotoError(f"{image}: no such file")


def read_questions(
    source: str | Path | Sequence[Mapping] | pd.DataFrame, *, tasks: Sequence[str] = ()
) -> list[Question]:
    """Return the questions of a folder (all photos in it and below), a file, or rows (paths relative to the work folder).

    The default id is the photo. Errors: FileNotFoundError for no such source; ValueError for a file without a column
    `photo` and for a folder or file without a photo. A broken line is a question with a `fault`.
    """
    home = Path()
    if isinstance(source, str | Path):
        source = Path(source)
        if not source.exists():
            raise FileNotFoundError(f"{source}: no such folder or file")
        home = source if source.is_dir() else source.parent
        rows = _rows_of_folder(source) if source.is_dir() else _rows_of(source)
    else:
        rows = source.to_dict("records") if isinstance(source, pd.DataFrame) else source
    return [question for row in rows for question in _questions_of(row, home, tasks)]


def _questions_of(row: Mapping, home: Path, tasks: Sequence[str]) -> Iterator[Question]:
    given, second, task, text, own = (row.get(name) for name in FIELDS)
    names = [str(name) for name in given] if isinstance(given, list | tuple) else _text(given).split("|")
    photos = [name.strip() for name in (*names, _text(second)) if name.strip()]
    paths, shown = tuple(home / name for name in photos), _valid("|".join(photos))
    for one in [_text(task)] if _text(task) else tasks or [""]:
        yield Question(_text(own) or shown, shown, paths, one, _text(text), _text(row.get("fault")), row)


def _text(value: object) -> str:
    return "" if value is None or value != value else _valid(str(value).strip())  # NaN is not equal to itself


def _valid(text: str) -> str:
    """Return a text that any file can hold: bytes of a name that are no UTF-8 are written as \\xNN."""
    return text.encode("utf-8", "backslashreplace").decode()


def photos_below(folder: Path) -> list[Path]:
    """Return the photos in a folder or below it, sorted, but for hidden files and those in hidden folders."""
    files = (p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file())
    return [p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts)]


def in_words(error: Exception) -> str:
    """Return an error's message on one line."""
    said = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(said).split()) or type(error).__name__


def _rows_of_folder(folder: Path) -> list[dict]:
    if not (found := photos_below(folder)):
        raise ValueError(f"{folder}: found no photo ({', '.join(s[1:] for s in SUFFIXES)}) in the folder or below it")
    return [{"photo": [path.relative_to(folder).as_posix()]} for path in found]


def _rows_of(file: Path) -> list[dict]:
    """Return the rows of a file as a spreadsheet or a program writes it; a broken line is a row with its `fault`."""
    raw, header = file.read_bytes(), []
    if file.suffix.lower() in (".jsonl", ".ndjson"):
        lines = json_lines(raw)
    elif file.suffix.lower() in (".csv", ".tsv", ".txt"):
        lines = csv_lines(raw, header, wanted=FIELDS)
    else:
        raise ValueError(f"{file}: found the suffix {file.suffix!r}, expected a folder, .csv or .jsonl")
    rows = []
    for line, row, fault in lines:
        row = {name.lower(): value for name, value in (row or {}).items()}
        why = fault[2] if fault else "found no photo, expected one in the field photo"
        broken = {"id": f"line {line}", "fault": f"{file.name}, line {line}: {why}"}
        rows.append(row if row.get("photo") else row | broken)
    if header and "photo" not in map(str.lower, header):
        raise ValueError(f"{file}: found the columns {', '.join(header)}, expected one named photo")
    if not rows:
        raise ValueError(f"{file}: found no row")
    return rows
