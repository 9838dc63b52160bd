"""Catalogues built from public sets of real photos, as their authors laid them out; nothing is copied or converted.

`MTIVE_DATA` names the folder of these sets. Unusable photos and rows are quarantined, as in `catalogue.py`.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

from mtive_nb.data.catalogue import Catalogue, Feedback, Product, Quarantined
from mtive_nb.data.crops import box_of, read_mask
from mtive_nb.data.dates import parse_date, strip_prefix
from mtive_nb.data.photos import path_fault, photo_fault
from mtive_nb.data.source_tables import BOXED, BRANDS, COOKIE_RUNS, EXPIRY_LABELS, LOOSE
from mtive_nb.data.splits import split_of

# name: (possible folder names, origin and size)
SOURCES: dict[str, tuple[tuple[str, ...], str]] = {
    "grocery": (
        ("GroceryStoreDataset", "GroceryStoreDataset-master"),
        "git clone https://github.com/marcusklasson/GroceryStoreDataset (commit fc80ba90, MIT; train and val: 71 MB)",
    ),
    "cookies": (
        ("cookies", "amazon-lookout-for-vision", "amazon-lookout-for-vision-main"),
        "git clone https://github.com/aws-samples/amazon-lookout-for-vision "
        "(commit 14bed61c, CC BY-SA 4.0; the photos and masks of cookies: 29 MB)",
    ),
    "expiry": (
        ("expiry-photos", "expdate/images", "expdate-main/images"),
        "git clone https://github.com/felizang/expdate (commit b82322ef, CC BY 4.0; img_01.jpg to img_08.jpg: 1 MB)",
    ),
    "clothing": (
        ("clothing-dataset-small", "clothing-dataset-small-master"),
        "git clone https://github.com/alexeygrigorev/clothing-dataset-small "
        "(commit 11961516, CC0; 50 training photos a class and all of validation: 19 MB)",
    ),
}
SHOP_SOURCES = ("grocery", "cookies", "expiry")  # what SOURCE: real opens


def data_dir() -> Path:
    """The folder that MTIVE_DATA names. Errors: FileNotFoundError says what to download, with origin and size."""
    found = os.environ.get("MTIVE_DATA", "")
    if found and Path(found).is_dir():
        return Path(found)
    state = f"names {found!r}, which is no folder" if found else "is not set"
    wanted = "\n".join(f"  {folders[0]}/: {origin}" for folders, origin in SOURCES.values())
    raise FileNotFoundError(f"MTIVE_DATA {state}; expected the folder that holds the real photos:\n{wanted}")


def load_grocery(folder: str | Path | None = None) -> Catalogue:
    """GroceryStoreDataset: 81 products with their catalogue photo, and one Feedback without text for each phone photo.

    All 81 products are in every split: the authors' task is to recognise a known product in a new photo. So splits are
    by photo: train.txt gives train and, for a tenth by hash of the file name, val; val.txt gives test. A clone's
    test.txt is not read, so that results are the same with and without it.
    """
    root = _find("grocery", folder, marks=("dataset/classes.csv", "classes.csv")).parent
    catalogue = Catalogue("grocery", root, [], [], splits={})
    classes: dict[str, Product] = {}
    for line, row in enumerate(_csv_rows(root / "classes.csv"), start=2):
        image = row["Iconic Image Path (str)"].lstrip("/")
        if _usable(catalogue, "classes.csv", line, image):
            classes[row["Class ID (int)"]] = _grocery_product(root, row, image=image)
    catalogue.products = list(classes.values())
    for name in ("train.txt", "val.txt"):
        for line, text in enumerate((root / name).read_text(encoding="utf-8").splitlines(), start=1):
            _add_grocery_photo(catalogue, classes, name=name, line=line, text=text)
    return catalogue


def load_cookies(folder: str | Path | None = None) -> Catalogue:
    """63 phone photos of cookies: file names say which are damaged; a mask gives the box around all of the damage.

    Consecutive photos show one cookie from several sides, so splits are by runs of photos (COOKIE_RUNS), not by photo.
    Whole photos are confounded: the tray around a cookie says whether it is broken. Scores use crops.py.
    """
    images = _find("cookies", folder, marks=("images/normal-1.jpg", "**/normal-1.jpg")).parent
    masks = next(images.parent.glob("**/anomaly-1.png"), images / "anomaly-1.png").parent
    catalogue = Catalogue("cookies", images.parent, [], [], splits={})
    for path in sorted(images.glob("*.jpg"), key=lambda path: (len(path.stem), path.stem)):
        image = path.relative_to(catalogue.root).as_posix()
        if not _usable(catalogue, image, None, image):
            continue
        damaged = path.stem.startswith("anomaly")
        mask = masks / f"{path.stem}.png"
        box = _mask_box(catalogue, mask) if damaged else None
        facts = {"damaged": damaged, "damage": "crack" if damaged else None, "damage_box": box}
        facts |= {"damage_mask": mask.relative_to(catalogue.root).as_posix()} if box else {}
        facts["attributes"] = {"category": "cookie"}
        _add(catalogue, Feedback(f"cookie-{path.stem}", "cookie", "", (image,), facts), _cookie_split(path.stem))
    # An undamaged cookie of the training split serves as the catalogue photo, which the set lacks.
    train = [row for row in catalogue.feedback if catalogue.splits[row.feedback_id] == "train"]
    whole = [row for row in train if not row.facts["damaged"]]
    attributes = {"name": "chocolate chip cookie", "category": "cookie"}
    photos = whole[0].images if whole else ()
    text = "A round biscuit with chocolate chips."
    catalogue.products = [Product("cookie", "Chocolate Chip Cookie", text, "cookie", "cookie", attributes, photos)]
    return catalogue


def load_expiry(folder: str | Path | None = None) -> Catalogue:
    """Eight phone photos of packages with a date, read by eye (labels.csv, or EXPIRY_LABELS where a clone lacks it).

    All are in the test split. For an ambiguous date (03/04/23), facts["dates"]["expiry_also"] is the second reading to
    accept. The package's only photo is also its catalogue photo, so these rows suit task EX alone.
    """
    root = _find("expiry", folder, marks=("labels.csv", "img_01.jpg")).parent
    header, *table = EXPIRY_LABELS
    labels = root / "labels.csv"
    rows = _csv_rows(labels) if labels.is_file() else [dict(zip(header, row, strict=True)) for row in table]
    catalogue = Catalogue("expiry", root, [], [], splits={})
    for line, row in enumerate(rows, start=2):
        if _usable(catalogue, "labels.csv", line, row["file"]):
            product_id, photos = f"expiry-{Path(row['file']).stem}", (row["file"],)
            product = Product(product_id, "Package with a printed date", "", "package", "package", {}, photos)
            catalogue.products.append(product)
            facts = {"dates": _expiry_dates(row)}
            _add(catalogue, Feedback(f"{product_id}-photo", product_id, "", photos, facts), "test")
    return catalogue


def load_clothing(folder: str | Path | None = None) -> Catalogue:
    """clothing-dataset-small: a Feedback without text for each photo; its product is its class, one of ten.

    The authors' validation folder is test; of their training folder a tenth, by hash of the file name, is val. The set
    has no products and no catalogue photos: a class's first training photo stands in for its catalogue photo.
    """
    root = _find("clothing", folder, marks=("train/*/*.jpg",)).parents[2]
    catalogue = Catalogue("clothing", root, [], [], splits={})
    for path in sorted((*root.glob("train/*/*.jpg"), *root.glob("validation/*/*.jpg"))):
        image, kind = path.relative_to(root).as_posix(), path.parent.name
        if _usable(catalogue, image, None, image):
            if not any(product.product_id == kind for product in catalogue.products):
                catalogue.products.append(Product(kind, kind, "", kind, "clothing", {"category": kind}, (image,)))
            split = "test" if image.startswith("validation") else grocery_split(image)
            facts = {"attributes": {"category": kind}}
            _add(catalogue, Feedback(path.stem, kind, "", (image,), facts), split)
    return catalogue


def _find(source: str, folder: str | Path | None, *, marks: tuple[str, ...]) -> Path:
    """The first file that matches a mark (a glob pattern) in `folder`, or in a folder of the source's name under it."""
    base = Path(folder) if folder is not None else data_dir()
    names, origin = SOURCES[source]
    # Search in depth only a folder that the caller named or that has the source's name, never all of MTIVE_DATA.
    candidates = [(base / name, mark) for name in names for mark in marks]
    candidates += [(base, mark) for mark in marks if folder is not None or "*" not in mark]
    for candidate, mark in candidates:
        found = next(iter(sorted(candidate.glob(mark))), None) if candidate.is_dir() else None
        if found is not None:
            return found
    wanted, places = " or ".join(marks), ", ".join(names)
    raise FileNotFoundError(f"{source}: no {wanted} in {base} or its {places}. Expected: {origin}")


