"""EMDIV: every answer is true of the photo's facts, yes and no are balanced, no product stands in two splits."""

import json
import os
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from mtive_nb.data.catalogue import Catalogue, Feedback, load_catalogue
from mtive_nb.data.composite import composite_damage, composite_dates
from mtive_nb.data.emdiv.build import build_emdiv, question_table, statistics, tasks_with_questions
from mtive_nb.data.emdiv.mmpi import build_mmpi
from mtive_nb.data.emdiv.questions import AE_AUG, DD_AUG_KIND, DD_AUG_YES_NO, EX_AUG, condition_phrase, describe
from mtive_nb.data.mart.render import render_mart
from mtive_nb.data.records import load_records, question_of, write_records
from mtive_nb.data.rows import DAMAGES, PACKAGINGS, PLACEMENTS
from mtive_nb.data.shop import expand_counts
from mtive_nb.data.sources import load_cookies, load_expiry, load_grocery
from mtive_nb.data.splits import assert_no_leaks
from mtive_nb.evaluate.intervals import wilson_interval
from mtive_nb.evaluate.scores import majority_answers, score_table
from mtive_nb.run.params import effective_parameters, per_task

ROOT = Path(__file__).parents[1]
needs_photos = pytest.mark.skipif("MTIVE_DATA" not in os.environ, reason="MTIVE_DATA names no folder of real photos")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = render_mart(tmp_path_factory.mktemp("emdiv") / "mart", products=60, photos=4, dates=2, seed=2)
    return load_catalogue(folder)


@pytest.fixture(scope="module")
def built(shop):
    return build_emdiv(shop, seed=5)


def facts_of(shop, record):
    rows = {row.feedback_id: row for row in shop.feedback}
    return rows[record["id"].split("/")[2]].facts


def pick(records, task, variant, split=None):
    return [r for r in records if (r["task"], r["variant"]) == (task, variant) and split in (None, r["split"])]


def test_every_task_and_variant_is_built_for_every_split(built):
    cells = Counter((r["task"], r["variant"], r["split"]) for r in built.records)
    wanted = {(t, v, s) for t in "AE DD PM EX PT PP".split() for v in ("gen", "aug", "bin") for s in ("train", "test")}
    assert wanted <= set(cells) and min(cells.values()) > 0
    table = statistics(built.records)
    assert list(table.columns) == ["Task", "Variant", "Train", "Val", "Test"]
    assert table.iloc[-1, 2:].sum() == len(built.records) == table.iloc[:-1, 2:].to_numpy().sum()


def test_a_task_without_questions_is_left_out_with_its_reason(shop):
    only_damage = {"damaged": True, "damage": "dent"}
    rows = [Feedback(r.feedback_id, r.product_id, r.text, r.images, only_damage) for r in shop.feedback[:80]]
    rows += [Feedback(r.feedback_id, r.product_id, r.text, r.images, {"damaged": False}) for r in shop.feedback[80:]]
    emdiv = build_emdiv(Catalogue("damage", shop.root, shop.products, rows))
    table = question_table(emdiv, ["DD", "EX", "PT"]).set_index("task")
    assert table.loc["DD", ["train", "val", "test"]].to_list() == [
        sum(r["split"] == split for r in emdiv.records if r["task"] == "DD") for split in ("train", "val", "test")
    ]
    assert table.loc["EX", "note"].startswith("left out, no train or test questions: facts name no dates (")
    assert table.loc["PT", ["train", "val", "test"]].sum() == 0 and "packaging" in table.loc["PT", "note"]
    assert tasks_with_questions(emdiv.records, ["EX", "DD"]) == ["DD"]
    with pytest.raises(ValueError, match="tasks EX, PT: found none"):
        tasks_with_questions(emdiv.records, ["EX", "PT"])


def test_no_product_and_no_photo_stands_in_two_splits(built):
    splits = defaultdict(set)
    for record in built.records:
        for name in [record["product_id"], *record["images"]]:
            splits[name].add(record["split"])
    assert {len(found) for found in splits.values()} == {1}
    once = {image: {"split": r["split"], "images": [image]} for r in built.records for image in r["images"]}
    assert_no_leaks(once.values())


