"""A shop as notebook 01 opens it: Pocket Mart, the public sets of real photos, or the user's own folder.

A shop is one or more catalogues, each for some of EMDIV's tasks: no public set has damage, dates and names together.
`shop.json` stores the opened shop without its photos, so that later notebooks read the file instead.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mtive_nb.data.catalogue import Catalogue, Feedback, Product, load_catalogue
from mtive_nb.data.composite import composite_damage, composite_dates
from mtive_nb.data.crops import crop_damage
from mtive_nb.data.customer_photos import CustomerPhoto, photos_by_split
from mtive_nb.data.emdiv.build import MAKERS, Emdiv, build_emdiv
from mtive_nb.data.emdiv.own import own_tasks, write_tasks
from mtive_nb.data.emdiv.questions import AE_ATTRIBUTES
from mtive_nb.data.mart.render import render_mart
from mtive_nb.data.negatives import HardNegatives
from mtive_nb.data.records import EMDIV_VARIANTS
from mtive_nb.data.sources import load_cookies, load_expiry, load_grocery
from mtive_nb.data.splits import SPLITS, split_products
from mtive_nb.run.atomic import write_atomic
from mtive_nb.run.params import similar

ALL_TASKS = tuple(MAKERS)
SEEN_FACTS = (*AE_ATTRIBUTES, "count", "damage", "damaged", "placement")  # facts that a photo can show


@dataclass(frozen=True)
class ShopPart:
    """One catalogue of the shop and its tasks of EMDIV; `composited` says what was drawn onto its photos."""

    catalogue: Catalogue
    tasks: tuple[str, ...]
    composited: str = ""

    @property
    def splits(self) -> dict[str, str]:
        """Id of a product or feedback -> split: the source's own splits, else drawn by product."""
        products = self.catalogue.products
        return self.catalogue.splits or split_products(product.product_id for product in products)


def open_shop(
    source: str, folder: str | Path, *, mart: Mapping[str, Any], composited: Mapping[str, int], seed: int = 0
) -> list[ShopPart]:
    """Open the catalogues of a source; new photos are written to `folder`.

    source: "mart" renders Pocket Mart into `folder`/mart (`mart`: arguments of `render_mart`). "real" opens the public
    sets under MTIVE_DATA. It cuts damaged and undamaged parts out of broken cookies, into `folder`/cropped, and draws
    damage and dates on grocery photos, into `folder`/composited (`composited`: photos per split). Any other source is a
    catalogue folder. Errors: FileNotFoundError naming what is missing.
    """
    folder = Path(folder)
    if source == "mart":
        drawn = load_catalogue(render_mart(folder / "mart", seed=seed, **mart))
        # Its splits are those of the ids alone: no two products of a drawn shop have the same photo.
        return [ShopPart(dataclasses.replace(drawn, splits=None), ALL_TASKS)]
    if source != "real":
        catalogue = load_catalogue(source)
        if catalogue.name == "mart":  # a folder of this name is no Pocket Mart, whose items can be drawn again
            catalogue = dataclasses.replace(catalogue, name="own mart")
        return [ShopPart(catalogue, (*ALL_TASKS, *catalogue.tasks))]
    grocery = load_grocery()
    some = dataclasses.replace(grocery, feedback=_draw(grocery, composited), quarantine=[])
    damage = composite_damage(some, folder / "composited" / "damage", seed=seed)
    dates = composite_dates(some, folder / "composited" / "dates", n=len(some.feedback), seed=seed)
    return [
        ShopPart(grocery, ("AE", "PM", "PT")),
        ShopPart(crop_damage(load_cookies(), folder / "cropped"), ("DD",)),
        ShopPart(damage, ("DD",), "damage drawn onto grocery photos"),
        ShopPart(load_expiry(), ("EX",)),
        ShopPart(dates, ("EX",), "dates printed onto parts of grocery photos"),
    ]


def further_tests(
    parts: Sequence[ShopPart], folder: str | Path, *, products: int, workers: int = 1, seed: int = 0
) -> list[ShopPart]:
    """Render `products` more of Pocket Mart into `folder`/mart, all tests, and return them as a part of the shop.

    The test set grows, and the training set stays. `seed` is the shop's: the new products are those that a larger shop
    would have, with four photos each, none a close-up of a date. Empty for no products, and for any other shop.
    """
    part = parts[0]
    if not products or part.catalogue.name != "mart":
        return []
    first, size = len(part.catalogue.products), {"products": products, "photos": 4, "dates": 0}
    more = load_catalogue(render_mart(Path(folder) / "mart", first=first, **size, workers=workers, seed=seed))
    tests = dict.fromkeys((product.product_id for product in more.products), "test")
    return [ShopPart(dataclasses.replace(more, splits=tests), part.tasks)]