def _csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        return list(csv.DictReader(stream))


def _usable(catalogue: Catalogue, file: str, line: int | None, image: str) -> bool:
    reason = path_fault(catalogue.root, image) or photo_fault(catalogue.root / image)
    if reason is not None:
        catalogue.quarantine.append(Quarantined(file, line, "image", image, reason))
    return reason is None


def _add(catalogue: Catalogue, feedback: Feedback, split: str) -> None:
    catalogue.feedback.append(feedback)
    catalogue.splits[feedback.feedback_id] = split


def _grocery_product(root: Path, row: dict[str, str], *, image: str) -> Product:
    fine, coarse = row["Class Name (str)"], row["Coarse Class Name (str)"]
    category = coarse.replace("-", " ").lower()
    title = fine.replace("-", " ")
    name = title.lower() if category in title.lower() else f"{title.lower()} {category}"
    attributes = {"name": name, "category": category, "packaging": "box" if coarse in BOXED else LOOSE}
    brands = [brand for brand in BRANDS if title.startswith(brand)]
    attributes |= {"brand": brands[0]} if brands else {}
    text_path = root / row["Product Description Path (str)"].lstrip("/")
    text = text_path.read_text(encoding="utf-8", errors="replace").strip() if text_path.is_file() else ""
    return Product(fine, title, text, category, category, attributes, (image,))


