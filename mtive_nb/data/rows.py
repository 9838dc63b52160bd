"""What a row of products or feedback must hold: its fields, its facts, and the faults and warnings of one row.

A fault leaves the row out; a warning keeps it. Both name the field, what was found, and what is expected. The rows come
here after `door/coerce.py` has read texts as the types that the fields want.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable
from datetime import datetime
from functools import lru_cache

from mtive_nb.data.dates import parse_date
from mtive_nb.data.emdiv.questions import AE_ATTRIBUTES

# The names used in the whole project: PACKAGINGS are the classes of task PT, PLACEMENTS those of PP.
PACKAGINGS = ("bottle", "box", "can", "jar", "pouch", "tube")
PLACEMENTS = ("on shelf", "in hand", "on floor", "in carton")
DAMAGES = ("dent", "crack", "tear", "leak", "crush", "stain", "scratch")

# Words that a fact of yes or no may be written with, in any case; a table of numbers with gaps is saved with 1.0 for 1.
TRUE = ("true", "yes", "y", "1", "1.0", "ja", "oui", "sí", "si")
FALSE = ("false", "no", "n", "0", "0.0", "nein", "non")

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
REQUIRED = ("product_id", "feedback_id", "title", "images")
LONG = ("description", "text")  # these are shortened where they are used
MAX_CHARACTERS = 500  # of an id, a title, an attribute or a fact: a question must fit into a model's context

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
CHOICES = {"packaging": PACKAGINGS, "placement": PLACEMENTS, "damage": DAMAGES}

# Days as YYYY-MM-DD; *_text is the date as printed, expiry_also a second valid reading.
DATE_FIELDS = ("expiry", "production", "expiry_text", "production_text", "expiry_also")

Fault = tuple[str, object, str]  # field, found, reason


def near(word: object, names: Iterable[str], *, cutoff: float = 0.75) -> str:
    """The end of a reason: `; did you mean X?` when a name is close to the word, else an empty text."""
    return _near(str(word).casefold()[:80], tuple(names), cutoff)


@lru_cache(4096)
def _near(word: str, names: tuple[str, ...], cutoff: float) -> str:
    found = difflib.get_close_matches(word, names, n=1, cutoff=cutoff)
    return f"; did you mean {found[0]}?" if found else ""


def row_faults(row: dict, fields: dict[str, Types]) -> list[Fault]:
    """All faults of one row: missing fields, wrong types, facts that cannot be true; [] when the row is usable."""
    faults: list[Fault] = []
    for name, types in fields.items():
        if name not in row:
            if name in REQUIRED:
                faults.append((name, None, f"missing or empty; expected {_names(types)}"))
        elif not isinstance(row[name], types):
            faults.append((name, row[name], f"expected {_names(types)}, found {type(row[name]).__name__}"))
        elif name in REQUIRED and isinstance(row[name], str) and not row[name].strip():
            faults.append((name, row[name], "empty text"))
    faults += _member_faults(row)
    faults += _fact_faults(row.get("facts"), str(row.get("text") or ""))
    faults += [
        (place, text, f"expected at most {MAX_CHARACTERS} characters, found {len(text)}")
        for place, text in texts_of(row)
        if len(text) > MAX_CHARACTERS and place not in LONG and not place.startswith(("images", "facts.phrases"))
    ]
    return faults


def row_warnings(row: dict, *, own_facts: Collection[str] = ()) -> list[Fault]:
    """What a usable row holds that no task reads, or that looks like a slip; `own_facts` are read by tasks of the shop."""
    facts, attributes = row.get("facts") or {}, row.get("attributes") or {}
    warnings: list[Fault] = []
    known = (*FACT_TYPES, *own_facts)
    for name, value in facts.items():
        if name not in known:
            warnings.append((f"facts.{name}", value, f"no task reads this fact{near(name, known)}"))
    for place, names in (("attributes", attributes), ("facts.attributes", facts.get("attributes") or {})):
        for name, value in names.items():
            if name not in AE_ATTRIBUTES:
                reason = f"no task asks for this attribute{near(name, AE_ATTRIBUTES)}"
                warnings.append((f"{place}.{name}", value, reason))
    damage = facts.get("damage")
    if damage and damage not in (*DAMAGES, "none") and (hint := near(damage, DAMAGES)):
        warnings.append(("facts.damage", damage, f"a kind of damage of your own{hint}"))
    if damage and facts.get("damaged") is None:
        warnings.append(
            ("facts.damage", damage, "no question: facts.damaged is missing; expected true beside a damage")
        )
    placement = facts.get("placement")
    if placement and placement not in PLACEMENTS:
        warnings.append(("facts.placement", placement, f"no question: expected one of {', '.join(PLACEMENTS)}"))
    return warnings


def texts_of(value: object) -> list[tuple[str, str]]:
    """Every text inside a value with its place (`facts.damage`, `images[0]`), keys included; without recursion."""
    found: list[tuple[str, str]] = []
    waiting: list[tuple[str, object]] = [("", value)]
    while waiting:
        place, one = waiting.pop()
        if isinstance(one, str):
            found.append((place, one))
        elif isinstance(one, dict):
            for key, member in one.items():
                inner = f"{place}.{key}" if place else str(key)
                found += [(inner, key)] if isinstance(key, str) and place else []
                waiting.append((inner, member))
        elif isinstance(one, (list, tuple)):
            waiting += [(f"{place}[{k}]", member) for k, member in enumerate(one)]
    return found


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


def _fact_faults(facts: object, text: str) -> list[Fault]:
    if facts is None:
        return []
    if not isinstance(facts, dict):
        return [("facts", facts, f"expected an object or null, found {type(facts).__name__}")]
    faults: list[Fault] = []
    for name, types in FACT_TYPES.items():
        value = facts.get(name)
        wrong_bool = isinstance(value, bool) and name == "count"  # in Python True is an int
        if not isinstance(value, types) or wrong_bool:
            also = (
                "; yes, no, ja, nein, oui, non, sí, 1 and 0 are read as well"
                if name == "damaged" and isinstance(value, str)
                else ""
            )
            faults.append((f"facts.{name}", value, f"expected {_names(types)}, found {type(value).__name__}{also}"))
    count, box = facts.get("count"), facts.get("damage_box")
    if isinstance(count, int) and count < 0:
        faults.append(("facts.count", count, "expected a whole number of 0 or more"))
    if isinstance(box, list) and not _is_box(box):
        faults.append(("facts.damage_box", box, "expected [x0, y0, x1, y1] in pixels with x0 < x1 and y0 < y1"))
    return faults + _slips(facts) + _contradictions(facts) + _date_faults(facts) + _phrase_faults(facts, text)


def _slips(facts: dict) -> list[Fault]:
    """Values close to a class of PT or PP; another value is a packaging of the shop's own, or makes no question."""
    faults: list[Fault] = []
    for name in ("packaging", "placement"):
        value = facts.get(name)
        # A short word is near too many others: a tub is no tube.
        if isinstance(value, str) and value not in CHOICES[name] and len(value) > 3:
            if hint := near(value, CHOICES[name], cutoff=0.8):
                faults.append((f"facts.{name}", value, f"expected one of {', '.join(CHOICES[name])}{hint}"))
    return faults


