"""Photos on several products: copies found, lookalikes kept apart, groups in one split, placeholders refused."""

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mtive_nb.data.catalogue import Catalogue, load_catalogue
from mtive_nb.data.door.shared import connected, placeholders, print_of, same_photos, shop_splits
from mtive_nb.data.mart.render import render_mart
from mtive_nb.data.shop import ShopPart, split_photos
from mtive_nb.data.sources import load_grocery
from mtive_nb.data.splits import assert_no_leaks, split_of

needs_photos = pytest.mark.skipif("MTIVE_DATA" not in os.environ, reason="MTIVE_DATA names no folder of real photos")


def dress(colour=(20, 20, 40), mark: tuple[int, int] | None = None, ground: int = 250) -> Image.Image:
    """A product on a light ground, as shops show it; `mark` is where a small print stands."""
    image = Image.new("RGB", (240, 320), (ground, ground, ground))
    draw = ImageDraw.Draw(image)
    draw.polygon([(90, 40), (150, 40), (200, 290), (40, 290)], fill=colour)
    if mark:
        draw.rectangle((*mark, mark[0] + 24, mark[1] + 24), fill=(240, 200, 40))
    return image


def noise(k: int) -> Image.Image:
    pixels = np.random.default_rng(k).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((90, 90), Image.Resampling.BICUBIC)


def groups(folder: Path) -> list[set[str]]:
    same = same_photos({path.stem: print_of(path) for path in folder.iterdir()})
    return [found for one in set(same.values()) if len(found := {name for name in same if same[name] == one}) > 1]


def test_copies_saved_or_scaled_again_are_found(tmp_path):
    first = dress(mark=(100, 120))
    first.save(tmp_path / "a.png")
    first.save(tmp_path / "b.png", optimize=True)
    first.save(tmp_path / "c.jpg", quality=40)
    first.resize((120, 160), Image.Resampling.LANCZOS).save(tmp_path / "d.jpg", quality=80)
    first.resize((600, 800), Image.Resampling.BICUBIC).save(tmp_path / "e.webp")
    assert groups(tmp_path) == [set("abcde")]


def test_lookalikes_are_kept_apart(tmp_path):
    dress().save(tmp_path / "plain.png")
    dress(colour=(20, 60, 40)).save(tmp_path / "colour.png")
    dress(mark=(100, 120)).save(tmp_path / "mark.png")
    dress(mark=(110, 200)).save(tmp_path / "mark_elsewhere.png")
    dress().crop((0, 0, 240, 280)).save(tmp_path / "cut.png")
    for k in range(3):  # flat, and nearly so: their perceptual hashes are chance
        Image.new("RGB", (80, 80), (250 - k, 250, 250)).save(tmp_path / f"flat{k}.png")
    assert groups(tmp_path) == []
    Image.new("RGB", (80, 80), (250, 250, 250)).save(tmp_path / "again.png", optimize=True)
    assert groups(tmp_path) == [{"flat0", "again"}]


@needs_photos
def test_no_two_real_photos_of_the_grocery_set_are_the_same():
    grocery = load_grocery()
    prints = {row.images[0]: print_of(grocery.root / row.images[0]) for row in grocery.feedback[::6]}
    same = same_photos(prints)
    assert len(prints) > 400 and all(photo == first for photo, first in same.items())


def test_groups_join_over_several_photos():
    assert connected(list("dcbae"), [("d", "c"), ("c", "a")]) == {"d": "a", "c": "a", "b": "b", "a": "a", "e": "e"}


def test_a_group_goes_where_its_smallest_id_goes_and_adding_a_product_moves_no_other():
    units = {f"P{k:03d}": {f"photo{k // 3}"} for k in range(60)}
    splits, _, moved = shop_splits(units, {})
    assert moved == [] and set(splits.values()) == {"train", "val", "test"}
    assert all(splits[f"P{k:03d}"] == split_of(f"P{k // 3 * 3:03d}") for k in range(60))
    more, _, _ = shop_splits(units | {"P900": {"new"}}, {})
    assert all(more[one] == split for one, split in splits.items())


def test_without_shared_photos_splits_are_those_of_the_ids():
    splits, _, _ = shop_splits({f"P{k}": {f"photo{k}"} for k in range(99)}, {})
    assert splits == {one: split_of(one) for one in splits}


def test_named_splits_lead_their_group_and_conflicts_are_told():
    units = {"A": {"x"}, "B": {"x"}, "C": {"x"}, "D": {"y"}}
    splits, _, moved = shop_splits(units, {"B": "val", "C": "test", "D": "train"})
    assert splits == {"A": "val", "B": "val", "C": "val", "D": "train"} and moved == [("C", "B", "val")]


def test_variants_are_no_placeholder_and_five_other_products_are():
    sizes = [f"Zevo dress black size {size}" for size in ("S", "M", "L", "XL", "XXL", "3XL")]
    goods = ["Red apple", "Zevo soap", "Milk 1 l", "Halden shirt", "Chocolate cake"]
    assert placeholders({"a": sizes, "b": goods[:4] * 3}) == {}
    assert "5 products with different titles" in placeholders({"c": goods})["c"]