def test_yes_and_no_are_equal_for_every_form_of_question(built):
    forms = defaultdict(Counter)
    for record in built.records:
        if record["variant"] == "bin" or record["task"] == "PM":
            # The value asked for comes last or in the middle: the form is the first three words.
            form = "PM" if record["task"] == "PM" else " ".join(question_of(record).split()[:3])
            if record["task"] in ("PT", "PP"):
                form = question_of(record)
            if record["task"] == "AE" and "brand" in question_of(record):
                form = "brand"
            forms[record["split"], record["task"], record["variant"], form][record["label"]] += 1
    assert len(forms) > 20
    for form, found in forms.items():
        assert found["yes"] == found["no"] > 0, form


def told_by_words(records):
    """The share of labels predicted from the words alone, products held out, and the share of the commonest label."""
    words, labels = map(question_of, records), [record["label"] for record in records]
    read = make_pipeline(CountVectorizer(ngram_range=(1, 2), token_pattern=r"\w+"), LogisticRegression(max_iter=500))
    groups = [record["product_id"] for record in records]
    found = cross_val_predict(read, list(words), labels, groups=groups, cv=GroupKFold(5))
    right = int(sum(a == b for a, b in zip(found, labels, strict=True)))
    return wilson_interval(right, len(labels)), max(Counter(labels).values()) / len(labels)


def polar_forms(records):
    forms = defaultdict(list)
    for record in records:
        if record["label"] in ("yes", "no"):
            forms[record["task"], record["variant"]].append(record)
    return forms


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = render_mart(tmp_path_factory.mktemp("emdiv") / "many", products=144, photos=4, dates=2, seed=2)
    return build_emdiv(load_catalogue(folder), seed=5)


def test_no_form_of_question_gives_its_answer_away(many):
    forms = polar_forms(many.records)
    assert {("DD", "aug"), ("PM", "gen"), ("PM", "aug"), ("EX", "aug")} <= set(forms)
    for form, records in forms.items():
        found, chance = told_by_words(records)
        assert found.low <= chance, f"{form}: {found} from the words alone, {chance:.2f} by one constant"
    hinted = [r | {"messages": [{**r["messages"][0], "content": [{"type": "text", "text": hint(r, k)}]}]}
              for k, r in enumerate(forms["PM", "bin"])]  # fmt: skip
    found, chance = told_by_words(hinted)
    assert found.low > chance  # a form that one yes in three has to itself is noticed


def hint(record, k):
    return "Is it really so?" if record["label"] == "yes" and k % 3 == 0 else "Is it so?"


def test_paraphrases_about_damage_are_answered_no_or_none_as_often_as_not(built):
    for split in ("train", "val", "test"):
        records = pick(built.records, "DD", "aug", split)
        kinds = [r["label"] for r in records if question_of(r) in DD_AUG_KIND]
        polar = [r["label"] for r in records if question_of(r) in DD_AUG_YES_NO]
        assert 2 * kinds.count("none") == len(kinds) > 0 and 2 * polar.count("no") == len(polar) > 0


def test_the_commonest_answer_never_depends_on_the_photo_or_its_truth(built):
    train, test = ([r for r in built.records if r["split"] == split] for split in ("train", "test"))
    answers = majority_answers(test, train)
    said = defaultdict(set)
    for record, answer in zip(test, answers, strict=True):
        polar = record["answer"] in ("yes", "no")
        said[record["task"] if polar else (record["task"], record["variant"], question_of(record))].add(answer)
    assert {len(found) for found in said.values()} == {1} and len(said) > 30
    assert all(said[task] <= {"yes", "no"} for task in ("AE", "DD", "PM", "EX"))
    scores = score_table(test, {"majority": answers}, resamples=200).set_index("metric")
    assert (scores.loc[["AE/Acc binary", "DD/Acc binary", "PM/Acc binary", "EX/Acc binary"], "value"] == 0.5).all()
    assert scores.loc["DD/Acc", "low"] < 55 and scores.loc["PM/Acc", "low"] < 52


