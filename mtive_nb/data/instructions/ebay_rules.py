"""Rules by which an answer to an e-commerce instruction is checked, without a model.

A record's `facts["rule"]` maps the name of a check to its argument, as JSON; an answer is right if it fails none. Values are
compared by the rule of data/commerce/values.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mtive_nb.data.commerce.values import mentions, normal_value, same_value

TITLE = "title"  # the line or key of a listing that is no aspect


def read_pairs(answer: str) -> tuple[str, list[tuple[str, str]]]:
    """Return an answer's form and its pairs of name and value: ("json", ...), ("lines", ...), or ("", []) for neither.

    json: one object, whose values are texts, numbers or lists of them (one pair a member). lines: `name: value`, each on
    a line. A repeated name stays repeated.
    """
    try:
        found = json.loads(answer, object_pairs_hook=lambda pairs: pairs)
    except (ValueError, RecursionError):
        lines = [line.partition(":") for line in answer.strip().split("\n")]
        whole = all(sign and name.strip() and value.strip() for name, sign, value in lines)
        return ("lines", [(name.strip(), value.strip()) for name, _, value in lines]) if whole else ("", [])
    if not isinstance(found, list) or not all(isinstance(pair, tuple) for pair in found) or not found:
        return "", []
    members = [(name, one) for name, value in found for one in (value if isinstance(value, list) else [value])]
    return ("json", [(name, str(value)) for name, value in members if value not in (None, "")])


def _aspects(answer: str) -> list[tuple[str, str]]:
    return [(normal_value(name), value) for name, value in read_pairs(answer)[1] if normal_value(name) != TITLE]


def _all_true(answer: str, truth: Mapping[str, str]) -> bool:
    known, stated = {normal_value(name): value for name, value in truth.items()}, _aspects(answer)
    return bool(stated) and all(name in known and same_value(known[name], value) for name, value in stated)


def _has_keys(answer: str, names: Sequence[str]) -> bool:
    return sorted(name for name, _ in _aspects(answer)) == sorted(map(normal_value, names))


def _title(answer: str, wanted: Sequence[str]) -> bool:
    titles = [value for name, value in read_pairs(answer)[1] if normal_value(name) == TITLE]
    return len(titles) == 1 and all(mentions(titles[0], value) for value in wanted)


def _form(answer: str, form: str) -> bool:
    if form in ("json", "lines"):
        return read_pairs(answer)[0] == form
    lines = answer.strip().split("\n")
    return all(re.match(rf"{k}\. \S", line) for k, line in enumerate(lines, 1))  # numbered


def _sentences(answer: str) -> int:
    return len(re.findall(r"[^.!?\s][^.!?]*(?:[.](?=\d)[^.!?]*)*[.!?](?=\s|$)", answer.strip()))


CHECKS: dict[str, Callable[[str, Any], bool]] = {
    "equals": lambda answer, values: any(same_value(answer, value) for value in values),
    "yes_no": lambda answer, word: normal_value(answer).split(" ")[0] == word,
    "includes": lambda answer, words: all(mentions(answer, word) for word in words),
    "avoids": lambda answer, words: not any(mentions(answer, word) for word in words),
    "true_pairs": _all_true,
    "keys": _has_keys,
    "most_pairs": lambda answer, most: len(_aspects(answer)) <= most,
    "title": _title,
    "form": _form,
    "items": lambda answer, n: len([one for one in re.split(r",|\n", answer) if one.strip()]) == n,
    "most_words": lambda answer, most: 0 < len(answer.split()) <= most,
    "sentences": lambda answer, n: _sentences(answer) == n,
    "case": lambda answer, case: answer.strip() != "" and answer == getattr(answer, case)(),
}  # fmt: skip


def failed_checks(record: Mapping[str, Any], answer: str) -> list[str]:
    """Return the names of the checks that an answer fails. Errors: KeyError for a record without a rule."""
    rule = (record.get("facts") or {}).get("rule")
    if not rule:
        raise KeyError(f"record {record.get('id')!r}: found no facts['rule']; expected a record of ebay_mix")
    return [name for name, argument in rule.items() if not CHECKS[name](answer, argument)]
