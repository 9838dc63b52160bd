"""eBay's instruction mix has the shares asked for, and a rule decides which answers are right."""

from collections import Counter
from dataclasses import replace

import pytest

from mtive_nb.data.catalogue import load_catalogue
from mtive_nb.data.commerce.listings import Listing, listings_of, with_aspects_of
from mtive_nb.data.instructions.ebay_mix import VARIANTS, blend, ebay_mix, listing_texts, mix_table
from mtive_nb.data.instructions.ebay_rules import CHECKS, failed_checks, read_pairs
from mtive_nb.data.mart.render import render_mart
from mtive_nb.data.ocr import Line
from mtive_nb.data.records import load_records, question_of, write_records


@pytest.fixture(scope="module")
def listings(tmp_path_factory):
    folder = render_mart(tmp_path_factory.mktemp("mix") / "mart", products=48, photos=3, dates=1, seed=4)
    return [with_aspects_of(one, ("visible",)) for one in listings_of(load_catalogue(folder), customers=True)]


@pytest.fixture(scope="module")
def lines(listings):
    return {one.photo: [Line("NET WT", 0.9, (0, 0, 1, 1))] for one in listings}


@pytest.fixture(scope="module")
def mix(listings, lines):
    return ebay_mix(listings, 800, lines=lines, seed=1)


def test_parts_have_the_paper_s_shares_and_variants_take_turns(mix):
    table = mix_table(mix)
    assert table.groupby("part")["n"].sum().to_dict() == {"attributes": 240, "listing": 100, "precise": 100, "vqa": 360}
    assert len(table) == sum(map(len, VARIANTS.values())) and table["share"].sum() == pytest.approx(1)
    assert (table.groupby("part")["n"].agg(lambda n: n.max() - n.min()) <= 1).all()


def test_shares_are_parameters(listings):
    only = ebay_mix(listings, 11, shares={"vqa": 0.5, "listing": 0.5})
    assert sorted(Counter(r["task"] for r in only).values()) == [5, 6] and len({r["id"] for r in only}) == 11
    for wrong in ({"vqa": 0.9}, {"vqa": 0.5, "jokes": 0.5}, {"vqa": 1.5, "listing": -0.5}, {}):
        with pytest.raises(ValueError, match="shares: found"):
            ebay_mix(listings, 10, shares=wrong)


def test_the_mix_is_of_one_split_and_the_same_again(listings, lines, mix, tmp_path):
    train = {one.photo for one in listings if one.split == "train"}
    assert {image for r in mix for image in r["images"]} <= train
    assert mix == ebay_mix(listings, 800, lines=lines, seed=1) != ebay_mix(listings, 800, lines=lines, seed=2)
    assert load_records(write_records(mix, tmp_path / "mix.jsonl")) == mix
    assert len({(r["images"][0], r["variant"], question_of(r)) for r in mix}) == len(mix)


def test_title_category_and_print_stand_where_the_variant_says(mix, listings):
    titles = {one.photo: one.title for one in listings}
    for record in mix:
        asked = question_of(record)
        assert (f"Title: {titles[record['images'][0]]}. Category: " in asked) is ("T&C" in record["variant"])
        assert asked.startswith("Printed: NET WT.") is ("OCR" in record["variant"])


def test_without_print_there_is_no_variant_with_it(listings):
    assert not any("OCR" in r["variant"] for r in ebay_mix(listings, 200))


