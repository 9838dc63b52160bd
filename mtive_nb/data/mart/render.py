"""Pocket Mart: a procedural shop, rendered into the layout of a catalogue folder (see catalogue.py).

Each product has its own random generators, so that product 17 of a seed is the same in a shop of 20 and in a shop of
2,000 products, whatever the number of workers. Photos are RGB JPEG: 280 x 280 px, close-ups of dates 336 x 224 px.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mtive_nb.data.catalogue import Feedback
from mtive_nb.data.mart.closeup import take_closeup
from mtive_nb.data.mart.draw import STYLES, TYPEFACES, Look, Package, draw_package
from mtive_nb.data.mart.photo import catalogue_photo, plan_shot, take_photo
from mtive_nb.data.mart.text import customer_text, listing
from mtive_nb.data.mart.vocabulary import BRANDS, CATEGORIES, COLOURS, DAMAGES, PACKAGINGS, PLACEMENTS, vocabulary
from mtive_nb.run.processes import spread

__all__ = [
    "BRANDS",
    "CATEGORIES",
    "COLOURS",
    "DAMAGES",
    "PACKAGINGS",
    "PLACEMENTS",
    "Item",
    "make_item",
    "render_mart",
    "render_views",
    "vocabulary",
]

_JPEG_QUALITY = 90
_PARTS = {"products.jsonl", "feedback.jsonl", "images"}


@dataclass(frozen=True)
class Item:
    """A product of the shop before it is drawn: its listing's attributes, its look, its price."""

    product_id: str
    attributes: dict[str, str]
    coarse: str
    look: Look
    price: str


