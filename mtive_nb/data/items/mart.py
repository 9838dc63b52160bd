"""Items of Pocket Mart: 2 to 8 photos of a product, the catalogue photo first, back labels among the others."""

from pathlib import Path
from typing import Any

import numpy as np

from mtive_nb.data.items.items import Item, Region, item_split, write_items
from mtive_nb.data.mart.back import Back, back_facts, take_back
from mtive_nb.data.mart.draw import draw_package
from mtive_nb.data.mart.photo import catalogue_photo, catalogue_placing, plan_shot, take_photo
from mtive_nb.data.mart.render import Item as Product
from mtive_nb.data.mart.render import make_item
from mtive_nb.run import progress

FEWEST, MOST = 2, 8  # photos of an item; uniform, so that the median is the paper's 5


def render_items(folder: Path | str, *, items: int, seed: int = 0, first: int = 0) -> list[Item]:
    """Render items `first` and on into `folder` (images/ and items.jsonl), and return them.

    Item k of a seed has the same pixels whatever the number of items. Errors: ValueError for fewer than 1.
    """
    folder = Path(folder).resolve()
    if items < 1:
        raise ValueError(f"render_items: found items={items}, expected 1 or more")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    made = [_item(k, folder, seed) for k in progress(range(first, first + items), what="items")]
    write_items(made, folder / "items.jsonl")
    return made


def _item(index: int, folder: Path, seed: int) -> Item:
    rng = np.random.default_rng([seed, index, 7])
    product, pack_seed = make_item(index, seed=seed), (seed, index, 8)
    truth = _truth(product, rng)
    pack, item_id = draw_package(product.look), f"I{index:05d}"
    photos = [catalogue_photo(pack)]
    placing = catalogue_placing(pack)
    front = {"brand": ("attributes.brand_name", product.look.brand), "size": ("attributes.capacity", product.look.size)}
    regions = [Region(0, *shown, _rounded(placing.hull(getattr(pack.label, n)))) for n, shown in front.items()]
    for k in range(1, int(rng.integers(FEWEST, MOST + 1))):
        if k == 1 or rng.random() < 0.4:  # every item shows its back at least once
            back: Back = take_back(truth, product.look.colour, rng=rng)
            photos.append(back.image)
            regions += [Region(k, *printed) for printed in back.printed]
        else:
            shot = plan_shot(rng, seed=(*pack_seed, k), damaged=False)
            photos.append(take_photo(pack, shot).image)
    paths = [str(folder / "images" / f"{item_id}_{k}.jpg") for k in range(len(photos))]
    for path, photo in zip(paths, photos, strict=True):
        photo.save(path, quality=92)
    return Item(item_id, tuple(paths), truth, tuple(regions), source="mart", split=item_split(item_id))


def _truth(product: Product, rng: np.random.Generator) -> dict[str, Any]:
    """All fields of an item. The back prints them, so that every true value stands in a photo."""
    look = product.look
    amount, unit = look.size.split()
    attributes: dict[str, Any] = {"product_type": product.coarse, "product_category": look.category}
    attributes |= {"brand_name": look.brand, "product_name": f"{look.brand.title()} {look.category}"}
    attributes |= {"capacity": [{"value": amount, "unit": unit}], "colors": [look.colour]}
    return {"attributes": attributes} | back_facts(rng)


def _rounded(box: tuple[float, ...]) -> tuple[float, float, float, float]:
    return tuple(round(float(v), 1) for v in box)
