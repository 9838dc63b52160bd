"""Customer photos by split, and what is known to be true of each photo.

EMDIV, the dialogues and the instructions read a catalogue through this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from mtive_nb.data.catalogue import Catalogue, Feedback, Product
from mtive_nb.data.emdiv.own import OwnTask
from mtive_nb.data.negatives import HardNegatives
from mtive_nb.data.records import UNANSWERABLE
from mtive_nb.data.splits import SPLITS, split_products

IDENTIFYING = ("category", "name", "brand")
DATES = ("expiry", "production")


@dataclass(frozen=True)
class CustomerPhoto:
    """One customer photo with its feedback, product and split; `path` is absolute, `own` are the catalogue's tasks."""

    feedback: Feedback
    product: Product
    path: str
    split: str
    own: tuple[OwnTask, ...] = ()

    @property
    def facts(self) -> dict:
        return self.feedback.facts or {}

    @cached_property
    def listed(self) -> bool:
        """Whether the photo shows the product as listed: its facts name no attributes, and it is no close-up of a date."""
        return self.facts.get("attributes") is None and self.facts.get("dates") is None

    @cached_property
    def seen(self) -> dict[str, str]:
        """The attributes visible in the photo, those of the listing where the facts name none."""
        return self.product.attributes if self.listed else _texts(self.facts.get("attributes"))

    @cached_property
    def recognisable(self) -> bool:
        """Whether the photo shows which product it is: a close-up of a date does not."""
        return self.listed or any(self.seen.get(name) for name in IDENTIFYING)

    def known(self) -> dict[str, str]:
        """Everything known to be true of the photo, as texts: `known_truth`, and the facts of own tasks."""
        own = {task.fact: answer for task in self.own if (answer := task.read(self.facts)[0])}
        return (self.seen if self.listed and self.facts else {}) | known_truth(self.facts) | own


def known_truth(facts: dict | None) -> dict[str, str]:
    """A photo's facts as a flat table of texts: attributes, damaged (yes/no), damage, packaging, placement, dates."""
    facts = facts or {}
    known = _texts(facts.get("attributes"))
    if facts.get("damaged") is not None:
        known["damaged"] = "yes" if facts["damaged"] else "no"
        if facts.get("damage") or not facts["damaged"]:
            known["damage"] = facts.get("damage") or "none"
    for name in ("packaging", "placement", "count"):
        if facts.get(name) is not None:
            known[name] = str(facts[name])
    dates = facts.get("dates")
    for name in DATES if dates is not None else ():
        known[name] = dates.get(f"{name}_text") or dates.get(name) or UNANSWERABLE
        if dates.get(name):
            known[f"{name}_iso"] = dates[name]
    if dates and dates.get("expiry_also"):
        known["expiry_also"] = dates["expiry_also"]
    return known


def _texts(attributes: dict | None) -> dict[str, str]:
    return {name: str(value) for name, value in (attributes or {}).items() if value not in (None, "")}


def photos_by_split(catalogue: Catalogue, splits: Mapping[str, str] | None = None) -> dict[str, list[CustomerPhoto]]:
    """Every customer photo with its product, grouped by train, val and test."""
    if splits is None:
        splits = catalogue.splits or split_products(product.product_id for product in catalogue.products)
    products = {product.product_id: product for product in catalogue.products}
    found: dict[str, list[CustomerPhoto]] = {split: [] for split in SPLITS}
    own = tuple(catalogue.tasks.values())
    for row in catalogue.feedback:
        split = splits.get(row.feedback_id) or splits.get(row.product_id)
        if split not in found:
            known = f"splits name {split!r} for it" if split else "splits name neither it nor its product"
            raise ValueError(f"feedback {row.feedback_id}: {known}; expected one of {SPLITS} for every row")
        path = str((catalogue.root / row.images[0]).resolve())
        found[split].append(CustomerPhoto(row, products[row.product_id], path, split, own))
    return found


def split_negatives(catalogue: Catalogue, photos: list[CustomerPhoto]) -> HardNegatives:
    """Hard negatives among the products of these photos."""
    return HardNegatives(catalogue, allowed={photo.product.product_id for photo in photos})
