"""The fields of item intelligence (eBay, Fig. 6) as a JSON Schema, and how a model's text becomes such an object.

Fig. 6 prints `attributes` and its followers inside `identifiers`; here the four groups stand side by side, as the
paper's text lists them. An answer holds only fields that are not empty.
"""

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from mtive_nb.data.records import one_form

_TEXT = {"type": "string", "pattern": r"\S"}
_VALUE = {"type": ["string", "number"], "pattern": r"\S"}


def _object(fields: dict[str, Any], *, required: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


SCHEMA: dict[str, Any] = _object(
    {
        "identifiers": _object(
            {"barcodes": _list(_object({"value": _TEXT}, required=("value",))), "model_number": _TEXT}
        ),
        "attributes": _object(
            dict.fromkeys(("product_type", "product_category", "brand_name", "product_name"), _TEXT)
            | {
                "capacity": _list(_object({"value": _VALUE, "unit": _TEXT}, required=("value",))),
                "colors": _list(_TEXT),
            }
        ),
        "origin_production": _object(
            {
                "country_of_origin": _TEXT,
                "manufacturer": _object(dict.fromkeys(("name", "address", "contact"), _TEXT)),
            }
        ),
        "regulatory_safety": _object(
            {
                "certification_marks": _list(_TEXT),
                "hazard_statements": _list(_object({"text": _TEXT}, required=("text",))),
            }
        ),
    }
)
_VALIDATOR = Draft202012Validator(SCHEMA)


def _leaves(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each field's path and, for a list, the schema of what it holds."""
    for name, one in schema["properties"].items():
        where = f"{path}.{name}".lstrip(".")
        yield from _leaves(one, where) if one["type"] == "object" else [(where, one.get("items"))]


_LEAVES = dict(_leaves(SCHEMA))
# The fields by name, without brackets and underscores: "brand name", "manufacturer address".
WORDS = {path: path.partition(".")[2].replace(".", " ").replace("_", " ") for path in _LEAVES}
_PATHS = {words: path for path, words in WORDS.items()}
BARCODES = "identifiers.barcodes"
Pair = tuple[str, str]  # (path, normalised value)


@dataclass(frozen=True)
class Parsed:
    """An answer as an object of the schema, and one line for each fault. Only parts that fit the schema remain."""

    answer: dict[str, Any]
    faults: tuple[str, ...] = field(default=())


def parse_answer(text: str) -> Parsed:
    """Read the object in a model's text, of the schema or as `flat` writes it; words around the JSON are tolerated.

    Text without an object gives {} and the reason, never an error.
    """
    try:
        body = text[text.index("{") : text.rindex("}") + 1]
        found = json.loads(body)
        if isinstance(found, dict) and found.keys() & _PATHS.keys() and not found.keys() & SCHEMA["properties"].keys():
            found = _of_the_schema(json.loads(body, object_pairs_hook=list))  # a name may stand several times
        return checked(found)
    except (ValueError, RecursionError):
        return Parsed({}, (f"answer: found {text[:60]!r}, expected one JSON object",))


def flat(answer: dict[str, Any] | Sequence[Pair]) -> str:
    """Write a valid answer, or its `values_of`, as one JSON object of texts: {"brand name": "LOZ", "capacity": "7 HR"}.

    A list repeats its name. For small models: it needs no bracket and no underscore, which they hardly saw in training.
    """
    values = values_of(answer) if isinstance(answer, dict) else answer
    pairs = (f'"{WORDS[path]}": {json.dumps(value, ensure_ascii=False)}' for path, value in values)
    return "{" + ", ".join(pairs) + "}"


def _of_the_schema(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Put a flat answer's values at their places in the schema; unknown names stay at the top, where `checked` drops them."""
    answer: dict[str, Any] = {}
    for words, value in pairs:
        path = _PATHS.get(words)
        *way, last = path.split(".") if path else [words]
        part = answer
        for step in way:
            part = part.setdefault(step, {})
        if of := path and _LEAVES[path]:
            names = list(of.get("properties", ()))
            texts = str(value).rsplit(" ", len(names) - 1) if names else []
            part.setdefault(last, []).append(dict(zip(names, texts, strict=False)) if names else value)
        else:
            part[last] = value
    return answer


def checked(answer: object) -> Parsed:
    """Return the part of an answer that fits the schema, with a fault for each part that was dropped.

    A barcode with a wrong check digit is a fault too, but stays: the answer asserts it, so that it counts as wrong.
    """
    if not isinstance(answer, dict):
        return Parsed({}, (f"answer: found {str(answer)[:60]!r}, expected an object",))
    kept, faults = copy.deepcopy(answer), []
    while error := next(_VALIDATOR.iter_errors(kept), None):
        faults.append(_fault(error))
        _drop(kept, error)
    for path, value in values_of(kept):
        if path == BARCODES and not gtin_ok(value):
            faults.append(f"{path}: found {value[:20]!r}, expected 8, 12, 13 or 14 digits with a valid check digit")
    return Parsed(_without_empty(kept), tuple(faults))


def _fault(error: ValidationError) -> str:
    where = ".".join(map(str, error.absolute_path)) or "answer"
    expected = error.schema.get("type") if error.validator == "type" else error.validator_value
    if error.validator == "additionalProperties":
        unknown = [name for name in error.instance if name not in error.schema["properties"]]
        return f"{where}: found the field {unknown[0][:40]!r}, expected only {', '.join(error.schema['properties'])}"
    wanted = "text that is not blank" if error.validator == "pattern" else f"{error.validator} {expected}"
    return f"{where}: found {str(error.instance)[:60]!r}, expected {wanted}"


def _drop(answer: dict[str, Any], error: ValidationError) -> None:
    *way, last = error.absolute_path or (None,)
    parent: Any = answer
    for step in way:
        parent = parent[step]
    if error.validator == "additionalProperties":
        for name in [name for name in error.instance if name not in error.schema["properties"]]:
            del error.instance[name]  # the instance is the part of `answer` itself
    else:
        del parent[last]


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: v for k, one in value.items() if (v := _without_empty(one)) not in ({}, [])}
    return [_without_empty(one) for one in value] if isinstance(value, list) else value


def values_of(answer: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (path, value) of each field of a valid answer, values as written; a list gives one path several times.

    An object in a list is one value: a barcode's `value`, a hazard's `text`, "7 HR" for a capacity.
    """

    def walk(path: str, value: Any) -> list[tuple[str, str]]:
        if isinstance(value, list):
            words = [" ".join(map(str, v.values())) if isinstance(v, dict) else str(v) for v in map(_ordered, value)]
            return [(path, word) for word in words]
        if isinstance(value, dict):
            return [pair for name, one in value.items() for pair in walk(f"{path}.{name}".lstrip("."), one)]
        return [(path, str(value))]

    return walk("", answer)


def _ordered(value: Any) -> Any:
    return (
        {name: value[name] for name in ("value", "unit", "text") if name in value} if isinstance(value, dict) else value
    )


def fields_of(answer: dict[str, Any]) -> frozenset[Pair]:
    """Return the normalised (path, value) pairs of a valid answer, by which two answers are compared."""
    return frozenset((path, normalise(path, value)) for path, value in values_of(answer))


def normalise(path: str, value: str) -> str:
    """Return a value for comparison: letters and digits in lower case, single spaces; a barcode as 14 digits."""
    if path == BARCODES:
        return re.sub(r"\D", "", value).zfill(14)  # UPC-A is EAN-13 with a leading zero
    words = one_form(value).casefold()
    if path.endswith("capacity"):  # 1,000 ml are a litre; 2,50 l are 2.5 l
        words = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", words)
        words = re.sub(r"(?<=\d),(?=\d)", ".", words)
        words = re.sub(r"(\.\d*?)0+(?!\d)", r"\1", words)
    else:
        words = re.sub(r"(?<=\d),(?=\d)", ".", words)
    return " ".join(re.findall(r"\d+(?:\.\d+)?|[^\W\d_]+", words))


def gtin_ok(text: str) -> bool:
    """Whether a text is a GTIN of 8, 12, 13 or 14 digits with a valid check digit (GS1 General Specifications, 7.9)."""
    digits = re.sub(r"[\s-]", "", text)
    if not (digits.isascii() and digits.isdecimal() and len(digits) in (8, 12, 13, 14)):
        return False
    return check_digit(digits[:-1]) == digits[-1]


def check_digit(digits: str) -> str:
    """Return the check digit that follows `digits`: from the right, weights are 3, 1, 3, 1 and so on."""
    total = sum(int(d) * (3 if k % 2 == 0 else 1) for k, d in enumerate(reversed(digits)))
    return str(-total % 10)
