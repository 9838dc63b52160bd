"""Split an answer into segments and read their statements: attribute values, damage, dates, yes/no and differences.

Reading is rule-based: pairs of a JSON answer, else words of a vocabulary (attribute -> possible values) in free text. A
word of several attributes (`orange`: a colour, a fruit) is read as a true attribute, else as any, asked ones first.
Not understood: values outside the vocabulary in free text, comparison ("larger than"), irony.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtive_nb.data.dates import DATE, dates_in
from mtive_nb.data.records import final_answer, one_form
from mtive_nb.evaluate.metrics import DATE_ATTRIBUTES, accepted_values, facts_of
from mtive_nb.evaluate.reading import THE_CAN, canonical_key, is_abstention, normalise_answer, parse_pairs

Vocabulary = Mapping[str, Sequence[str]]

# Attributes read by dedicated rules rather than as words of the vocabulary.
_OWN_RULES = {"match", "damaged", "damage", "differs", "count", *DATE_ATTRIBUTES}
_NO_VALUE = {"yes", "no", "none", "other"}

# The end of a sentence or a line, or a comma; not a comma or full stop inside a date or a number.
_SEGMENT_END = re.compile(r"[;!?\n]+|[.,](?=\s*$)|[.,]\s+(?!\d)|\s+but\s+", re.IGNORECASE)
_LEADING = re.compile(
    r"^\W*(yes|no)\b(?=\s*(?:$|[,.;:!\n-]|(?:it|they|the|there|both|this|these|that)\b))", re.IGNORECASE
)
_NEGATION = re.compile(r"\b(?:no|not|never|without|free (?:of|from)|isn't|aren't|doesn't|don't)\b", re.IGNORECASE)
_DENIED = re.compile(r"\b(?:not|isn't|aren't)(?: (?:an?|the))?\s*$", re.IGNORECASE)
_SOUND = re.compile(
    r"\b(?:(?:good|perfect|great|fine|sound|excellent) (?:condition|shape|state)|intact|undamaged|unharmed)\b",
    re.IGNORECASE,
)
_DAMAGED = re.compile(
    r"\b(?:damag(?:e|es|ed|ing)|broken|defect(?:s|ive)?|(?:poor|bad) (?:condition|shape|state))\b", re.IGNORECASE
)
_IRREGULAR_DAMAGE = {"tear": "torn|ripped", "leak": "leaky|spilled|spilt", "crush": "squashed|crumpled"}
_SAME = re.compile(
    r"\b(?:both (?:show|are|photos|images|pictures)|same (?:product|item)|identical|match(?:es)?)\b", re.IGNORECASE
)
_DIFFERENT = re.compile(
    r"\b(?:differ(?:s|ent|ence|ences)?|mismatch\w*|not the same|(?:do|does) ?n[o']t match)\b", re.IGNORECASE
)
_NAMES_IN_TEXT = {"color": "colour", "quantity": "count", "number": "count"}


@dataclass(frozen=True)
class Statement:
    """One statement of an answer: the attribute has the value (normalised text)."""

    attribute: str
    value: str


@dataclass(frozen=True)
class Segment:
    """A piece of an answer and its statements (none, for a remark)."""

    text: str
    statements: tuple[Statement, ...]


def vocabulary_of(records: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Collect every value of every attribute in the records' facts, for a catalogue without its own vocabulary."""
    found: dict[str, set[str]] = {}
    for record in records:
        for part in facts_of(record) or ():
            for attribute, value in part.items():
                for one in accepted_values(value):
                    if isinstance(one, str) and not is_abstention(one) and not _is_date(attribute):
                        found.setdefault(attribute, set()).add(one)
    return {attribute: sorted(values) for attribute, values in sorted(found.items())}


def _is_date(attribute: str) -> bool:
    return attribute.removesuffix("_iso").removesuffix("_also") in DATE_ATTRIBUTES