def further_yes_no(
    parts: Sequence[ShopPart],
    folder: str | Path,
    *,
    tasks: Sequence[str],
    products: int,
    count: int,
    hard_share: float,
    shop_seed: int,
    seed: int = 0,
    workers: int = 1,
) -> list[dict]:
    """Return EMDIV's yes/no questions about `further_tests`, at most `count` per task; hard_share and seed as in 01."""
    wanted = {f"{task}/bin/test": count for task in tasks}
    more = further_tests(parts, folder, products=products, workers=workers, seed=shop_seed)
    return [r for part in more for r in build_shop_emdiv([part], wanted, hard_share=hard_share, seed=seed).records]


def expand_counts(
    *, train: Mapping[str, int], val: int, test: Mapping[str, int], parts: Iterable[ShopPart] = ()
) -> dict[str, int]:
    """Expand counts by "TASK/variant" or "TASK" to counts by "TASK/variant/split".

    "*" counts for every task without a key, missing keys count 0. `val` applies to every task and variant in `train`,
    at most its training count. `parts` name the shop's own tasks. Errors: ValueError for a key that names no task.
    """
    tasks = list(dict.fromkeys([*ALL_TASKS, *(name for part in parts for name in part.catalogue.tasks)]))
    keys = {"*", *tasks, *(f"{task}/{variant}" for task in tasks for variant in EMDIV_VARIANTS)}
    if strange := sorted({*train, *test} - keys):
        near = similar(strange[0], sorted(keys))
        raise ValueError(
            f"counts: found {strange[0]!r}, expected TASK or TASK/variant, one of {', '.join(sorted(keys))}{near}"
        )
    counts = {}
    for task in tasks:
        for variant in EMDIV_VARIANTS:
            names = (f"{task}/{variant}", task, "*")
            wanted = [next((table[name] for name in names if name in table), 0) for table in (train, test)]
            amounts = {"train": wanted[0], "val": min(val, wanted[0]), "test": wanted[1]}
            counts |= {f"{task}/{variant}/{split}": amounts[split] for split in SPLITS}
    return counts


def build_shop_emdiv(
    parts: Sequence[ShopPart], counts: Mapping[str, int], *, hard_share: float = 1.0, seed: int = 0
) -> Emdiv:
    """Build EMDIV over all parts: each part contributes its own tasks, at most `counts` records per key."""
    made = []
    for part in parts:
        own = {key: number for key, number in counts.items() if key.split("/")[0] in part.tasks}
        one = build_emdiv(part.catalogue, splits=part.splits, seed=seed, counts=own, hard_share=hard_share)
        made.append(Emdiv(one.records, one.coverage.assign(source=part.catalogue.name)))
    records = [record for one in made for record in one.records]
    return Emdiv(records, pd.concat([one.coverage for one in made], ignore_index=True))


def split_photos(parts: Iterable[ShopPart]) -> list[tuple[str, str]]:
    """Every photo with its split, as (split, path), for the leak check.

    A catalogue photo belongs to its product's split. Where a source splits by photo, every split has all products.
    Their catalogue photos are then left out: customers' photos are compared with them, but they are not tested.
    """
    found = []
    for part in parts:
        photos = photos_by_split(part.catalogue, part.splits)
        found += [(split, photo.path) for split, rows in photos.items() for photo in rows]
        for product in part.catalogue.products:
            split = part.splits.get(product.product_id)
            images = product.images if split else ()
            found += [(split, str((part.catalogue.root / image).resolve())) for image in images]
    return list(dict.fromkeys(found))


def photos_table(parts: Iterable[ShopPart]) -> pd.DataFrame:
    """Count products and photos by catalogue and split, and name what was drawn onto them."""
    rows = []
    for part in parts:
        photos = photos_by_split(part.catalogue, part.splits)
        for split, found in photos.items():
            products = len({photo.product.product_id for photo in found})
            told = sum(bool(photo.feedback.text.strip()) for photo in found)
            rows.append(
                (part.catalogue.name, split, products, len(found), told, ", ".join(part.tasks), part.composited)
            )
    columns = ["catalogue", "split", "products", "customer photos", "with text", "tasks", "composited"]
    return pd.DataFrame(rows, columns=columns)


def tasks_of(parts: Iterable[ShopPart]) -> list[str]:
    """All tasks of the parts, each once, in order."""
    return list(dict.fromkeys(task for part in parts for task in part.tasks))


