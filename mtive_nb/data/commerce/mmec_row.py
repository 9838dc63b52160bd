"""One row of MMECInstruct or EcomMMMU: its fields read from texts of JSON, checked, and written as such again."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtive_nb.data.commerce.rows import COMMERCE_TASKS, ROW_SPLITS, STRATA, CommerceRow
from mtive_nb.data.door.lines import read_json
from mtive_nb.data.door.tables import text_fault
from mtive_nb.data.rows import near
from mtive_nb.run.graph import outputs_around

JSON_TEXTS = ("input", "options", "images", "caption_info")
# Ours, written where they are not empty, and the type of each.
OWN_FIELDS: dict[str, type] = {
    "row_id": str,
    "product_id": str,
    "places": list,
    "facts": list,
    "known": dict,
    "stratum": str,
    "source": str,
}
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "ind", "ind_test", "test_ind", "in_domain"),
    "ood": ("ood", "ood_test", "test_ood", "out_of_domain"),
}
# The answers of rows without options; CC and SR name their own.
ANSWERS = {
    **dict.fromkeys(("AP", "PSI", "CP"), ("yes", "no")),
    **{"PRP": tuple("ABC"), "MPC": tuple("ABCD"), "SA": tuple("ABCDE"), "SR": tuple("ABCDEFGHIJKLMNOPQRST")},
    "BQA": ("yes", "no", "cannot answer"),
}
HISTORY = "purchase history"  # the name of SR's input where it is a bare list
_ORDINAL = re.compile(r"\d+(st|nd|rd|th)?")


class RowFault(ValueError):
    """What is wrong with one row: field, what was found, what is expected."""

    def __init__(self, field: str, found: object, reason: str) -> None:
        super().__init__(f"{field}: found {found!r}, {reason}")
        self.fault = (field, found, reason)


def parse_row(raw: Mapping[str, Any], own: str, *, names: Mapping[str, str]) -> CommerceRow:
    """One row whose photos are still as the file names them; `own` is its id where it has none. Errors: RowFault."""
    texts = {name: _text_of_json(name, raw.get(name)) for name in JSON_TEXTS}
    if fault := text_fault(texts):
        raise RowFault(*fault)
    task, split = _task(raw.get("task"), names), _split(raw.get("split"), names)
    added = {name: _own(name, raw.get(name)) for name in OWN_FIELDS}
    instruction = raw.get("instruction") or ""
    if not isinstance(instruction, str):
        raise RowFault("instruction", instruction, "expected text")
    inputs, options = _input(texts["input"], task), _texts("options", texts["options"])
    labels = tuple(option.partition(":")[0].strip() for option in options)
    if len(set(labels)) < len(labels) or "" in labels:
        raise RowFault("options", list(options), "expected a label of its own before each option's colon")
    groups = _groups(texts["images"])
    photos = [photo for group in groups for photo in group]
    captions = [caption for group in _groups(texts["caption_info"], "caption_info") for caption in group]
    if captions and len(captions) != len(photos):
        raise RowFault("caption_info", len(captions), f"expected {len(photos)} captions, one a photo")
    places = tuple(added["places"]) or _places(task, groups, inputs, options)
    for name, found in (("places", places), ("facts", added["facts"])):
        if found and len(found) != len(photos):
            raise RowFault(name, len(found), f"expected {len(photos)}, one a photo")
    known = added["known"] | ({"is_vc": raw["is_vc"]} if "is_vc" in raw else {})
    return CommerceRow(
        row_id=added["row_id"] or own,
        task=task,
        instruction=instruction,
        input=inputs,
        output=_output(raw.get("output"), task, labels),
        split=split,
        options=options,
        photos=tuple(photos),
        captions=tuple(captions),
        places=places,
        product_id=added["product_id"] or added["row_id"] or own,
        facts=tuple(added["facts"]),
        known=known,
        stratum=added["stratum"],
        source=added["source"],
    )


def _text_of_json(name: str, value: object) -> object:
    """A field that is a text of JSON, or that is JSON already, or one photo's name; None where it is empty."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return read_json(value)
    except (ValueError, RecursionError) as error:
        if name in ("images", "caption_info") and value.lstrip()[0] not in '[{"':
            return value
        raise RowFault(name, value, f"not a text of JSON: {error}") from None


def _task(found: object, names: Mapping[str, str]) -> str:
    plain = re.sub(r"[\W_]+", " ", str(names.get(str(found), found))).strip().casefold()
    spelled = {full: key for key, full in COMMERCE_TASKS.items()} | {key.casefold(): key for key in COMMERCE_TASKS}
    same = {name.replace(" ", ""): key for name, key in spelled.items()}  # "multi-class" is "multiclass"
    if key := same.get(plain.replace(" ", "")):
        return key
    hint = near(plain, COMMERCE_TASKS.values(), cutoff=0.6)
    raise RowFault("task", found, f"expected one of {', '.join(COMMERCE_TASKS.values())}{hint}")


