"""Pocket Mart: the same seed gives the same shop, and what it says about a photo is true of the photo."""

import datetime as dt
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mtive_nb.data.mart.closeup import take_closeup
from mtive_nb.data.mart.draw import draw_package
from mtive_nb.data.mart.icons import INKS, icon_mask
from mtive_nb.data.mart.label import PAPER, luminance
from mtive_nb.data.mart.photo import plan_shot, take_photo
from mtive_nb.data.mart.render import CATEGORIES, DAMAGES, make_item, render_mart, vocabulary
from mtive_nb.data.mart.text import customer_text
from mtive_nb.model.batches import cached_image

MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return render_mart(tmp_path_factory.mktemp("shop") / "mart", products=48, photos=3, dates=1, seed=3)


@pytest.fixture(scope="module")
def products(shop):
    return {row["product_id"]: row for row in read_lines(shop / "products.jsonl")}


@pytest.fixture(scope="module")
def feedback(shop):
    return read_lines(shop / "feedback.jsonl")


def test_same_seed_same_bytes_for_any_shop_size_and_number_of_workers(shop, tmp_path):
    again = render_mart(tmp_path / "again", products=3, photos=3, dates=1, seed=3, workers=2)
    for path in sorted((again / "images").iterdir()):
        assert path.read_bytes() == (shop / "images" / path.name).read_bytes(), path.name
    assert read_lines(again / "feedback.jsonl") == read_lines(shop / "feedback.jsonl")[:9]
    other = render_mart(tmp_path / "other", products=1, photos=1, dates=0, seed=4)
    assert (other / "images/M00000.jpg").read_bytes() != (shop / "images/M00000.jpg").read_bytes()


def test_every_photo_is_there_and_has_its_size(shop, products, feedback):
    named = [name for row in [*products.values(), *feedback] for name in row["images"]]
    assert len(named) == len(set(named)) == 48 * 4
    for row in feedback:
        with Image.open(shop / row["images"][0]) as image:
            assert image.mode == "RGB"
            assert image.size == ((336, 224) if "dates" in row["facts"] else (280, 280))


def test_the_pocket_base_gets_the_photos_as_they_are(shop):
    for path in sorted((shop / "images").iterdir())[::9]:
        assert cached_image(str(path), 140).tobytes() == Image.open(path).convert("RGB").tobytes()


def test_all_categories_are_sold_and_all_values_are_in_the_vocabulary(products):
    assert len(CATEGORIES) == 48 and len({c.coarse for c in CATEGORIES.values()}) == 12
    assert {row["category"] for row in products.values()} == set(CATEGORIES)
    words = vocabulary()
    for row in products.values():
        assert row["coarse"] == CATEGORIES[row["category"]].coarse
        assert all(value in words[name] for name, value in row["attributes"].items())


def test_products_of_a_category_differ_in_brand_and_colour():
    same = [make_item(48 * turn + 7, seed=1).attributes for turn in range(10)]
    assert len({a["category"] for a in same}) == 1
    assert len({a["brand"] for a in same}) == len({a["colour"] for a in same}) == 10


def test_each_pictogram_has_an_ink_that_stands_out_on_paper():
    assert set(INKS) == set(CATEGORIES)
    assert all(luminance(PAPER) - luminance(ink) > 80 for ink in INKS.values())


def test_pictograms_are_distinct():
    small = {name: np.asarray(icon_mask(name, 34)).astype(float) / 255 for name in CATEGORIES}
    names = list(small)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            assert np.abs(small[first] - small[second]).mean() > 0.08, (first, second)


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_box_holds_the_pixels_that_damage_changed(kind):
    for index in range(4):
        pack = draw_package(make_item(index * 11, seed=5).look)
        shot = plan_shot(np.random.default_rng([8, index]), seed=(8, index), damaged=True)
        shot = replace(
            shot, damage=kind, blocker=None, blur_px=0.0, noise=0.0, exposure=1.0, placement="on floor", count=1
        )
        hurt, whole = take_photo(pack, shot), take_photo(pack, replace(shot, damage=None))
        assert whole.damage_box is None
        x0, y0, x1, y1 = (int(v) for v in hurt.damage_box)
        changed = np.abs(np.asarray(hurt.image).astype(int) - np.asarray(whole.image)).max(axis=2) > 30
        inside = changed[y0 : y1 + 1, x0 : x1 + 1]
        assert changed.sum() > 900, "too small to be seen"  # 1% of the photo
        assert inside.sum() > 0.9 * changed.sum(), "changes outside the box"
        assert inside.mean() > 0.04, "the box is mostly empty"  # a crack is thin lines


def test_half_of_the_photos_are_damaged_and_boxes_lie_in_the_photo(feedback):
    plain = [row["facts"] for row in feedback if "dates" not in row["facts"]]
    assert sum(facts["damaged"] for facts in plain) == len(plain) / 2
    for facts in plain:
        assert facts["damaged"] == (facts["damage"] in DAMAGES) == (facts["damage_box"] is not None)
        if facts["damaged"]:
            x0, y0, x1, y1 = facts["damage_box"]
            assert 0 <= x0 < x1 <= 280 and 0 <= y0 < y1 <= 280


