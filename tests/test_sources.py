"""The public sets as they are (MTIVE_DATA), and small imitations of their layouts for what needs no real photo."""

import os
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mtive_nb.data.source_tables import COOKIE_RUNS
from mtive_nb.data.sources import data_dir, load_cookies, load_expiry, load_grocery
from mtive_nb.data.splits import find_leaks

real = pytest.fixture(scope="module")


def need_data() -> None:
    if not os.environ.get("MTIVE_DATA"):
        pytest.skip("MTIVE_DATA is not set: the loaders of real photos are NOT tested against the real photos")


@real
def grocery():
    need_data()
    return load_grocery()


@real
def cookies():
    need_data()
    return load_cookies()


def photos_of(catalogue):
    return [(catalogue.splits[row.feedback_id], catalogue.root / row.images[0]) for row in catalogue.feedback]


def test_grocery_counts(grocery):
    assert (len(grocery.products), len(grocery.feedback), grocery.quarantine) == (81, 2936, [])
    splits = Counter(grocery.splits.values())
    assert splits["test"] == 296 and splits["train"] + splits["val"] == 2640 and 200 < splits["val"] < 330


def test_grocery_names_can_be_read(grocery):
    products = {product.product_id: product for product in grocery.products}
    assert products["Golden-Delicious"].attributes["name"] == "golden delicious apple"
    assert products["Golden-Delicious"].category == "apple"
    assert products["Tropicana-Golden-Grapefruit"].attributes["name"] == "tropicana golden grapefruit juice"
    assert products["God-Morgon-Apple-Juice"].attributes["brand"] == "God Morgon"
    assert "taste" in products["Golden-Delicious"].description
    assert len({product.category for product in grocery.products}) == 43  # `cut -d, -f4 classes.csv | sort -u`


def test_grocery_packaging(grocery):
    boxed = [product for product in grocery.products if product.attributes["packaging"] == "box"]
    assert len(boxed) == 31 and all("/Packages/" in product.images[0] for product in boxed)


def test_grocery_photo_shows_its_class(grocery):
    for row in grocery.feedback:
        assert row.images[0].split("/")[-2] in (row.product_id, row.images[0].split("/")[2])
        assert row.text == "" and set(row.facts) == {"attributes", "packaging"}


def test_no_cookie_photo_and_no_near_copy_in_two_splits(cookies):
    assert len(find_leaks(photos_of(cookies), max_distance=8)) == 0


def test_grocery_test_split_holds_no_near_copy(grocery):
    test_or_not = [("test" if split == "test" else "train", path) for split, path in photos_of(grocery)]
    assert len(find_leaks(test_or_not, max_distance=8)) == 0


def test_cookies(cookies):
    damaged = [row for row in cookies.feedback if row.facts["damaged"]]
    assert (len(cookies.feedback), len(damaged), cookies.quarantine) == (63, 32, [])
    for row in damaged:
        x0, y0, x1, y1 = row.facts["damage_box"]
        assert 0 <= x0 < x1 <= 576 and 0 <= y0 < y1 <= 768 and (x1 - x0) * (y1 - y0) < 0.5 * 576 * 768
    counts = Counter((cookies.splits[row.feedback_id], row.facts["damaged"]) for row in cookies.feedback)
    assert counts["test", True] == 9 and counts["test", False] == 11
    assert min(counts[split, damaged] for split in ("train", "val") for damaged in (True, False)) >= 5


def test_expiry_with_and_without_labels(tmp_path):
    need_data()
    catalogue = load_expiry()
    assert len(catalogue.feedback) == 8 and set(catalogue.splits.values()) == {"test"} and catalogue.quarantine == []
    dates = [row.facts["dates"]["expiry"] for row in catalogue.feedback]
    assert dates == "2023-04-03 2021-02-21 2021-04-11 2021-11 2021-08-03 2021-10-28 2022-01-31 2021-11-26".split()
    assert catalogue.feedback[0].facts["dates"]["expiry_also"] == "2023-03-04"
    clone = tmp_path / "expdate" / "images"
    clone.mkdir(parents=True)
    for path in catalogue.root.glob("*.jpg"):
        shutil.copyfile(path, clone / path.name)
    again = load_expiry(tmp_path)
    assert [row.facts for row in again.feedback] == [row.facts for row in catalogue.feedback]