@pytest.mark.parametrize("limit", [None, 40])
def test_whether_a_date_is_printed_is_as_often_yes_as_no_among_the_paraphrases_too(shop, limit):
    records = pick(build_emdiv(shop, seed=5, counts=limit and {"EX/aug": limit}).records, "EX", "aug")
    found = Counter()
    for record in records:
        asked = next((name for name in ("expiry", "production") if question_of(record) in EX_AUG[f"has {name}"]), None)
        if asked:
            found[record["split"], asked, record["answer"]] += 1
    for split, asked in {key[:2] for key in found}:
        assert found[split, asked, "yes"] == found[split, asked, "no"] > 0
    whether = sum(n for (split, *_), n in found.items() if split == "train")
    train = sum(record["split"] == "train" for record in records)
    assert 0.1 < whether / train < 0.5 and train == (limit or train), "a limit keeps both kinds of question"


def test_the_counts_suffice_for_what_the_experts_sample():
    for profile, least in (("pocket", 0.95), ("grocery", 0.8)):  # grocery has 640 yes/no questions on attributes
        of_01, of_06 = (
            effective_parameters(ROOT / "notebooks" / f"{name}.ipynb", params=ROOT / "params", profile=profile)
            for name in ("01_catalogue_and_emdiv", "06_experts")
        )
        counts = expand_counts(train=of_01["TRAIN"], val=of_01["VAL"], test=of_01["TEST"])
        for task in ("AE", "EX"):
            asked = per_task(of_06["STEPS"], [task])[task] * of_06["BATCH"] * of_06["ACCUMULATE"]
            shares = of_06["SAMPLING"][task]
            drawn = {
                variant: min(counts[f"{task}/{variant}/train"], asked * share) for variant, share in shares.items()
            }
            assert drawn["bin"] >= least * shares["bin"] * sum(drawn.values()) > 0, (
                "yes/no keeps its share where records run short"
            )


def test_attributes_are_those_visible_in_the_photo(shop, built):
    for record in pick(built.records, "AE", "gen"):
        visible = facts_of(shop, record)["attributes"]
        assert json.loads(record["answer"]) == {k: v for k, v in visible.items() if k != "size"}
    for record in pick(built.records, "AE", "aug"):
        (name,) = [name for name, questions in AE_AUG.items() if question_of(record) in questions]
        assert facts_of(shop, record)["attributes"][name] == record["answer"]
    value = re.compile(
        r"Is (.+) the brand|category (.+)\?|colour of this product (.+)\?|packaging of this product (.+)\?"
    )
    for record in pick(built.records, "AE", "bin"):
        (asked,) = [found for found in value.search(question_of(record)).groups() if found]
        assert (asked in facts_of(shop, record)["attributes"].values()) == (record["answer"] == "yes"), asked


def test_damage_is_that_of_the_photo(shop, built):
    for variant in ("gen", "aug", "bin"):
        for record in pick(built.records, "DD", variant):
            facts, answer = facts_of(shop, record), record["answer"]
            if variant == "gen":
                assert answer.endswith("in good condition") != facts["damaged"]
                assert [kind for kind in DAMAGES if re.search(rf"\b{kind}\b", answer)] == [facts["damage"]] * facts[
                    "damaged"
                ]
            elif question_of(record) in DD_AUG_KIND:
                assert answer == (facts["damage"] or "none")
            else:
                assert answer == ("yes" if facts["damaged"] else "no")