def _add_grocery_photo(catalogue: Catalogue, classes: dict[str, Product], *, name: str, line: int, text: str) -> None:
    image, class_id = [part.strip() for part in (*text.split(","), "", "")[:2]]
    if class_id not in classes:
        reason = "expected `path, class, coarse class` with a class of classes.csv whose catalogue photo is usable"
        catalogue.quarantine.append(Quarantined(name, line, "class", text, reason))
    elif _usable(catalogue, name, line, image):
        product = classes[class_id]
        visible = {key: product.attributes[key] for key in ("name", "category")}
        facts = {"attributes": visible, "packaging": product.attributes["packaging"]}
        split = "test" if name == "val.txt" else grocery_split(image)
        _add(catalogue, Feedback(image.removesuffix(".jpg"), product.product_id, "", (image,), facts), split)


def grocery_split(image: str) -> str:
    """Return the split of a photo that train.txt lists: train, and for a tenth by hash of its path (`train/...`) val."""
    return split_of(image, shares=(0.9, 0.1, 0.0))


def _cookie_split(stem: str) -> str:
    kind, _, number = stem.partition("-")
    place = int(number) if number.isdigit() else 0
    return next((split for run, first, last, split in COOKIE_RUNS if run == kind and first <= place <= last), "train")


def _mask_box(catalogue: Catalogue, path: Path) -> list[int] | None:
    """XYXY box in pixels around all damage in the mask."""
    reason = photo_fault(path)
    if reason is not None:
        file = path.relative_to(catalogue.root).as_posix()
        catalogue.quarantine.append(Quarantined(file, None, "mask", file, f"{reason}; the photo is kept without a box"))
        return None
    return box_of(read_mask(path))


def _expiry_dates(row: dict[str, str]) -> dict[str, str | None]:
    text = strip_prefix(row["expiry_text"])
    dates = {"expiry": row["expiry_date"] or parse_date(text), "expiry_text": text}
    dates |= {"production": row.get("production_date") or None, "production_text": None}
    if not row["expiry_date"]:  # the date has two readings, and the label chooses neither
        day_first = dates["expiry"]
        dates["expiry_also"] = f"{day_first[:5]}{day_first[8:]}-{day_first[5:7]}" if day_first else None
    return dates
