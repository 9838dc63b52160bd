"""Read an answer's text: yes or no, a class, the pairs of a JSON object, or that the photo does not show the fact.

The table tests/readings.yaml lists phrases with their right readings. Nothing is guessed: what has no reading is None.
"""

import ast
import json
import re
from collections.abc import Iterable, Sequence
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
_PAIR = re.compile(r"""["']?([A-Za-z][\w -]*?)["']?\s*:\s*(?:"([^"\n]*)"|'([^'\n]*)'|([\w.+-]+)(?=\s*[,}\n]))""")

_TRAILING_COMMA = re.compile(r",(?=\s*[}\]])")
_WRAPPERS = {"attributes", "answer", "output", "result"}  # keys around the object that was asked for
_BARE = {"true": "yes", "True": "yes", "false": "no", "False": "no", "null": UNANSWERABLE, "None": UNANSWERABLE}

_SUBJECT = r"(?:sorry,? )?(?:(?:i|we|you|it|this|that|(?:the|an?|no) [\w ]{1,30}?) (?:(?:is|are|was) )?)?"
# What may stay unseen; not `damage`: who sees no damage has answered.
_FACT = r"(?:it|(?:the|an?|any|its) (?:[\w ]{1,30} )?(?:date|brand|name|text|writing|colou?r|size|material|packaging|value))"
_NOTHING_SEEN = (
    r"(?:unanswerable|unknown|unclear|illegible|unreadable|n/a"
    r"|(?:not|(?:is|are|was)n't) (?:clearly |fully )?(?:visible|shown|stated|given|legible|readable|specified|provided)"
    r"|(?:cannot|can not|can't|could not|couldn't) be (?:seen|read|determined)"
    r"|(?:cannot|can not|can't|could not|couldn't|(?:am |are |'m |'re )(?:unable|not able) to)"
    rf" (?:tell|say|see|read|determine|identify)(?: {_FACT})?"
    rf"|(?:does not|doesn't) (?:show|state|contain|have|include) {_FACT})"
)
_NO_DATE = r"(?:there is )?no (?:[\w ]{1,20} )?date(?: is)?(?: (?:visible|shown|printed|given|legible))?"
_PLACE = (
    r"(?: (?:from|in|on) (?:the|this|these) (?:(?:provided|given|shown) )?"
    r"(?:photo|image|picture|pack|package|packaging|label|product)s?| here)?"
)
_ABSTENTION = re.compile(rf"(?:(?:i(?='m )|{_SUBJECT}){_NOTHING_SEEN}|{_NO_DATE}){_PLACE}")

_ANSWER = re.compile(r"^\W*(?:final )?answer\s*[:=]")
_ECHO = re.compile(r"\b(?:yes\s*(?:/|\||or)\s*no|no\s*(?:/|\||or)\s*yes|yes and no)\b")  # the question's own choice
_NO_ANSWER = re.compile(  # `no` that answers nothing: no doubt, no one, no-name, lot no. 5
    r"\bno(?:\s+(?:doubt|question|idea|clue|one|matter|wonder|problem|way\s+(?:to|of))\b|-(?=\w)|(?:\.|\s)?(?=\d))"
    r"|\b(?:lot|batch|item|article|model|part|serial|ref)\s+no\b"
)
_CLAUSE = re.compile(r"\s+(?:-+|–|—|but)\s+")  # what begins anew, as after a comma
_SPOKEN = re.compile(r"\b(?:(ye(?:ah|p))|nope)\b")
_DENIED = re.compile(r"\b(?:not|never|cannot|\w+n't)\b[^.;,:!?\n]*\b(?:yes|no)\b")
_SETTLED = re.compile(r"\b(?:answer(?:\s+(?:is|would\s+be)\b|\s*[:=])|wait\b|actually\b)\W*(yes|no)\b")
_NEGATED = (
    r"\b(?:not|no|never|neither|nor|without|rather than|instead of|\w+n't) "
    r"(?:(?:appear|seem|look)(?:ing)? (?:to be )?|(?!only )\w+ly |yet |be |been )?(?:an? |the )?"
)
# `can`, the packaging and not the verb
THE_CAN = r"can(?!\s*(?:be|not|see|also|help|read|tell|say|make|only see|you)\b|['’])"


def normalise_answer(text: str) -> str:
    """Normalise the final answer to lower case, `one_form` and single spaces.

    Bold type (`**no**`), a leading `Answer:`, and surrounding quotes and punctuation go.
    """
    plain = " ".join(one_form(final_answer(str(text))).lower().replace("**", "").split())
    return _ANSWER.sub("", plain).strip(" \"'`.,;:!?*_")


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
    found: dict[str, str] = {}
    for key, value in _object_in(text[start:]):
        found.setdefault(canonical_key(key), _as_text(value))
    return found


def _object_in(text: str) -> Iterable[tuple[str, Any]]:
    """Return the pairs of a text that begins with a brace; an object inside `{"attributes": ...}` counts as that."""
    body = text[: text.rfind("}") + 1] or text
    for read in (_json, lambda t: _json(_TRAILING_COMMA.sub("", t)), ast.literal_eval):
        try:
            found = read(body)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
            continue
        inner = found.get(next(iter(found), ""))
        return (inner if isinstance(inner, dict) and found.keys() <= _WRAPPERS else found).items()
    return [(m[1], _BARE.get(m[4], m[4]) if m[4] else m[2] or m[3] or "") for m in _PAIR.finditer(text)]


def _json(text: str) -> dict[str, Any]:
    """Read an object; a repeated key keeps its first value."""
    return json.loads(text, object_pairs_hook=lambda pairs: {**dict(pairs), **dict(reversed(pairs))})


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return UNANSWERABLE
    if isinstance(value, dict):  # {"value": "ZEVO"}
        return _as_text(value["value"]) if "value" in value else _as_text(list(value.values()))
    return ", ".join(map(_as_text, value)) if isinstance(value, list) else str(value)


def yes_no(text: str) -> str | None:
    """Read `yes` or `no`; None for neither or both.

    In this order: the value of a JSON object (its `answer`, or its only pair); the last of `the answer is ...`, `wait,
    ...`, `actually ...`; the first word; whichever of the two occurs alone. The question's own `yes/no` does not count,
    nor does `no` in `no doubt` or `lot no. 5`.
    """
    pairs = parse_pairs(text)
    plain = normalise_answer(pairs.get("answer", next(iter(pairs.values())) if len(pairs) == 1 else text))
    if not re.search(r"\b(?:yes|no)\b", plain):
        plain = _SPOKEN.sub(lambda word: "yes" if word[1] else "no", plain)
    plain = _NO_ANSWER.sub(" ", _ECHO.sub(" ", _CLAUSE.sub(", ", plain)))
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
    names = [THE_CAN if name == "can" else re.escape(name) for name in sorted(by_text, key=len, reverse=True)]
    # Lazy, so that a class that itself begins with `not` is read as that class.
    found = {
        by_text[m[2]] for m in re.finditer(rf"({_NEGATED})??(?<!\w)({'|'.join(names)})(?!\w)", plain) if m[1] is None
    }
    return found.pop() if len(found) == 1 else None