@pytest.fixture
def shop(tmp_path):
    """Write products {id: (title, photos)} and feedback {id: (product, photos)}, and load the folder."""

    def make(products: dict, feedback: dict, splits: object = None) -> Catalogue:
        for name, key, rows in (("products", "product_id", products), ("feedback", "feedback_id", feedback)):
            other = "title" if name == "products" else "product_id"
            lines = [json.dumps({key: own, other: text, "images": photos}) for own, (text, photos) in rows.items()]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
            for photo in (photo for _, photos in rows.values() for photo in photos):
                if not (tmp_path / photo).exists():
                    noise(zlib.crc32(photo.split(".")[0].rstrip("_").encode())).save(tmp_path / photo)
        if splits is not None:
            (tmp_path / "splits.json").write_text(json.dumps(splits))
        return load_catalogue(tmp_path)

    return make


def many(n: int, **photos: str) -> dict:
    return {f"P{k:02d}": (f"Soap number {k}", [photos.get(f"P{k:02d}", f"p{k:02d}.png")]) for k in range(n)}


def test_products_and_feedback_that_share_a_photo_are_in_one_split(shop):
    feedback = {f"F{k}": (f"P{k:02d}", [f"f{min(k, 20)}.png"]) for k in range(30)}
    catalogue = shop(many(30, P05="p00.png", P06="p01_.jpg"), feedback)
    assert catalogue.quarantine == []
    shared = {row.field: row.found for row in catalogue.warnings if "one split" in row.reason}
    assert shared["P00"] == "P00, P05" and shared["P01"] == "P01, P06" and set(shared) == {"P00", "P01", "P20"}
    splits = catalogue.splits
    assert splits["P05"] == split_of("P00") and splits["P06"] == split_of("P01")
    assert {splits[f"P{k}"] for k in range(20, 30)} == {split_of("P20")}
    assert splits["P07"] == split_of("P07")
    assert_no_leaks(split_photos([ShopPart(catalogue, ("DD",))]))


def test_a_partial_splits_file_decides_its_ids_alone(shop):
    feedback = {f"F{k}": (f"P{k:02d}", [f"f{k}.png"]) for k in range(12)}
    named = {"P00": "test", "F3": "val", "P01": "tset", "P99": "train", "P02": ["train"]}
    catalogue = shop(many(12), feedback, named)
    wanted = {f"P{k:02d}": split_of(f"P{k:02d}") for k in range(12)} | {"P00": "test", "F3": "val"}
    assert catalogue.splits == wanted
    said = {row.field: row.reason for row in catalogue.quarantine}
    assert said.keys() == {"P01", "P99", "P02"} and {row.file for row in catalogue.quarantine} == {"splits.json"}
    assert said["P01"].endswith("did you mean test?") and said["P99"] == "expected the id of a usable row"


def test_splits_that_name_feedback_alone_split_photos(shop):
    feedback = {f"F{k}": (f"P{k % 2:02d}", [f"f{k}.png"]) for k in range(4)}
    named = {"F0": "train", "F1": "test", "F2": "test", "F3": "train"}
    assert shop(many(3), feedback, named).splits == named


def test_named_splits_of_one_photo_give_way_and_never_leak(shop):
    feedback = {f"F{k}": (f"P{k:02d}", [f"f{k}.png"]) for k in range(3)}
    catalogue = shop(many(3, P01="p00.png"), feedback, {"P00": "train", "P01": "test"})
    assert catalogue.splits["P00"] == catalogue.splits["P01"] == "train"
    (fault,) = catalogue.quarantine
    assert (fault.file, fault.field, fault.found) == ("splits.json", "P01", "test") and "P00" in fault.reason
    assert_no_leaks(split_photos([ShopPart(catalogue, ("DD",))]))


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"P00": "train", "P00": "test"}', '{"a": ' * 900 + "1" + "}" * 900, "\xff"]
)
def test_a_broken_splits_file_is_named_and_stops_nothing(shop, tmp_path, content):
    shop(many(3), {"F0": ("P00", ["f0.png"])})
    (tmp_path / "splits.json").write_bytes(content.encode("latin-1"))
    catalogue = load_catalogue(tmp_path)
    assert [row.file for row in catalogue.quarantine] == ["splits.json"]
    assert catalogue.splits == {f"P0{k}": split_of(f"P0{k}") for k in range(3)}


def test_a_placeholder_is_left_out_and_does_not_glue_the_shop(shop):
    titles = ["Red apple", "Zevo soap", "Milk 1 l", "Halden shirt", "Chocolate cake", "Garden chair"]
    products = {f"P{k}": (title, ["none.png", f"own{k}.png"][: 1 + (k > 0)]) for k, title in enumerate(titles)}
    catalogue = shop(products, {"F0": ("P0", ["f0.png"]), "F1": ("P1", ["f1.png"])})
    assert [row.images for row in catalogue.products] == [(f"own{k}.png",) for k in range(1, 6)]
    assert catalogue.splits == {f"P{k}": split_of(f"P{k}") for k in range(1, 6)}
    first = catalogue.quarantine[0]
    assert (first.field, first.row) == ("images[0]", "P0") and "a placeholder" in first.reason
    assert [row.feedback_id for row in catalogue.feedback] == ["F1"]


def test_the_drawn_shop_keeps_the_splits_of_its_ids(tmp_path):
    catalogue = load_catalogue(render_mart(tmp_path / "mart", products=40, photos=2, dates=1, seed=3))
    assert catalogue.splits == {row.product_id: split_of(row.product_id) for row in catalogue.products}