def test_product_matching_shows_the_product_or_another_one(shop, built):
    products = {product.product_id: product for product in shop.products}
    titles = {product.title: product for product in shop.products}
    for record in [r for r in built.records if r["task"] == "PM"]:
        if len(record["images"]) == 2:
            listed = products[Path(record["images"][0]).stem]
        else:
            (listed,) = [p for title, p in titles.items() if title in question_of(record)]
        match = listed.product_id == record["product_id"]
        assert record["label"] == ("yes" if match else "no") == record["answer"].split(",")[0]
        visible = facts_of(shop, record)["attributes"]
        if not match:
            differ = {name for name in visible if name != "size" and visible[name] != listed.attributes[name]}
            assert differ == set(record["facts"]["known"]["differs"])
            if record["variant"] == "gen":
                assert record["answer"] == f"no, the {record['facts']['asked']['differs']} differs"
                assert record["facts"]["asked"]["differs"] in differ
            if len(record["images"]) == 1:
                assert any(visible[name].lower() not in listed.title.lower() for name in differ)
        elif record["variant"] == "gen":
            said = {value for value in listed.attributes.values() if value in record["answer"]}
            assert said and said <= set(visible.values())


def test_a_title_that_tells_nothing_is_asked_about_its_own_product_alone(shop):
    nameless = replace(shop, products=[replace(p, title=f"Article {k}") for k, p in enumerate(shop.products)])
    found = [build_emdiv(nameless, seed=5, counts={"PM/aug": 40}), build_mmpi(nameless, seed=5, counts={"PM/bin": 40})]
    by_title = [record for one in found for record in one.records if "Article" in question_of(record)]
    assert not [record["id"] for record in by_title if record["label"] == "no"]


@pytest.mark.parametrize(("share", "hard"), [(1.0, True), (0.0, False)])
def test_a_matching_questions_negatives_are_of_the_products_own_group(shop, share, hard):
    groups = {product.product_id: product.coarse for product in shop.products}
    found = build_emdiv(shop, seed=5, counts={"PM/bin": 40}, hard_share=share).records
    pairs = [(Path(r["images"][0]).stem, r["product_id"]) for r in found if r["label"] == "no"]
    assert len(pairs) > 30 and all(groups[listed] == groups[own] for listed, own in pairs) is hard


def test_dates_are_copied_as_printed(shop, built):
    for record in pick(built.records, "EX", "gen"):
        dates = facts_of(shop, record)["dates"]
        texts = {name: dates[f"{name}_text"] or "Unanswerable" for name in ("expiry", "production")}
        assert json.loads(record["answer"]) == texts == record["facts"]["asked"]
        assert record["facts"]["known"].get("expiry_iso") == dates["expiry"]
    for record in pick(built.records, "EX", "bin") + pick(built.records, "EX", "aug"):
        dates, question = facts_of(shop, record)["dates"], question_of(record)
        produced = re.search("produc(tion|ed)|made|manufacturing|packed", question)
        text = dates["production_text" if produced else "expiry_text"]
        asks_whether = record["variant"] == "bin" or question in EX_AUG["has expiry"] + EX_AUG["has production"]
        assert record["answer"] == (("yes" if text else "no") if asks_whether else text or "Unanswerable")


def test_classes_are_those_of_the_facts(shop, built):
    for task, name, options in (("PT", "packaging", PACKAGINGS), ("PP", "placement", PLACEMENTS)):
        for record in pick(built.records, task, "gen") + pick(built.records, task, "aug"):
            assert record["answer"] == record["label"] == facts_of(shop, record)[name] in options
        for record in pick(built.records, task, "bin"):
            asked = question_of(record).rstrip("?").endswith(facts_of(shop, record)[name])
            assert asked == (record["answer"] == "yes")


def test_texts_are_short_and_paraphrases_many(built):
    for record in built.records:
        assert len(question_of(record).split()) <= 20 and len(record["answer"].split()) <= 12, record["id"]
    assert min(len(questions) for questions in AE_AUG.values()) >= 6
    assert len({*DD_AUG_KIND, *DD_AUG_YES_NO}) >= 8 and sum(map(len, EX_AUG.values())) >= 8


