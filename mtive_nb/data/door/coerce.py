"""Reads a row's texts as the types that its fields want, where only one reading is possible.

An empty text is unknown. What has no single reading stays as it is, so that `rows.py` names it as a fault.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from mtive_nb.data.rows import CHOICES, FACT_TYPES, FALSE, TRUE, Fault


def coerced_product(row: Mapping) -> dict:
    """A product's row with all fields: category may be empty, coarse is the category where nothing else is said.

    The category serves as an attribute as well, unless the attributes name one.
    """
    row = _common(row, "product_id")
    row = {"description": "", "category": "", "attributes": {}} | {k: v for k, v in row.items() if v is not None}
    category = row["category"] if isinstance(row["category"], str) else ""
    row |= {"coarse": row.get("coarse") or category, "facts": row.get("facts")}
    if isinstance(row["attributes"], dict):
        known = {name: value for name, value in row["attributes"].items() if value is not None and not _is_blank(value)}
        row["attributes"] = known | ({"category": category} if category and "category" not in known else {})
    return row


def coerced_feedback(row: Mapping) -> dict:
    """A feedback's row with all fields."""
    row = _common(row, "feedback_id", "product_id")
    return {"text": "", "facts": None} | {k: v for k, v in row.items() if v is not None}


def _common(row: Mapping, *ids: str) -> dict:
    row = {name: "" if _is_blank(value) else value for name, value in row.items()}
    for name in ids:
        if isinstance(row.get(name), int) and not isinstance(row[name], bool):
            row[name] = str(row[name])
    if isinstance(row.get("images"), str):
        row["images"] = [row["images"]] if row["images"].strip() else []
    if isinstance(row.get("images"), list):  # Windows writes images\P1.jpg
        row["images"] = [one.replace("\\", "/") if isinstance(one, str) else one for one in row["images"]]
    if isinstance(row.get("facts"), dict):
        row["facts"] = coerced_facts(row["facts"]) or None
    return row


def coerced_facts(facts: Mapping[str, object]) -> dict:
    """Facts with booleans, whole numbers, boxes and known words read from texts; unknown ones are left out."""
    read: dict = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            members = {key: one for key, one in value.items() if not _is_blank(one)}
            if members or not value:  # all members unknown: so is the whole
                read[name] = members
        elif name == "damaged" and value in (0, 1):
            read[name] = bool(value)
        elif name == "count" and isinstance(value, float) and value.is_integer():
            read[name] = int(value)
        elif not isinstance(value, str) or name not in FACT_TYPES:
            read[name] = value
        elif value.strip():
            read[name] = _read(name, value.strip())
    kind = read.get("damage")
    if "damaged" in read and isinstance(kind, str) and kind.casefold() == "none":  # it names no kind
        del read["damage"]
    return {name: value for name, value in read.items() if not _is_blank(value)}


def one_spelling(rows: Sequence[dict]) -> list[Fault]:
    """Write the values of an attribute that differ in case or spaces alone as the commonest of them, in place.

    "Red" and "red" would else be two colours, each a wrong answer for the other. Returns a warning for each change.
    """
    places = [(row, name, "category") for row in rows for name in ("category", "coarse") if name in row]
    for row in rows:
        for table in (row.get("attributes"), (row.get("facts") or {}).get("attributes")):
            places += [(table, name, name) for name in table or ()]
    places = [(table, name, (of, _folded(table[name]))) for table, name, of in places if isinstance(table[name], str)]
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for table, name, key in places:
        found[key][table[name]] += 1
    commonest = {key: spellings.most_common(1)[0][0] for key, spellings in found.items()}
    for table, name, key in places:
        table[name] = commonest[key]
    return [
        (f"attributes.{name}", other, f"read as {commonest[name, key]!r}, the commonest spelling")
        for (name, key), spellings in found.items()
        for other in spellings
        if other != commonest[name, key]
    ]


def _folded(value: str) -> str:
    return " ".join(value.casefold().split())


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()


def _read(name: str, text: str) -> object:
    """One fact's text in the fact's own type, or the text itself."""
    word, types = text.casefold(), FACT_TYPES[name]
    if bool in types and word in (*TRUE, *FALSE):
        return word in TRUE
    if int in types and (number := re.fullmatch(r"(\d{1,9})(\.0+)?", text)):
        return int(number[1])
    if name == "damage_box" and re.fullmatch(r"\d+(\.\d+)?([\s,;]+\d+(\.\d+)?){3}", text):
        return [float(number) if "." in number else int(number) for number in re.split(r"[\s,;]+", text)]
    return word if word in CHOICES.get(name, ()) else text
