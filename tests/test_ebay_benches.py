"""eBay's benchmarks ask what the photo shows, and their scores are what a hand count gives."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mtive_nb.data.catalogue import load_catalogue
from mtive_nb.data.commerce.ebay_benches import (
    APPAREL,
    BENCHES,
    BRAND,
    CARE_GROUPS,
    clothing_bench,
    clothing_listings,
    ebay_benches,
    with_more_photos,
)
from mtive_nb.data.commerce.listings import listings_of
from mtive_nb.data.mart.render import render_mart
from mtive_nb.data.records import load_records, question_of, write_records
from mtive_nb.evaluate.commerce.again import named_values
from mtive_nb.evaluate.commerce.aspects import answer_points, benchmark_scores, context_gain, pair_counts
from mtive_nb.evaluate.metrics import majority_share
from mtive_nb.run.metrics import lines_of
from mtive_nb.run.published import check_keys

GENERAL, FASHION, CONTEXT, APPAREL_TASK, BRAND_TASK, DAE = BENCHES.values()


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return load_catalogue(
        render_mart(tmp_path_factory.mktemp("benches") / "mart", products=96, photos=2, dates=0, seed=5)
    )


@pytest.fixture(scope="module")
def records(shop):
    return ebay_benches(listings_of(shop, customers=True), 60)


def of(records, task):
    return [record for record in records if record["task"] == task]


def scores_of(records, answers):
    return benchmark_scores(records, {"mine": answers}).set_index("column")


def test_each_bench_has_its_group_split_and_form(records, shop, tmp_path):
    assert load_records(write_records(records, tmp_path / "benches.jsonl")) == records
    assert set(Counter(r["task"] for r in records)) == set(BENCHES.values()) and {r["split"] for r in records} == {
        "test"
    }
    group = {p.product_id: p.coarse for p in shop.products}
    groups = {task: {group[r["product_id"]] for r in of(records, task)} for task in BENCHES.values()}
    assert all(groups[task] <= set(CARE_GROUPS) for task in (FASHION, CONTEXT, APPAREL_TASK, BRAND_TASK))
    assert not groups[GENERAL] <= set(CARE_GROUPS) and not groups[DAE] <= set(CARE_GROUPS)
    asked = {
        task: {name for r in of(records, task) for name in r["facts"]["asked"]} for task in (APPAREL_TASK, BRAND_TASK)
    }
    assert asked == {APPAREL_TASK: set(APPAREL), BRAND_TASK: set(BRAND)}


def test_only_what_the_photo_shows_is_asked_for(records, shop):
    shown = {str((shop.root / one.images[0]).resolve()): one.facts["attributes"] | {"packaging": one.facts["packaging"]}
             for one in (*shop.products, *shop.feedback)}  # fmt: skip
    for record in records:
        assert record["facts"]["asked"].items() <= shown[record["images"][0]].items()


def test_with_and_without_title_the_questions_are_the_same(records):
    plain, context = of(records, FASHION), of(records, CONTEXT)
    assert len(plain) == len(context) > 20
    for one, other in zip(plain, context, strict=True):
        assert question_of(other).endswith(question_of(one)) and question_of(other).startswith("Title: ")
        title = question_of(other).removesuffix(question_of(one)).partition(". Category: ")[0].lower()
        assert other["facts"]["in_title"] is (other["answer"].lower() in title)
    assert {r["facts"]["in_title"] for r in context} == {True, False}


def test_the_classes_stand_in_the_prompt(records):
    for record in (*of(records, APPAREL_TASK), *of(records, BRAND_TASK)):
        assert (
            all(one in question_of(record) for one in record["facts"]["classes"])
            and record["label"] in record["facts"]["classes"]
        )


def test_right_answers_score_whole_under_the_paper_s_keys(records):
    frame = benchmark_scores(records, {"mine": [r["answer"] for r in records]})
    assert frame[frame["paper"] == "ebay"].set_index("column")["value"].to_dict() == dict.fromkeys(BENCHES, 100)
    for line in lines_of(frame, row="row", column="column", value="value", unit="", better=""):
        check_keys(paper=line["paper"], table=line["table"], column=line["column"])
    wrong = scores_of(records, [""] * len(records))
    assert (wrong.loc[list(BENCHES), "value"] == 0).all() and wrong.loc[
        "DynamicAttributeExtraction/DAE unparsed", "value"
    ] == 1
    assert wrong.loc["DeepFashion/Apparel unparsed", "value"] == 1
    with pytest.raises(ValueError):
        scores_of(records, ["one"])


def test_raw_and_normalised_match_differ_as_the_rule_says(records):
    asked = of(records, GENERAL)
    found = scores_of(
        asked, [f" {r['answer'].swapcase()}. " if k % 2 else f"{r['answer']} " for k, r in enumerate(asked)]
    )
    assert found.loc["AspectPrediction/General", "value"] == 100
    assert found.loc["AspectPrediction/General raw", "value"] == pytest.approx(1 - (len(asked) // 2) / len(asked))
    sentences = scores_of(asked, [f"It is {r['answer']}" for r in asked])
    assert sentences.loc["AspectPrediction/General", "value"] == 0  # a string match reads no sentences


def test_a_class_counts_among_the_prompt_s_classes_alone(records):
    asked = of(records, APPAREL_TASK)
    commonest = Counter(r["label"] for r in asked).most_common(1)[0][0]
    found = scores_of(asked, [commonest] * len(asked))
    share = majority_share([r["label"] for r in asked])
    assert found.loc["DeepFashion/Apparel", "value"] == pytest.approx(100 * share)
    of_aspect = {name: [r["label"] for r in asked if name in r["facts"]["asked"]] for name in ("colour", "packaging")}
    best = sum(max(map(labels.count, labels)) for labels in of_aspect.values()) / len(asked)
    assert sum(map(len, of_aspect.values())) == len(asked) and best > share
    assert found.loc["DeepFashion/Apparel always the commonest", "value"] == pytest.approx(best)
    outside = np.mean([commonest not in r["facts"]["classes"] for r in asked])
    assert found.loc["DeepFashion/Apparel unparsed", "value"] == pytest.approx(outside)


KNOWN = {"colour": "red", "packaging": "box", "count": "2", "damaged": "no"}
ASKED = {"colour": "red", "packaging": "box"}


@pytest.mark.parametrize(
    ("answer", "right", "stated", "invented"),
    [
        ('{"color": "Red", "packaging": "box"}', 2, 2, 0),
        ("Colour: red\nPackaging: box\nCount: 2", 2, 2, 0),  # a true count was not asked for
        ('{"colour": "red", "brand": "LOZ"}', 1, 2, 1),
        ('{"colour": "box"}', 0, 1, 0),  # wrong, but not invented
        ('{"colour": "blue", "colour": "red"}', 0, 1, 1),
        ('{"colour": "red", "size": "n/a", "pack', 1, 1, 0),  # cut off
        ("a red box", 0, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_pairs_are_counted_by_hand(answer, right, stated, invented):
    assert pair_counts(answer, asked=ASKED, known=KNOWN) == (right, stated, 2, invented)


def test_extraction_s_f1_is_that_of_all_pairs(records):
    asked = of(records, DAE)
    answers = [json.dumps(dict(list(r["facts"]["asked"].items())[:1]) | {"maker": "nobody"}) for r in asked]
    found, wanted = scores_of(asked, answers), sum(len(r["facts"]["asked"]) for r in asked)
    name = "DynamicAttributeExtraction/DAE"
    assert found.loc[name, "value"] == pytest.approx(100 * 2 * len(asked) / (2 * len(asked) + wanted))
    assert found.loc[f"{name} precision", "value"] == found.loc[f"{name} invented values", "value"] == 0.5
    assert found.loc[f"{name} recall", "value"] == pytest.approx(len(asked) / wanted)
    assert found.loc[name, "low"] < found.loc[name, "value"] < found.loc[name, "high"]


def test_a_value_counts_in_any_form_or_in_the_asked_one_alone(records):
    for record in of(records, DAE):
        values = [str(value) for value in record["facts"]["asked"].values()]
        in_words = "I see " + " and ".join(values)
        assert (named_values(record, in_words), answer_points(record, in_words)) == (100.0, 0.0)
        assert named_values(record, values[0]) >= 100 / len(values) and named_values(record, "nothing") == 0.0
        assert named_values(record, record["answer"]) == 100.0


def test_title_helps_where_it_names_the_answer(records):
    answers = [r["answer"] if r["task"] == CONTEXT and r["facts"]["in_title"] else "?" for r in records]
    gains = context_gain(records, {"reader": answers}).set_index("stratum")
    assert gains.loc["in title", "gain"] == 100 and gains.loc["not in title", "gain"] == 0
    assert (
        gains.loc["all", "n"]
        == gains.loc["in title", "n"] + gains.loc["not in title", "n"]
        == len(of(records, CONTEXT))
    )


def test_retention_compares_each_adapter_with_the_base_by_skill(tiny, tmp_path, monkeypatch):
    from mtive_nb.model.stack import AdapterSpec, LoraStack
    from mtive_nb.pocket.exam import ALL_SKILLS, exam_change, exam_retention

    stack, asked_of = LoraStack(tiny), []
    for name in ("IT1", "IT2"):
        stack.add(name, AdapterSpec(2, 2, ("language",)))

    def answers(asked, records, **_):
        asked_of.append(asked.active)
        wrong = {(): 1, ("IT1",): 2, ("IT2",): 6}[asked.active]
        return ["?" if k < wrong else r["answer"] for k, r in enumerate(records)]

    monkeypatch.setattr("mtive_nb.pocket.exam.generate_answers", answers)
    found = exam_retention(stack, ["IT1", "IT2"], folder=tmp_path, n=20).set_index(["adapter", "skill"])
    assert asked_of == [(), ("IT1",), ("IT2",)] and stack.active == ("IT2",)
    assert found.xs(ALL_SKILLS, level="skill")["change"].to_dict() == {"IT1": -5, "IT2": -25}
    alone = exam_change(stack, "IT1", folder=tmp_path, n=20).set_index("skill")
    assert found.loc["IT1"].to_dict() == alone.to_dict()
    assert exam_retention(stack, ["IT1"], folder=tmp_path, n=0).empty
    one = exam_retention(stack, ["IT2"], folder=tmp_path, n=20, against="IT1").set_index("skill").loc[ALL_SKILLS]
    assert (one["before"], one["after"], one["change"]) == (90, 70, -20)


def test_a_question_gets_further_photos_of_its_own_product(records, shop, tmp_path):
    listings = listings_of(shop, customers=True)
    product = {one.photo: one.product_id for one in listings}
    more = with_more_photos(of(records, GENERAL), listings, most=2)
    assert len(more) == len(of(records, GENERAL)) and load_records(write_records(more, tmp_path / "more.jsonl")) == more
    for one, several in zip(of(records, GENERAL), more, strict=True):
        assert several["images"][0] == one["images"][0] and len(set(several["images"])) == 2
        assert {product[photo] for photo in several["images"]} == {one["product_id"]}
        assert several["messages"][0]["content"][-1] == one["messages"][0]["content"][-1]
    alone = of(records, GENERAL)[:1]
    assert with_more_photos(alone, [one for one in listings if one.photo == alone[0]["images"][0]]) == []


def test_a_folder_without_clothes_says_where_they_come_from(tmp_path):
    with pytest.raises(FileNotFoundError, match="git clone https://github.com/alexeygrigorev/clothing-dataset-small"):
        clothing_listings(tmp_path)


@pytest.mark.skipif("MTIVE_DATA" not in os.environ, reason="MTIVE_DATA is not set: no real clothes")
def test_real_clothes_are_asked_for_by_their_ten_classes(tmp_path):
    listings, quarantine = clothing_listings()
    records = clothing_bench(listings, 1000)
    assert len({r["label"] for r in records}) == 10 and len(records) == sum(one.split == "test" for one in listings)
    assert quarantine == [] and all(Path(r["images"][0]).parent.name == r["answer"] for r in records)
    found = scores_of(records, [f"This is a {r['label']}." for r in records])
    assert found.loc["DeepFashion/clothing-dataset-small", "value"] == 1
    broken = tmp_path / "train" / "hat"
    broken.mkdir(parents=True)
    (broken / "a.jpg").write_bytes(b"no photo")
    (broken / "b.jpg").write_bytes(Path(records[0]["images"][0]).read_bytes())
    listings, quarantine = clothing_listings(tmp_path)
    assert len(listings) == 1 and quarantine[0].file == "train/hat/a.jpg" and quarantine[0].reason
