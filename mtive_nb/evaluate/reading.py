"""Read an answer's text: yes or no, a class, the pairs of a JSON object, or that the photo does not show the fact.

The table tests/readings.yaml lists phrases with their right readings. Nothing is guessed: what has no reading is None.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from mtive_nb.data.records import final_answer, one_form

UNANSWERABLE = "unanswerable"

# Other models' names for our attributes; compared in lower case without spaces, underscores and hyphens.
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
# A pair counts if its value is complete: a quoted string, or a bare word before a comma, a brace or a line's end.
_PAIR = re.compile(r"""["']?([A-Za-z][\w ]*?)["']?\s*:\s*(?:"([^"\n]*)"|'([^'\n]*)'|([\w.+-]+)(?=\s*[,}\n]))""")

_SUBJECT = r"(?:sorry,? )?(?:(?:i|we|you|it|this|that|(?:the|an?|no) [\w ]{1,30}?) (?:(?:is|are|was) )?)?"
_NOTHING_SEEN = (
    r"(?:unanswerable|unknown|unclear|illegible|unreadable|n/a|not (?:visible|shown|stated|given|legible|readable)"
    r"|(?:cannot|can not|can't|could not|couldn't) (?:be (?:seen|read|determined)|(?:tell|say|see|read|determine)(?: it)?))"
)
_NO_DATE = r"(?:there is )?no (?:[\w ]{1,20} )?date(?: is)?(?: (?:visible|shown|printed|given|legible))?"
_PLACE = r"(?: (?:from|in|on) (?:the|this|these) (?:photo|image|picture|pack|package|packaging|label|product)s?| here)?"
_ABSTENTION = re.compile(rf"(?:{_SUBJECT}{_NOTHING_SEEN}|{_NO_DATE}){_PLACE}")

_ECHO = re.compile(r"\b(?:yes\s*(?:/|\||or)\s*no|no\s*(?:/|\||or)\s*yes|yes and no)\b")  # the question's own choice
_NO_ANSWER = re.compile(  # `no` that answers nothing: no doubt, no one, no-name, lot no. 5
    r"\bno(?:\s+(?:doubt|question|idea|clue|one|matter|wonder|problem|way\s+(?:to|of))\b|-(?=\w)|(?:\.|\s)?(?=\d))"
    r"|\b(?:lot|batch|item|article|model|part|serial|ref)\s+no\b"
)
_DENIED = re.compile(r"\b(?:not|never|cannot|\w+n't)\b[^.;,:!?\n]*\b(?:yes|no)\b")
_SETTLED = re.compile(r"\b(?:answer(?:\s+(?:is|would\s+be)\b|\s*[:=])|wait\b|actually\b)\W*(yes|no)\b")
_NEGATED = r"\b(?:not|no|never|neither|nor|without|rather than|instead of|\w+n't) (?:an? |the )?"


def normalise_answer(text: str) -> str:
    """Normalise the final answer to lower case, `one_form`, single spaces, and no surrounding quotes or punctuation."""
    return " ".join(one_form(final_answer(str(text))).lower().split()).strip(" \"'`.,;:!?")


def is_abstention(text: str) -> bool:
    """Return whether an answer says that the photo does not show the fact (`n/a`, `The date is not visible.`)."""
    return _ABSTENTION.fullmatch(normalise_answer(text)) is not None


def canonical_key(key: str) -> str:
    """Return our name of an attribute: `ExpiryDate` -> `expiry`, `Color` -> `colour`; an unknown key in lower case."""
    key = one_form(key).lower()
    return KEY_ALIASES.get(re.sub(r"[\s_-]+", "", key), "_".join(key.split()))


def parse_pairs(text: str) -> dict[str, str]:
    """Parse the attribute-value pairs of a JSON answer leniently; {} when there is none.

    Single quotes, text around the braces and a cut-off end are accepted; a truncated object yields its complete pairs.
    A repeated key keeps its first value (a looping model repeats itself).
    """
    text = final_answer(text)
    start = text.find("{")
    if start < 0:
        return {}
    body = text[start : text.rfind("}") + 1] if "}" in text[start:] else text[start:]
    try:
        pairs: list[tuple[str, Any]] = json.loads(body, object_pairs_hook=list)
    except (ValueError, RecursionError):
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
    """Read `yes` or `no`; None for neither or both.

    In this order: the value of a JSON object (its `answer`, or its only pair); the last of `the answer is ...`, `wait,
    ...`, `actually ...`; the first word; whichever of the two occurs alone. The question's own `yes/no` does not count,
    nor does `no` in `no doubt` or `lot no. 5`.
    """
    pairs = parse_pairs(text)
    plain = normalise_answer(pairs.get("answer", next(iter(pairs.values())) if len(pairs) == 1 else text))
    plain = _NO_ANSWER.sub(" ", _ECHO.sub(" ", plain))
    if settled := _SETTLED.findall(plain):
        return settled[-1]
    words = re.findall(r"\w+", plain)
    if words and words[0] in ("yes", "no"):
        return words[0]
    present = {"yes", "no"} & set(re.findall(r"\w+", _DENIED.sub(" ", plain)))
    return present.pop() if len(present) == 1 else None


def class_of(text: str, classes: Sequence[str]) -> str | None:
    """Return the only class that an answer names, as spelled in `classes`; None when it names none or several.

    A class inside a longer class does not count (`tea` in `iced tea`), nor does a negated class (`not a box`).
    """
    plain = normalise_answer(text)
    by_text = {normalise_answer(name): name for name in classes}
    if plain in by_text:
        return by_text[plain]
    if set(by_text) == {"yes", "no"}:
        answer = yes_no(text)
        return by_text[answer] if answer else None
    names = "|".join(re.escape(name) for name in sorted(by_text, key=len, reverse=True))
    # Lazy, so that a class that itself begins with `not` is read as that class.
    found = {by_text[m[2]] for m in re.finditer(rf"({_NEGATED})??(?<!\w)({names})(?!\w)", plain) if m[1] is None}
    return found.pop() if len(found) == 1 else None
