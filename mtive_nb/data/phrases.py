"""Customers' phrases, each labelled by whether the photo shows it.

VIT-Pro's pilot study (section 3.2) used such phrases, and people judged 200 samples. Pocket Mart knows every label.
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
    """Characters `span` of the answer of record number `record`; `visible`: whether the photo shows what they state."""

    record: int
    span: tuple[int, int]
    text: str
    about: str
    visible: bool


def phrase_records(photos: Iterable[CustomerPhoto], *, source: str) -> tuple[list[dict], list[Phrase]]:
    """A record for each photo with labelled phrases, its answer the customer's text; and all the phrases."""
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
    """As phrase_records, for photos without a customer's text, from the attributes that the photos show.

    Each attribute of a photo makes one phrase; about half of the phrases have the value of another photo instead.
    """
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


def pilot_phrases(
    photos: Sequence[CustomerPhoto], *, source: str, n: int, seed: int = 0
) -> tuple[list[dict], list[Phrase]]:
    """The first `n` phrases of the photos, and the records that contain these phrases.

    The phrases come from phrase_records; where no text has labelled phrases, they come from swapped_records.
    """
    records, phrases = phrase_records(photos, source=source)
    if not phrases:
        records, phrases = swapped_records(photos, source=source, seed=seed)
    phrases = phrases[:n]
    return records[: 1 + max((p.record for p in phrases), default=-1)], phrases


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
