"""Read the fields of many items to a file: `mtive-nb items FOLDER -o items.jsonl`.

Each folder that holds photos is an item. A reader is rules on OCR and barcodes, the expert ITEM of a profile, or a
model behind an endpoint. What cannot be read is a row with its `error`, never a stop. The file grows item by item; a
second run keeps the rows of the same photos by the same reader, and reads the rest.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtive_nb.data.endpoint import BudgetError, Endpoint, EndpointError, cost_in_words, photo_part, request_fields
from mtive_nb.data.items.inputs import MOST_PHOTOS, PROMPTS, TASK, fewer_photos, item_record
from mtive_nb.data.items.items import Item
from mtive_nb.data.items.readers import as_prompt, read_photos
from mtive_nb.data.items.rules import Shop, extract
from mtive_nb.data.items.schema import SCHEMA, Parsed, checked, parse_answer
from mtive_nb.data.ocr import SIDE_PX, OcrEngine, RapidOcr
from mtive_nb.data.photos import PhotoError, file_sha256, photo_fault
from mtive_nb.run import progress
from mtive_nb.run.atomic import write_atomic
from mtive_nb.run.graph import Project, find_project
from mtive_nb.run.stale import read_run
from mtive_nb.serve.questions import in_words, photos_below

if TYPE_CHECKING:
    from mtive_nb.serve.answer import Experts, StackExpert

COLUMNS = ("item_id", "photos", "fields", "faults", "error", "by", "key")
Reader = Callable[[Item], Parsed]


def find_items(folder: str | Path) -> list[Item]:
    """Return an item for each folder, at any depth, that holds photos; its id is the folder's path below `folder`.

    Errors: FileNotFoundError for a folder without photos.
    """
    root = Path(folder).resolve()
    groups: dict[Path, list[Path]] = {}
    for path in photos_below(root):
        groups.setdefault(path.parent, []).append(path)
    if not groups:
        raise FileNotFoundError(f"{folder}: found no photos, expected a folder for each item with its photos")
    names = {place: place.relative_to(root).as_posix() if place != root else root.name for place in groups}
    return [Item(names[place], tuple(map(str, paths)), {}, complete=False) for place, paths in groups.items()]


def by_rules(ocr: OcrEngine, *, shop: Shop | None = None) -> Reader:
    """Return the reader that extracts fields by rules from what OCR and the barcode reader find."""

    def read(item: Item) -> Parsed:
        readings = read_photos(item.photos, ocr=ocr)
        found = checked(extract(readings.values(), shop=shop))
        seen = (f"{Path(photo).name}: {fault}" for photo, one in readings.items() for fault in one.faults)
        return Parsed(found.answer, (*seen, *found.faults))

    return read


def by_expert(experts: "Experts", ocr: OcrEngine, *, form: str = "schema", max_new_tokens: int = 512) -> Reader:
    """Return the reader that asks an expert as chapter 17 trained it (`item_expert`).

    The expert sees the main photo and is told what engines read from all of them. form: FORM of chapter 17.
    """

    def read(item: Item) -> Parsed:
        told = as_prompt(read_photos(item.photos, ocr=ocr).values())
        record = item_record(item, form=form, told=told)
        return parse_answer(experts.answers([record], max_new_tokens=max_new_tokens)[0].text)

    return read


def item_expert(profile: str, *, project: Project | None = None) -> "tuple[StackExpert, str, int]":
    """Return the expert ITEM that chapter 17 trained in a profile, the form of its answers, and OCR's `side_px`.

    Errors: FileNotFoundError where 17, or a stage below the expert, has not run; LineageError for changed files or
    adapters that are not the pinned ones.
    """
    from mtive_nb.model.stack import open_stack
    from mtive_nb.serve.answer import StackExpert, open_stages
    from mtive_nb.serve.versions import run_folder

    outputs = (project or find_project()).outputs / profile
    chapter = run_folder(outputs, "17")
    asked, expert = read_run(chapter)["parameters"], (chapter / "stack", TASK)
    stack = open_stack(expert) if asked["BASE"] else open_stages(outputs, expert)
    return StackExpert(outputs, stack, TASK), asked.get("FORM", "schema"), asked.get("OCR_SIDE", SIDE_PX)


def by_endpoint(endpoint: Endpoint, *, prompt: str = "long", request: Mapping[str, Any] | None = None) -> Reader:
    """Return the reader that asks a model behind an endpoint, held to the schema where the server can do so.

    request: further fields of every request, in place of temperature 0 and at most 1,024 tokens. A server that refuses
    `response_format` and answers without it is asked without it from then on. Errors of the reader: EndpointError where
    the endpoint refuses for good, ValueError with the reason of one item's failure.
    """
    form = {"type": "json_schema", "json_schema": {"name": "item", "schema": SCHEMA}}
    common = {"temperature": 0, "max_tokens": 1024} if request is None else dict(request)
    requests = [common | {"response_format": form}, common]  # the first that the server takes

    def read(item: Item) -> Parsed:
        content = [photo_part(photo) for photo in item.photos] + [{"type": "text", "text": PROMPTS["schema"][prompt]}]
        reason = ""
        for fields in list(requests):
            reply, reason = endpoint.ask(content, lambda _: None, request=fields)
            if reply is not None:
                del requests[: requests.index(fields)]
                return checked(reply)
            if not reason.startswith("HTTP 4"):
                break
        raise ValueError(reason)

    return read


def read_items(
    items: list[Item], reader: Reader, *, by: str, output: str | Path, most_photos: int = MOST_PHOTOS
) -> list[dict]:
    """Return a row of COLUMNS for each item, and keep `output` (JSON lines) up to date row by row.

    by: the reader's name; rows of the same photos by the same name without an error are kept. most_photos: of an item,
    after look-alikes are left out. Errors: ValueError for a file that holds other lines; EndpointError.
    """
    path = Path(output)
    before = _rows_of(path)
    write_atomic(path, "".join(map(_line, before.values())))  # without a last line that was cut short
    rows = []
    with path.open("a", encoding="utf-8") as file:
        for item in progress(items, len(items), what="items"):
            row = _read(item, reader, before.get(item.item_id, {}), by=by, most_photos=most_photos)
            rows.append(row)
            file.write(_line(row))
            file.flush()
    write_atomic(path, "".join(map(_line, (before | {row["item_id"]: row for row in rows}).values())))
    return rows


def _read(item: Item, reader: Reader, before: Mapping, *, by: str, most_photos: int) -> dict:
    """One item's row: the earlier one, or what the reader finds, or its error."""
    row: dict[str, Any] = {"item_id": item.item_id, "photos": [Path(p).name for p in item.photos]}
    row |= {"fields": {}, "faults": [], "error": "", "by": by, "key": ""}
    try:
        row["key"] = hashlib.sha256(
            "".join([by, str(most_photos), *map(file_sha256, item.photos)]).encode()
        ).hexdigest()
        if before.get("key") == row["key"] and not before["error"]:
            return dict(before)
        bad = {photo: fault for photo in item.photos if (fault := photo_fault(photo))}
        row["faults"] = [f"{Path(photo).name}: {fault}" for photo, fault in bad.items()]
        usable = [photo for photo in item.photos if photo not in bad]
        if not usable:
            raise PhotoError(f"photos: found none of {len(item.photos)} usable")
        fewer, said = fewer_photos(Item(item.item_id, tuple(usable), {}), most=most_photos)
        found = reader(fewer)
        row["fields"] = found.answer
        row["faults"] += [*filter(None, [said]), *found.faults]
    except EndpointError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever is wrong with an item is that item's error
        row["error"] = in_words(error)
    return row


