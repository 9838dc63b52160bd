"""Stage 2's instruction data, from photo, listing and customer text (MTIVE, section 3.2 and Table 6).

The paper passes all three to a vision-language model: `LlmGenerator` (llm.py). Its stand-in, `Grammar` (grammar.py),
writes pairs by rule, from the photo's facts with a share of errors, or from the texts alone. If a photo's facts are
known, `facts["grounded"]` of each pair by `Grammar` says whether the photo shows the answer. So filters can be tested.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from mtive_nb.data.catalogue import Catalogue, Feedback, Product
from mtive_nb.data.customer_photos import known_truth, photos_by_split
from mtive_nb.data.records import make_record

# Table 6's coverage, the dates of task EX, and Table 6's requirement to acknowledge uncertainty.
PAIR_TYPES = (
    *("product type", "quantity", "attributes", "condition"),
    *("packaging", "spatial relation", "dates", "uncertainty"),
)
_ABOUT = {  # fact -> the type of pairs about it
    **{"category": "product type", "count": "quantity", "damaged": "condition", "packaging": "packaging"},
    **{"placement": "spatial relation", "expiry": "dates"},
}
FORMATS = ("short", "detailed", "list", "json")
UNCERTAIN = "cannot be told from the image"
# Records of a type in each turn, where not one. "uncertainty" taught as often as all is said to all; "condition" taught
# as often as all loses what the base sees of damage.
_IN_A_TURN = {"uncertainty": 0.25, "condition": 2}


@dataclass(frozen=True)
class Pair:
    """A question and its answer; `claims` are the answer's statements, `grounded` says whether the photo shows them."""

    kind: str  # one of PAIR_TYPES
    form: str  # one of FORMATS
    question: str
    answer: str
    claims: dict[str, str] = field(default_factory=dict)
    grounded: bool | None = None  # None: not known


def types_beside(types: Sequence[str], unasked: Collection[str]) -> list[str]:
    """Return the types of pairs without those about a fact in `unasked`."""
    left_out = {kind for fact, kind in _ABOUT.items() if fact in unasked}
    return [kind for kind in types if kind not in left_out]


class Generator(Protocol):
    """The generator that `build_instructions` expects: returns the pairs of one photo, [] if it fails."""

    free: bool  # whether requests cost nothing, so that every photo may be used

    def pairs(self, product: Product, feedback: Feedback | None, image: Path) -> list[Pair]: ...

    def cost(self, images: Sequence[Path]) -> str: ...  # of one that is not free, in words


def build_instructions(
    catalogue: Catalogue,
    n: int,
    *,
    generator: Generator,
    split: str = "train",
    splits: Mapping[str, str] | None = None,
    seed: int = 0,
    shop_photos: bool = True,
) -> list[dict]:
    """Build at most `n` records of stage 2: task INSTRUCT, the pair's type as variant, its format as label.

    The types take turns, so that rare types are included; no photo gets the same question twice. `shop_photos` adds the
    catalogue photos. A generator that is not free is called only until there are enough pairs.
    """
    rng = np.random.default_rng([seed, 12])
    shots = _photos_to_ask(catalogue, split, splits, shop_photos=shop_photos)
    waiting: dict[str, list[dict]] = {kind: [] for kind in PAIR_TYPES}
    asked: set[tuple[str, str]] = set()
    if not generator.free:
        print(f"{split}: at most {generator.cost([image for *_, image in shots])}", flush=True)
    for index in rng.permutation(len(shots)):
        product, feedback, image = shots[int(index)]
        if not generator.free and sum(map(len, waiting.values())) >= n:
            break
        for pair in generator.pairs(product, feedback, image):
            if (str(image), pair.question) not in asked:
                asked.add((str(image), pair.question))
                waiting[pair.kind].append(_record(pair, product, feedback, image, catalogue.name, split, len(asked)))
    return _in_turn(waiting, n, rng)


PhotoToAsk = tuple[Product, Feedback | None, Path]


def _photos_to_ask(
    catalogue: Catalogue, split: str, splits: Mapping[str, str] | None, *, shop_photos: bool
) -> list[PhotoToAsk]:
    photos = photos_by_split(catalogue, splits)[split]
    shots: list[PhotoToAsk] = [(photo.product, photo.feedback, Path(photo.path)) for photo in photos]
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
    """At most `n` records, the types in turn (`_IN_A_TURN`) while records remain, then shuffled."""
    places = [
        (place / _IN_A_TURN.get(kind, 1), at, rows[int(k)])
        for at, (kind, rows) in enumerate(waiting.items())
        for place, k in enumerate(rng.permutation(len(rows)))
    ]
    chosen = [record for _, _, record in sorted(places, key=lambda place: place[:2])[:n]]
    return [chosen[int(k)] for k in rng.permutation(len(chosen))]