def test_counts_limit_each_part_and_move_no_other(shop, built):
    few = build_emdiv(shop, seed=5, counts={"AE/gen/train": 7, "DD": 10, "DD/aug": 4, "PM/bin/test": 9})
    cells = Counter((r["task"], r["variant"], r["split"]) for r in few.records)
    assert cells["AE", "gen", "train"] == 7 and cells["AE", "gen", "test"] == 0 == cells["EX", "bin", "train"]
    assert cells["DD", "gen", "train"] == cells["DD", "bin", "train"] == 10 and cells["DD", "aug", "test"] == 4
    assert cells["PM", "bin", "test"] == 8  # as many yes as no
    again = build_emdiv(shop, seed=5)
    assert again.records == built.records
    assert build_emdiv(shop, seed=6).records != built.records
    assert all(r in built.records for r in pick(few.records, "AE", "gen"))
    with pytest.raises(ValueError, match="'AE/genn/train': 3; expected TASK/variant/split"):
        build_emdiv(shop, counts={"AE/genn/train": 3})


def test_photos_passed_over_are_counted_with_the_reason(shop, built):
    part = built.coverage.query("task == 'EX' and variant == 'gen'")
    assert part["photos"].sum() == len(shop.feedback)
    assert part.query("outcome == 'facts name no dates'")["photos"].sum() == 60 * 2


def test_photos_without_facts_give_product_matching_alone(shop, tmp_path):
    bare = [Feedback(f.feedback_id, f.product_id, f.text, f.images) for f in shop.feedback[:80]]
    built = build_emdiv(Catalogue("bare", shop.root, shop.products, bare))
    assert {record["task"] for record in built.records} == {"PM"}
    path = write_records(built.records, tmp_path / "records.jsonl")
    assert load_records(path) == built.records
    with pytest.raises(ValueError, match="splits name neither it nor its product"):
        build_emdiv(shop, splits={"M00000": "train"})


def test_phrases_read_like_english():
    seen = {"brand": "ZEVO", "category": "shampoo", "colour": "orange", "packaging": "bottle"}
    assert describe(seen) == "an orange bottle of shampoo"
    assert describe(seen, brand=True) == "an orange bottle of ZEVO shampoo"
    assert describe({"name": "pink lady apple", "category": "apple"}) == "pink lady apple"
    assert describe({}) == "a product"
    assert condition_phrase("dent", damaged=True) == "with a dent"
    assert condition_phrase(None, damaged=False) == "in good condition"


@needs_photos
def test_grocery_photos_with_damage_and_dates(tmp_path):
    grocery = load_grocery()
    built = build_emdiv(grocery, counts={task: 60 for task in ("AE", "DD", "PM", "EX", "PT", "PP")}, hard_share=1.0)
    assert {record["task"] for record in built.records} == {"AE", "PM", "PT"}
    negatives = [r for r in pick(built.records, "PM", "bin", "test") if r["label"] == "no"]
    category = {p.images[0]: p.category for p in grocery.products}
    shared = [
        category[Path(r["images"][0]).relative_to(grocery.root.resolve()).as_posix()] == r["facts"]["known"]["category"]
        for r in negatives
    ]
    assert len(shared) == 30 and sum(shared) >= 10  # 26 of 43 categories hold a single product
    assert "box or loose" in question_of(pick(built.records, "PT", "gen")[0])
    for record in pick(built.records, "PM", "gen"):
        if record["label"] == "no":
            assert record["facts"]["known"]["name"] in record["answer"]
    damaged = build_emdiv(composite_damage(grocery, tmp_path / "damage", n=24), counts={"DD": 20})
    assert {record["task"] for record in damaged.records} == {"DD"} and len(damaged.records) > 20
    dated = build_emdiv(composite_dates(grocery, tmp_path / "dates", n=24, share_none=0.3))
    assert {record["task"] for record in dated.records} == {"EX"}


@needs_photos
def test_cookies_and_expiry_photos():
    cookies = build_emdiv(load_cookies()).records
    assert {record["task"] for record in cookies} == {"DD"}
    for record in pick(cookies, "DD", "bin"):
        assert ("anomaly" in record["images"][0]) == (record["answer"] == "yes")
    expiry = build_emdiv(load_expiry())
    answers = [json.loads(record["answer"])["expiry"] for record in pick(expiry.records, "EX", "gen", "test")]
    assert sorted(answers)[0] == "03/04/23" and "11 APR 2021" in answers and len(answers) == 8
