"""Customers' phrases with their truth: which parts of a text does its own photo show?

The stuff of VIT-Pro's pilot study (section 3.2), where people judged 200 samples; Pocket Mart knows the truth of each.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mtive_nb.data.customer_photos import CustomerPhoto
from mtive_nb.data.records import make_record

ASK_CUSTOMER = "What does the customer say?"
SAID_OF = {
    "category": "this is {}",
    "name": "the product is {}",
    "brand": "the brand is {}",
    "colour": "its colour is {}",
    "packaging": "it comes as {}",
}


@dataclass(frozen=True)
class Phrase:
    """Characters `span` of record `record`'s answer; `visible` says whether the photo shows what they say."""

    record: int
    span: tuple[int, int]
    text: str
    about: str
    visible: bool


def phrase_records(photos: Iterable[CustomerPhoto], *, source: str) -> tuple[list[dict], list[Phrase]]:
    """A record for each photo whose customer's text has known phrases, its answer that text; and all the phrases."""
    records, phrases = [], []
    for photo in photos:
        known = photo.facts.get("phrases")
        if not known:
            continue
        text, at = photo.feedback.text, 0
        for phrase in known:
            start = text.find(phrase["text"], at)
            if start < 0:
                raise ValueError(
                    f"feedback {photo.feedback.feedback_id}: phrases: found {phrase['text']!r}, expected a part of the text"
                )
            at = start + len(phrase["text"])
            phrases.append(Phrase(len(records), (start, at), phrase["text"], phrase["about"], bool(phrase["visible"])))
        records.append(_says(photo, text, source))
    return records, phrases


def swapped_records(photos: Sequence[CustomerPhoto], *, source: str, seed: int = 0) -> tuple[list[dict], list[Phrase]]:
    """As phrase_records, for photos without a customer's text: a phrase for each attribute that the photo shows, and
    half of them with a value that another of the photos has."""
    rng, records, phrases = np.random.default_rng(seed), [], []
    values = {name: sorted({p.seen[name] for p in photos if p.seen.get(name)}) for name in SAID_OF}
    for photo in photos:
        text, seen = "", [name for name in SAID_OF if photo.seen.get(name) and len(values[name]) > 1]
        for name in (seen[int(i)] for i in rng.permutation(len(seen))):
            others = [value for value in values[name] if value != photo.seen[name]]
            visible = bool(rng.random() < 0.5)
            value = photo.seen[name] if visible else others[int(rng.integers(len(others)))]
            said, start = SAID_OF[name].format(value), len(text) + 2 * bool(text)
            text = f"{text}, {said}" if text else said
            phrases.append(Phrase(len(records), (start, len(text)), said, name, visible))
        if seen:
            records.append(_says(photo, text, source))
    return records, phrases


def _says(photo: CustomerPhoto, text: str, source: str) -> dict:
    return make_record(
        f"SAYS/{source}/{photo.feedback.feedback_id}",
        product_id=photo.product.product_id,
        task="SAYS",
        variant="text",
        images=[photo.path],
        question=ASK_CUSTOMER,
        answer=text,
        source=source,
        split=photo.split,
    )
