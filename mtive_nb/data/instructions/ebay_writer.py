"""Writes eBay's instructions about one listing, each with its answer and the rule that checks an answer.

An answer states the listing's aspects and nothing else. The words are ours; the paper prints no prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtive_nb.data.commerce.listings import Listing, aspect_fault
from mtive_nb.data.commerce.values import mentions, same_value
from mtive_nb.data.emdiv.questions import compact_json, describe, options_text

ASPECT_QUESTION = "What is the {name} of this item?"
LIST_ALL = "List the visible attributes of this item as JSON."


@dataclass(frozen=True)
class Made:
    """An instruction, its answer, the aspects that it is about, and the rule that checks an answer (ebay_rules.py)."""

    question: str
    answer: str
    asked: Mapping[str, str]
    rule: Mapping[str, object]


class Writer:
    """Writes instructions about one listing; None where its aspects do not suffice.

    values: all values of each aspect in the shop, for questions with the answer no. A listing needs one usable aspect.
    """

    def __init__(self, listing: Listing, values: Mapping[str, Sequence[str]], rng: np.random.Generator) -> None:
        self.listing, self.values, self.rng = listing, values, rng
        self.aspects = dict(aspect for aspect in listing.aspects if not aspect_fault(aspect))
        self.name = self._pick(list(self.aspects))
        self.value = self.aspects[self.name]

    def _pick(self, options: Sequence) -> object:
        return options[int(self.rng.integers(len(options)))]

    def _some(self, n: int) -> dict[str, str]:
        chosen = sorted(self.rng.permutation(len(self.aspects))[:n].tolist())
        return {name: value for k, (name, value) in enumerate(self.aspects.items()) if k in chosen}

    def free_form(self) -> Made:
        question = ASPECT_QUESTION.format(name=self.name)
        return Made(question, self.value, {self.name: self.value}, {"equals": [self.value]})

    def yes_no(self) -> Made | None:
        others = [value for value in self.values[self.name] if not same_value(value, self.value)]
        right = self.rng.random() < 0.5
        if not right and not others:
            return None
        value, word = (self.value, "yes") if right else (self._pick(others), "no")
        asked = {self.name: self.value}
        return Made(f"Is the {self.name} of this item {value}?", word, asked, {"yes_no": word})

    def image_only(self) -> Made | None:
        """What the photo alone shows: the item and one aspect of it."""
        kind = self.aspects.get("category")
        if not kind or self.name == "category":
            return None
        asked = {"category": kind, self.name: self.value}
        question = f"What does the photo show? Name the item and its {self.name}."
        return Made(question, f"{kind}, {self.value}", asked, {"includes": list(asked.values())})

    def description(self) -> Made:
        text = described(self.aspects)
        return Made("Describe this item in full.", text, self.aspects, {"includes": list(self.aspects.values())})

    def extraction(self) -> Made:
        return self._pairs(LIST_ALL, self.aspects)

    def constrained(self) -> Made | None:
        if len(self.aspects) < 3:
            return None
        kind = self._pick(("most", "only", "without"))
        if kind == "most":
            k = int(self.rng.integers(1, len(self.aspects)))
            first = dict(list(self.aspects.items())[:k])
            rule = {"form": "json", "true_pairs": self.aspects, "most_pairs": k}
            return Made(f"{LIST_ALL} Give at most {k}.", compact_json(first), first, rule)
        if kind == "only":
            some = self._some(2)
            return self._pairs(f"{LIST_ALL} Give only {' and '.join(some)}.", some)
        rest = {name: value for name, value in self.aspects.items() if name != self.name}
        return self._pairs(f"{LIST_ALL} Leave out the {self.name}.", rest)

    def _pairs(self, question: str, pairs: Mapping[str, str]) -> Made:
        rule = {"form": "json", "true_pairs": pairs, "keys": list(pairs)}
        return Made(question, compact_json(dict(pairs)), pairs, rule)

    def include(self) -> Made:
        words = list(self._some(2).values())
        question = f"Describe this item in one sentence with the words {' and '.join(words)}."
        return Made(question, described(self.aspects), self.aspects, {"includes": words, "sentences": 1})

    def avoid(self) -> Made | None:
        rest = {name: value for name, value in self.aspects.items() if not mentions(value, self.value)}
        text = described(rest) if rest else ""
        if not rest or mentions(text, self.value):
            return None
        rule = {"avoids": [self.value], "includes": list(rest.values())[:1]}
        return Made(f"Describe this item without the word {self.value}.", text, rest, rule)

    def length(self) -> Made:
        if self.rng.random() < 0.5:
            some = self._some(3)
            most = len(" ".join(some.values()).split()) + int(self.rng.integers(1, 4))
            rule = {"most_words": most, "includes": [self.value]}
            some |= {self.name: self.value}
            text = " ".join(some.values())
            rule["most_words"] = most = max(most, len(text.split()))
            return Made(f"Describe this item in at most {most} words; give its {self.name}.", text, some, rule)
        first, rest = self._some(1), f"The {self.name} is {self.value}."
        text = f"{described(first)} {rest}"
        question = f"Describe this item in exactly two sentences; give its {self.name}."
        return Made(question, text, first | {self.name: self.value}, {"sentences": 2, "includes": [self.value]})

    def form(self) -> Made:
        some, kind = self._some(3), self._pick(("list", "numbered", "upper", "lower"))
        names, values = options_text(tuple(some)).replace(" or ", " and "), list(some.values())
        if kind == "list":
            text, rule, how = ", ".join(values), {"items": len(values)}, "as a list with commas"
        elif kind == "numbered":
            text = "\n".join(f"{k}. {value}" for k, value in enumerate(values, 1))
            rule, how = {"form": "numbered", "items": len(values)}, "as a numbered list"
        else:
            text = getattr(" ".join(values), kind)()
            rule, how = {"case": kind}, "in capitals" if kind == "upper" else "in small letters"
        return Made(f"Give {names} of this item {how}.", text, some, {**rule, "includes": values})

    def listing_lines(self) -> Made:
        lines = [*(f"{name}: {value}" for name, value in self.aspects.items()), f"title: {self._title()}"]
        return self._listing("Write a listing of this item: its attributes, then a title, each on a line.", "\n".join(lines), "lines")  # fmt: skip

    def listing_json(self) -> Made:
        whole = {**self.aspects, "title": self._title()}
        return self._listing("Write a listing of this item as JSON: its attributes and a title.", compact_json(whole), "json")  # fmt: skip

    def _listing(self, question: str, answer: str, form: str) -> Made:
        named = [self.aspects[name] for name in ("brand", "category") if name in self.aspects][:2]
        rule = {"form": form, "true_pairs": self.aspects, "keys": list(self.aspects), "title": named or [self._title()]}
        return Made(question, answer, self.aspects, rule)

    def _title(self) -> str:
        """A title of the aspects: the seller's may say what no photo shows."""
        first = [self.aspects[name] for name in ("brand", "colour", "category", "packaging") if name in self.aspects]
        return " ".join([*first, *(v for v in self.aspects.values() if v not in first)])


def described(aspects: Mapping[str, str]) -> str:
    """Return one sentence that states all aspects: `A blue bottle of LOZ shampoo, size 250 ML.`"""
    start = describe(dict(aspects), brand=True)
    known = start != "a product" and start != "product"
    rest = [f"{name} {value}" for name, value in aspects.items() if not mentions(start, value)]
    return ", ".join([start[:1].upper() + start[1:] if known else "An item", *rest]) + "."
