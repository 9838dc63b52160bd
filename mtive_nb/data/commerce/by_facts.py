"""Captions from what a photo is known to show: the stand-in for CASLIE's captioning model (section 4.1).

A caption has room for a few words, a photo shows many facts: the context decides which facts the caption names
(`Speaker`). The own experts' captions (evaluate/commerce/captions.py) are put into words in the same way.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np

from mtive_nb.data.commerce.captions import OTHER, Photo
from mtive_nb.data.commerce.replies import Reply
from mtive_nb.data.commerce.rows import CommerceRow
from mtive_nb.data.customer_photos import DATES
from mtive_nb.data.emdiv.questions import with_article
from mtive_nb.data.photos import file_sha256
from mtive_nb.data.records import UNANSWERABLE

# Facts from the most general: the order of a caption without context. Further facts follow by name.
GENERAL = (
    "category",
    "packaging",
    "colour",
    "brand",
    "name",
    "size",
    "count",
    "placement",
    "damage",
    "expiry",
    "production",
)
# What helps with a task whose texts ask for no fact by name.
_FIRST = {
    "CC": ("category",),
    "PRP": ("category",),
    "SA": ("damage", "damaged", "count"),
    **dict.fromkeys(("PSI", "MPC", "SR"), ("colour", "packaging", "brand", "size")),
}
# Words that ask for a fact, beside its values.
_ASKING = {
    "category": r"what is (it|this)|what product|(kind|type) of product|category",
    "packaging": r"pack(ag\w+|ed)|container|come in|wrapped",
    "colour": r"colou?rs?",
    "brand": r"brand|who makes|maker|manufacturer",
    "name": r"name|variety",
    "size": r"size|how (big|large|much)|volume|weigh\w*",
    "count": r"how many|number of|pieces",
    "placement": r"where",
    "damage": r"damaged?|broken|intact|condition|defect\w*|fault\w*|arrived?",
    "expiry": r"expir\w+|best before|use by|until when|how long",
    "production": r"produced|production|manufactured on",
}
_ASKING["damaged"] = _ASKING["damage"]
_COMMON = ("can", "none", "yes", "no")  # values that are also common words
_ASKERS = ("question", "query", OTHER)  # texts of a context that ask for facts; the others state them
_PHRASES = {
    "brand": "brand {}",
    "count": "count {}",
    "size": "size {}",
    "expiry": "expires {}",
    "production": "made {}",
}


def fact_values(rows: Iterable[CommerceRow]) -> dict[str, list[str]]:
    """Return every value of each fact of the rows' photos, sorted."""
    found: dict[str, set[str]] = {}
    for row in rows:
        for facts in row.facts:
            for name, value in facts.items():
                found.setdefault(name, set()).add(str(value))
    return {name: sorted(values) for name, values in sorted(found.items())}


def check_known(rows: Iterable[CommerceRow], stand_ins: Mapping[str, bool]) -> None:
    """Check that rows have what stand-ins read: facts for captions, with a stratum for simulated judges.

    stand_ins: {parameter that would name a model: whether a stand-in takes its place}. Errors: ValueError that names the
    parameter and the first row that lacks something.
    """
    lacking = next((row.row_id for row in rows if not (row.facts and row.stratum)), None)
    if lacking and (found := [name for name, used in stand_ins.items() if used]):
        raise ValueError(
            f"{', '.join(found)}: found no model, and row {lacking} without facts or stratum, which its stand-in reads; "
            "expected the name of a model, or both in every row (docs/commerce.md)"
        )


def phrase(name: str, value: str) -> str:
    """Return a fact in the words of a caption: "red", "brand LOZ", "a dent", "no damage"."""
    if value == UNANSWERABLE:
        return f"no {name} date"
    if name == "damaged":
        return "damage" if value == "yes" else "no damage"
    if name == "damage":
        return "no damage" if value == "none" else with_article(value)
    return _PHRASES.get(name, "{}").format(value)