class StatementReader:
    """Reads statements with one vocabulary; the constructor builds the patterns."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._attributes_of: dict[str, list[str]] = {}
        for attribute, values in vocabulary.items():
            for value in values:
                plain = normalise_answer(value)
                if attribute not in _OWN_RULES and plain and plain not in _NO_VALUE and not is_abstention(plain):
                    self._attributes_of.setdefault(plain, []).append(attribute)
        self._by_squeezed = {_squeeze(value): value for value in self._attributes_of}
        self._values = _alternatives(self._attributes_of)
        kinds = [normalise_answer(kind) for kind in vocabulary.get("damage", ())]
        self._damages = {
            kind: re.compile(rf"\b(?:{_damage_forms(kind)})\b") for kind in kinds if kind not in (*_NO_VALUE, "damage")
        }
        names = {*vocabulary, *map(normalise_answer, vocabulary.get("differs", ())), *_NAMES_IN_TEXT}
        self._names = _alternatives(names - {"damaged", "match", "differs"} - _NO_VALUE)

    def read(
        self,
        answer: str,
        *,
        asked: Mapping[str, Any],
        truth: Mapping[str, set[str]],
        reference: str = "",
    ) -> list[Segment]:
        """Return an answer's segments with each statement once (repetition adds no statement).

        `truth` (attribute -> accepted values) only decides which attribute an ambiguous word refers to. `reference`,
        the correct answer, decides what `yes` means: if the reference to "is it in good condition?" is "no" for a
        damaged product, `yes` means undamaged.
        """
        answer = one_form(final_answer(answer))
        pairs = parse_pairs(answer)
        if pairs:
            raw = [(f"{name}: {value}", _statements_of_pair(name, value)) for name, value in pairs.items()]
        else:
            raw = self._read_text(answer, asked=asked, truth=truth, reference=reference)
        seen: set[Statement] = set()
        segments = []
        for text, statements in raw:
            fresh = tuple(statement for statement in dict.fromkeys(statements) if statement not in seen)
            seen.update(fresh)
            segments.append(Segment(text, fresh))
        return segments

    def _read_text(
        self, answer: str, *, asked: Mapping[str, Any], truth: Mapping[str, set[str]], reference: str
    ) -> list[tuple[str, list[Statement]]]:
        if is_abstention(answer):
            return [(answer, [Statement(name, normalise_answer(answer)) for name in asked])]
        found: list[tuple[str, list[Statement]]] = []
        leading, polar = _LEADING.match(answer), _polar_attribute(asked)
        if leading and polar:
            value, meant = leading[1].lower(), _LEADING.match(reference)
            if meant and meant[1].lower() != str(asked[polar]).lower():
                value = "no" if value == "yes" else "yes"
            found.append((leading[0].strip(), [Statement(polar, value)]))
            answer = answer[leading.end() :]
        for text in filter(None, (part.strip(" ,.:-") for part in _SEGMENT_END.split(answer))):
            found.append((text, self._read_segment(text, asked=asked, truth=truth)))
        # A value alone, even outside the vocabulary, states the only asked attribute.
        bare = normalise_answer(answer)
        if len(asked) == 1 and not any(statements for _, statements in found) and 0 < len(bare.split()) <= 3:
            found = [(answer.strip(), [Statement(next(iter(asked)), bare)])]
        return found

    def _read_segment(self, text: str, *, asked: Mapping[str, Any], truth: Mapping[str, set[str]]) -> list[Statement]:
        plain = text.lower()
        statements = _dates_in(text, asked)
        without_dates = DATE.sub(" ", plain)
        statements += self._damage_in(without_dates, asked)
        if {"match", "differs"} & (set(asked) | set(truth)):
            statements += self._match_in(without_dates)
        if "count" in asked:
            statements += [
                Statement("count", number) for number in re.findall(r"(?<![\w.])\d+(?![\w.])", without_dates)
            ]
        for match in self._values.finditer(without_dates):
            if not _DENIED.search(without_dates[: match.start()]):
                statements.append(self._statement_of_word(_squeeze(match[1]), asked=asked, truth=truth))
        return statements

    def _statement_of_word(self, word: str, *, asked: Mapping[str, Any], truth: Mapping[str, set[str]]) -> Statement:
        value = self._by_squeezed[word]
        # `lemon` may be a right name and a right category: the attribute that is asked for comes first.
        best = max(self._attributes_of[value], key=lambda name: (value in truth.get(name, ()), name in asked))
        return Statement(best, value)

    def _damage_in(self, plain: str, asked: Mapping[str, Any]) -> list[Statement]:
        """Read damage in one segment; a negated word is no damage, and only negated words mean undamaged."""
        stated: list[Statement] = []
        sound = _SOUND.search(plain)
        denied = sound is not None
        if sound and _NEGATION.search(plain[: sound.start()]):
            stated, denied = [Statement("damaged", "yes")], False  # "not in good condition"
        for kind, pattern in (*self._damages.items(), (None, _DAMAGED)):
            match = pattern.search(plain)
            if match and _NEGATION.search(plain[: match.start()]):
                denied = True
            elif match:
                stated += [Statement("damaged", "yes"), *([Statement("damage", kind)] if kind else [])]
        if stated or not denied:
            return stated
        return [Statement("damaged", "no"), *([Statement("damage", "none")] if "damage" in asked else [])]

    def _match_in(self, plain: str) -> list[Statement]:
        if _DIFFERENT.search(plain):
            names = (_squeeze(match[1]) for match in self._names.finditer(plain))
            return [Statement("match", "no"), *(Statement("differs", _NAMES_IN_TEXT.get(name, name)) for name in names)]
        same = _SAME.search(plain)
        if not same:
            return []
        return [Statement("match", "no" if _NEGATION.search(plain[: same.start()]) else "yes")]


def _statements_of_pair(name: str, value: str) -> list[Statement]:
    plain = normalise_answer(value)
    if name in DATE_ATTRIBUTES or not plain:
        return [Statement(name, plain)] if plain else []
    if name == "differs":
        return [Statement(name, canonical_key(part)) for part in re.split(r"\s*(?:,|\band\b)\s*", plain) if part]
    return [Statement(name, plain)]


def _dates_in(text: str, asked: Mapping[str, Any]) -> list[Statement]:
    """Read each date of a segment: named by its label, else the asked date, else the expiry; a lot is no date."""
    default = next((name for name in DATE_ATTRIBUTES if name in asked), "expiry")
    found = [(date.label or default, date.text) for date in dates_in(text)]
    return [Statement(name, normalise_answer(date)) for name, date in found if name in DATE_ATTRIBUTES]


def _polar_attribute(asked: Mapping[str, Any]) -> str | None:
    """Return the asked attribute that a yes or no answers; None if there is none."""
    return next((name for name, value in asked.items() if str(value).lower() in ("yes", "no")), None)


def _damage_forms(kind: str) -> str:
    stem = re.escape(kind)
    regular = rf"{stem}(?:s|es|ed|ing|y)?"
    return f"{regular}|{_IRREGULAR_DAMAGE[kind]}" if kind in _IRREGULAR_DAMAGE else regular


def _squeeze(words: str) -> str:
    """Remove spaces and articles: `on the shelf` equals `on shelf`, `500ml` equals `500 ml`."""
    return "".join(word for word in words.split() if word not in ("a", "an", "the"))


def _alternatives(values: Iterable[str]) -> re.Pattern[str]:
    """Build a pattern for any value as whole words, longest first; allows articles inside and a plural s at the end."""
    patterns = []
    for value in sorted(values, key=len, reverse=True):
        words = [re.escape(word) for word in value.split()]
        gaps = [r"\s*" if a[-1].isdigit() else r"\s+(?:(?:the|an?)\s+)?" for a in words[:-1]]
        patterns.append(THE_CAN if value == "can" else "".join(w + g for w, g in zip(words, [*gaps, ""], strict=True)))
    return re.compile(rf"(?<!\w)({'|'.join(patterns) or '(?!)'})(?:s|es)?(?!\w)")
