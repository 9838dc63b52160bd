"""A rule-based extractor: item fields from printed lines and barcodes, without a model.

It stands in for a large model where none is at hand, as a named baseline and as a teacher whose labels improve with
crops. It knows the print of labels in English, and of brands and categories only those that the caller names.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mtive_nb.data.items.readers import Reading
from mtive_nb.data.items.schema import gtin_ok

COLOURS = (
    *("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"),
    *("grey", "gray", "silver", "gold", "beige", "navy", "turquoise"),
)
MARKS = ("CE", "UKCA", "FCC", "RoHS", "WEEE", "UL", "ETL", "CSA", "EAC", "CCC", "PSE", "TUV", "FSC")
_MARK = {mark.casefold(): mark for mark in MARKS}
_LABELLED = {
    "brand_name": r"brand(?: name)?",
    "product_name": r"product(?: name)?",
    "product_category": r"category",
    "product_type": r"type",
    "model_number": r"model(?: (?:no\.?|number|#))?|item no\.?|art(?:icle)?\.? no\.?",
    "name": r"manufacturer|manufactured by|distributed by|made by|producer",
    "address": r"address",
    "contact": r"contact",
}
_LABEL = {name: re.compile(rf"^(?:{words})\s*[:.]?\s+(?P<value>\S.*)$|^(?:{words}):(?P<tight>\S.*)$", re.I) for name, words in _LABELLED.items()}  # fmt: skip
_CAPACITY = re.compile(
    r"(?P<label>(?:net(?: wt\.?| weight)?|contents|capacity)\s*:?\s+)?(?P<value>\d+(?:[.,]\d+)?)\s?"
    r"(?P<unit>ml|cl|l|mg|g|kg|oz|fl oz|pcs|mah)(?P<sign>\s?[e\u212e])?",
    re.I,
)
_MOST_BARE = 2  # more amounts without a label are a table, such as that of nutrition
_ORIGIN = re.compile(r"(?:made in|product of|country of origin)\s*:?\s*([A-Z][\w ]*\w)", re.I)
_CONTACT = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+|(?:https?://|www\.)\S+", re.I)
_HAZARD = re.compile(r"^(?:warning|caution|danger)\b.{4,}", re.I)


@dataclass(frozen=True)
class Shop:
    """The names that a shop knows of its own stock, found in print without a label before them."""

    brands: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()


def extract(readings: Iterable[Reading], *, shop: Shop | None = None) -> dict[str, Any]:
    """Return the fields that rules find in an item's readings, as an object of the schema without empty fields.

    Of a field that holds one value, the first line in the order of the photos counts.
    """
    readings = list(readings)
    lines = [" ".join(line.text.split()) for reading in readings for line in reading.lines]
    found = _labelled(lines)
    shop = shop or Shop()
    identifiers = {"barcodes": [{"value": code} for code in _barcodes(readings, lines)]}
    identifiers |= _some(model_number=found.get("model_number"))
    attributes: dict[str, Any] = {
        n: found[n] for n in ("product_type", "product_category", "product_name") if n in found
    }
    attributes |= _some(
        brand_name=found.get("brand_name") or _known(lines, shop.brands),
        product_category=found.get("product_category") or _known(lines, shop.categories),
        capacity=_capacity(lines),
        colors=list(_unique(word for text in lines for word in _colours(text))),
    )
    maker = _some(name=found.get("name"), address=found.get("address"))
    maker |= _some(contact=next((m[0] for t in lines if (m := _CONTACT.search(t))), None) or found.get("contact"))
    origin = _some(country_of_origin=next((m[1] for t in lines if (m := _ORIGIN.search(t))), None), manufacturer=maker)
    safety = _some(
        certification_marks=list(_unique(mark for text in lines for mark in _marks(text))),
        hazard_statements=[{"text": text} for text in _unique(t for t in lines if _HAZARD.match(t))],
    )
    groups = {"identifiers": {k: v for k, v in identifiers.items() if v}, "attributes": attributes}
    return _some(**groups, origin_production=origin, regulatory_safety=safety)


def _labelled(lines: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in lines:
        for name, pattern in _LABEL.items():
            if name not in found and (match := pattern.match(text)):
                found[name] = match["value"] or match["tight"]
    return found


def _capacity(lines: Sequence[str]) -> list[dict[str, str]]:
    """Amounts that stand alone in a line: those with a label or the e-mark; else bare ones, where they are few."""
    found = [match for text in lines if (match := _CAPACITY.fullmatch(text))]
    marked = [match for match in found if match["label"] or match["sign"]]
    amounts = _unique((match["value"], match["unit"]) for match in marked or found)
    few = marked or len(amounts) <= _MOST_BARE
    return [{"value": value, "unit": unit} for value, unit in amounts] if few else []


def _barcodes(readings: Sequence[Reading], lines: Sequence[str]) -> list[str]:
    """Decoded GTINs; where no symbol decodes, digits in print that end with a valid check digit."""
    codes = [code.text for reading in readings for code in reading.barcodes if gtin_ok(code.text)]
    if not codes:
        digits = (re.sub(r"[\s<>]", "", text) for text in lines if re.fullmatch(r"[\d\s<>]{12,20}", text))
        codes = [text for text in digits if len(text) in (12, 13, 14) and gtin_ok(text)]
    return list(_unique(codes))


def _colours(text: str) -> list[str]:
    match = re.match(r"^colou?rs?\s*:?\s*(.+)$", text, re.I)
    return [word for word in re.findall(r"[a-z]+", match[1].lower()) if word in COLOURS] if match else []


def _marks(text: str) -> list[str]:
    """Marks of a line that holds nothing else, as in a row of symbols: "CE" in a sentence is no mark."""
    words = re.findall(r"[A-Za-z]+", text)
    marks = [_MARK[word.casefold()] for word in words if word.casefold() in _MARK]
    return marks if len(marks) == len(words) else []


def _known(lines: Sequence[str], names: Sequence[str]) -> str | None:
    text = "\n".join(lines).casefold()
    return next((name for name in names if re.search(rf"(?<!\w){re.escape(name.casefold())}(?!\w)", text)), None)


def _unique(values: Iterable[Any]) -> dict[Any, None]:
    """The values in their order, each once; texts that differ in case alone are one."""
    seen: dict[Any, Any] = {}
    for value in values:
        key = tuple(v.casefold() for v in value) if isinstance(value, tuple) else value.casefold()
        seen.setdefault(key, value)
    return dict.fromkeys(seen.values())


def _some(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}
