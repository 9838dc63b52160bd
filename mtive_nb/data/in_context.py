"""In-context learning: solved training records before a question, as turns of the same chat (MTIVE T1, VIT-Pro T3)."""

from collections.abc import Sequence

import numpy as np

CHOICES = ("hand-picked", "random")


def with_examples(record: dict, examples: Sequence[dict]) -> dict:
    """The record with the examples' questions, photos and answers before its own."""
    return record | {
        "messages": [turn for example in examples for turn in example["messages"]] + record["messages"],
        "images": [image for example in examples for image in example["images"]] + record["images"],
    }


def hand_picked(pool: Sequence[dict], n: int) -> list[dict]:
    """`n` examples for all questions of a form: labels (or answers) take turns, and no product repeats.

    The rule stands in for a person who picks examples that show every kind of answer.
    """
    waiting: dict[str, list[dict]] = {}
    for record in pool:
        waiting.setdefault(record["label"] or record["answer"], []).append(record)
    chosen, queues = [], list(waiting.values())
    while len(chosen) < n and any(queues):
        for queue in queues:
            while queue and any(queue[0]["product_id"] == c["product_id"] for c in chosen):
                queue.pop(0)
            if queue and len(chosen) < n:
                chosen.append(queue.pop(0))
    return chosen


def _category(record: dict) -> str | None:
    return ((record["facts"] or {}).get("known") or {}).get("category")


def random_of_category(pool: Sequence[dict], record: dict, n: int, rng: np.random.Generator) -> list[dict]:
    """`n` random examples, from the record's own category first."""
    own = [other for other in pool if _category(other) == _category(record)]
    rest = [other for other in pool if _category(other) != _category(record)]
    order = [group[int(i)] for group in (own, rest) for i in rng.permutation(len(group))]
    return order[:n]


def in_context(records: Sequence[dict], train: Sequence[dict], *, n: int, choice: str, seed: int = 0) -> list[dict]:
    """Put `n` examples from `train`, of the same task and variant, before every record; `choice` is one of CHOICES.

    Errors: ValueError for an unknown choice, or if a form has fewer than `n` examples.
    """
    if choice not in CHOICES:
        raise ValueError(f"choice: found {choice!r}, expected one of {CHOICES}")
    rng, pools, picked, found = np.random.default_rng(seed), {}, {}, []
    for record in train:
        pools.setdefault((record["task"], record["variant"]), []).append(record)
    for record in records:
        form = record["task"], record["variant"]
        pool = pools.get(form, [])
        if choice == "random":
            examples = random_of_category(pool, record, n, rng)
        else:
            if form not in picked:
                picked[form] = hand_picked(pool, n)
            examples = picked[form]
        if len(examples) < n:
            raise ValueError(f"{' '.join(form)}: found {len(examples)} examples of other products, expected {n}")
        found.append(with_examples(record, examples))
    return found
