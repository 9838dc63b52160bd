"""Reads and writes the rows of MMECInstruct (CASLIE, section 3) and EcomMMMU (eBay, table 5) in their own format.

A row is an object with `instruction`, `input`, `options`, `output`, `task`, `split`, `images`, `caption_info`, of which
`input`, `options`, `images` and `caption_info` are texts of JSON. EcomMMMU's rows have neither options nor captions, a
list of photos for each item, and `is_vc`. docs/commerce.md has the fields that we add, all of them optional.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mtive_nb.data.catalogue import Quarantined, write_quarantine
from mtive_nb.data.commerce.mmec_row import RowFault, parse_row, stored_row
from mtive_nb.data.commerce.photo_store import PhotoStore, photo_faults
from mtive_nb.data.commerce.rows import CommerceRow
from mtive_nb.data.door.lines import json_rows
from mtive_nb.data.door.reader import quarantined
from mtive_nb.data.door.tables import text_fault
from mtive_nb.data.photos import path_fault
from mtive_nb.data.sources import data_dir
from mtive_nb.run.atomic import replacing
from mtive_nb.run.graph import outputs_around


def load_rows(
    file: str | Path,
    *,
    quarantine: str | Path,
    photos: str | Path | None = None,
    names: Mapping[str, str] | None = None,
    cache: str | Path | None = None,
    look: bool = True,
) -> list[CommerceRow]:
    """Read the usable rows of a JSON array or of JSON lines; the others go to `quarantine` (CSV) with the reason.

    photos: a folder or archive, in which a photo is found by the end of its URL (default: the file's folder), unless the
    file names one of the same project's outputs from its own place; `cache`: where an archive is unpacked.
    names: further names of tasks and splits, as the file spells them ({"dev_set": "val"}). Each photo is decoded once. A
    photo that is missing or does not decode is left out with its caption, and a row without any photo with it. look=False
    leaves photos as the file names them, for a reader of texts and captions.
    Errors: FileNotFoundError; ValueError when no row is usable.
    """
    file = Path(file)
    store = PhotoStore(file.parent if photos is None else photos, cache=cache)
    if not file.is_file():
        raise FileNotFoundError(
            f"rows {file}: no such file; expected MMECInstruct's dataset.json, or lines of its rows"
        )
    left_out: list[Quarantined] = []
    read: list[tuple[int, CommerceRow]] = []
    first: dict[str, int] = {}
    for line, raw, fault in json_rows(file.read_bytes()):
        own = f"{file.stem}-{line:06d}"
        try:
            if fault or (fault := text_fault(raw)):
                raise RowFault(*fault)
            row = parse_row(raw, own, names={} if names is None else names)
            if first.setdefault(row.row_id, line) != line:
                raise RowFault("row_id", row.row_id, f"expected an id of its own; row {first[row.row_id]} has it")
            read.append((line, row))
        except RowFault as error:
            left_out.append(quarantined(file.name, line, own, error.fault))
    rows = list(_with_photos(file, read, store, left_out)) if look else [row for _, row in read]
    write_quarantine(left_out, quarantine)
    if not rows:
        why = f"; the first: {left_out[0].field}: {left_out[0].reason}" if left_out else ""
        raise ValueError(f"rows {file}: no usable row, {len(left_out)} faults in {quarantine}{why}")
    return rows


def load_written(run: Path, given: Mapping[str, Any], *, quarantine: str | Path) -> list[CommerceRow]:
    """Return the rows in the run folder of chapter 15, their photos found where 15 found them; given: its parameters.

    Errors: as `load_rows`.
    """
    mart = run / "mart" / "images"
    own = Path(given["ROWS"]).parent if given["ROWS"] else mart if mart.is_dir() else data_dir()
    return load_rows(run / "records" / "rows.jsonl", photos=given["PHOTOS"] or own, quarantine=quarantine)


def write_rows(rows: Iterable[CommerceRow], file: str | Path) -> Path:
    """Write rows in MMECInstruct's format, a JSON array for a name in .json, else JSON lines; returns the path.

    Photos below the file's folder, or in the same project's outputs, get relative paths, so that outputs can be moved.
    `load_rows` with that folder reads equal rows.
    """
    file = Path(file)
    lines = (json.dumps(stored_row(row, file.parent.resolve()), ensure_ascii=False) for row in rows)
    with replacing(file) as part, part.open("w", encoding="utf-8") as stream:
        if file.suffix == ".json":
            stream.write("[\n")
            for k, line in enumerate(lines):
                stream.write((",\n" if k else "") + line)
            stream.write("\n]\n")
        else:
            stream.writelines(line + "\n" for line in lines)
    return file


def _of_outputs(folder: Path, outputs: Path | None, photo: str) -> str:
    """The photo that `write_rows` named from its file's folder, where both lie in the same outputs; else ""."""
    if not outputs:
        return ""
    named = folder.relative_to(outputs) / photo
    inside = not path_fault(outputs, named.as_posix()) and os.path.isfile(outputs / named)
    return str((outputs / named).resolve()) if inside else ""


def _with_photos(
    file: Path, read: list[tuple[int, CommerceRow]], store: PhotoStore, left_out: list[Quarantined]
) -> Iterable[CommerceRow]:
    """The rows with absolute paths of their photos, without those that are missing or do not decode."""
    folder = file.parent.resolve()
    outputs = outputs_around(folder)
    found = {
        url: (own, None) if (own := _of_outputs(folder, outputs, url)) else store.find(url)
        for url in {url for _, row in read for url in row.photos}
    }
    broken = photo_faults(path for path, fault in found.values() if not fault)
    faults = {url: fault or broken.get(path) for url, (path, fault) in found.items()}
    for line, row in read:
        good = [k for k, url in enumerate(row.photos) if not faults[url]]
        for k in set(range(len(row.photos))) - set(good):
            fault = f"images[{k}]", row.photos[k], faults[row.photos[k]]
            left_out.append(quarantined(file.name, line, row.row_id, fault))
        if not good:
            fault = "images", list(row.photos), "no readable photo: row left out"
            left_out.append(quarantined(file.name, line, row.row_id, fault))
            continue
        kept = {
            one: tuple(getattr(row, one)[k] for k in good)
            for one in ("captions", "places", "facts")
            if getattr(row, one)
        }
        yield dataclasses.replace(row, photos=tuple(found[row.photos[k]][0] for k in good), **kept)
