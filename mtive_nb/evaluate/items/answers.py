"""Asks a model for the fields of items, with the print that engines read from their images."""

import time
from collections.abc import Sequence

from mtive_nb.data.items.inputs import item_record
from mtive_nb.data.items.items import Item
from mtive_nb.data.items.schema import parse_answer
from mtive_nb.evaluate.predict import generate_answers
from mtive_nb.model.batches import RecordDataset
from mtive_nb.model.load import Vlm
from mtive_nb.model.stack import LoraStack


def item_answers(
    model: Vlm | LoraStack, items: Sequence[Item], told: Sequence[str], *, form: str, prompt: str = "short", batch: int,
    max_new_tokens: int, what: str,
) -> tuple[list[dict], float]:  # fmt: skip
    """Return the valid part of the active adapter's answer to each item, and the seconds an item.

    The model looks at every photo anew; reading it from disk is not timed.
    told: what engines read from each item's images, as `as_prompt` writes it. Other arguments: as `item_record` and
    `generate_answers`.
    """
    asked = [item_record(item, told=words, form=form, prompt=prompt) for item, words in zip(items, told, strict=True)]
    vlm = model if isinstance(model, Vlm) else model.vlm
    decoded = RecordDataset(asked, max_px=vlm.max_px)
    asked = [decoded[k] for k in range(len(decoded))]
    vlm.kept.forget()
    started = time.perf_counter()
    said = generate_answers(model, asked, batch=batch, max_new_tokens=max_new_tokens, what=what)
    return [parse_answer(text).answer for text in said], (time.perf_counter() - started) / max(1, len(items))