def _contradictions(facts: dict) -> list[Fault]:
    faults: list[Fault] = []
    damage, attributes = facts.get("damage"), facts.get("attributes")
    if facts.get("damaged") is False and isinstance(damage, str) and damage.strip().lower() not in ("", "none"):
        faults.append(("facts.damage", damage, "a damage, but facts.damaged is false; expected null, or damaged true"))
    for name, value in attributes.items() if isinstance(attributes, dict) else ():
        if not isinstance(value, (str, NONE)):
            faults.append((f"facts.attributes.{name}", value, f"expected text or null, found {type(value).__name__}"))
    return faults


def _date_faults(facts: dict) -> list[Fault]:
    faults: list[Fault] = []
    dates = facts.get("dates")
    for name, value in dates.items() if isinstance(dates, dict) else ():
        place = f"facts.dates.{name}"
        if name not in DATE_FIELDS:
            reason = f"unknown date; expected one of {', '.join(DATE_FIELDS)}{near(name, DATE_FIELDS, cutoff=0.6)}"
            faults.append((place, value, reason))
        elif not isinstance(value, (str, NONE)):
            faults.append((place, value, f"expected text or null, found {type(value).__name__}"))
        elif value and not name.endswith("_text") and not _is_iso_date(value):
            meant = parse_date(value)
            hint = f"; did you mean {meant}?" if meant else ""
            faults.append((place, value, f"expected a date that exists as YYYY-MM-DD, or null{hint}"))
    return faults


def _phrase_faults(facts: dict, text: str) -> list[Fault]:
    """Phrases must stand in the feedback's text, in its order, each with what it is about and whether it is visible."""
    phrases, at = facts.get("phrases"), 0
    for k, phrase in enumerate(phrases if isinstance(phrases, list) else ()):
        place, wanted = f"facts.phrases[{k}]", {"text": str, "about": str, "visible": bool}
        if not isinstance(phrase, dict) or not all(isinstance(phrase.get(n), kind) for n, kind in wanted.items()):
            return [(place, phrase, 'expected {"text": text, "about": text, "visible": true or false}')]
        start = text.find(phrase["text"], at)
        if start < 0:
            return [(place, phrase["text"], "expected a part of the row's text, after the phrases before it")]
        at = start + len(phrase["text"])
    return []


def _is_iso_date(text: str) -> bool:
    """Whether a text is a day as YYYY-MM-DD, or a month as YYYY-MM, that exists."""
    for form in ("%Y-%m-%d", "%Y-%m"):
        try:
            return datetime.strptime(text, form).strftime(form) == text
        except ValueError:
            continue
    return False


def _is_box(box: list) -> bool:
    numbers = all(
        isinstance(side, (int, float)) and not isinstance(side, bool) and math.isfinite(side) and side >= 0
        for side in box
    )
    return len(box) == 4 and numbers and box[0] < box[2] and box[1] < box[3]


def _names(types: Types) -> str:
    words = {str: "text", list: "a list", dict: "an object", bool: "true or false", int: "a whole number", NONE: "null"}
    return " or ".join(words[one] for one in (types if isinstance(types, tuple) else (types,)))