def _line(row: Mapping) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _rows_of(path: Path) -> dict[str, dict]:
    """Earlier rows by item; a last line that was not written to its end is dropped."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    rows = {}
    for number, line in enumerate(filter(None, text[: text.rfind("\n") + 1].split("\n")), 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or row.keys() != set(COLUMNS):
            raise ValueError(f"{path}, line {number}: found no row of `items`; choose another output")
        rows[row["item_id"]] = row
    return rows


def main(
    folder: str, *, output: str, profile: str = "", endpoint: str = "", model: str = "", request: str = "",
    most_photos: int = MOST_PHOTOS,
) -> int:  # fmt: skip
    """Run the command `items`; return 0 if every item is read, 1 for some errors, 2 if nothing could be done."""
    try:
        items, _ = find_items(folder), _rows_of(Path(output))
        with redirect_stdout(sys.stderr):
            reader, by = _reader(profile=profile, endpoint=endpoint, model=model, request=request)
            if endpoint:
                photos = [photo for item in items for photo in item.photos[:most_photos]]
                cost = cost_in_words(len(items), photos, text_tok=len(PROMPTS["schema"]["long"]) / 4)
                print(f"items: at most {len(items):,} requests before retries, {cost}", flush=True)
            rows = read_items(items, reader, by=by, output=output, most_photos=most_photos)
    except (OSError, KeyError, ValueError, ImportError, EndpointError, BudgetError) as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 2
    errors = [row for row in rows if row["error"]]
    for row in errors[:5]:
        print(f"{row['item_id']}: {row['error']}", file=sys.stderr)
    faults = sum(len(row["faults"]) for row in rows)
    print(f"{output}: {len(rows) - len(errors)} items, {len(errors)} errors, {faults} faults", file=sys.stderr)
    return 0 if not errors else 1 if len(errors) < len(rows) else 2


def _reader(*, profile: str, endpoint: str, model: str, request: str) -> tuple[Reader, str]:
    """The reader that the command's options name, and its name in the rows."""
    if profile and endpoint or bool(endpoint) != bool(model):
        raise ValueError("found --profile with --endpoint, or one of --endpoint and --model alone; expected one reader")
    if request and not endpoint:
        raise ValueError("--request is for the endpoint of --endpoint: found no --endpoint")
    if endpoint:
        reader = by_endpoint(Endpoint(endpoint, model=model), request=request_fields(request))
        return reader, f"{model} {request}".strip()  # other fields may read otherwise: rows are not kept over
    if not profile:
        return by_rules(RapidOcr()), "rules"
    expert, form, side_px = item_expert(profile)
    return by_expert(expert, RapidOcr(side_px=side_px), form=form), expert.expert_of(TASK)
