"""eBay's benchmarks as records: aspect prediction, deep fashion understanding, dynamic attribute extraction (section 3.1).

eBay's own sets are not public. Pocket Mart's listings stand in for them, and its care groups for fashion; the classes of
clothing-dataset-small are real clothes. Only aspects that the photo shows are asked for, where its facts are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mtive_nb.data.catalogue import Quarantined
from mtive_nb.data.commerce.listings import Listing, with_aspects_of
from mtive_nb.data.commerce.values import mentions
from mtive_nb.data.customer_photos import known_truth
from mtive_nb.data.emdiv.questions import compact_json, options_text
from mtive_nb.data.instructions.ebay_mix import context_of
from mtive_nb.data.instructions.ebay_writer import ASPECT_QUESTION
from mtive_nb.data.records import make_record, user_turn
from mtive_nb.data.sources import load_clothing

# Column of published.csv (ebay, T1) -> task of our records.
BENCHES = {
    "AspectPrediction/General": "ebay-aspects-general",
    "AspectPrediction/Fashion": "ebay-aspects-fashion",
    "AspectPrediction/Fashion+T&C": "ebay-aspects-fashion-context",
    "DeepFashion/Apparel": "ebay-classes-apparel",
    "DeepFashion/Sneakers&Handbags": "ebay-classes-brand",
    "DynamicAttributeExtraction/DAE": "ebay-dae",
}
CLOTHING_TASK = "ebay-classes-clothing"  # clothing-dataset-small: our own column
DAE_QUESTION = "Name every attribute of this item that the photo shows, with its value, as JSON."
CARE_GROUPS = ("hair care", "skin care", "bath")  # Pocket Mart's stand-in for fashion
APPAREL, BRAND = ("colour", "packaging"), ("brand",)  # as for shirts: several attributes; as for sneakers: the brand


def ebay_benches(
    listings: Iterable[Listing], n: int, *, fashion: Sequence[str] = CARE_GROUPS, apparel: Sequence[str] = APPAREL,
    brand: Sequence[str] = BRAND, split: str = "test", seed: int = 0,
) -> list[dict]:  # fmt: skip
    """Return at most `n` records of each of BENCHES about the listings of a split.

    fashion: groups of the fashion sets (the rest of BENCHES uses all). apparel, brand: aspects whose classes are listed
    in the prompt. The two fashion sets ask the same questions, with and without title and category.
    """
    shown = [_shown(one) for one in listings if one.split == split and one.photo]
    worn = [one for one in shown if one.group in fashion]
    general, plain, context, *classes, dae = BENCHES.values()
    records = aspect_bench(shown, n, task=general, seed=seed)
    for task in (plain, context):
        records += aspect_bench(worn, n, task=task, context=task == context, seed=seed + 1)
    for task, names in zip(classes, (apparel, brand), strict=True):
        records += class_bench(worn, n, task=task, names=names, seed=seed)
    return records + dae_bench(shown, n, task=dae, seed=seed)


def aspect_bench(listings: Sequence[Listing], n: int, *, task: str, context: bool = False, seed: int = 0) -> list[dict]:
    """Return at most `n` questions about one aspect each, in free form; `context` puts title and category before them.

    `facts["in_title"]` says whether the title names the answer.
    """
    pairs = [(one, name) for one in listings for name, _ in one.aspects]

    def record(listing: Listing, name: str) -> dict:
        value = dict(listing.aspects)[name]
        question = ASPECT_QUESTION.format(name=name)
        asked = f"{context_of(listing)} {question}" if context else question
        return _record(task, listing, name, asked, value, {name: value}, in_title=mentions(listing.title, value))

    return _drawn(pairs, n, record, seed=seed)


def with_more_photos(records: Sequence[dict], listings: Iterable[Listing], *, most: int = 4) -> list[dict]:
    """Return questions of `aspect_bench` with up to `most` photos of their product, their own first.

    A question whose product has a single photo is left out.
    """
    photos: dict[str, dict[str, None]] = {}
    for one in listings:
        photos.setdefault(one.product_id or one.listing_id, {})[one.photo] = None
    changed = []
    for record in records:
        own = record["images"][0]
        images = [own, *(p for p in photos.get(record["product_id"], ()) if p and p != own)][:most]
        if len(images) > 1:
            question = record["messages"][0]["content"][-1]["text"]
            turns = [user_turn(question, images=len(images)), *record["messages"][1:]]
            changed.append(record | {"images": images, "messages": turns})
    return changed


def class_bench(
    listings: Sequence[Listing], n: int, *, task: str, names: Sequence[str], classes: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> list[dict]:  # fmt: skip
    """Return at most `n` questions about the aspects `names`, with their classes in the prompt; the label is the class.

    classes: of each aspect, default all values among the listings. A value outside them is not asked for. The question
    ends as aspect_bench's does: a small model takes one that ends with the classes for yes or no.
    """
    if classes is None:
        classes = {name: sorted({v for one in listings for k, v in one.aspects if k == name}) for name in names}
    pairs = [(one, name) for one in listings for name, value in one.aspects if name in names and value in classes[name]]

    def record(listing: Listing, name: str) -> dict:
        value, options = dict(listing.aspects)[name], tuple(classes[name])
        question = f"Answer with one of {options_text(options)}. {ASPECT_QUESTION.format(name=name)}"
        return _record(task, listing, name, question, value, {name: value}, label=value, classes=list(options))

    return _drawn(pairs, n, record, seed=seed)


def dae_bench(listings: Sequence[Listing], n: int, *, task: str, seed: int = 0) -> list[dict]:
    """Return at most `n` requests for all visible attributes without a schema."""
    pairs = [(one, "all") for one in listings if one.aspects]
    return _drawn(
        pairs, n, lambda one, name: _record(task, one, name, DAE_QUESTION, compact_json(dict(one.aspects)), dict(one.aspects)), seed=seed
    )  # fmt: skip


def _shown(listing: Listing) -> Listing:
    """The listing with the aspects that its photo shows, or all where the photo's facts are not known."""
    return with_aspects_of(listing, ("visible",)) if listing.facts else listing


