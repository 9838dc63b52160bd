"""VIT-Pro's benches: one image and several of them, the same questions; and how photos stand in a prompt."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mtive_nb.data.catalogue import load_catalogue
from mtive_nb.data.emdiv.mmpi import build_mmpi, build_shop_mmpi
from mtive_nb.data.inputs import at_ratio, delimited, partly_uncut, reordered, stacked, with_inputs, with_prompt
from mtive_nb.data.mart.render import render_mart, render_views
from mtive_nb.data.ocr import Line
from mtive_nb.data.records import record_fault, user_turn
from mtive_nb.data.shop import ShopPart, further_tests, further_yes_no

SHARES = {f"{task}/{variant}": 30 for task in ("AE", "DD", "PM") for variant in ("bin", "gen")}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mmpi")
    return load_catalogue(render_mart(folder / "mart", products=48, photos=4, dates=1, seed=3))


@pytest.fixture(scope="module")
def views(shop, tmp_path_factory):
    return render_views(shop.feedback, tmp_path_factory.mktemp("views"), seed=3, each=2)


def test_objective_questions_are_balanced_and_about_the_brand(shop):
    records = build_mmpi(shop, counts=SHARES, seed=0).records
    answers = Counter((r["task"], r["split"], r["answer"]) for r in records if r["variant"] == "bin")
    assert all(answers[task, split, "yes"] == n for (task, split, a), n in answers.items() if a == "no")
    assert {task for task, *_ in answers} == {"AE", "DD", "PM"}
    asked = [r["messages"][0]["content"][-1]["text"] for r in records if r["task"] == "AE" and r["variant"] == "bin"]
    assert asked and all(question.endswith("the brand of this product?") for question in asked)
    assert all(len(r["images"]) == 1 and record_fault(r) is None for r in records)


def test_several_images_change_no_question(shop, views):
    one, several = (
        build_mmpi(shop, counts=SHARES, seed=0).records,
        build_mmpi(shop, counts=SHARES, seed=0, views=views).records,
    )
    assert [(r["id"], r["answer"], r["facts"]) for r in one] == [(r["id"], r["answer"], r["facts"]) for r in several]
    assert Counter((r["task"], len(r["images"])) for r in several).keys() == {("AE", 1), ("DD", 3), ("PM", 2)}
    for alone, more in zip(one, several, strict=True):
        assert set(alone["images"]) < set(more["images"]) or alone["task"] == "AE"


def test_a_shop_has_both_benches_each_part_with_its_own_tasks(shop, tmp_path):
    parts = [ShopPart(shop, ("AE", "DD")), ShopPart(dataclasses.replace(shop, name="own"), ("PM",))]
    counts = {f"{task}/{variant}/{split}": 6 for task in ("AE", "DD", "PM") for variant in ("bin", "gen") for split in ("train", "test")}  # fmt: skip
    one, several = build_shop_mmpi(parts, counts, several=2, views=tmp_path, shop_seed=3)
    assert {(r["task"], r["source"]) for r in one} == {("AE", "mart"), ("DD", "mart"), ("PM", "own")}
    assert max(Counter((r["task"], r["variant"], r["split"]) for r in one).values()) <= 6
    assert all(len(r["images"]) == 1 for r in one)
    found = Counter((r["task"], r["split"], len(r["images"])) for r in several)
    assert found == {("DD", "train", 3): 2, ("DD", "test", 3): 6, ("PM", "train", 2): 2, ("PM", "test", 2): 6}
    tested = {r["id"]: r["answer"] for r in one if r["split"] == "test"}
    assert all(tested[r["id"]] == r["answer"] for r in several if r["split"] == "test")
    drawn = {r["id"].split("/")[2] for r in several if r["task"] == "DD"}
    assert {p.name.rsplit("_view", 1)[0] for p in (tmp_path / "images").iterdir()} == drawn


def test_further_products_are_those_of_a_larger_shop_and_all_tests(shop, tmp_path):
    few = ShopPart(dataclasses.replace(shop, products=shop.products[:40]), ("AE", "DD", "PM"))
    (more,) = further_tests([few], tmp_path, products=8, seed=3)
    assert [product.product_id for product in more.catalogue.products] == [f"M{k:05d}" for k in range(40, 48)]
    for product in more.catalogue.products:
        drawn, same = (of.root / product.images[0] for of in (more.catalogue, shop))
        assert drawn.read_bytes() == same.read_bytes()
    counts = {f"{task}/bin/{split}": 6 for task in more.tasks for split in ("train", "test")}
    one, several = build_shop_mmpi([more], counts, several=6, views=tmp_path / "views", shop_seed=3)
    assert {r["split"] for r in one + several} == {"test"} and Counter(r["task"] for r in one) == dict.fromkeys(
        more.tasks, 6
    )
    asked = {"tasks": ("DD", "PM"), "products": 8, "count": 4, "hard_share": 1.0, "shop_seed": 3}
    polar = further_yes_no([few], tmp_path, **asked)
    assert Counter((r["task"], r["variant"], r["split"]) for r in polar) == {
        (t, "bin", "test"): 4 for t in ("DD", "PM")
    }
    assert {r["product_id"] for r in polar} <= {product.product_id for product in more.catalogue.products}
    assert {r["source"] for r in one} == {"mart"} and all(len(r["images"]) == 3 for r in several if r["task"] == "DD")


def test_only_pocket_mart_has_further_products(shop, tmp_path):
    own = ShopPart(dataclasses.replace(shop, name="own"), ("AE",))
    assert further_tests([own], tmp_path, products=8) == [] == further_tests([ShopPart(shop, ())], tmp_path, products=0)
    assert not list(tmp_path.iterdir())


def test_views_show_the_same_item_with_its_damage(shop, views, tmp_path):
    with_dates = [row.feedback_id for row in shop.feedback if row.facts.get("damaged") is None]
    assert with_dates and not set(with_dates) & set(views)
    row = next(row for row in shop.feedback if row.facts.get("damaged"))
    again = render_views([row], tmp_path, seed=3, each=2)[row.feedback_id]
    whole = dataclasses.replace(row, facts=row.facts | {"damaged": False})
    sound = render_views([whole], tmp_path / "sound", seed=3, each=2)[row.feedback_id]
    for path, same, other in zip(views[row.feedback_id], again, sound, strict=True):
        here, there, unhurt = (np.asarray(Image.open(p), int) for p in (path, same, other))
        assert (here == there).all() and (abs(here - unhurt).max(2) > 60).sum() > 50


def test_photos_are_shrunk_and_cut(shop, views, tmp_path):
    records = build_mmpi(shop, counts={"DD/bin": 4}, seed=0, views=views).records[:2]
    made = with_inputs(records, tmp_path, shrink_to_px=112, split=True)
    assert all(record_fault(r) is None and len(r["images"]) == 15 for r in made)
    assert [Image.open(p).size for p in made[0]["images"][:5]] == [(112, 112)] + [(56, 56)] * 4
    quarters = [np.asarray(Image.open(p), int) for p in made[0]["images"][1:5]]
    whole = np.asarray(Image.open(made[0]["images"][0]), int)
    joined = np.vstack([np.hstack(quarters[:2]), np.hstack(quarters[2:])])
    assert abs(joined - whole).mean() < 6  # JPEG apart
    kinds = [part["type"] for part in made[0]["messages"][0]["content"]]
    assert kinds == ["text", *["image"] * 5] * 3 + ["text"]
    assert with_inputs(records, tmp_path)[0]["images"] == [str(p) for p in records[0]["images"]]


def test_a_photo_replaced_under_its_name_is_cut_anew(tmp_path):
    photo, level = tmp_path / "photo.png", []
    for grey in (20, 200):
        Image.new("RGB", (112, 112), (grey,) * 3).save(photo)
        record = {"messages": [user_turn("?", images=1)], "images": [str(photo)]}
        (made,) = with_inputs([record], tmp_path / "cut", shrink_to_px=56)
        level.append(Image.open(made["images"][0]).getpixel((9, 9))[0])
    assert level == pytest.approx([20, 200], abs=2)


def test_prompts_of_several_images(shop, views):
    records = build_mmpi(shop, counts={"DD/bin": 4, "AE/bin": 4}, seed=0, views=views).records
    several = next(r for r in records if len(r["images"]) == 3)
    alone = next(r for r in records if len(r["images"]) == 1)

    def texts(record):
        return [part.get("text", part["type"]) for part in record["messages"][0]["content"]]

    assert texts(stacked([several])[0]) == ["image", "image", "image", "Is this product damaged?"]
    assert texts(delimited([several])[0])[:3] == ["### Image 1:", "image", "### Image 2:"]
    assert texts(delimited([several])[0])[-1] == "### Is this product damaged?"
    assert delimited([alone]) == [alone] == stacked([alone]) == reordered([alone])
    turned = reordered([several], seed=1)[0]
    assert sorted(turned["images"]) == sorted(several["images"]) and turned["images"] != several["images"]
    assert turned["messages"] == several["messages"]
    twice = several | {"images": several["images"][:1] * 2}
    assert reordered([twice]) == [twice], "one photo twice has no other order"


def test_a_prompt_has_print_then_quarters_and_marks_and_each_can_be_left_out(shop, views, tmp_path):
    records = build_mmpi(shop, counts={"DD/bin": 4}, seed=0, views=views).records[:1]
    lines = {image: [Line(f"line {k}", 1.0, (0, 0, 1, 1))] for k, image in enumerate(records[0]["images"])}
    shown = with_prompt(records, tmp_path, lines=lines, most_characters=24)[0]
    texts = [part["text"] for part in shown["messages"][0]["content"] if part["type"] == "text"]
    assert len(shown["images"]) == 15 and record_fault(shown) is None
    assert texts[0] == "### Image 1:"
    assert texts[-1] == "### Printed: image 1: line 0; image 2. Is this product damaged?"
    assert with_prompt(records, tmp_path, split=False, prompt=stacked) == stacked(records)
    small = with_prompt(records, tmp_path, split=False, shrink_to_px=56)[0]
    assert {Image.open(p).size for p in small["images"]} == {(56, 56)}


def test_a_margin_gives_the_ratio_and_a_square_has_the_same_area(photo_folder, tmp_path):
    records = [{"images": [str(photo_folder / f"{k}.png")]} for k in range(0, 8, 2)]  # 56 x 56 pixels
    native, square = (at_ratio(records, tmp_path, ratio=1.5, square=s) for s in (False, True))
    sizes = [Image.open(r["images"][0]).size for r in native]
    assert set(sizes) == {(84, 56), (56, 84)} and {Image.open(r["images"][0]).size for r in square} == {(69, 69)}
    for before, after, (width, height) in zip(records, native, sizes, strict=True):
        x, y = (width - 56) // 2, (height - 56) // 2
        whole = np.asarray(Image.open(after["images"][0]).convert("RGB"))
        assert (whole[y : y + 56, x : x + 56] == np.asarray(Image.open(before["images"][0]).convert("RGB"))).all()
    assert at_ratio(records, tmp_path, ratio=1, square=False)[0]["images"] != records[0]["images"]
    with pytest.raises(ValueError, match="ratio=4"):
        at_ratio(records, tmp_path, ratio=4, square=False)


def test_a_share_of_the_records_stays_uncut_and_the_same_ones_in_each_setting():
    def shown(records, *, split=True, side=0):
        return [r | {"images": r["images"] * (5 if split else 1), "side": side} for r in records]

    records = [{"id": k, "images": [f"{k}.png"]} for k in range(200)]
    default, small = (partly_uncut(records, shown, share=0.5, seed=3, **options) for options in ({}, {"side": 56}))
    forms = [len(r["images"]) for r in default]
    assert 80 < forms.count(1) < 120 and set(forms) == {1, 5}
    assert [len(r["images"]) for r in small] == forms and {r["side"] for r in small} == {56}
    assert {len(r["images"]) for r in partly_uncut(records, shown, share=0.5, split=False)} == {1}
    assert [r["id"] for r in default] == list(range(200))
