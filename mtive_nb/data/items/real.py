"""Items of real photos under MTIVE_DATA: food packages, ABO's catalogue photos, close-ups of dates.

Truth is not complete: packages have what a person read from the photos, ABO what its listing says, dates nothing. So
scores count values at truth's own paths alone.
"""

import ast
import re
from pathlib import Path
from typing import Any

from mtive_nb.data.items.items import Item
from mtive_nb.data.items.schema import checked, gtin_ok
from mtive_nb.data.sources import data_dir, load_expiry

ORIGINS = {
    "packages": "8 photos of openfoodfacts/test-data (commit 3035b2c6, photos CC BY-SA 3.0; 2 MB)",
    "abo-samples": "3 products of aws-samples/aws-smart-product-onboarding (commit 8091f49c, CC BY 4.0; 1 MB)",
    "expiry-photos": "8 photos of felizang/expdate (commit b82322ef, CC BY 4.0; 1 MB)",
}
# Read by eye from the photos, by the start of the file's name. The digits in other file names are in no photo.
PACKAGES: dict[str, dict[str, Any]] = {
    "0074306802576": {"attributes": {"brand_name": "Vibrant Health", "product_name": "Green Vibrance"}},
    "3256220787321": {
        "identifiers": {"barcodes": [{"value": "3256220787321"}]},
        "attributes": {"product_name": "Crêpes de Froment", "capacity": [{"value": "160", "unit": "g"}]},
    },
    "7640104959519": {"attributes": {"brand_name": "Holle", "product_name": "Dinkel Baby Zwieback"}},
    "upc1": {"identifiers": {"barcodes": [{"value": "7610352054205"}]}},
}


def real_items(source: str, folder: str | Path | None = None) -> list[Item]:
    """Return the items of a source, a name of ORIGINS; folder: default, that of its name under MTIVE_DATA.

    Photos of one product are one item. Errors: KeyError for another source, FileNotFoundError that says what to get.
    """
    if source not in ORIGINS:
        raise KeyError(f"source: found {source!r}, expected one of {', '.join(ORIGINS)}")
    root = Path(folder) if folder is not None else data_dir() / source
    photos = sorted(root.glob("*/*.jpg" if source == "abo-samples" else "*.jpg"))
    if not photos:
        raise FileNotFoundError(f"{source}: found no photos in {root}, expected {ORIGINS[source]}")
    groups: dict[str, list[Path]] = {}
    for photo in photos:
        names = {"packages": photo.stem.split("_")[0], "abo-samples": photo.parent.name, "expiry-photos": photo.stem}
        groups.setdefault(names[source], []).append(photo)
    return [_item(name, paths, source) for name, paths in groups.items()]


def printed_dates(folder: str | Path | None = None) -> dict[str, frozenset[str]]:
    """Return the ISO dates that may be read as the expiry date of each item of "expiry-photos"; errors as real_items.

    The schema has no field for a date, so they are no part of the items' truth.
    """
    found = {}
    for row in load_expiry(folder).feedback:
        dates = (row.facts or {}).get("dates") or {}
        found[Path(row.images[0]).stem] = frozenset(filter(None, (dates.get("expiry"), dates.get("expiry_also"))))
    return found


def _item(name: str, photos: list[Path], source: str) -> Item:
    truth = PACKAGES.get(name, {}) if source == "packages" else {}
    if source == "abo-samples":
        truth = listing_truth((photos[0].parent / "metadata.txt").read_text(encoding="utf-8"))
    return Item(name, tuple(map(str, photos)), truth, complete=False, source=source)


def listing_truth(text: str) -> dict[str, Any]:
    """Return the fields of an ABO listing, a dict of texts such as "[{language_tag=en_US, value=Solimo}]".

    A model number that is a GTIN is a barcode. Of several languages the first English text counts, else the first.
    """
    row = ast.literal_eval(text)

    def value(name: str) -> str:
        found = re.findall(r"language_tag=(\w+), value=([^}]*)}", row.get(name) or "")
        english = [words for tag, words in found if tag.startswith("en")]
        return (english or [words for _, words in found] or [""])[0].strip()

    model = value("model_number")
    identifiers = {"barcodes": [{"value": model}]} if gtin_ok(model) else {"model_number": model} if model else {}
    attributes: dict[str, Any] = {"brand_name": value("brand"), "product_name": value("model_name")}
    attributes["colors"] = [colour] if (colour := value("color")) else []
    kept = {name: one for name, one in attributes.items() if one}
    return checked({"identifiers": identifiers, "attributes": kept}).answer
