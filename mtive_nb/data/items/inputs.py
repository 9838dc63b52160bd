"""Turns an item into a record: which photos, which prompt, with or without what engines read.

The record's task is ITEM, its answer the truth as JSON, so that a stack trains and answers it as any other record.
"""

import json
from collections.abc import Mapping
from dataclasses import replace

from mtive_nb.data.items.dedup import distinct
from mtive_nb.data.items.items import Item
from mtive_nb.data.items.schema import SCHEMA, WORDS, flat
from mtive_nb.data.records import make_record

TASK = "ITEM"
MOST_PHOTOS = 9  # the most images of an item after the paper's deduplication (A.5)
_LONG = (
    "Read the product's photos and write down what they show as one JSON object. Leave out every field that no photo "
    "shows; invent nothing. The fields are:\n"
)


def _example(schema: Mapping) -> object:
    """A schema as an example of its form: texts become "text"."""
    if schema["type"] == "object":
        return {name: _example(one) for name, one in schema["properties"].items()}
    return [_example(schema["items"])] if schema["type"] == "array" else "text"


# By the form of the answer, the schema's or `flat`, and by length. A long prompt spells the fields out.
PROMPTS = {
    "schema": {"short": "Extract the item's fields as JSON.", "long": _LONG + json.dumps(_example(SCHEMA))},
    "flat": {
        "short": "Extract the item's fields as flat JSON.",
        "long": _LONG + json.dumps(dict.fromkeys(WORDS.values(), "text")),
    },
}


def main_photo(item: Item) -> Item:
    """Return the item with its main photo alone; its truth stays that of all photos, as in the paper's row 28."""
    return replace(item, photos=item.photos[:1], regions=tuple(r for r in item.regions if r.photo == 0))


def fewer_photos(item: Item, *, distance_bits: int = 4, most: int = MOST_PHOTOS) -> tuple[Item, str]:
    """Return the item without photos that look like earlier ones, at most `most`, and what was left out in words, or "".

    Errors: PhotoError for an unusable photo.
    """
    kept = distinct(item.photos, distance_bits=distance_bits)
    few = kept[:most]
    place = {k: number for number, k in enumerate(few)}
    regions = tuple(replace(r, photo=place[r.photo]) for r in item.regions if r.photo in place)
    found, alike = len(item.photos), len(item.photos) - len(kept)
    said = (
        f"photos: found {found}, left out {alike} that look like earlier ones and {len(kept) - len(few)} beyond {most}"
    )
    fewer = replace(item, photos=tuple(item.photos[k] for k in few), regions=regions)
    return fewer, said if len(few) < found else ""


def item_record(
    item: Item,
    *,
    prompt: str = "short",
    form: str = "schema",
    told: str | None = None,
    answer: Mapping | None = None,
) -> dict:
    """Return an item's record.

    prompt: "short" or "long". form: of the answer, "schema" or "flat". told: what engines read from all photos, as
    `as_prompt` writes it; it stands before the question, and the record then shows the main photo alone. answer: the
    label to train on, default the truth.
    Errors: KeyError for another prompt or form.
    """
    truth = item.truth if answer is None else answer
    question = " ".join(filter(None, (told, PROMPTS[form][prompt])))
    return make_record(
        item.item_id,
        product_id=item.item_id,
        task=TASK,
        variant=prompt,
        images=item.photos if told is None else item.photos[:1],
        answer=flat(truth) if form == "flat" else json.dumps(truth, ensure_ascii=False),
        question=question,
        source=item.source,
        split=item.split,
    )
