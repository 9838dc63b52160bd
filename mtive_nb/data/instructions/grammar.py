"""Instruction pairs by rule: the stand-in for the vision-language model that writes MTIVE's instructions (section 3.2).

The grammar writes pairs about what it believes of a photo. With a `Sight` it believes what the photo shows, with a
share of errors, like a model that looks. Without a `Sight`, or for a photo without facts, it believes the listing and
the customer, whose texts also mention what no photo shows.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mtive_nb.data.catalogue import Catalogue, Feedback, Product
from mtive_nb.data.customer_photos import DATES, known_truth
from mtive_nb.data.emdiv import questions as ask
from mtive_nb.data.instructions.build import UNCERTAIN, Pair
from mtive_nb.data.records import UNANSWERABLE
from mtive_nb.data.rows import PLACEMENTS

_LISTED = ("brand", "colour", "name", "size")
_DAMAGE_WORDS = {
    **{"dent": r"\bdent", "crack": r"\bcrack", "tear": r"\b(tear|torn)\b", "leak": r"\bleak"},
    **{"crush": r"\bcrush", "stain": r"\bstain", "scratch": r"\bscratch"},
}
_WHOLE_WORDS = r"no damage|one piece|nothing broken|undamaged"
_COUNT_WORDS = {"2": r"\b(two|pack of 2)\b", "3": r"\b(three|pack of 3)\b", "1": r"\b(just one|only one)\b"}
# topic: (pattern of words about it, the question). No photo shows any of these topics.
_HEARSAY = {
    "smell": (r"smell|scent", "How does it smell?"),
    "price": (r"expensive|price|paid|cheaper", "What about the price?"),
    "delivery": (r"delivery|courier|day early", "How was the delivery?"),
    "taste": (r"\btaste", "How does it taste?"),
    "gift": (r"\bgift|for my|my husband", "Whom is it for?"),
    "service": (r"service|support|seller", "How was the service?"),
    "effect": (r"works? well|does not do|using it", "Does it work?"),
}


class Sight:
    """Simulates a model that looks at a photo: each fact is replaced by another value with probability `error`.

    Other values are those of the same fact in the shop. error: a share in [0, 1] that we chose; the paper has none.
    Errors: ValueError for a share out of range.
    """

    def __init__(self, catalogue: Catalogue, *, error: float) -> None:
        if not 0 <= error <= 1:
            raise ValueError(f"Sight: found error={error}, expected a share from 0 to 1")
        self.error = error
        self._values: dict[str, set[str]] = {}
        for row in (*catalogue.products, *catalogue.feedback):
            for name, value in known_truth(row.facts).items():
                self._values.setdefault(name, set()).add(value)

    def of(self, facts: Mapping, rng: np.random.Generator) -> dict[str, str]:
        """The flat table of `known_truth` as seen: with probability `error` a fact has another value."""
        known = {name: value for name, value in known_truth(facts).items() if not name.endswith(("_iso", "_also"))}
        seen = {name: self._look(name, value, rng) for name, value in known.items()}
        if "damage" in seen:
            seen["damaged"] = "no" if seen["damage"] == "none" else "yes"
        return seen

    def _look(self, name: str, value: str, rng: np.random.Generator) -> str:
        others = sorted(self._values.get(name, set()) - {value})
        return _pick(others, rng) if others and rng.random() < self.error else value


class Grammar:
    """A generator for `build_instructions`: pairs by rule, from what `sight` sees or else from the texts alone.

    No pair asks or says anything about the facts in `unasked`.
    """

    free = True

    def __init__(self, *, sight: Sight | None = None, seed: int = 0, unasked: Collection[str] = ()) -> None:
        self.sight, self.unasked, self._rng = sight, frozenset(unasked), np.random.default_rng([seed, 13])

    def pairs(self, product: Product, feedback: Feedback | None, image: Path | None = None) -> list[Pair]:
        """The pairs of one photo; `feedback` None: a catalogue photo. Without sight, the facts only set `grounded`."""
        rng, text = self._rng, feedback.text.lower() if feedback else ""
        facts = feedback.facts if feedback else product.facts
        looks = self.sight is not None and facts is not None
        believed = self.sight.of(facts, rng) if looks else _told(product, text)
        hidden = [*self.unasked, *(value for name, value in believed.items() if name in self.unasked)]
        believed = {name: value for name, value in believed.items() if name not in self.unasked}
        hearsay = _hearsay(text, rng, believed=not looks, hidden=hidden)
        made = [*_of_product(believed, rng), *_of_photo(believed, rng), *hearsay]
        return [replace(pair, grounded=_grounded(pair.claims, facts)) for pair in made]


def _told(product: Product, text: str) -> dict[str, str]:
    """What a reader believes who trusts the listing and the customer."""
    listed = ("category", "packaging", *_LISTED)
    told = {name: product.attributes[name] for name in listed if product.attributes.get(name)}
    told |= {"category": product.category} if product.category else {}
    # One item is assumed unless the customer writes otherwise.
    told["count"] = next((number for number, words in _COUNT_WORDS.items() if re.search(words, text)), "1")
    if re.search(_WHOLE_WORDS, text):
        told |= {"damaged": "no", "damage": "none"}
    elif kind := next((kind for kind, words in _DAMAGE_WORDS.items() if re.search(words, text)), None):
        told |= {"damaged": "yes", "damage": kind}
    if place := next((place for place in PLACEMENTS if place in text), None):
        told["placement"] = place
    return told


def _of_product(believed: Mapping[str, str], rng: np.random.Generator) -> Iterator[Pair]:
    """Product type, attributes and packaging."""

    def of(*names: str) -> dict[str, str]:
        return {name: believed[name] for name in names if name in believed}

    if category := believed.get("category"):
        yield Pair("product type", "short", _pick(ask.AE_AUG["category"], rng), category, of("category"))
        by = f" by {believed['brand']}" if "brand" in believed else ""
        sentence, named = f"This is {category}{by}.", of("category", "brand")
        yield Pair("product type", "detailed", "Describe the product in one sentence.", sentence, named)
    for name, value in of("brand", "colour", "name").items():
        yield Pair("attributes", "short", _pick(ask.AE_AUG[name], rng), value, {name: value})
    if listed := of(*_LISTED):
        names = [name for name in listed if rng.random() < 0.7] or list(listed)[:1]
        lines = "; ".join(f"{name}: {listed[name]}" for name in names)
        yield Pair("attributes", "list", "List some attributes of the product.", lines, of(*names))
    if every := of(*ask.AE_ATTRIBUTES):
        yield Pair("attributes", "json", ask.AE_GEN, ask.compact_json(every), every)
    if packaging := believed.get("packaging"):
        yield Pair("packaging", "short", _pick(ask.PT_AUG[1:3], rng), packaging, of("packaging"))
        look = f"{believed.get('colour', '')} {packaging}".strip()
        if packaging != "loose":
            sentence = f"It comes in {ask.with_article(look)}."
            yield Pair("packaging", "detailed", "How is it packed?", sentence, of("colour", "packaging"))


def _of_photo(believed: Mapping[str, str], rng: np.random.Generator) -> Iterator[Pair]:
    """Quantity, condition, place and dates."""
    if count := believed.get("count"):
        yield Pair("quantity", "short", "How many are shown?", count, {"count": count})
        named = {"product": believed["category"]} if "category" in believed else {}
        claims = {"count": count} | ({"category": believed["category"]} if named else {})
        amount = ask.compact_json({**named, "count": count})
        yield Pair("quantity", "json", "Give product and quantity as JSON.", amount, claims)
    if damaged := believed.get("damaged"):
        yield Pair("condition", "short", _pick((ask.DD_BIN, *ask.DD_AUG_YES_NO), rng), damaged, {"damaged": damaged})
        kind = believed.get("damage", "damage")
        claims = {"damaged": damaged, "damage": kind} if "damage" in believed else {"damaged": damaged}
        phrase = ask.condition_phrase(believed.get("damage"), damaged=damaged == "yes")
        yield Pair("condition", "detailed", "Describe the condition.", f"The product arrived {phrase}.", claims)
        named = {name: believed[name] for name in ("colour", "category") if name in believed}
        yield Pair("condition", "detailed", ask.DD_GEN, f"{ask.describe(named)} {phrase}", claims | named)
        if "damage" in believed:
            yield Pair("condition", "short", _pick(ask.DD_AUG_KIND, rng), kind, {"damage": kind})
            yield Pair("condition", "json", "Give the condition as JSON.", ask.compact_json(claims), claims)
    if place := believed.get("placement"):
        question = ask.PP_GEN.format(options=ask.options_text(PLACEMENTS))
        yield Pair("spatial relation", "short", question, place, {"placement": place})
        yield Pair("spatial relation", "detailed", "Where is it?", f"The product is {place}.", {"placement": place})
    dates = {name: believed[name] for name in DATES if name in believed}
    for name, value in dates.items():
        yield Pair("dates", "short", _pick(ask.EX_AUG[name], rng), value, {name: value})
        there = "no" if value == UNANSWERABLE else "yes"
        yield Pair("dates", "short", _pick(ask.EX_AUG[f"has {name}"], rng), there, {f"has_{name}": there})
    if dates:
        yield Pair("dates", "json", "Give the printed dates as JSON.", ask.compact_json(dates), dates)


def _hearsay(text: str, rng: np.random.Generator, *, believed: bool, hidden: Sequence[str]) -> Iterator[Pair]:
    """Questions that no photo answers; with `believed`, the answer repeats the customer's words.

    A clause with a `hidden` word gives no pair.
    """
    for about, (words, question) in _HEARSAY.items():
        found = re.search(words, text)
        if found and believed:
            said = _around(text, found.start())
            if not any(re.search(rf"\b{re.escape(value)}\b", said) for value in hidden):
                yield Pair("attributes", "short", question, said, {about: said})
        elif found or rng.random() < 0.3:
            yield Pair("uncertainty", "short", question, UNCERTAIN)


def _around(text: str, place: int, *, words: int = 7) -> str:
    """The clause around a place in the text; from a long clause, the words nearest to the place."""
    start = max((text.rfind(mark, 0, place) for mark in ",.!"), default=-1) + 1
    end = min((end for mark in ",.!" if (end := text.find(mark, place)) >= 0), default=len(text))
    before, after = text[start:place].split(), text[place:end].split()
    kept = before[-(words // 2) :] if len(before) + len(after) > words else before
    return " ".join([*kept, *after[: words - len(kept)]])


def _grounded(claims: Mapping[str, str], facts: Mapping | None) -> bool | None:
    """Whether the photo shows all statements; None without facts. An uncertain answer has no statement and is right."""
    if facts is None:
        return None
    known = known_truth(facts)
    known |= {f"has_{name}": "no" if known[name] == UNANSWERABLE else "yes" for name in DATES if name in known}
    # A brand that is part of the visible name is visible too.
    return all(known.get(k) == v or (k == "brand" and v.lower() in known.get("name", "")) for k, v in claims.items())


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
