"""Records that teach an expert to read items: labels by a teacher, more of them than there are items.

With a hundred items an expert learns their values by heart instead of copying what was read. So an item also teaches
with some of its photos left out, and with the values of other items in place of its own, in prompt and label alike.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mtive_nb.data.items.inputs import item_record
from mtive_nb.data.items.items import Item
from mtive_nb.data.items.readers import Reading, as_prompt
from mtive_nb.data.items.schema import BARCODES, check_digit, flat, parse_answer, values_of

MODEL_NUMBER = "identifiers.model_number"
LENGTHS = ("short", "long")


def teaching_records(
    items: Sequence[Item],
    readings: Mapping[str, Reading],
    label: Callable[[Item], dict],
    *,
    form: str = "schema",
    varied: int = 0,
    seed: int = 0,
) -> list[dict]:
    """Return a record for each item, and `varied` more with fewer photos and other values. The image is the main photo.

    readings: what engines read, by photo. label: the teacher's answer to an item. Prompts are short and long by turns.
    """
    drawn: list[tuple[Item, str, dict]] = []
    labels = [label(item) for item in items]
    seen: dict[str, list[str]] = {}
    for path, value in (pair for answer in labels for pair in values_of(answer)):
        seen.setdefault(path, []).append(value)
    for item, answer in zip(items, labels, strict=True):
        drawn.append((item, as_prompt(readings[photo] for photo in item.photos), answer))
    for k in range(varied):
        for item in items:  # draws of its own for each, so that another teacher's labels change no other draw
            draw = f"{seed} {k} {item.item_id}"
            few = _fewer(item, random.Random(draw))
            told = as_prompt(readings[photo] for photo in few.photos)
            drawn.append((few, *other_values(told, label(few), seen, draw)))
    records = []
    for place, (item, told, answer) in enumerate(drawn):
        k = place // len(items)
        record = item_record(item, told=told, answer=answer, prompt=LENGTHS[(place + k) % 2], form=form)
        records.append(record | {"id": f"{item.item_id}#{k}" if k else item.item_id})
    return records


def _fewer(item: Item, rng: random.Random) -> Item:
    """The item with its main photo and some of the others."""
    kept = rng.sample(item.photos[1:], rng.randint(min(1, len(item.photos) - 1), len(item.photos) - 1))
    return replace(item, photos=(item.photos[0], *(photo for photo in item.photos[1:] if photo in kept)), regions=())


def other_values(told: str, answer: dict, seen: Mapping[str, Sequence[str]], draw: str) -> tuple[str, dict]:
    """Return what was read and its label with other values, wherever the label's value stands in the text as whole words.

    Barcodes and model numbers get new digits and letters, other fields one of the values `seen` there. draw: seed of the
    draws, one of each value's own.
    """
    values = sorted({value for _, value in values_of(answer)}, key=len, reverse=True)  # "CE 0123" before "CE"
    whole = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, values))})(?!\w)")
    read = set(whole.findall(told))
    new = {
        value: _other(path, value, seen, f"{draw} {path} {value}") for path, value in values_of(answer) if value in read
    }
    if not new:
        return told, answer
    changed = [(path, new.get(value, value)) for path, value in values_of(answer)]
    return whole.sub(lambda found: new[found[0]], told), parse_answer(flat(changed)).answer


def _other(path: str, value: str, seen: Mapping[str, Sequence[str]], draw: str) -> str:
    rng = random.Random(draw)
    if path == BARCODES:
        digits = "".join(rng.choice("0123456789") for _ in value[:-1])
        return digits + check_digit(digits)
    if path == MODEL_NUMBER:
        return "".join(_of_its_kind(character, rng) for character in value)
    return min(seen[path], key=lambda one: random.Random(f"{draw} {one}").random())  # one value more moves few draws


def _of_its_kind(character: str, rng: random.Random) -> str:
    kinds = ("0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    return next((rng.choice(kind) for kind in kinds if character in kind), character)
