"""CASLIE's tasks from real photos, where public labels allow: CC, PRP and PSI of groceries, CC of clothes.

A listing's texts are what these sets lack. In the stratum "needed", the title names the department alone; in
"redundant", it names the product with its category. PRP has no "also buy", which no label says. In domain, splits are by
photo, as the authors have them: `leaks` names products that stand in several, and no photo. The grocery rows out of
domain are of categories that stand in no other split.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from mtive_nb.data.catalogue import Catalogue
from mtive_nb.data.commerce.drawing import LETTERS, Draw, Made, Maker, Shown, make_row, plan_rows
from mtive_nb.data.commerce.mart_tasks import COUNTS
from mtive_nb.data.commerce.mart_words import INSTRUCTIONS, OPTIONS
from mtive_nb.data.commerce.rows import ROW_SPLITS, CommerceRow
from mtive_nb.data.customer_photos import known_truth
from mtive_nb.data.sources import load_clothing, load_grocery

# As in Pocket Mart, PRP without "also buy". PSI's no is the product itself or one of another category.
LABEL_SHARES: dict[str, Mapping[str, float]] = {
    "CC": dict.fromkeys(LETTERS, 1),
    "PRP": {"B": 3, "C": 1},
    "PSI": {"yes": 1, "no": 3},
}
STRATA = ("needed", "redundant")


def grocery_rows(
    folder: str | Path | None = None,
    *,
    counts: Mapping[str, int] | None = None,
    tasks: Collection[str] = tuple(LABEL_SHARES),
    ood_categories: int = 10,
    seed: int = 0,
) -> list[CommerceRow]:
    """CC, PRP and PSI over GroceryStoreDataset (default folder: below MTIVE_DATA); equal arguments give equal rows.

    counts: rows of each task by split; default: those of Pocket Mart. ood_categories: how many of the 43 categories are
    held out. Errors: FileNotFoundError with the origin of the set; ValueError where too few photos fit.
    """
    catalogue = load_grocery(folder)
    categories = sorted({product.category for product in catalogue.products})
    held_out = np.random.default_rng([seed, 43]).permutation(categories)[:ood_categories]
    photos = _photos(catalogue, set(held_out.tolist()))
    makers: dict[str, Maker] = {
        "CC": partial(_category, shelves=_shelves(photos)),
        "PRP": _relation,
        "PSI": _substitute,
    }
    return _rows(photos, {task: makers[task] for task in tasks}, counts, STRATA, source="grocery", seed=seed)


def clothing_rows(
    folder: str | Path | None = None, *, counts: Mapping[str, int] | None = None, seed: int = 0
) -> list[CommerceRow]:
    """CC over clothing-dataset-small: five of ten classes as options, all in the stratum "needed"; no rows out of domain.

    Arguments and errors as in `grocery_rows`.
    """
    counts = {split: n for split, n in (COUNTS if counts is None else counts).items() if split != "ood"}
    photos = _photos(load_clothing(folder), set())
    makers = {"CC": partial(_category, shelves=_shelves(photos))}
    return _rows(photos, makers, counts, ("needed",), source="clothing", seed=seed)


def _photos(catalogue: Catalogue, held_out: Collection[str]) -> dict[str, list[Shown]]:
    products = {product.product_id: product for product in catalogue.products}
    found: dict[str, list[Shown]] = {split: [] for split in ROW_SPLITS}
    for row in catalogue.feedback:
        product = products[row.product_id]
        path = catalogue.root / row.images[0]
        # The grocery's folders are its departments: train/Fruit/Apple/Golden-Delicious/x.jpg
        department = row.images[0].split("/")[1].lower() if product.coarse != "clothing" else product.coarse
        split = "ood" if product.category in held_out else catalogue.splits[row.feedback_id]
        facts = known_truth(row.facts)
        found[split].append(Shown(str(path.resolve()), product.product_id, department, product.attributes, facts))
    return found


def _rows(
    photos: Mapping[str, list[Shown]],
    makers: Mapping[str, Maker],
    counts: Mapping[str, int] | None,
    strata: Collection[str],
    *,
    source: str,
    seed: int,
) -> list[CommerceRow]:
    rows = []
    for task, maker in makers.items():
        for split, n in (COUNTS if counts is None else counts).items():
            place = [seed, list(LABEL_SHARES).index(task), ROW_SPLITS.index(split), 81]
            draw = Draw(photos[split], np.random.default_rng(place))
            for k, (stratum, label) in enumerate(plan_rows(n, dict.fromkeys(strata, 1), LABEL_SHARES[task], draw.rng)):
                draw.number = 10_000 * (1 + ROW_SPLITS.index(split)) + k  # unlike in every other split
                fields = {"task": task, "split": split, "instruction": INSTRUCTIONS[task], "source": source}
                row_id = f"{source}/{task}/{split}/{k:04d}"
                rows.append(make_row(maker, draw, row_id, label=label, stratum=stratum, **fields))
    return rows


def _title(draw: Draw, shown: Shown, stratum: str) -> str:
    return f"{shown.group if stratum == 'needed' else shown.product['name']}, offer {draw.number}"


def _shelves(photos: Mapping[str, list[Shown]]) -> dict[str, list[str]]:
    """The categories of each department, whatever their split."""
    found = {(one.group, one.product["category"]) for split in photos.values() for one in split}
    return {group: sorted(category for other, category in found if other == group) for group, _ in found}


def _category(draw: Draw, label: str, stratum: str, *, shelves: Mapping[str, list[str]]) -> Made:
    """The category among five of its department."""
    shown = draw.photo("any photo", lambda one: True)
    options = draw.options(shelves[shown.group], shown.product["category"], label)
    return Made({"title": _title(draw, shown, stratum)}, [shown], ("category",), options)


def _relation(draw: Draw, label: str, stratum: str) -> Made:
    """Two products of one category (C), or of two categories of one department (B)."""
    one = draw.photo("any photo", lambda photo: True)

    def related(other: Shown) -> bool:
        same = other.product["category"] == one.product["category"]
        return other.group == one.group and other.product_id != one.product_id and same is (label == "C")

    other = draw.photo(f"a product in relation {label}", related)
    titles = {"product 1": _title(draw, one, stratum), "product 2": _title(draw, other, stratum)}
    return Made(titles, [one, other], ("category",), OPTIONS["PRP"][1:], tuple(titles))


def _substitute(draw: Draw, label: str, stratum: str) -> Made:
    """A query for a product: another one of its category (yes), or itself or one of another category (no)."""
    wanted = draw.photo("any photo", lambda photo: True)
    relation = "B" if label == "yes" else draw.pick("AAAD")

    def related(one: Shown) -> bool:
        same = one.product["category"] == wanted.product["category"]
        itself = one.product_id == wanted.product_id
        return {"A": itself, "B": same and not itself, "D": not same and one.group == wanted.group}[relation]

    shown = draw.photo(f"a product in relation {relation}", related)
    texts = {"query": wanted.product["name"], "product title": _title(draw, shown, stratum)}
    return Made(texts, [shown], ("name", "category"), known={"relation": relation})
