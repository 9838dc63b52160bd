"""When two values of an aspect count as the same: the rule of verification, of checks and of the normalised match.

eBay scores aspects by "string matching after post-processing" (appendix A.4) without the rule. Ours, in this order:
1. Unicode NFKC in lower case; `&` reads as `and`.
2. An apostrophe disappears; any other sign becomes a space, except a point or comma between digits, which becomes a point.
3. A number and its unit are joined (`250 ml` is `250ml`).
4. The words a, an and the disappear; grey is read as gray.
Not equal stay words of other roots or numbers (`bottles` and `bottle`, `navy` and `blue`).
"""

from __future__ import annotations

import re
import unicodedata

UNITS = "ml|cl|l|g|kg|mg|oz|lb|mm|cm|m|inch|pcs|w|v|hz|gb|tb|mah"
_BETWEEN_DIGITS = re.compile(r"(?<=\d)[.,](?=\d)")
_POINT = "\N{MIDDLE DOT}"  # holds a decimal point's place while other signs become spaces
_MEASURE = re.compile(rf"(?<![^\W\d])(\d+(?:\.\d+)?) ({UNITS})\b")
_IGNORED = re.compile(r"\b(?:an?|the)\b")


def normal_value(text: object) -> str:
    """Normalise a value by the rule above: `The Grey, 250 ML` becomes `gray 250ml`."""
    plain = unicodedata.normalize("NFKC", str(text)).casefold().replace("&", " and ")
    plain = re.sub("['\u2018\u2019`]", "", _BETWEEN_DIGITS.sub(_POINT, plain.replace(_POINT, " ")))
    plain = "".join(one if one.isalnum() or one == _POINT else " " for one in plain).replace(_POINT, ".")
    plain = _IGNORED.sub(" ", re.sub(r"\bgrey\b", "gray", plain))
    return _MEASURE.sub(r"\1\2", " ".join(plain.split()))


def same_value(one: object, other: object) -> bool:
    """Whether two values are the same by the rule."""
    return normal_value(one) == normal_value(other)


def mentions(text: str, value: object) -> bool:
    """Whether a text contains a value as whole words, both by the rule; an empty value is nowhere."""
    wanted = normal_value(value)
    return bool(wanted) and f" {wanted} " in f" {normal_value(text)} "
