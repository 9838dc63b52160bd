"""Samples records: a number for training, by shares of the variants; or the first few of each form."""

from collections import Counter
from collections.abc import Mapping

import numpy as np


def sample_variants(records: list[dict], shares: Mapping[str, float], *, n: int, seed: int = 0) -> list[dict]:
    """Sample at most `n` records without repetition, variants in proportion to `shares` as far as records suffice.

    A variant without records leaves its share to the others. Errors: ValueError when no variant of `shares` has any.
    """
    rng, chosen, there = np.random.default_rng(seed), [], {record["variant"] for record in records}
    if not there & set(shares):
        raise ValueError(f"sampling: found records of the variants {sorted(there)}, expected one of {sorted(shares)}")
    total = sum(share for variant, share in shares.items() if variant in there)
    for variant, share in shares.items():
        rows = [r for r in records if r["variant"] == variant]
        keep = min(len(rows), round(n * share / total))
        chosen += [rows[i] for i in rng.permutation(len(rows))[:keep]]
    return [chosen[i] for i in rng.permutation(len(chosen))]


def first_of_each_form(records: list[dict], limit: int) -> list[dict]:
    """The first `limit` records of each task and variant, in their order; limit 0 keeps all."""
    seen, chosen = Counter(), []
    for record in records:
        form = record["task"], record["variant"]
        seen[form] += 1
        if not limit or seen[form] <= limit:
            chosen.append(record)
    return chosen
