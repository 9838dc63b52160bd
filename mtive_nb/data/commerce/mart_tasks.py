"""CASLIE's seven tasks from Pocket Mart, with known truth: labels in the paper's shares, and three strata.

Out of domain are three of the shop's twelve groups, whose products stand in no other split. The paper has no such split
for PSI and MPC; here every task has one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from mtive_nb.data.catalogue import Catalogue
from mtive_nb.data.commerce.drawing import LETTERS, Draw, Shown, make_row, plan_rows
from mtive_nb.data.commerce.mart_makers import MAKERS
from mtive_nb.data.commerce.mart_words import INSTRUCTIONS
from mtive_nb.data.commerce.rows import ROW_SPLITS, STRATA, CommerceRow
from mtive_nb.data.customer_photos import known_truth
from mtive_nb.data.mart.vocabulary import CATEGORIES
from mtive_nb.data.records import UNANSWERABLE
from mtive_nb.data.splits import split_of

COUNTS = {"train": 600, "val": 60, "test": 200, "ood": 200}
IN_DOMAIN_SHARES = (0.6, 0.15, 0.25)  # of products, for train, val and test; val must have every colour
# CASLIE, A.5. It prints 3:5 for AP's yes and no; its table A7 has .68 (IND) and .63 (OOD) yes, so yes is the larger.
# SA's and SR's shares are not printed, and CC's letters carry no meaning: these are equal.
LABEL_SHARES: dict[str, Mapping[str, float]] = {
    "AP": {"yes": 5, "no": 3},
    "CC": dict.fromkeys("ABCD", 1),
    "PRP": {"A": 4, "B": 3, "C": 1},
    "PSI": {"yes": 1, "no": 3},
    "MPC": {"A": 20, "B": 7, "C": 1, "D": 4},
    "SA": dict.fromkeys(LETTERS, 1),
    "SR": dict.fromkeys(LETTERS, 1),
}
FACTS = ("brand", "category", "colour", "packaging", "size", "damage", "placement", "count", "expiry")


def mart_rows(
    catalogue: Catalogue,
    *,
    counts: Mapping[str, int] | None = None,
    strata: Mapping[str, float] | None = None,
    tasks: Collection[str] = tuple(MAKERS),
    ood_groups: Collection[str] | None = None,
    after: Mapping[str, int] | None = None,
    seed: int = 0,
) -> list[CommerceRow]:
    """Make the rows of Pocket Mart's `catalogue` (see `render_mart`); the same arguments give the same rows.

    counts: rows of each task by split; default COUNTS. strata: shares of "needed", "redundant", "idle"; default: equal.
    tasks: default: all seven. ood_groups: the groups held out, at least three; default: three drawn by `seed`. after: the
    `counts` of a first shop, where `catalogue` has further products of it; these are all tests in domain, with the seed
    and groups of the first, and the rows' ids and numbers go on from there. Photos of every product serve several rows,
    but those of one split alone. The default counts need about 240 products with six photos; a few rows a task need 144
    with three, one of them a close-up of a date. Errors: ValueError for wrong arguments, and where the shop is too small
    for a row, naming the row, its stratum, label and what was looked for.
    """
    counts, strata = dict(COUNTS if counts is None else counts), dict(strata or dict.fromkeys(STRATA, 1.0))
    if unknown := sorted({*counts} - {*ROW_SPLITS} | {*strata} - {*STRATA} | {*tasks} - {*MAKERS}):
        raise ValueError(f"mart_rows: found {unknown[0]!r}, expected names of {ROW_SPLITS}, {STRATA}, {tuple(MAKERS)}")
    rng = np.random.default_rng([seed, 15])
    circle = [str(group) for group in rng.permutation(sorted({one.coarse for one in CATEGORIES.values()}))]
    held_out = [group for group in circle if group in (circle[:3] if ood_groups is None else ood_groups)]
    inside = [group for group in circle if group not in held_out]
    if len(held_out) < max(3, len({*(ood_groups or ())})) or len(inside) < 3:
        raise ValueError(
            f"ood_groups: found {ood_groups}, expected three or more of {circle}, and three left in domain"
        )
    if strange := next((product for product in catalogue.products if product.coarse not in circle), None):
        raise ValueError(
            f"product {strange.product_id}: coarse: found {strange.coarse!r}, expected a group of Pocket Mart, as "
            f"`render_mart` draws it: {', '.join(circle)}; for rows of your own see docs/commerce.md"
        )
    photos = _photos_by_split(catalogue, held_out, (0, 0, 1) if after else IN_DOMAIN_SHARES, seed)
    first, total = (sum(of.values()) * len(tasks) for of in (after or {}, counts))
    numbers = iter(10_000 + rng.permutation(max(90_000, first + total))[first : first + total])
    rows = []
    for task in tasks:
        for split, n in counts.items():
            start = (after or {}).get(split, 0)
            place = [seed, list(MAKERS).index(task), ROW_SPLITS.index(split), start]
            groups = held_out if split == "ood" else inside
            draw = Draw(photos[split], np.random.default_rng(place), groups=groups)
            for k, (stratum, label) in enumerate(plan_rows(n, strata, LABEL_SHARES[task], draw.rng), start):
                draw.number = int(next(numbers))
                fields = {"task": task, "split": split, "instruction": INSTRUCTIONS[task], "source": "mart"}
                row_id = f"mart/{task}/{split}/{k:04d}"
                rows.append(make_row(MAKERS[task], draw, row_id, label=label, stratum=stratum, **fields))
    return rows


def _photos_by_split(
    catalogue: Catalogue, held_out: Sequence[str], shares: tuple[float, float, float], seed: int
) -> dict[str, list[Shown]]:
    products = {product.product_id: product for product in catalogue.products}
    found: dict[str, list[Shown]] = {split: [] for split in ROW_SPLITS}
    for row in catalogue.feedback:
        product = products[row.product_id]
        known = known_truth(row.facts)
        facts = {name: known[name] for name in FACTS if known.get(name, UNANSWERABLE) != UNANSWERABLE}
        path = str((catalogue.root / row.images[0]).resolve())
        ours = split_of(product.product_id, shares=shares, seed=seed)
        split = "ood" if product.coarse in held_out else ours
        found[split].append(Shown(path, product.product_id, product.coarse, product.attributes, facts))
    return found
