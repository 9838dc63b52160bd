"""Listings: a main photo with the seller's aspects, and what is known to be true of them (eBay, section 3.2.1).

A listing's aspects are what somebody wrote, right or wrong, visible or not. `truth_of` says which, where the photo's
facts are known; `plant_aspects` adds wrong and invisible aspects at known rates, so that verification can be scored.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

import numpy as np

from mtive_nb.data.catalogue import Catalogue
from mtive_nb.data.commerce.values import same_value
from mtive_nb.data.customer_photos import known_truth, photos_by_split
from mtive_nb.data.splits import split_products

TRUTHS = ("visible", "wrong", "invisible")  # of an aspect: the photo shows it, shows another value, shows nothing of it

# Aspects that no photo of Pocket Mart shows; all values are invented.
INVISIBLE = {
    "scent": ("rose", "lemon", "unscented", "pine"),
    "country of origin": ("Portugal", "Vietnam", "Canada", "Poland"),
    "shelf life": ("6 months", "12 months", "24 months"),
    "warranty": ("1 year", "2 years", "for life"),
    "suitable for": ("adults", "children", "everyone"),
    "season": ("summer", "winter", "all year"),
    "certified": ("organic", "fair trade", "vegan"),
    "storage": ("cool and dry", "refrigerated", "room temperature"),
    "delivery": ("2 days", "5 days", "express"),
    "colour code": ("C10", "C20", "C30"),
}
Aspect = tuple[str, str]


@dataclass(frozen=True)
class Listing:
    """One listing; `photo` is the absolute path of its main photo, "" for none.

    aspects: pairs of name and value as the seller wrote them. facts: what is known of the photo (docs/catalogue.md), or
    None. group: a wider group of categories. product_id: listings of one product stand in one split.
    """

    listing_id: str
    title: str
    category: str
    aspects: tuple[Aspect, ...]
    photo: str
    facts: Mapping | None = None
    group: str = ""
    product_id: str = ""
    split: str = "train"


def listings_of(catalogue: Catalogue, splits: Mapping[str, str] | None = None, *, customers: bool = False) -> list[Listing]:  # fmt: skip
    """Return one listing a product, with its catalogue photo.

    `customers` adds one a customer photo that shows the product, with the product's aspects: sellers' own photos, which
    hide some of them. Close-ups of dates are left out.
    """
    splits = splits or catalogue.splits or split_products(product.product_id for product in catalogue.products)
    found = [
        Listing(p.product_id, p.title, p.category, tuple(p.attributes.items()), _photo(catalogue.root, p.images), p.facts,
                p.coarse or p.category, p.product_id, splits.get(p.product_id, "train"))
        for p in catalogue.products
    ]  # fmt: skip
    if customers:
        of_product = {listing.product_id: listing for listing in found}
        photos = [photo for rows in photos_by_split(catalogue, splits).values() for photo in rows]
        found += [
            replace(of_product[photo.product.product_id], listing_id=photo.feedback.feedback_id, photo=photo.path,
                    facts=photo.feedback.facts, split=photo.split)
            for photo in photos
            if photo.recognisable
        ]  # fmt: skip
    return found


def _photo(root: Path, images: Sequence[str]) -> str:
    return str((root / images[0]).resolve()) if images else ""


def aspect_fault(aspect: object) -> str:
    """Return why an aspect is no pair of name and value, or "" for a usable one."""
    if isinstance(aspect, tuple | list) and len(aspect) == 2 and all(isinstance(p, str) and p.strip() for p in aspect):
        return ""
    return f"no pair of name and value: found {str(aspect)[:60]!r}, expected two texts"


def truth_of(listing: Listing) -> list[str]:
    """Return one of TRUTHS for each aspect, "" where the photo's facts are not known or the aspect is no pair."""
    if not listing.facts:
        return [""] * len(listing.aspects)
    known = known_truth(dict(listing.facts))

    def truth(name: str, value: str) -> str:
        return "invisible" if name not in known else "visible" if same_value(known[name], value) else "wrong"

    return ["" if aspect_fault(aspect) else truth(*aspect) for aspect in listing.aspects]


def with_aspects_of(listing: Listing, kept: Collection[str]) -> Listing:
    """Return the listing with only those aspects whose truth is in `kept`."""
    pairs = zip(listing.aspects, truth_of(listing), strict=True)
    return replace(listing, aspects=tuple(aspect for aspect, truth in pairs if truth in kept))


def plant_aspects(
    listings: Iterable[Listing], *, wrong: float = 0.1, invisible: float = 0.35, seed: int = 0
) -> list[Listing]:
    """Return the listings with visible aspects alone, of which errors are made at known rates.

    wrong: chance that a visible aspect gets another listing's value. invisible: expected share of aspects about which
    the photo says nothing (INVISIBLE) among all. A listing's errors depend on its id and the seed alone. Listings
    without known facts are left out. Errors: ValueError for a share outside [0, 1], or too many invisible aspects.
    """
    if not (0 <= wrong <= 1 and 0 <= invisible < 1):
        raise ValueError(f"plant_aspects: found wrong={wrong}, invisible={invisible}; expected shares from 0 to 1")
    listings = [with_aspects_of(one, ("visible",)) for one in listings if one.facts]
    values: dict[str, set[str]] = {}
    for name, value in (aspect for one in listings for aspect in one.aspects):
        values.setdefault(name, set()).add(value)
    others = {name: sorted(found) for name, found in values.items()}
    return [_with_errors(one, others, wrong=wrong, invisible=invisible, seed=seed) for one in listings]


def _with_errors(listing: Listing, others: Mapping[str, Sequence[str]], *, wrong: float, invisible: float, seed: int) -> Listing:  # fmt: skip
    rng = np.random.default_rng([seed, 17, crc32(listing.listing_id.encode())])

    def written(name: str, value: str) -> Aspect:
        rest = [other for other in others[name] if not same_value(other, value)]
        return (name, rest[int(rng.integers(len(rest)))]) if rest and rng.random() < wrong else (name, value)

    aspects = [written(*aspect) for aspect in listing.aspects]
    expected = len(aspects) * invisible / (1 - invisible)  # so that invisible / (visible + invisible) is the share
    if expected > len(INVISIBLE):
        raise ValueError(
            f"plant_aspects: invisible={invisible} needs {math.ceil(expected)} invisible aspects for "
            f"{listing.listing_id}, found {len(INVISIBLE)}; expected a smaller share"
        )
    for name, options in INVISIBLE.items():
        if rng.random() < expected / len(INVISIBLE):
            aspects.append((name, options[int(rng.integers(len(options)))]))
    return replace(listing, aspects=tuple(aspects[int(k)] for k in rng.permutation(len(aspects))))
