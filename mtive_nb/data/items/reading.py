"""Reads many items with the built-in engines, RapidOCR and zxing-cpp, by several processes; what is read is kept."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

from mtive_nb.data.items.crops import read_views
from mtive_nb.data.items.items import Item
from mtive_nb.data.items.readers import Barcode, Reading, read_photos
from mtive_nb.data.ocr import SIDE_PX, RapidOcr, stored_line
from mtive_nb.data.photos import file_sha256
from mtive_nb.run.atomic import write_atomic
from mtive_nb.run.processes import spread


def read_items(
    items: Sequence[Item],
    *,
    kept: Path,
    arm: str = "",
    budget_tok: int = 0,
    side_px: int = SIDE_PX,
    processes: int = 1,
    what: str = "",
) -> list[list[Reading]]:
    """Return what the engines read from each item's photos, or from its `views` by an arm, scaled to `budget_tok`.

    kept: folder with the readings of finished items, by their content, so that an interrupted run goes on. side_px: as
    `RapidOcr` takes it. Each process reads with one thread. Errors: PhotoError for an unusable photo; ImportError that
    names the extra to install.
    """
    work = partial(_read, kept=Path(kept), arm=arm, budget_tok=budget_tok, side_px=side_px)
    return spread(work, items, processes=min(processes, len(items)), chunk=1, what=what)


def seconds_of(items: Sequence[Sequence[Reading]]) -> float:
    """Return the seconds that cores worked to read an item, on average."""
    return sum(one.seconds for of_item in items for one in of_item) / max(1, len(items))


@cache
def _engine(side_px: int) -> RapidOcr:
    return RapidOcr(side_px=side_px, threads=1)


def _read(item: Item, *, kept: Path, arm: str, budget_tok: int, side_px: int) -> list[Reading]:
    content = [*map(file_sha256, item.photos), [asdict(region) for region in item.regions], arm, budget_tok, side_px]
    file = kept / f"{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}.json"
    if file.is_file():
        return [_reading(row) for row in json.loads(file.read_text(encoding="utf-8"))]
    if arm:
        found = read_views(item, arm, budget_tok=budget_tok, ocr=_engine(side_px))
    else:
        found = list(read_photos(item.photos, ocr=_engine(side_px)).values())
    write_atomic(file, json.dumps([asdict(one) for one in found], ensure_ascii=False))
    return found


def _reading(row: dict) -> Reading:
    barcodes = tuple(Barcode(**code | {"box": tuple(code["box"])}) for code in row["barcodes"])
    return Reading(tuple(map(stored_line, row["lines"])), barcodes, tuple(row["faults"]), row["seconds"])
