"""The item: its photos, its true fields, and where the photos show them. Files hold one item a line."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mtive_nb.data.catalogue import Quarantined
from mtive_nb.data.door.lines import decoded
from mtive_nb.data.items.schema import checked
from mtive_nb.data.photos import PhotoError, load_image
from mtive_nb.data.records import numbered_lines, write_rows
from mtive_nb.data.splits import SPLITS, split_of

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Region:
    """A value's place: the photo's number from 0, the field's path, the value, an XYXY box in that photo's pixels."""

    photo: int
    path: str
    value: str
    box: Box


@dataclass(frozen=True)
class Item:
    """An item of a shop with absolute photo paths, the main photo first.

    truth: an object of `schema.SCHEMA`. complete: whether truth has all that the photos show; if not, only values at
    truth's own paths are scored.
    """

    item_id: str
    photos: tuple[str, ...]
    truth: dict[str, Any]
    regions: tuple[Region, ...] = ()
    complete: bool = True
    source: str = ""
    split: str = "test"


def write_items(items: Iterable[Item], path: str | Path) -> Path:
    """Write items as JSON lines, with photo paths as in `write_rows`; returns the path."""
    rows = ({**asdict(item), "images": list(item.photos)} for item in items)
    return write_rows(({k: v for k, v in row.items() if k != "photos"} for row in rows), path)


def load_items(path: str | Path) -> tuple[list[Item], list[Quarantined]]:
    """Read items, and the rows and parts that cannot be used, each with file, row, field and reason.

    A row without id or usable photos is left out; a bad photo, a box outside its photo, and a part of `truth` that
    fails the schema are left out of their item.
    """
    path, items, faults, seen = Path(path), [], [], set()
    for line, text in numbered_lines(decoded(path.read_bytes())):
        found: list[tuple[str, object, str]] = []  # field, what was found, reason
        try:
            item = _item(json.loads(text), path.parent, found)
            if item.item_id in seen:
                raise ValueError(f"item_id: found {item.item_id!r} again, expected an id of its own")
            seen.add(item.item_id)
            items.append(item)
        except (ValueError, RecursionError) as error:
            found.append(("", text, f"row left out: {error}"))
        faults += [Quarantined(path.name, line, field, str(value)[:80], reason) for field, value, reason in found]
    return items, faults


def _item(row: Any, folder: Path, faults: list[tuple[str, object, str]]) -> Item:
    if not isinstance(row, dict) or not isinstance(row.get("item_id"), str) or not row["item_id"]:
        raise ValueError(f"item_id: found {str(row)[:60]!r}, expected an object with a text as item_id")
    images = row.get("images")
    if not isinstance(images, list) or not images or not all(isinstance(one, str) for one in images):
        raise ValueError(f"images: found {str(images)[:60]!r}, expected a list of paths")
    sizes: dict[int, tuple[int, int]] = {}
    for k, image in enumerate(images):
        try:
            sizes[k] = load_image(folder / image).size
        except PhotoError as error:
            faults.append((f"images[{k}]", image, str(error)))
    if not sizes:
        raise ValueError(f"images: found none of {len(images)} usable")
    if row.get("split", "test") not in SPLITS:
        raise ValueError(f"split: found {row['split']!r}, expected one of {SPLITS}")
    truth = checked(row.get("truth", {}))
    faults += [("truth", row["truth"], fault) for fault in truth.faults]
    place = {k: number for number, k in enumerate(sizes)}
    regions = []
    for k, found in enumerate(row.get("regions") or []):
        fault = region_fault(found, sizes)
        if fault:
            faults.append((f"regions[{k}]", found, fault))
        else:
            regions.append(Region(place[found["photo"]], found["path"], found["value"], tuple(found["box"])))
    photos = tuple(str((folder / images[k]).resolve()) for k in sizes)
    rest = {"complete": row.get("complete") is not False, "source": str(row.get("source", ""))}
    return Item(row["item_id"], photos, truth.answer, tuple(regions), **rest, split=row.get("split", "test"))


def region_fault(region: Any, sizes: dict[int, tuple[int, int]]) -> str | None:
    """Return what is wrong with a region, a dict of Region's fields, or None. sizes: photo's number -> (width, height)."""
    if not isinstance(region, dict) or not all(isinstance(region.get(name), str) for name in ("path", "value")):
        return f"found {str(region)[:60]!r}, expected an object with photo, path, value, box"
    if region.get("photo") not in sizes:
        return f"found photo {region.get('photo')!r}, expected one of {sorted(sizes)}"
    return box_fault(region.get("box"), sizes[region["photo"]])


def box_fault(box: Any, size: tuple[int, int]) -> str | None:
    """Return why a box is none inside a photo of (width, height) pixels, or None; half a pixel outside is rounding."""
    numbers = isinstance(box, list | tuple) and len(box) == 4 and all(type(v) in (int, float) for v in box)
    width, height = size
    if numbers and -0.5 <= box[0] < box[2] <= width + 0.5 and -0.5 <= box[1] < box[3] <= height + 0.5:
        return None
    return f"found box {str(box)[:60]}, expected x0 < x1 and y0 < y1 inside {width} x {height} pixels"


def item_split(item_id: str, *, seed: int = 0) -> str:
    """Return the split of an item, by its id and seed alone: 0.7 train, 0.1 val, 0.2 test."""
    return split_of(item_id, seed=seed)
