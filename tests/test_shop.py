"""Opening a shop: counts expand, the saved shop moves with its folder, no photo stands in two splits."""

from dataclasses import replace

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from mtive_nb.data.negatives import HardNegatives
from mtive_nb.data.photos import load_image
from mtive_nb.data.shop import (
    build_shop_emdiv,
    expand_counts,
    negatives_beside_random,
    open_shop,
    photos_with_facts,
    read_shop,
    settle_grounding,
    split_photos,
    write_shop,
)
from mtive_nb.data.splits import assert_no_leaks

MART = {"products": 10, "photos": 4, "dates": 2, "ungrounded_share": 0.4, "workers": 1}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "01"


@pytest.fixture(scope="module")
def parts(run_folder):
    return open_shop("mart", run_folder, mart=MART, composited={}, seed=3)


def test_counts_by_task_and_variant():
    counts = expand_counts(train={"AE": 5, "AE/bin": 2}, val=3, test={"AE/gen": 7})
    assert counts["AE/gen/train"] == 5
    assert counts["AE/bin/train"] == 2
    assert counts["AE/bin/val"] == 2
    assert counts["AE/gen/test"] == 7
    assert counts["AE/aug/test"] == counts["DD/bin/train"] == 0


def test_counts_name_a_wrong_key():
    with pytest.raises(ValueError, match=r"found 'XX', expected TASK or TASK/variant"):
        expand_counts(train={"XX": 1}, val=0, test={})


def test_a_part_answers_its_own_tasks_alone(parts):
    only_ex = [type(parts[0])(parts[0].catalogue, ("EX",))]
    counts = expand_counts(train={"EX": 4, "DD": 4}, val=0, test={})
    records = build_shop_emdiv(only_ex, counts).records
    assert {record["task"] for record in records} == {"EX"}


def test_saved_shop_moves_with_its_run_folder(parts, run_folder, tmp_path):
    write_shop(parts, run_folder / "records" / "shop.json")
    moved = run_folder.rename(tmp_path / "elsewhere")
    again = read_shop(moved / "records" / "shop.json")
    moved.rename(run_folder)  # the fixture is shared
    assert again[0].catalogue.products == parts[0].catalogue.products
    assert again[0].catalogue.feedback == parts[0].catalogue.feedback
    assert again[0].catalogue.root == (tmp_path / "elsewhere" / "mart").resolve()
    assert again[0].splits == parts[0].splits


def test_every_photo_once_and_none_in_two_splits(parts):
    photos = split_photos(parts)
    assert len(photos) == len({path for _, path in photos}) == 10 * (1 + 4)
    assert_no_leaks(photos)
    other = "val" if photos[0][0] == "train" else "train"
    with pytest.raises(ValueError, match="stand in two splits"):
        assert_no_leaks([*photos, (other, load_image(photos[0][1]))])


def test_photos_with_facts_keep_the_catalogue_s_order(parts):
    rows = parts[0].catalogue.feedback
    silent = replace(
        parts[0], catalogue=replace(parts[0].catalogue, feedback=[replace(rows[0], facts=None), *rows[1:]])
    )
    assert [photo.feedback for photo in photos_with_facts([parts[0], silent])] == [*rows, *rows[1:]]


def test_hard_negatives_are_nearer_in_words(parts):
    finder = HardNegatives(parts[0].catalogue)
    table = negatives_beside_random(finder)
    assert sorted(table["product"].unique()) == sorted(finder.products)
    assert (table["product"] != table["other"]).all()
    texts = {p.product_id: f"{p.title} {p.description} {p.category}" for p in parts[0].catalogue.products}
    vectors = TfidfVectorizer(sublinear_tf=True).fit(texts.values())
    first = table.iloc[0]
    pair = vectors.transform([texts[first["product"]], texts[first["other"]]]).toarray()
    assert first["similarity"] == pytest.approx(pair[0] @ pair[1])


def test_grounding_is_open_where_no_photo_tells():
    def record(asked, known, grounded):
        return {"facts": {"asked": asked, "known": known, "grounded": grounded}}

    price, count = record({"price": "3"}, {"name": "milk"}, False), record({"count": "1"}, {"name": "milk"}, False)
    told = record({"count": "1"}, {"count": "2"}, False)
    assert [r["facts"]["grounded"] for r in settle_grounding([price, count])] == [False, None]
    assert [r["facts"]["grounded"] for r in settle_grounding([price, count, told])] == [False, False, False]


def test_a_missing_shop_names_the_notebook(tmp_path):
    with pytest.raises(FileNotFoundError, match="notebook 01 writes it"):
        read_shop(tmp_path / "shop.json")


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"products\.jsonl"):
        open_shop(str(tmp_path / "none"), tmp_path, mart={}, composited={})