def test_visible_attributes_are_the_products_own_and_some_are_hidden(products, feedback):
    plain = [row for row in feedback if "dates" not in row["facts"]]
    for row in feedback:
        assert row["facts"]["attributes"].items() <= products[row["product_id"]]["attributes"].items()
        assert "colour" in row["facts"]["attributes"]
    share = np.mean(["brand" in row["facts"]["attributes"] for row in plain])
    assert 0.6 < share < 1


def test_a_covered_brand_is_not_called_visible():
    pack = draw_package(make_item(3, seed=5).look)
    shot = plan_shot(np.random.default_rng(2), seed=(2,), damaged=False, placement="on floor")
    shot = replace(
        shot, count=1, scale=1.0, shift=(0, 0), angle_deg=0.0, blur_px=0.0, blocker=None, mark=None, exposure=1.0
    )
    assert take_photo(pack, shot).visible == {"brand", "category", "colour", "packaging", "size"}
    assert "brand" not in take_photo(pack, replace(shot, shift=(150, 0))).visible
    assert (
        "brand" not in take_photo(pack, replace(shot, blocker="card", blocker_side="left", blocker_depth=0.5)).visible
    )
    assert "size" not in take_photo(pack, replace(shot, blur_px=1.9)).visible


def independent_iso(text):
    """Reads a printed date by another road than the package's own reader."""
    words = re.findall(r"[A-Z]+|\d+", text)
    month = next((MONTHS.index(w) + 1 for w in words if w in MONTHS), None)
    numbers = [w for w in words if w.isdigit()]
    year = next((w for w in numbers if len(w) == 4), numbers[-1])
    numbers.remove(year)
    if month is None:
        month = int(numbers.pop() if text.index(year) or len(year) == 2 else numbers.pop(0))
    day = int(numbers[0]) if numbers else None
    year = int(year) if len(year) == 4 else 2000 + int(year)
    return dt.date(year, month, day).isoformat() if day else f"{year}-{month:02d}"


def test_printed_dates_read_back_to_the_truth_in_many_formats():
    shapes, none, produced = set(), 0, 0
    for k in range(150):
        close = take_closeup("blue", rng=np.random.default_rng([1, k]))
        assert all(len(line) <= 14 for line in close.lines)
        for which in ("expiry", "production"):
            text = close.dates[f"{which}_text"]
            assert (text is None) == (close.dates[which] is None)
            if text:
                assert independent_iso(text) == close.dates[which]
                assert any(text in line for line in close.lines)
                shapes.add(re.sub(r"\d", "9", re.sub(r"[A-Z]+", "A", text)))
        none += close.dates["expiry"] is None
        produced += close.dates["production"] is not None
    assert len(shapes) >= 8
    assert 3 < none < 40 and 20 < produced < 90


@pytest.mark.parametrize("share", [0.0, 0.35, 0.8])
def test_share_of_phrases_that_no_photo_shows(share):
    rng = np.random.default_rng(0)
    item = make_item(13, seed=2)
    facts = {"damaged": True, "damage": "dent", "count": 2, "placement": "on floor", "attributes": item.attributes}
    phrases = [
        phrase
        for _ in range(600)
        for phrase in customer_text(item.attributes, facts, price="1.29", ungrounded_share=share, rng=rng)[1]
    ]
    assert abs(np.mean([not phrase["visible"] for phrase in phrases]) - share) < 0.04
    unseen = {"smell", "price", "delivery", "taste", "gift", "service", "effect"}
    assert all((phrase["about"] in unseen) == (not phrase["visible"]) for phrase in phrases)


def test_phrases_make_up_the_text_and_visible_ones_are_true(products, feedback):
    texts = [phrase for row in feedback for phrase in row["facts"]["phrases"]]
    assert 0.25 < np.mean([not phrase["visible"] for phrase in texts]) < 0.45
    colours = set(vocabulary()["colour"])
    for row in feedback:
        facts, own = row["facts"], products[row["product_id"]]["attributes"]
        assert len(facts["phrases"]) >= 2 and len({p["about"] for p in facts["phrases"]}) == len(facts["phrases"])
        for phrase in facts["phrases"]:
            assert phrase["text"] in row["text"]
            words = set(re.findall(r"[a-z]+", phrase["text"].lower()))
            if phrase["visible"] and phrase["about"] in ("brand", "category", "colour", "size"):
                assert phrase["about"] in facts["attributes"]
                assert own[phrase["about"]].lower() in phrase["text"].lower()
                assert words & colours <= {own["colour"]} | set(own["category"].split())
            if phrase["about"] == "damage" and "no damage" in phrase["text"].lower():
                assert not facts["damaged"]


def test_bad_numbers_and_foreign_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="dates=3"):
        render_mart(tmp_path / "x", products=1, photos=2, dates=3)
    with pytest.raises(ValueError, match="ungrounded_share=1.5"):
        render_mart(tmp_path / "x", products=1, ungrounded_share=1.5)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="thesis.txt"):
        render_mart(tmp_path, products=1)
    assert (tmp_path / "thesis.txt").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
