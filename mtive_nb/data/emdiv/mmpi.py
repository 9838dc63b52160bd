"""MMPI: VIT-Pro's benchmarks (section 4.1 and appendix E), built from any catalogue whose facts are known.

AE asks for the brand, DD for damage, PM whether a photo shows the product of a listing. Each task has a yes/no question
(`bin`, MMPI-Obj) and an open question (`gen`, MMPI-Gen; AE's asks for all attributes as JSON). The version with several
images adds more views of the item for DD and the shop's own photo for PM; the other records are the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from mtive_nb.data.catalogue import Catalogue
from mtive_nb.data.customer_photos import CustomerPhoto
from mtive_nb.data.emdiv import questions as ask
from mtive_nb.data.emdiv import tasks
from mtive_nb.data.emdiv.build import Emdiv, build_emdiv
from mtive_nb.data.emdiv.tasks import Candidate, Made, Shop
from mtive_nb.data.mart.render import render_views
from mtive_nb.data.negatives import differing
from mtive_nb.data.shop import ShopPart

PM_GEN = " Say why."
Views = Mapping[str, Sequence[str]]  # feedback_id -> further photos of the same item, absolute paths


def build_mmpi(
    catalogue: Catalogue,
    *,
    counts: Mapping[str, int],
    splits: Mapping[str, str] | None = None,
    views: Views | None = None,
    seed: int = 0,
) -> Emdiv:
    """Build the records of AE, DD and PM, variants bin and gen; counts, splits and seed as in build_emdiv.

    With `views`, build the version with several images: the same records under the same ids.
    """
    makers: dict[str, Callable[..., Made]] = {"AE": brand, "DD": tasks.dd, "PM": listed}
    if views is not None:
        makers |= {"DD": partial(_with_views, views=views), "PM": partial(listed, reference=True)}
    return build_emdiv(catalogue, makers=makers, counts=counts, splits=splits, seed=seed)


def build_shop_mmpi(
    parts: Sequence[ShopPart],
    counts: Mapping[str, int],
    *,
    several: int,
    views: Path,
    shop_seed: int = 0,
    seed: int = 0,
) -> tuple[list[dict], list[dict]]:
    """Build both benchmarks of a shop: the records with one image, and the yes/no records with several images.

    counts: as in `build_mmpi`; each part contributes its own tasks. several: training records per task of the second
    benchmark; its test counts are those of the first. views: folder for further views of Pocket Mart's items, drawn
    with `shop_seed`. In other catalogues, the customer's further photos are the views. Records left with one image are
    dropped.
    """
    one, more = [], []
    for part in parts:
        options = {"splits": part.splits, "seed": seed}
        own = {key: n for key, n in counts.items() if key.split("/")[0] in part.tasks}
        one += build_mmpi(part.catalogue, counts=own, **options).records
        polar = {key: several if "train" in key else n for key, n in own.items() if "bin" in key}
        drawn = build_mmpi(part.catalogue, counts=polar, **options).records
        shown = _further_views(part.catalogue, drawn, folder=views, shop_seed=shop_seed)
        more += build_mmpi(part.catalogue, views=shown, counts=polar, **options).records
    return one, [record for record in more if len(record["images"]) > 1]


def _further_views(catalogue: Catalogue, records: Sequence[dict], *, folder: Path, shop_seed: int) -> Views:
    """The further views of each customer photo; for Pocket Mart, only of the photos in DD's records."""
    if catalogue.name != "mart":
        return {
            row.feedback_id: [str(catalogue.root / image) for image in row.images[1:]] for row in catalogue.feedback
        }
    shown = {r["id"].split("/")[2] for r in records if r["task"] == "DD"}
    return render_views([row for row in catalogue.feedback if row.feedback_id in shown], folder, seed=shop_seed)


def brand(photo: CustomerPhoto, variant: str, *, rng: np.random.Generator, shop: Shop) -> Made:
    """AE: yes/no about a right and a wrong brand (bin), or all attributes as JSON (gen)."""
    names = ("brand",) if variant == "bin" else ask.AE_ATTRIBUTES
    return tasks.ae(photo, variant, rng=rng, shop=shop, names=names)


def listed(
    photo: CustomerPhoto, variant: str, *, rng: np.random.Generator, shop: Shop, reference: bool = False
) -> Made:
    """PM: a listing's title against the photo, one yes and up to two hard noes; `reference` adds its photo."""
    if not photo.recognisable:
        return "product not recognisable in the photo"
    if reference and not photo.product.images:
        return "product has no catalogue photo"
    made = []
    for product in (photo.product, *shop.other_products(photo, rng, k=2)):
        match = product.product_id == photo.product.product_id
        differs = [] if match else differing(product.attributes, photo.seen)
        if not match and not tasks.told_by_title(product, differs):
            continue
        answer = "yes" if match else "no"
        asked = {"match": answer} | ({"differs": differs[0]} if differs and variant != "bin" else {})
        why = f"it shows {ask.describe(photo.seen, brand=True)}" if match else f"the {differs[0]} differs"
        question = str(rng.choice(ask.PM_AUG_TITLE)).format(title=product.title)
        images = (*([shop.catalogue_photo(product)] if reference else []), photo.path)
        known = photo.known() | {"match": answer} | ({"differs": differs} if differs else {})
        question, said = (question, answer) if variant == "bin" else (question + PM_GEN, f"{answer}, {why}")
        made.append(Candidate(question, said, asked, known, images, label=answer, group="match"))
    return made


def _with_views(photo: CustomerPhoto, variant: str, *, rng: np.random.Generator, shop: Shop, views: Views) -> Made:
    made = tasks.dd(photo, variant, rng=rng, shop=shop)
    more = tuple(views.get(photo.feedback.feedback_id, ()))
    return made if isinstance(made, str) else [replace(one, images=(*one.images, *more)) for one in made]