def _split(found: object, names: Mapping[str, str]) -> str:
    plain = re.sub(r"[\W_]+", "_", str(names.get(str(found), found))).strip("_").casefold()
    if split := next((split for split, spelled in SPLIT_NAMES.items() if plain in spelled), None):
        return split
    raise RowFault("split", found, f"expected one of {', '.join(ROW_SPLITS)}; `names` may map other names to these")


def _own(name: str, value: object) -> Any:
    kind = OWN_FIELDS[name]
    if value is None:
        return kind()
    if not isinstance(value, kind) or (name == "stratum" and value not in ("", *STRATA)):
        raise RowFault(name, value, f"expected {'one of ' + ', '.join(STRATA) if name == 'stratum' else kind.__name__}")
    inner = {"places": str, "facts": dict}.get(name, object)
    if kind is list and not all(isinstance(one, inner) for one in value):
        raise RowFault(name, value, f"expected a list of {inner.__name__}")
    return value


def _input(value: object, task: str) -> dict[str, Any]:
    if isinstance(value, list) and task == "SR":
        value = {HISTORY: value}
    if not isinstance(value, dict) or not value:
        raise RowFault("input", value, "expected an object of the question's texts by name")
    for name, text in value.items():
        if (
            isinstance(text, list)
            and not all(isinstance(one, str) for one in text)
            or not isinstance(text, (str, list))
        ):
            raise RowFault(f"input.{name}", text, "expected text, or a list of texts")
    return value


def _texts(name: str, value: object) -> tuple[str, ...]:
    value = [] if value is None else value
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise RowFault(name, value, "expected a list of texts")
    return tuple(value)


def _groups(value: object, name: str = "images") -> list[tuple[str, ...]]:
    """The photos (or captions) of each item: a list of lists, or a plain list as one group."""
    value = [value] if isinstance(value, str) else value
    if name == "images" and not value:
        raise RowFault(name, value, "expected one photo or more")
    if isinstance(value, list) and value and all(isinstance(one, list) for one in value):
        return [_texts(name, one) for one in value]
    return [_texts(name, value)]


def _places(task: str, groups: list[tuple], inputs: Mapping[str, Any], options: tuple[str, ...]) -> tuple[str, ...]:
    """What each photo belongs to, where the row has several items: PRP, SR, and EcomMMMU's lists."""
    if len(groups) == 1:
        if task not in ("PRP", "SR"):
            return ()
        groups = [(photo,) for photo in groups[0]]
    names = [f"item {k}" for k in range(1, len(groups) + 1)]
    if task == "PRP":
        names = list(inputs) if len(inputs) == 2 else ["product 1", "product 2"]
    history = next((one for one in inputs.values() if isinstance(one, list)), None)
    if task == "SR" and history is not None:
        heads = [title.partition(":")[0].strip() for title in history]
        heads = [head if _ORDINAL.fullmatch(head) else str(k) for k, head in enumerate(heads, 1)]
        names = heads + [option.partition(":")[0].strip() for option in options]
        names = heads if len(groups) == len(heads) else names
    if len(groups) != len(names):
        raise RowFault("images", len(groups), f"expected {len(names)} photos or lists of photos: {', '.join(names)}")
    return tuple(name for name, group in zip(names, groups, strict=True) for _ in group)


def _output(found: object, task: str, labels: tuple[str, ...]) -> str:
    allowed = labels or ANSWERS.get(task, ())
    if not isinstance(found, str) or not found.strip():
        raise RowFault("output", found, "expected the right label as text")
    folded = {one.casefold(): one for one in allowed}
    for text in (found.strip(), found.partition(":")[0].strip()):
        if not allowed or text.casefold() in folded:
            return folded.get(text.casefold(), text)
    raise RowFault("output", found, f"expected one of {', '.join(allowed)}")


def stored_row(row: CommerceRow, folder: Path) -> dict[str, Any]:
    """A row as MMECInstruct has it; photos below `folder`, or in the same outputs, get paths relative to it."""
    movable = outputs_around(folder) or folder

    def relative(photo: str) -> str:
        inside = Path(photo).resolve().is_relative_to(movable)
        return Path(os.path.relpath(Path(photo).resolve(), folder)).as_posix() if inside else photo

    inputs = row.input[HISTORY] if row.task == "SR" and list(row.input) == [HISTORY] else row.input
    texts = {"input": inputs, "options": list(row.options), "images": [relative(photo) for photo in row.photos]}
    texts |= {"caption_info": list(row.captions)}
    stored = {"instruction": row.instruction}
    stored |= {name: json.dumps(value, ensure_ascii=False) for name, value in texts.items()}
    stored |= {"output": row.output, "task": COMMERCE_TASKS[row.task].replace(" ", "_"), "split": row.split}
    known = {name: value for name, value in row.known.items() if name != "is_vc"}
    stored |= {"is_vc": row.known["is_vc"]} if "is_vc" in row.known else {}
    added = {name: getattr(row, name) for name in OWN_FIELDS} | {"known": known}
    return stored | {name: list(value) if isinstance(value, tuple) else value for name, value in added.items() if value}
