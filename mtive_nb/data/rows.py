"""Checks the rows of products.jsonl and feedback.jsonl: their expected fields, and the faults of a row."""

from __future__ import annotations

import difflib
from datetime import datetime

# The names used in the whole project: PACKAGINGS are the classes of task PT, PLACEMENTS those of PP.
PACKAGINGS = ("bottle", "box", "can", "jar", "pouch", "tube")
PLACEMENTS = ("on shelf", "in hand", "on floor", "in carton")
DAMAGES = ("dent", "crack", "tear", "leak", "crush", "stain", "scratch")

Types = type | tuple[type, ...]

# The first field is the row's id.
PRODUCT_FIELDS: dict[str, Types] = {
    "product_id": str,
    "title": str,
    "description": str,
    "category": str,
    "coarse": str,
    "attributes": dict,
    "images": list,
}
FEEDBACK_FIELDS: dict[str, Types] = {"feedback_id": str, "product_id": str, "text": str, "images": list}
MAY_BE_EMPTY = ("description", "text", "coarse")

NONE = type(None)
# The facts that the tasks read; other facts are kept unchecked.
FACT_TYPES: dict[str, Types] = {
    "damaged": (bool, NONE),
    "damage": (str, NONE),
    "damage_box": (list, NONE),
    "count": (int, NONE),
    "packaging": (str, NONE),
    "placement": (str, NONE),
    "dates": (dict, NONE),
    "attributes": (dict, NONE),
    "phrases": (list, NONE),
    "composited": (str, NONE),
}

# Days as YYYY-MM-DD; *_text is the date as printed, expiry_also a second valid reading.
DATE_FIELDS = ("expiry", "production", "expiry_text", "production_text", "expiry_also")

Fault = tuple[str, object, str]  # field, found, reason


def row_faults(row: dict, fields: dict[str, Types]) -> list[Fault]:
    """All faults of one parsed row: missing or unknown fields, and wrong types; [] when the row is usable."""
    faults: list[Fault] = []
    for name, types in fields.items():
        if name not in row:
            faults.append((name, None, f"missing field; expected {_names(types)}"))
        elif not isinstance(row[name], types):
            faults.append((name, row[name], f"expected {_names(types)}, found {type(row[name]).__name__}"))
        elif types is str:
            faults += _text_faults(name, row[name])
    unknown = [name for name in row if name not in fields and name != "facts"]
    faults += [(name, row[name], f"unknown field; expected {', '.join(fields)}, facts") for name in unknown]
    faults += _member_faults(row)
    faults += _fact_faults(row.get("facts"))
    return faults


def _text_faults(name: str, text: str) -> list[Fault]:
    if not text.strip() and name not in MAY_BE_EMPTY:
        return [(name, text, "empty text")]
    if any("\ud800" <= character <= "\udfff" for character in text):  # lone surrogate
        return [(name, ascii(text), "not valid Unicode text")]
    return []


def _member_faults(row: dict) -> list[Fault]:
    faults: list[Fault] = []
    if isinstance(row.get("images"), list):
        bad = [image for image in row["images"] if not isinstance(image, str) or not image]
        faults += [("images", image, "expected paths relative to the catalogue's folder, as text") for image in bad]
    if isinstance(row.get("attributes"), dict):
        for key, value in row["attributes"].items():
            if not isinstance(value, str):
                faults.append((f"attributes.{key}", value, f"expected text, found {type(value).__name__}"))
    return faults


def _fact_faults(facts: object) -> list[Fault]:
    if facts is None:
        return []
    if not isinstance(facts, dict):
        return [("facts", facts, f"expected an object or null, found {type(facts).__name__}")]
    faults: list[Fault] = []
    for name, types in FACT_TYPES.items():
        value = facts.get(name)
        wrong_bool = isinstance(value, bool) and name == "count"  # in Python True is an int
        if not isinstance(value, types) or wrong_bool:
            faults.append((f"facts.{name}", value, f"expected {_names(types)}, found {type(value).__name__}"))
    faults += _contradictions(facts)
    box = facts.get("damage_box")
    if isinstance(box, list) and not _is_box(box):
        faults.append(("facts.damage_box", box, "expected [x0, y0, x1, y1] in pixels with x0 < x1 and y0 < y1"))
    return faults


def _contradictions(facts: dict) -> list[Fault]:
    """Faults of facts that no photo can show: damage on an undamaged product, wrong types, impossible dates."""
    faults: list[Fault] = []
    damage, attributes, dates = facts.get("damage"), facts.get("attributes"), facts.get("dates")
    if facts.get("damaged") is False and isinstance(damage, str) and damage.strip().lower() not in ("", "none"):
        faults.append(("facts.damage", damage, "a damage, but facts.damaged is false; expected null, or damaged true"))
    for name, value in attributes.items() if isinstance(attributes, dict) else ():
        if not isinstance(value, (str, NONE)):
            faults.append((f"facts.attributes.{name}", value, f"expected text or null, found {type(value).__name__}"))
    for name, value in dates.items() if isinstance(dates, dict) else ():
        if name not in DATE_FIELDS:
            near = difflib.get_close_matches(str(name), DATE_FIELDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            faults.append(
                (f"facts.dates.{name}", value, f"unknown date; expected one of {', '.join(DATE_FIELDS)}{hint}")
            )
        elif not isinstance(value, (str, NONE)):
            faults.append((f"facts.dates.{name}", value, f"expected text or null, found {type(value).__name__}"))
        elif value and not name.endswith("_text") and not _is_iso_date(value):
            faults.append((f"facts.dates.{name}", value, "expected a date that exists as YYYY-MM-DD, or null"))
    return faults


def _is_iso_date(text: str) -> bool:
    """Whether a text is a day as YYYY-MM-DD, or a month as YYYY-MM, that exists."""
    for form in ("%Y-%m-%d", "%Y-%m"):
        try:
            return datetime.strptime(text, form).strftime(form) == text
        except ValueError:
            continue
    return False


def _is_box(box: list) -> bool:
    numbers = all(isinstance(side, (int, float)) and not isinstance(side, bool) and side >= 0 for side in box)
    return len(box) == 4 and numbers and box[0] < box[2] and box[1] < box[3]


def _names(types: Types) -> str:
    words = {str: "text", list: "a list", dict: "an object", bool: "true or false", int: "a whole number", NONE: "null"}
    return " or ".join(words[one] for one in (types if isinstance(types, tuple) else (types,)))