class Speaker:
    """Chooses the facts that a caption names, and says them in at most `budget_words` words.

    values: {fact: its possible values}, by which a text is seen to mention the fact. Errors: ValueError for no budget.
    """

    def __init__(self, values: Mapping[str, Collection[str]], *, budget_words: int = 5) -> None:
        if budget_words < 1:
            raise ValueError(f"budget_words: found {budget_words}, expected at least 1")
        self.budget_words, self._words = budget_words, {}
        for name in {*values, *_ASKING}:
            named = () if name in DATES else values.get(name, ())
            options = [re.escape(value) for value in named if value not in _COMMON and re.search("[A-Za-z]", value)]
            self._words[name] = (_pattern(options), _pattern([*options, *filter(None, [_ASKING.get(name)])]))

    def order(self, names: Iterable[str], photo: Photo) -> list[str]:
        """Return the facts, first what the caption should name first.

        With a context: facts that a question, query or other product mentions and no other text states, then facts that
        no text states, then the rest; in each, first what helps with the task. Without: GENERAL.
        """
        usual = {name: k for k, name in enumerate((*_FIRST.get(photo.task, ()), *GENERAL)[::-1])}
        asked = "\n".join(text for name, text in photo.context.items() if name in _ASKERS)
        stated = "\n".join(text for name, text in photo.context.items() if name not in _ASKERS)

        def place(name: str) -> tuple[int, int, str]:
            values, words = self._words.get(name, (_pattern([]), _pattern([])))
            group = 2 if values.search(stated) else 0 if words.search(asked) else 1
            return group, -usual.get(name, -1), name

        return sorted(names, key=place)

    def caption(self, seen: Mapping[str, str], photo: Photo) -> str:
        """Return the facts in order while their words fit; a fact that does not fit makes room for shorter ones."""
        parts, left = [], self.budget_words
        for name in self.order(seen, photo):
            if name == "damaged" and "damage" in seen:
                continue
            said = phrase(name, seen[name])
            if len(said.split()) <= left:
                parts.append(said)
                left -= len(said.split())
        return ", ".join(parts)


def _pattern(options: Sequence[str]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(options)})\b" if options else r"(?!)", re.IGNORECASE)


class FactCaptioner:
    """Names known facts of a photo; each is replaced by another value of the training rows with probability `error`.

    `rows` without training rows give values of all of them. So captions of training rows do not depend on test rows.
    A photo is misread in the same way in every context, and what is misread at a low error is misread at a higher one,
    so that contexts and errors are compared on equal terms. The error is ours; the paper has none.
    Errors: ValueError for an error outside [0, 1].
    """

    def __init__(self, rows: Iterable[CommerceRow], *, error: float, seed: int = 0, budget_words: int = 5) -> None:
        if not 0 <= error <= 1:
            raise ValueError(f"FactCaptioner: found error={error}, expected a share from 0 to 1")
        rows = list(rows)
        self.error, self.seed, self.values = error, seed, fact_values(rows)
        self.misread = fact_values([row for row in rows if row.split == "train"] or rows)
        self.name, self.speaker = f"facts, error {error:g}", Speaker(self.values, budget_words=budget_words)

    def key(self, photo: Photo) -> str:
        """Return the hash of photo, context, facts and settings."""
        values = self.values, self.misread
        return photo.key("facts", self.error, self.seed, self.speaker.budget_words, *values, dict(photo.facts))

    def captions(self, photos: Sequence[Photo]) -> Iterator[tuple[int, Reply]]:
        """Yield (place, caption); a photo without facts has a fault."""
        for place, photo in enumerate(photos):
            if photo.facts:
                yield place, Reply(self.speaker.caption(self.seen(photo), photo))
            else:
                yield place, Reply("", "nothing is known of what the photo shows")

    def cost(self, photos: Sequence[Photo]) -> str:
        """Return "": a rule costs nothing."""
        return ""

    def seen(self, photo: Photo) -> dict[str, str]:
        """Return the photo's facts as misread. Errors: OSError for an unreadable photo."""
        found = {name: self._look(name, str(value), file_sha256(photo.path)) for name, value in photo.facts.items()}
        if "damage" in found and "damaged" in found:
            found["damaged"] = "no" if found["damage"] == "none" else "yes"
        return found

    def _look(self, name: str, value: str, photo: str) -> str:
        digest = hashlib.sha256(f"{self.seed} {name} {photo}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8]))
        others = [other for other in self.misread.get(name, ()) if other != value]
        wrong = rng.random() < self.error
        return others[int(rng.integers(len(others)))] if wrong and others else value