def test_cookie_runs_cover_each_photo_once():
    numbers = {"normal": [], "anomaly": []}
    for kind, first, last, _ in COOKIE_RUNS:
        numbers[kind] += range(first, last + 1)
    assert numbers == {"normal": list(range(1, 32)), "anomaly": list(range(1, 33))}


@pytest.mark.parametrize("value", [None, "/no/such/folder"])
def test_missing_data_says_what_to_download(monkeypatch, value):
    monkeypatch.delenv("MTIVE_DATA", raising=False)
    if value:
        monkeypatch.setenv("MTIVE_DATA", value)
    with pytest.raises(
        FileNotFoundError, match=r"(?s)MTIVE_DATA.*marcusklasson.*fc80ba90.*MB.*amazon-lookout.*felizang"
    ):
        data_dir()


@pytest.mark.parametrize("load", [load_grocery, load_cookies, load_expiry])
def test_empty_folder_says_what_to_download(load, tmp_path):
    with pytest.raises(FileNotFoundError, match="git clone https://github.com"):
        load(tmp_path)


def grey(path, shade=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 80), (shade, shade, shade)).save(path)


def test_grocery_bad_rows_are_quarantined(tmp_path):
    root = tmp_path / "GroceryStoreDataset" / "dataset"
    grey(root / "icons/Kiwi.jpg")
    grey(root / "train/Kiwi_1.jpg")
    (root / "train/Kiwi_2.jpg").write_bytes(b"not a photo")
    header = "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),Iconic Image Path (str),"
    rows = ["Kiwi,0,Kiwi,0,/icons/Kiwi.jpg,/icons/Kiwi.txt", "Leek,1,Leek,1,/icons/Leek.jpg,/icons/Leek.txt"]
    (root / "classes.csv").write_text("\n".join([header + "Product Description Path (str)", *rows]))
    lines = [
        "train/Kiwi_1.jpg, 0, 0",
        "train/Kiwi_2.jpg, 0, 0",
        "train/Leek_1.jpg, 1, 1",
        "nonsense",
        "train/x.jpg, 0, 0",
    ]
    (root / "train.txt").write_text("\n".join(lines))
    (root / "val.txt").write_text("")
    catalogue = load_grocery(tmp_path)
    assert [row.images for row in catalogue.feedback] == [("train/Kiwi_1.jpg",)]
    places = [(row.file, row.line) for row in catalogue.quarantine]
    assert places == [("classes.csv", 3), *(("train.txt", line) for line in (2, 3, 4, 5))]


def test_cookies_of_a_clone_in_deeper_folders(tmp_path):
    root = tmp_path / "amazon-lookout-for-vision" / "cookie-dataset" / "files"
    for name in ("normal-1", "normal-3", "anomaly-1", "anomaly-2"):
        grey(root / "training-images" / f"{name}.jpg")
    mask = np.zeros((80, 60, 3), np.uint8)
    mask[10:20, 5:30] = (35, 164, 54)
    (root / "mask-images").mkdir()
    Image.fromarray(mask).save(root / "mask-images/anomaly-1.png")
    catalogue = load_cookies(tmp_path)
    boxes = {row.feedback_id: row.facts["damage_box"] for row in catalogue.feedback}
    assert boxes == {
        "cookie-normal-1": None,
        "cookie-normal-3": None,
        "cookie-anomaly-1": [5, 10, 30, 20],
        "cookie-anomaly-2": None,
    }
    assert [row.found.split("/")[-1] for row in catalogue.quarantine] == ["anomaly-2.png"]