def make_item(index: int, *, seed: int = 0) -> Item:
    """The shop's product number `index`: categories in turn; brand and colour differ among a category's products."""
    names = list(CATEGORIES)
    category, turn = CATEGORIES[names[index % len(names)]], index // len(names)
    shelf = np.random.default_rng([seed, 1_000_003, index % len(names)])  # shared by the products of one category
    brands, colours = shelf.permutation(len(BRANDS)), shelf.permutation(len(COLOURS))
    rng = np.random.default_rng([seed, index])
    look = Look(
        brand=BRANDS[brands[turn % len(BRANDS)]],
        category=category.name,
        colour=COLOURS[colours[(turn + turn // len(BRANDS)) % len(COLOURS)]],
        packaging=category.packagings[int(rng.integers(len(category.packagings)))],
        size=category.sizes[int(rng.integers(len(category.sizes)))],
        variant=int(rng.integers(3)),
        style=STYLES[int(rng.integers(len(STYLES)))],
        typeface=TYPEFACES[int(rng.integers(len(TYPEFACES)))],
        lid=int(rng.integers(4)),
    )
    attributes = {name: getattr(look, name) for name in ("brand", "category", "colour", "packaging", "size")}
    price = f"{int(rng.integers(1, 30))}.{int(rng.integers(0, 10))}9"
    return Item(f"M{index:05d}", attributes, category.coarse, look, price)


def _save(image: Image.Image, folder: Path, name: str) -> str:
    image.save(folder / "images" / name, quality=_JPEG_QUALITY)
    return f"images/{name}"


def _customer_photo(
    item: Item, pack: Package, *, key: tuple[int, ...], close: bool, damaged: bool
) -> tuple[Image.Image, dict]:
    """One customer photo and the facts that it shows; `key` seeds all its random choices."""
    rng = np.random.default_rng(key)
    if close:
        shown = take_closeup(item.look.colour, rng=rng)
        return shown.image, {"dates": shown.dates, "attributes": {"colour": item.look.colour}}
    shot = plan_shot(rng, seed=key, damaged=damaged)
    taken = take_photo(pack, shot)
    return taken.image, {
        "damaged": shot.damage is not None,
        "damage": shot.damage,
        "damage_box": list(taken.damage_box) if taken.damage_box else None,
        "count": shot.count,
        "packaging": item.look.packaging,
        "placement": shot.placement,
        "attributes": {name: value for name, value in item.attributes.items() if name in taken.visible},
    }


def _render_product(
    index: int, *, folder: Path, photos: int, dates: int, seed: int, ungrounded_share: float
) -> tuple[dict, list[dict]]:
    """Draws one product with all its photos into folder/images; returns its row and the rows of its feedback."""
    item = make_item(index, seed=seed)
    rng = np.random.default_rng([seed, index, 1])
    pack = draw_package(item.look)
    title, description = listing(item.attributes, price=item.price, rng=rng)
    whole = {"damaged": False, "damage": None, "damage_box": None, "count": 1, "packaging": item.look.packaging}
    product = {
        "product_id": item.product_id,
        "title": title,
        "description": description,
        "category": item.attributes["category"],
        "coarse": item.coarse,
        "attributes": item.attributes,
        "images": [_save(catalogue_photo(pack), folder, f"{item.product_id}.jpg")],
        "facts": whole | {"attributes": item.attributes},
    }
    plain = photos - dates
    hurt = set(
        rng.permutation(plain)[: (plain + int(rng.integers(2))) // 2].tolist()
    )  # half; an odd number rounds up or down at random
    feedback = []
    for k in range(photos):
        picture, facts = _customer_photo(item, pack, key=(seed, index, 2, k), close=k >= plain, damaged=k in hurt)
        text, phrases = customer_text(
            item.attributes, facts, price=item.price, ungrounded_share=ungrounded_share, rng=rng
        )
        row = {"feedback_id": f"{item.product_id}-F{k:02d}", "product_id": item.product_id, "text": text}
        row["images"] = [_save(picture, folder, f"{item.product_id}_{k:02d}.jpg")]
        row["facts"] = facts | {"phrases": phrases, "composited": None}
        feedback.append(row)
    return product, feedback


def _check(folder: Path, *, products: int, photos: int, dates: int, ungrounded_share: float) -> None:
    if products < 1 or photos < 0 or not 0 <= dates <= photos:
        found = f"products={products}, photos={photos}, dates={dates}"
        raise ValueError(
            f"render_mart: found {found}; expected products >= 1, 0 <= dates <= photos (photos include dates)"
        )
    if not 0 <= ungrounded_share <= 1:
        raise ValueError(f"render_mart: found ungrounded_share={ungrounded_share}, expected a share from 0 to 1")
    if folder.is_dir():
        strange = sorted({path.name for path in folder.iterdir()} - _PARTS)
        if strange:
            raise FileExistsError(
                f"render_mart: {folder} holds {strange[0]!r}, which is not part of a shop; name a new folder"
            )
    elif folder.exists():
        raise FileExistsError(f"render_mart: {folder} is a file; name a folder")


def render_mart(
    folder: Path | str,
    *,
    products: int = 240,
    photos: int = 6,
    dates: int = 2,
    seed: int = 0,
    ungrounded_share: float = 0.35,
    workers: int = 1,
    first: int = 0,
) -> Path:
    """Renders products `first` and on of a shop into `folder` (replacing an earlier shop) and returns the folder.

    photos: customer photos per product, of which `dates` are close-ups of the date print. The shop is written beside
    the folder and renamed when complete. Errors: ValueError for numbers out of range, FileExistsError when the folder
    contains anything but a shop.
    """
    folder = Path(folder)
    _check(folder, products=products, photos=photos, dates=dates, ungrounded_share=ungrounded_share)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as spare:
        made = Path(spare) / "mart"
        (made / "images").mkdir(parents=True)
        task = partial(
            _render_product, folder=made, photos=photos, dates=dates, seed=seed, ungrounded_share=ungrounded_share
        )
        rows = spread(task, range(first, first + products), processes=workers, chunk=4)
        _write_lines(made / "products.jsonl", [product for product, _ in rows])
        _write_lines(made / "feedback.jsonl", [line for _, feedback in rows for line in feedback])
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    return folder


def render_views(feedback: Iterable[Feedback], folder: Path | str, *, seed: int, each: int = 2) -> dict[str, list[str]]:
    """Renders `each` more photos of the item that a customer photo shows: {feedback_id: paths}; `seed` is the shop's.

    The item keeps its damage and its marks; placement, angle, light and occluders differ. Close-ups of dates get no
    further views.
    """
    folder, found = Path(folder), {}
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for row in feedback:
        if (row.facts or {}).get("damaged") is None:
            continue
        index, k = int(row.product_id[1:]), int(row.feedback_id.rsplit("F", 1)[1])
        item, key = make_item(index, seed=seed), (seed, index, 2, k)
        taken = plan_shot(np.random.default_rng(key), seed=key, damaged=row.facts["damaged"])
        names = [f"{row.feedback_id}_view{v}.jpg" for v in range(1, each + 1)]
        for v, name in enumerate(names, 1):
            other = plan_shot(np.random.default_rng([*key, v]), seed=(*key, v), damaged=False)
            same = {"damage": taken.damage, "mark": taken.mark, "item_seed": key}
            _save(take_photo(draw_package(item.look), replace(other, **same)).image, folder, name)
        found[row.feedback_id] = [str(folder / "images" / name) for name in names]
    return found


def _write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