def test_an_answer_about_another_item_fails(mix):
    """The rule of each record refuses the answer of a record about an item that shares no value with it."""
    tried = Counter()
    for record in mix:
        own = set(record["facts"]["known"].values())
        for other in mix:
            if other["variant"] == record["variant"] and "yes" not in record["variant"]:
                if not own & set(other["facts"]["known"].values()):
                    tried[record["variant"], not failed_checks(record, other["answer"])] += 1
        assert not failed_checks(record, record["answer"]) and failed_checks(record, "")
    passed = sum(n for (_, right), n in tried.items() if right)
    assert len({variant for variant, _ in tried}) == 19 and passed == 0


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        ({"equals": ["blue"]}, "Blue.", "dark blue"),
        ({"yes_no": "no"}, "No, it is red", "yes"),
        ({"includes": ["LOZ", "250 ml"]}, "loz shampoo, 250ML", "LOZ shampoo"),
        ({"avoids": ["red"]}, "A scarred box.", "A Red box."),
        ({"form": "json"}, '{"colour": ["red", "blue"]}', "colour: red"),
        ({"form": "json"}, '{"n": 2}', '{"colour": '),
        ({"form": "lines"}, "colour: red\nsize: 9", "colour red"),
        ({"form": "numbered"}, "1. red\n2. box", "1. red\n3. box"),
        ({"true_pairs": {"colour": "grey"}}, '{"Colour": "Gray"}', '{"colour": "grey", "brand": "X"}'),
        ({"true_pairs": {"colour": "red"}}, "colour: red", "nothing"),
        ({"keys": ["a", "b"]}, '{"b": "1", "a": "2"}', '{"a": "2"}'),
        ({"most_pairs": 1}, '{"a": "2"}', '{"a": "2", "b": "1"}'),
        ({"title": ["LOZ"]}, "colour: red\ntitle: LOZ box", "colour: red\ntitle: red box"),
        ({"items": 2}, "red, box", "red box"),
        ({"most_words": 2}, "red box", "a red box"),
        ({"sentences": 2}, "A box of 1.5 l. It is red.", "A box."),
        ({"case": "upper"}, "RED 9", "Red 9"),
    ],
)
def test_each_rule(rule, right, wrong):
    record = {"id": "r", "facts": {"rule": rule}}
    assert not failed_checks(record, right) and failed_checks(record, wrong) == list(rule)


def test_every_check_is_used_and_tested(mix):
    used = {name for record in mix for name in record["facts"]["rule"]}
    tested = {name for mark in test_each_rule.pytestmark for rule, _, _ in mark.args[1] for name in rule}
    assert used == tested == set(CHECKS)
    with pytest.raises(KeyError, match="no facts"):
        failed_checks({"id": "r", "facts": None}, "red")


def test_json_that_is_no_object_has_no_pairs():
    for text in ("[1, 2]", "7", "null", "[" * 100_000, "{}", ""):
        assert read_pairs(text) == ("", [])
    assert read_pairs('{"a": null, "b": ["x", 2]}') == ("json", [("b", "x"), ("b", "2")])


def test_odd_listings_of_a_user_pass_over_what_cannot_be_asked(tmp_path):
    odd = Listing(
        "P1",
        "A. Title: {x}",
        "tea",
        (("maker", "St. John, & Co."), ("note", "two\nlines"), ("colour",), "red"),
        "p.jpg",
    )
    listings = [odd, replace(odd, listing_id="P2", photo=""), replace(odd, listing_id="P3", aspects=("red",))]
    records = ebay_mix(listings, 100)
    assert records and {r["product_id"] for r in records} == {"P1"}
    assert not any(failed_checks(r, r["answer"]) for r in records) and len(
        load_records(write_records(records, tmp_path / "r"), check_photos=False)
    ) == len(records)
    assert ebay_mix([], 10) == []


def test_a_mix_is_blended_with_general_records_by_share(mix):
    general = [record | {"task": "INSTRUCT", "id": f"g{k}"} for k, record in enumerate(mix)]
    for share in (0, 0.25, 1):
        found = blend(mix, general, share=share, n=200)
        assert len({r["id"] for r in found}) == 200 and sum(r["task"] != "INSTRUCT" for r in found) == 200 * share
    with pytest.raises(ValueError, match="found share=0.5, n=4 of 1 e-commerce"):
        blend(mix[:1], general, share=0.5, n=4)


def test_listings_become_texts_of_train_products_each_once(listings, tmp_path):
    texts = listing_texts([*listings, Listing("odd", "Odd", "tea", (("colour",),), "", product_id="odd")])
    train = {one.product_id: one for one in listings if one.split == "train"}
    assert sorted(r["product_id"] for r in texts) == sorted(train) and not any(r["images"] for r in texts)
    for record in texts:
        one = train[record["product_id"]]
        assert question_of(record).endswith(one.title)
        assert dict(line.split(": ", 1) for line in record["answer"].split("\n")) == {
            "category": one.category,
            **dict(one.aspects),
        }
    assert load_records(write_records(texts, tmp_path / "texts.jsonl")) == texts
