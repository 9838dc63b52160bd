"""Stage 2's instruction data, from listing and customer text (MTIVE, section 3.2 and Table 6).

Two generators make question-answer pairs. `grammar_pairs` is the stand-in: like the paper's generator it is given text
and metadata, but it looks at no image, so some of its pairs are wrong about the photo, as customers also write about
what no photo shows. `LlmGenerator` (instruction_llm.py) is the real path. Where the photo's truth is known, each pair
of the grammar says in `facts["grounded"]` whether the photo shows it, so that filters of such data can be tested.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from mtive_nb.data import emdiv_questions as ask
from mtive_nb.data.catalogue import Catalogue, Feedback, Product
from mtive_nb.data.customer_photos import known_truth, photos_by_split
from mtive_nb.data.records import make_record
from mtive_nb.data.rows import PLACEMENTS

# Table 6's coverage, and its wish to acknowledge uncertainty.
PAIR_TYPES = (
    *("product type", "quantity", "attributes", "condition"),
    *("packaging", "spatial relation", "uncertainty"),
)
FORMATS = ("short", "detailed", "list", "json")
UNCERTAIN = "cannot be told from the image"

_LISTED = ("brand", "colour", "name", "size")
_DAMAGE_WORDS = {
    **{"dent": r"\bdent", "crack": r"\bcrack", "tear": r"\b(tear|torn)\b", "leak": r"\bleak"},
    **{"crush": r"\bcrush", "stain": r"\bstain", "scratch": r"\bscratch"},
}
_WHOLE_WORDS = r"no damage|one piece|nothing broken|undamaged"
_COUNT_WORDS = {"2": r"\b(two|pack of 2)\b", "3": r"\b(three|pack of 3)\b", "1": r"\b(just one|only one)\b"}
# about: (the words that betray it, the question). None of it can be seen.
_HEARSAY = {
    "smell": (r"smell|scent", "How does it smell?"),
    "price": (r"expensive|price|paid|cheaper", "What about the price?"),
    "delivery": (r"delivery|courier|day early", "How was the delivery?"),
    "taste": (r"\btaste", "How does it taste?"),
    "gift": (r"\bgift|for my|my husband", "Whom is it for?"),
    "service": (r"service|support|seller", "How was the service?"),
    "effect": (r"works? well|does not do|using it", "Does it work?"),
}


@dataclass(frozen=True)
class Pair:
    """A question and its answer; `claims` is what the answer says, `grounded` whether the photo shows it."""

    kind: str  # one of PAIR_TYPES
    form: str  # one of FORMATS
    question: str
    answer: str
    claims: dict[str, str] = field(default_factory=dict)
    grounded: bool | None = None  # None: not known


class Generator(Protocol):
    """What `build_instructions` asks of a generator: the pairs of one photo, [] where it fails."""

    def pairs(self, product: Product, feedback: Feedback | None, image: Path) -> list[Pair]: ...


def grammar_pairs(product: Product, feedback: Feedback | None, rng: np.random.Generator) -> list[Pair]:
    """Pairs written from the listing and the customer's text alone; `feedback` None means the shop's own photo.

    The facts are read only afterwards, to mark each pair as grounded or not (None where the photo has no facts).
    """
    text = feedback.text.lower() if feedback else ""
    made = [*_from_listing(product, text, rng), *_from_text(product, text, rng)]
    facts = feedback.facts if feedback else product.facts
    return [Pair(p.kind, p.form, p.question, p.answer, p.claims, _grounded(p.claims, facts)) for p in made]


def build_instructions(
    catalogue: Catalogue,
    n: int,
    *,
    split: str = "train",
    splits: Mapping[str, str] | None = None,
    seed: int = 0,
    generator: str | Generator = "grammar",
    shop_photos: bool = True,
) -> list[dict]:
    """At most `n` records of stage 2, task INSTRUCT, the pair's type as variant and its format as label.

    The types take turns, so that the rare ones are not drowned; no photo is asked a question twice. `shop_photos` adds
    the products' own photos. `generator` is "grammar" or an object with the method `pairs` of `LlmGenerator`, which is
    asked for further photos only until there are enough pairs.
    """
    if isinstance(generator, str) and generator != "grammar":
        raise ValueError(f"build_instructions: found generator {generator!r}, expected 'grammar' or an LlmGenerator")
    rng = np.random.default_rng([seed, 12])
    shots = _shots(catalogue, split, splits, shop_photos=shop_photos)
    waiting: dict[str, list[dict]] = {kind: [] for kind in PAIR_TYPES}
    asked: set[tuple[str, str]] = set()
    for index in rng.permutation(len(shots)):
        product, feedback, image = shots[int(index)]
        if generator == "grammar":
            pairs = grammar_pairs(product, feedback, rng)
        elif sum(map(len, waiting.values())) >= n:
            break
        else:
            pairs = generator.pairs(product, feedback, image)
        for pair in pairs:
            if (str(image), pair.question) not in asked:
                asked.add((str(image), pair.question))
                waiting[pair.kind].append(_record(pair, product, feedback, image, catalogue.name, split, len(asked)))
    return _in_turn(waiting, n, rng)


def _from_listing(product: Product, text: str, rng: np.random.Generator) -> Iterator[Pair]:
    listed = {name: product.attributes[name] for name in _LISTED if product.attributes.get(name)}
    category, brand = product.category, listed.get("brand", "")
    named = {"category": category} | ({"brand": brand} if brand else {})
    yield Pair("product type", "short", _pick(ask.AE_AUG["category"], rng), category, {"category": category})
    sentence = f"This is {category}{f' by {brand}' if brand else ''}."
    yield Pair("product type", "detailed", "Describe the product in one sentence.", sentence, named)
    for name in ("brand", "colour", "name"):
        if name in listed:
            question = _pick(ask.AE_AUG[name], rng)
            yield Pair("attributes", "short", question, listed[name], {name: listed[name]})
    if listed:
        names = [name for name in listed if rng.random() < 0.7] or list(listed)[:1]
        some = {name: listed[name] for name in names}
        lines = "; ".join(f"{name}: {value}" for name, value in some.items())
        yield Pair("attributes", "list", "List some attributes of the product.", lines, some)
    if every := {name: product.attributes[name] for name in ask.AE_ATTRIBUTES if product.attributes.get(name)}:
        yield Pair("attributes", "json", ask.AE_GEN, ask.compact_json(every), every)
    if packaging := product.attributes.get("packaging"):
        yield Pair("packaging", "short", _pick(ask.PT_AUG[1:3], rng), packaging, {"packaging": packaging})
        look = f"{product.attributes.get('colour', '')} {packaging}".strip()
        claims = {name: product.attributes[name] for name in ("colour", "packaging") if product.attributes.get(name)}
        if packaging != "loose":
            yield Pair("packaging", "detailed", "How is it packed?", f"It comes in {ask.with_article(look)}.", claims)
    # Who has not been told otherwise takes one for granted.
    count = next((number for number, words in _COUNT_WORDS.items() if re.search(words, text)), "1")
    yield Pair("quantity", "short", "How many are shown?", count, {"count": count})
    amount = ask.compact_json({"product": category, "count": int(count)})
    yield Pair("quantity", "json", "Give product and quantity as JSON.", amount, {"count": count, "category": category})


def _from_text(product: Product, text: str, rng: np.random.Generator) -> Iterator[Pair]:
    kind = next((kind for kind, words in _DAMAGE_WORDS.items() if re.search(words, text)), None)
    if re.search(_WHOLE_WORDS, text):
        whole = {"damaged": "no", "damage": "none"}
        yield Pair("condition", "short", _pick((ask.DD_BIN, *ask.DD_AUG_YES_NO), rng), "no", {"damaged": "no"})
        yield Pair("condition", "detailed", "Describe the condition.", "The product is in good condition.", whole)
    elif kind:
        claims = {"damaged": "yes", "damage": kind}
        yield Pair("condition", "short", _pick(ask.DD_AUG_KIND, rng), kind, claims)
        sentence = f"The product arrived {ask.condition_phrase(kind, damaged=True)}."
        yield Pair("condition", "detailed", "Describe the condition.", sentence, claims)
        answer = ask.compact_json({"damaged": "yes", "damage": kind})
        yield Pair("condition", "json", "Give the condition as JSON.", answer, claims)
    if place := next((place for place in PLACEMENTS if place in text), None):
        question = ask.PP_GEN.format(options=ask.options_text(PLACEMENTS))
        yield Pair("spatial relation", "short", question, place, {"placement": place})
        yield Pair("spatial relation", "detailed", "Where is it?", f"The product is {place}.", {"placement": place})
    for about, (words, question) in _HEARSAY.items():
        if found := re.search(words, text):
            said = _around(text, found.start())
            yield Pair("attributes", "short", question, said, {about: said})
        elif rng.random() < 0.3:
            yield Pair("uncertainty", "short", question, UNCERTAIN)


def _around(text: str, place: int, *, words: int = 7) -> str:
    """The clause round a place in the text; of a long one the words nearest to the place."""
    start = max((text.rfind(mark, 0, place) for mark in ",.!"), default=-1) + 1
    end = min((end for mark in ",.!" if (end := text.find(mark, place)) >= 0), default=len(text))
    before, after = text[start:place].split(), text[place:end].split()
    kept = before[-(words // 2) :] if len(before) + len(after) > words else before
    return " ".join([*kept, *after[: words - len(kept)]])


def _grounded(claims: dict[str, str], facts: dict | None) -> bool | None:
    """Whether the photo shows all that is claimed; that something cannot be told (no claim) is always right."""
    if facts is None:
        return None
    known = known_truth(facts)
    # A brand that is part of the visible name is visible too.
    return all(known.get(k) == v or (k == "brand" and v.lower() in known.get("name", "")) for k, v in claims.items())


Shot = tuple[Product, Feedback | None, Path]


def _shots(catalogue: Catalogue, split: str, splits: Mapping[str, str] | None, *, shop_photos: bool) -> list[Shot]:
    photos = photos_by_split(catalogue, splits)[split]
    shots: list[Shot] = [(photo.product, photo.feedback, Path(photo.path)) for photo in photos]
    products = {photo.product.product_id: photo.product for photo in photos if shop_photos and photo.product.images}
    return shots + [(p, None, (catalogue.root / p.images[0]).resolve()) for p in products.values()]


def _record(
    pair: Pair, product: Product, feedback: Feedback | None, image: Path, source: str, split: str, number: int
) -> dict:
    known = known_truth(feedback.facts if feedback else product.facts)
    facts = {"asked": pair.claims, "known": known, "grounded": pair.grounded, "type": pair.kind, "format": pair.form}
    return make_record(
        f"INSTRUCT/{source}/{split}/{number:06d}",
        product_id=product.product_id,
        task="INSTRUCT",
        variant=pair.kind,
        images=[image],
        question=pair.question,
        answer=pair.answer,
        label=pair.form,
        facts=facts,
        source=source,
        split=split,
    )


def _in_turn(waiting: dict[str, list[dict]], n: int, rng: np.random.Generator) -> list[dict]:
    """`n` records, one of each type in turn as long as it has any, then shuffled."""
    queues = [[rows[int(k)] for k in rng.permutation(len(rows))] for rows in waiting.values()]
    chosen: list[dict] = []
    while len(chosen) < n and any(queues):
        chosen += [queue.pop() for queue in queues if queue][: n - len(chosen)]
    return [chosen[int(k)] for k in rng.permutation(len(chosen))]


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
