"""Customers' phrases with their truth: which parts of a text does its own photo show?

The stuff of VIT-Pro's pilot study (section 3.2), where people judged 200 samples; Pocket Mart knows the truth of each.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from mtive_nb.data.customer_photos import CustomerPhoto
from mtive_nb.data.records import make_record

ASK_CUSTOMER = "What does the customer say?"


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
        records.append(
            make_record(
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
        )
    return records, phrases