def _drawn(pairs: Sequence[tuple[Listing, str]], n: int, record: Callable[[Listing, str], dict], *, seed: int) -> list[dict]:  # fmt: skip
    order = np.random.default_rng([seed, 51]).permutation(len(pairs))[:n]
    return [record(*pairs[int(k)]) for k in order]


def _record(task: str, listing: Listing, name: str, question: str, answer: str, asked: Mapping[str, str], *,
            label: str | None = None, **further: object) -> dict:  # fmt: skip
    known = dict(listing.aspects) | known_truth(dict(listing.facts or {}))
    return make_record(
        f"{task}/{listing.listing_id}/{name}", product_id=listing.product_id or listing.listing_id, task=task,
        variant="gen", images=[listing.photo], question=question, answer=answer, label=label,
        facts={"asked": dict(asked), "known": known, **further}, source="ebay", split=listing.split,
    )  # fmt: skip


def clothing_listings(folder: str | Path | None = None) -> tuple[list[Listing], list[Quarantined]]:
    """Return clothing-dataset-small's photos as listings with one aspect, their class, and the photos left out.

    Arguments, splits and errors as in `sources.load_clothing`.
    """
    shop = load_clothing(folder)
    listings = [
        Listing(one.images[0], one.product_id, one.product_id, (("kind of clothing", one.product_id),),
                str((shop.root / one.images[0]).resolve()), group="clothing", split=shop.splits[one.feedback_id])
        for one in shop.feedback
    ]  # fmt: skip
    return listings, shop.quarantine


def clothing_bench(listings: Sequence[Listing], n: int, *, split: str = "test", seed: int = 0) -> list[dict]:
    """Return at most `n` questions on the class of clothes; the classes are those of all listings."""
    name = "kind of clothing"
    classes = {name: sorted({one.category for one in listings})}
    shown = [one for one in listings if one.split == split]
    return class_bench(shown, n, task=CLOTHING_TASK, names=[name], classes=classes, seed=seed)
