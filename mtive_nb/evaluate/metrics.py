"""Compare answers with the truth: yes/no, classes, attributes in JSON, dates.

Every comparison gives 0 or 1 per item, so `intervals` can compute an interval for any mean.
An unreadable answer is never dropped: it counts as wrong, as a separate class.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtive_nb.data.dates import parse_date, stated_date, strip_prefix
from mtive_nb.evaluate.reading import class_of, is_abstention, normalise_answer, parse_pairs

UNPARSED = "(no class)"
DATE_ATTRIBUTES = ("expiry", "production")


def facts_of(record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return a record's facts as (asked, known) without empty entries; None for a record without structured truth.

    Reads facts stored as a JSON string, and drops None values that a table fills in for other rows' keys.
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
    """Return a fact's correct values as a list; in a list of several values, each is correct."""
    return list(value) if isinstance(value, list | tuple) else [value]


@dataclass(frozen=True)
class Classified:
    """Each item's predicted class (or `UNPARSED`) and true class; `hits` (n,) is 1 where both agree, else 0."""

    predicted: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def hits(self) -> np.ndarray:
        return np.array([p == t for p, t in zip(self.predicted, self.labels, strict=True)], dtype=float)


def classify(predictions: Sequence[str], labels: Sequence[str], *, classes: Sequence[str] | None = None) -> Classified:
    """Read a class from each answer text; `classes` defaults to the labels' classes.

    Errors: ValueError where the numbers of predictions and labels differ.
    """
    if len(predictions) != len(labels):
        raise ValueError(f"classify: {len(predictions)} predictions for {len(labels)} labels; expected one each")
    names = sorted(set(labels)) if classes is None else list(classes)
    if set(map(str.lower, names)) <= {"yes", "no"}:
        names = ["yes", "no"]  # all labels may be `yes` in a small sample; `no` is still a class
        labels = [label.lower() for label in labels]
    return Classified(tuple(class_of(text, names) or UNPARSED for text in predictions), tuple(labels))


def attribute_matches(prediction: str, asked: Mapping[str, Any]) -> dict[str, float]:
    """Score the exact match (0 or 1) of each asked attribute, after `normalise_answer`.

    For a single asked attribute, an answer may give the value alone.
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
    """Score the exact match (0 or 1) of the asked date: (as printed, as a date); the expiry, where several are asked.

    The answer may be a sentence (`stated_date`). As printed: equal in capitals, with single spaces and without a prefix
    such as EXP. As a date: the same calendar
    day by `dates.parse_date`, or `known`'s second accepted reading `<name>_also`.
    """
    name, truths = asked_date(asked)
    pairs = parse_pairs(prediction)
    stated = pairs.get(name, "") if pairs or "{" in prediction else prediction
    if any(map(is_abstention, truths)):
        same = float(is_abstention(stated))
        return same, same
    date = stated_date(stated, name)  # "" where the answer states another date
    printed = date != "" and not {printed_date(date), printed_date(stated)}.isdisjoint(map(printed_date, truths))
    return float(printed), float(printed or parse_date(date) in accepted_dates(name, asked=asked, known=known or {}))


def abstentions(answer: str, asked: Mapping[str, Any]) -> dict[str, tuple[bool, bool]]:
    """Return for each asked fact whether the photo does not show it, and whether the answer says so."""
    pairs = parse_pairs(answer)
    return {
        name: (
            any(map(is_abstention, map(str, accepted_values(value)))),
            is_abstention(pairs.get(name, "") if pairs else answer),
        )
        for name, value in asked.items()
    }


def asked_date(asked: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the name of the scored date and its correct texts: the expiry, where several dates are asked."""
    name = "expiry" if "expiry" in asked else next(iter(asked))
    return name, [str(value) for value in accepted_values(asked[name])]


def printed_date(text: str) -> str:
    """Normalise a printed date: capitals, one space between parts, no prefix, no surrounding quotes or full stop."""
    return " ".join(strip_prefix(str(text).strip(" \"'`.,;\n")).split())


def accepted_dates(name: str, *, asked: Mapping[str, Any], known: Mapping[str, Any]) -> set[str]:
    """Return the ISO dates accepted for the date `name`: the truth's own, `<name>_iso` and `<name>_also`."""
    own = {parse_date(str(value)) for facts in (asked, known) for value in accepted_values(facts.get(name, ""))}
    noted = {str(value) for end in ("_iso", "_also") for value in accepted_values(known.get(f"{name}{end}", ""))}
    return {date for date in own | noted if date}


def majority_share(labels: Sequence[str]) -> float:
    """Return the accuracy of always answering the commonest label; 0 without labels."""
    return max((labels.count(label) for label in set(labels)), default=0) / max(1, len(labels))
