"""CASLIE's tasks from real photos: labels of the public sets, splits, strata."""

import os
from collections import Counter

import pytest

from mtive_nb.data.commerce.leaks import leaks
from mtive_nb.data.commerce.real import clothing_rows, grocery_rows
from mtive_nb.data.commerce.rows import CommerceRow
from mtive_nb.data.sources import load_grocery

pytestmark = pytest.mark.skipif(not os.environ.get("MTIVE_DATA"), reason="MTIVE_DATA names no folder of real photos")
COUNTS = {"train": 40, "val": 10, "test": 20, "ood": 20}


@pytest.fixture(scope="module")
def rows() -> list[CommerceRow]:
    return grocery_rows(counts=COUNTS)


def test_groceries_have_their_labels(rows: list[CommerceRow]) -> None:
    assert Counter((row.task, row.split) for row in rows) == {
        (task, split): n for task in ("CC", "PRP", "PSI") for split, n in COUNTS.items()
    }
    category_of = {product.attributes["name"]: product.category for product in load_grocery().products}
    for row in rows:
        shown = [facts["category"] for facts in row.facts]
        if row.task == "CC":
            assert len(row.options) == 5 and f"{row.output}: {shown[0]}" in row.options
        if row.task == "PRP":
            assert row.output in row.labels and (row.output == "C") is (shown[0] == shown[1])
            assert row.places == ("product 1", "product 2") and len(set(row.known["products"])) == 2
        if row.task == "PSI":
            other = row.input["query"] != row.facts[0]["name"]
            assert (row.output == "yes") is (other and category_of[row.input["query"]] == shown[0])
        title = " ".join(row.input.get(name, "") for name in ("title", "product 1", "product title"))
        assert (shown[0] in title) is (row.stratum == "redundant")


def test_no_photo_stands_in_two_splits_and_no_category_out_of_domain_in_another(rows: list[CommerceRow]) -> None:
    assert set(leaks(rows)["kind"]) <= {"product"}
    categories = {split: {f["category"] for r in rows if r.split == split for f in r.facts} for split in COUNTS}
    assert not categories["ood"] & (categories["train"] | categories["val"] | categories["test"])


def test_clothes_have_their_class_and_the_authors_split() -> None:
    made = clothing_rows(counts=COUNTS)
    assert Counter(row.split for row in made) == {"train": 40, "val": 10, "test": 20}
    for row in made:
        kind = row.photos[0].split("/")[-2]
        assert f"{row.output}: {kind}" in row.options and kind not in row.input["title"]
        assert ("/validation/" in row.photos[0]) is (row.split == "test")
    assert set(leaks(made)["kind"]) <= {"product"}
