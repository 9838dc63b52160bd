"""Reading answers and comparing them with the truth: yes/no, classes, attributes in JSON, dates.

Every comparison exists per item (0 or 1), so that `intervals` can put an interval around any mean of them.
An answer that cannot be read is never dropped: it is wrong, as a class of its own, and counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import f1_score

from mtive_nb.data.dates import parse_date, strip_prefix

UNPARSED = "(no class)"
UNANSWERABLE = "unanswerable"
DATE_ATTRIBUTES = ("expiry", "production")

# How models that were not trained here name our attributes; compared in lower case without spaces and underscores.
KEY_ALIASES = {
    "color": "colour",
    "packagingtype": "packaging",
    "packagetype": "packaging",
    "package": "packaging",
    "producttype": "category",
    "productcategory": "category",
    "brandname": "brand",
    "expirydate": "expiry",
    "expirationdate": "expiry",
    "expiration": "expiry",
    "manufacturingdate": "production",
    "productiondate": "production",
    "damagetype": "damage",
    "difference": "differs",
}
_ABSTENTIONS = {UNANSWERABLE, "unknown", "n/a", "not visible", "not shown", "not stated", "not legible", "cannot tell"}
# A pair counts when its value is closed: a quoted string, or a bare word with a comma, a brace or a line's end behind.
_PAIR = re.compile(r"""["']?([A-Za-z][\w ]*?)["']?\s*:\s*(?:"([^"\n]*)"|'([^'\n]*)'|([\w.+-]+)(?=\s*[,}\n]))""")


def facts_of(record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """A record's facts as (asked, known) without empty entries; None for a record without structured truth.

    A table of records may hold the facts as a JSON string, or fill in None for keys of other rows: both are undone.
    """
    facts = record.get("facts")
    if isinstance(facts, str):
        facts = json.loads(facts)
    if not facts or not facts.get("asked"):
        return None
    asked, known = (
        {key: value for key, value in (facts.get(part) or {}).items() if value is not None}
        for part in ("asked", "known")
    )
    return (asked, known) if asked else None


def accepted_values(value: Any) -> list[Any]:
    """A fact's right values as a list: facts hold one, or a list of which any one is right."""
    return list(value) if isinstance(value, list | tuple) else [value]


def normalise_answer(text: str) -> str:
    """Lower case, one space between words, no quotes or punctuation around."""
    return " ".join(str(text).lower().split()).strip(" \"'`.,;:!?")


def is_abstention(text: str) -> bool:
    """Whether a value says that the photo does not show it (`Unanswerable`, `n/a`, `not visible`)."""
    return normalise_answer(text) in _ABSTENTIONS


def canonical_key(key: str) -> str:
    """Our name of an attribute: `ExpiryDate` -> `expiry`, `Color` -> `colour`; an unknown key in lower case."""
    plain = re.sub(r"[\s_-]+", "", key.lower())
    return KEY_ALIASES.get(plain, "_".join(key.lower().split()))


def parse_pairs(text: str) -> dict[str, str]:
    """The attribute-value pairs of a JSON answer, read leniently; {} when there is none.

    Single quotes, text around the braces and a cut-off end are accepted: a truncated object yields its complete
    pairs. A key that comes twice keeps its first value (a model that loops repeats itself).
    """
    start = text.find("{")
    if start < 0:
        return {}
    body = text[start : text.rfind("}") + 1] if "}" in text[start:] else text[start:]
    try:
        pairs: list[tuple[str, Any]] = json.loads(body, object_pairs_hook=list)
    except json.JSONDecodeError:
        pairs = [(m[1], next(v for v in m.groups()[1:] if v is not None)) for m in _PAIR.finditer(text[start:])]
    found: dict[str, str] = {}
    for key, value in pairs:
        found.setdefault(canonical_key(key), _as_text(value))
    return found


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return UNANSWERABLE
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def yes_no(text: str) -> str | None:
    """`yes` or `no`: the answer's first word, else the only one of the two in it; None when neither or both."""
    words = re.findall(r"[a-z]+", text.lower())
    if words and words[0] in ("yes", "no"):
        return words[0]
    present = {"yes", "no"} & set(words)
    return present.pop() if len(present) == 1 else None


def class_of(text: str, classes: Sequence[str]) -> str | None:
    """The one class that an answer names, as spelled in `classes`; None when it names none or several.

    A class inside a longer one does not count (`tea` in `iced tea`), nor one that is denied (`not a box`).
    """
    plain = normalise_answer(text)
    by_text = {normalise_answer(name): name for name in classes}
    if plain in by_text:
        return by_text[plain]
    if set(by_text) == {"yes", "no"}:
        answer = yes_no(text)
        return by_text[answer] if answer else None
    names = "|".join(re.escape(name) for name in sorted(by_text, key=len, reverse=True))
    found = {
        by_text[match[2]]
        for match in re.finditer(rf"(\bnot (?:an? |the )?)?(?<!\w)({names})(?!\w)", plain)
        if match[1] is None
    }
    return found.pop() if len(found) == 1 else None


@dataclass(frozen=True)
class Classified:
    """Predicted class (or `UNPARSED`), 0/1 hits (n,) and true class of each item."""

    predicted: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def hits(self) -> np.ndarray:
        return np.array([p == t for p, t in zip(self.predicted, self.labels, strict=True)], dtype=float)


def classify(predictions: Sequence[str], labels: Sequence[str], *, classes: Sequence[str] | None = None) -> Classified:
    """Read a class from each answer text; `classes` are those of the labels unless given."""
    if len(predictions) != len(labels):
        raise ValueError(f"classify: {len(predictions)} predictions for {len(labels)} labels; expected one each")
    names = sorted(set(labels)) if classes is None else list(classes)
    if set(map(str.lower, names)) <= {"yes", "no"}:
        names = ["yes", "no"]  # all labels may be `yes` in a small sample; `no` is still a class
        labels = [label.lower() for label in labels]
    return Classified(tuple(class_of(text, names) or UNPARSED for text in predictions), tuple(labels))


def classification(
    predictions: Sequence[str], labels: Sequence[str], *, classes: Sequence[str] | None = None
) -> dict[str, float]:
    """Accuracy, F1 weighted by support (T2's F1-weighted), both in [0, 1], and how many answers named no class."""
    read = classify(predictions, labels, classes=classes)
    if not read.labels:
        raise ValueError("classification: found no items; expected at least one")
    return {
        "accuracy": float(read.hits.mean()),
        "f1_weighted": float(f1_score(read.labels, read.predicted, average="weighted", zero_division=0)),
        "unparsed": sum(p == UNPARSED for p in read.predicted),
        "n": len(read.labels),
    }


def attribute_matches(prediction: str, asked: Mapping[str, Any]) -> dict[str, float]:
    """Exact match (0 or 1) of each asked attribute, after `normalise_answer`.

    A record that asks one attribute may be answered by the value alone.
    """
    pairs = parse_pairs(prediction)
    if not pairs and len(asked) == 1:
        pairs = {next(iter(asked)): prediction}
    return {
        name: float(name in pairs and normalise_answer(pairs[name]) in map(normalise_answer, accepted_values(value)))
        for name, value in asked.items()
    }


def date_match(
    prediction: str, asked: Mapping[str, Any], *, known: Mapping[str, Any] | None = None
) -> tuple[float, float]:
    """Exact match (0 or 1) of the asked date: (as printed, as a date). The expiry, where several are asked.

    As printed: equal after one space between words, capitals, and without a prefix such as EXP. As a date: the same
    day of the calendar, `dates.parse_date`, or `known`'s second accepted reading `<name>_also`.
    """
    name, truths = asked_date(asked)
    pairs = parse_pairs(prediction)
    stated = pairs.get(name, "") if pairs or "{" in prediction else prediction
    if any(map(is_abstention, truths)):
        same = float(is_abstention(stated))
        return same, same
    printed = printed_date(stated) in map(printed_date, truths)
    return float(printed), float(printed or parse_date(stated) in accepted_dates(name, asked=asked, known=known or {}))


def abstentions(answer: str, asked: Mapping[str, Any]) -> dict[str, tuple[bool, bool]]:
    """For each fact that is asked for: whether there is none to be seen, and whether the answer says so."""
    pairs = parse_pairs(answer)
    return {
        name: (
            any(map(is_abstention, map(str, accepted_values(value)))),
            is_abstention(pairs.get(name, "") if pairs else answer),
        )
        for name, value in asked.items()
    }


def asked_date(asked: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The date that a record is scored by and its right texts: the expiry, where several are asked."""
    name = "expiry" if "expiry" in asked else next(iter(asked))
    return name, [str(value) for value in accepted_values(asked[name])]


def printed_date(text: str) -> str:
    """A date as printed, in capitals, one space between its parts, no prefix, no quotes or full stop around."""
    return " ".join(strip_prefix(str(text).strip(" \"'`.,;\n")).split())


def accepted_dates(name: str, *, asked: Mapping[str, Any], known: Mapping[str, Any]) -> set[str]:
    """The ISO dates that are a right reading of the date `name`: the truth's own and `<name>_iso`, `<name>_also`."""
    own = {parse_date(str(value)) for facts in (asked, known) for value in accepted_values(facts.get(name, ""))}
    noted = {str(value) for end in ("_iso", "_also") for value in accepted_values(known.get(f"{name}{end}", ""))}
    return {date for date in own | noted if date}


def majority_share(labels: Sequence[str]) -> float:
    """Accuracy of always giving the commonest label; 0 without labels."""
    return max((labels.count(label) for label in set(labels)), default=0) / max(1, len(labels))