def photos_with_facts(parts: Iterable[ShopPart]) -> list[CustomerPhoto]:
    """Customers' photos with known facts, in the catalogues' own order."""
    found = []
    for part in parts:
        photos = [photo for rows in photos_by_split(part.catalogue, part.splits).values() for photo in rows]
        by_id = {photo.feedback.feedback_id: photo for photo in photos}
        found += [by_id[row.feedback_id] for row in part.catalogue.feedback if row.facts]
    return found


def phrase_counts(parts: Iterable[ShopPart]) -> Counter[bool]:
    """Count customers' phrases that their photo shows (True) or does not show (False), where the source knows."""
    rows = [row for part in parts for row in part.catalogue.feedback if row.facts]
    return Counter(bool(phrase["visible"]) for row in rows for phrase in row.facts.get("phrases") or ())


def negatives_beside_random(finder: HardNegatives, *, seed: int = 0) -> pd.DataFrame:
    """Compare each product with its hardest negative and a random one: one row each; negative is "hard" or "random".

    similarity: cosine of the listings' TF-IDF vectors. distance: between the catalogue photos, from 0 (alike) to 1.
    """
    rng, place, rows = np.random.default_rng(seed), {name: k for k, name in enumerate(finder.products)}, []
    for own in finder.products:
        hardest, other, near = finder.nearest(own, 1), finder.random(own, rng), finder.similarities(own)
        for kind, one in (("hard", hardest[0] if hardest else None), ("random", other)):
            if one is not None:
                rows.append((own, kind, one, float(near[place[one]]), finder.visual_distance(own, one)))
    return pd.DataFrame(rows, columns=["product", "negative", "other", "similarity", "distance"])


def settle_grounding(records: Iterable[dict]) -> list[dict]:
    """The instruction records with `grounded` None where the shop's facts cannot decide it.

    If no photo's facts mention a visible property (the grocery photos have no count), a statement about the property is
    neither confirmed nor wrong. A statement about something invisible, such as a price, stays ungrounded.
    """
    records = list(records)
    silent = set(SEEN_FACTS) - {name for record in records for name in record["facts"]["known"]}
    unknown = [bool(silent & set(record["facts"]["asked"])) for record in records]
    return [
        record | {"facts": record["facts"] | {"grounded": None}} if settled_by_none else record
        for record, settled_by_none in zip(records, unknown, strict=True)
    ]


def write_shop(parts: Iterable[ShopPart], path: str | Path) -> Path:
    """Write the parts as JSON, atomically; a root inside the file's run folder is stored relative to the file.

    The shop's own tasks go to tasks.yaml beside the file: `own_tasks` of its folder reads them without the shop.
    """
    path, rows, parts = Path(path), [], list(parts)
    run_folder = path.parent.parent.resolve()
    for part in parts:
        catalogue, root = part.catalogue, part.catalogue.root.resolve()
        inside = root.is_relative_to(run_folder)
        row = {"name": catalogue.name, "tasks": part.tasks, "composited": part.composited, "splits": part.splits}
        row["root"] = Path(os.path.relpath(root, path.parent.resolve())).as_posix() if inside else str(root)
        row["products"] = [dataclasses.asdict(product) for product in catalogue.products]
        row["feedback"] = [dataclasses.asdict(feedback) for feedback in catalogue.feedback]
        rows.append(row)
    write_atomic(path, json.dumps(rows, ensure_ascii=False))
    write_tasks([task for part in parts for task in part.catalogue.tasks.values()], path.parent)
    return path


def read_shop(path: str | Path) -> list[ShopPart]:
    """The parts that `write_shop` wrote; photos are not decoded again. Errors: FileNotFoundError."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"shop {path}: no such file; notebook 01 writes it: python -m mtive_nb run <profile> 01"
        )
    parts, own = [], own_tasks(path.parent)
    for row in json.loads(path.read_text(encoding="utf-8")):
        products = [Product(**one | {"images": tuple(one["images"])}) for one in row["products"]]
        feedback = [Feedback(**one | {"images": tuple(one["images"])}) for one in row["feedback"]]
        root = (path.parent / row["root"]).resolve()
        tasks = {name: own[name].settled(one.facts for one in feedback) for name in row["tasks"] if name in own}
        catalogue = Catalogue(row["name"], root, products, feedback, splits=row["splits"], tasks=tasks)
        parts.append(ShopPart(catalogue, tuple(row["tasks"]), row["composited"]))
    return parts


def _draw(catalogue: Catalogue, amounts: Mapping[str, int]) -> list[Feedback]:
    """Choose `amounts` photos of each split, evenly spaced over its list, which is sorted by product."""
    chosen = []
    for split in SPLITS:
        rows = [row for row in catalogue.feedback if catalogue.splits[row.feedback_id] == split]
        n = min(len(rows), amounts.get(split, 0))
        chosen += [rows[k * len(rows) // n] for k in range(n)]
    return chosen
