"""The seven tasks of Pocket Mart: shares, strata, splits, and whether texts and facts decide what they ought to."""

import dataclasses
import json
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from mtive_nb.data.catalogue import Catalogue, Feedback, Product, load_catalogue
from mtive_nb.data.commerce import mart_words
from mtive_nb.data.commerce.leaks import leaks
from mtive_nb.data.commerce.mart_makers import MAKERS
from mtive_nb.data.commerce.mart_tasks import COUNTS, LABEL_SHARES, mart_rows
from mtive_nb.data.commerce.rows import ROW_SPLITS, STRATA, CommerceRow, questions
from mtive_nb.data.mart.render import make_item, render_mart
from mtive_nb.data.mart.vocabulary import BRANDS, CATEGORIES, COLOURS, DAMAGES, SIZES
from mtive_nb.evaluate.commerce.data_tables import data_metrics, source_table, task_table
from mtive_nb.run.metrics import checked_metric, lines_of


@cache
def shop(products: int, photos: int = 6) -> Catalogue:
    """Pocket Mart without its pixels: facts as its photos have them, the last two photos close-ups of dates."""
    rng, rows, feedback = np.random.default_rng(0), [], []
    for index in range(products):
        item = make_item(index)
        own, category = item.product_id, item.attributes["category"]
        rows.append(Product(own, f"{own} title", "", category, item.coarse, item.attributes, (f"{own}.jpg",)))
        for k in range(photos):
            if k >= photos - 2:
                facts = {"dates": {}, "attributes": {"colour": item.attributes["colour"]}}
            else:
                shown = {"colour", "packaging"} | {n for n in ("brand", "category", "size") if rng.random() < 0.6}
                damage = str(rng.choice(DAMAGES)) if rng.random() < 0.5 else None
                facts = {"damaged": damage is not None, "damage": damage, "count": int(rng.choice((1, 1, 1, 2, 3)))}
                facts["attributes"] = {name: value for name, value in item.attributes.items() if name in shown}
            feedback.append(Feedback(f"{own}-F{k}", own, "", (f"{own}_{k}.jpg",), facts))
    return Catalogue("mart", Path("/shop"), rows, feedback)


@pytest.fixture(scope="module")
def rows() -> list[CommerceRow]:
    return mart_rows(shop(480))


def test_sizes_shares_and_strata_are_those_asked_for(rows: list[CommerceRow]) -> None:
    assert Counter((row.task, row.split) for row in rows) == {(t, s): n for t in MAKERS for s, n in COUNTS.items()}
    assert len({row.row_id for row in rows}) == len(rows)
    table = questions(rows)
    assert table["rows"].sum() == len(rows) and table["photos"].sum() == sum(len(row.photos) for row in rows)
    by_cell = table.groupby(["task", "split", "stratum"])["rows"].sum()
    for (task, split), shares in table.groupby(["task", "split"]):
        wanted = LABEL_SHARES[task]
        for label, share in shares.groupby("label")["share"].first().items():
            assert share == pytest.approx(wanted[label] / sum(wanted.values()), abs=0.05)
        amounts = by_cell[task, split]
        assert set(amounts.index) == set(STRATA) and amounts.max() - amounts.min() <= 5
    assert list(dict.fromkeys(table["split"])) == list(ROW_SPLITS)


def test_the_data_are_printed_as_the_paper_prints_its_own(rows: list[CommerceRow]) -> None:
    given = {"row": "row", "column": "column", "value": "value", "unit": "", "better": ""}
    options = {"seed": None, "seeds": 1, "low": None, "high": None}
    lines = [checked_metric(options | line, seed=0) for line in lines_of(data_metrics(rows), **given)]
    assert len({(line["table"], line["row"], line["column"]) for line in lines}) == len(lines)
    of_table = {name: [line for line in lines if line["table"] == name] for name in ("T1", "A2", "shares of labels")}
    assert [(line["row"], line["value"]) for line in of_table["T1"]] == [("Pocket Mart", len(rows))]
    of_t3 = {(line["row"], line["column"]): line["value"] for line in lines if line["table"] == "T3"}
    assert of_t3["PSI/MPC (each)", "Training"] == COUNTS["train"] and len(of_t3) == 12
    assert of_t3["MMECInstruct (total)", "OOD"] == 7 * COUNTS["ood"]
    assert len(of_table["A2"]) == 12 and sum(line["value"] for line in of_table["A2"]) == pytest.approx(100)
    psi = {line["column"]: line["value"] for line in of_table["shares of labels"] if line["row"] == "PSI"}
    assert psi == pytest.approx({"yes": 0.25, "no": 0.75})
    assert list(task_table(rows)["task"]) == list(MAKERS) and source_table(rows)["rows"].sum() == len(rows)
    foreign = [dataclasses.replace(row, source="", known={}) for row in rows[:3]]
    assert set(data_metrics(foreign)["table"]) == {"T1", "T3", "shares of labels"}
    assert source_table(foreign)["licence"].tolist() == ["not stated"]


def test_every_label_is_among_the_options_and_every_text_is_short(rows: list[CommerceRow]) -> None:
    for row in rows:
        assert row.output in (row.labels or ("yes", "no"))
        assert len(row.photos) == len(row.facts) and len(row.places) in (0, len(row.photos))
        texts = [one for value in row.input.values() for one in (value if isinstance(value, list) else [value])]
        assert len(" ".join([*texts, *row.options]).split()) <= 60
        if row.task == "SA":
            assert len(row.input["review"].split()) > 10


def test_no_product_photo_or_text_stands_in_two_splits(rows: list[CommerceRow], monkeypatch) -> None:
    monkeypatch.setattr("mtive_nb.data.commerce.leaks.file_sha256", str)  # the photos are names alone
    assert leaks(rows, copies=False).empty
    groups = {
        split: {CATEGORIES[o].coarse for r in rows if r.split == split for o in categories(r)} for split in COUNTS
    }
    assert len(groups["ood"]) == 3 and not groups["ood"] & (groups["train"] | groups["val"] | groups["test"])


def categories(row: CommerceRow) -> list[str]:
    return [facts["category"] for facts in row.facts if "category" in facts]


# --- An oracle: what a careful reader concludes from texts and facts, written without the makers.


def named(text: str, values: tuple[str, ...]) -> str | None:
    return next((value for value in sorted(values, key=len, reverse=True) if value in text), None)


def believed(text: str, facts: dict, name: str) -> str | None:
    """The value of a fact by the text, else by the photo."""
    return named(text, {"category": tuple(CATEGORIES), "colour": COLOURS, "brand": BRANDS}[name]) or facts.get(name)


def relation(query: str, title: str, facts: dict, partner: dict[str, str]) -> str | None:
    wanted, found = named(query, tuple(CATEGORIES)), believed(title, facts, "category")
    if found is None:
        return None
    if wanted != found:
        return "C" if partner[CATEGORIES[wanted].coarse] == CATEGORIES[found].coarse else "D"
    trait = "colour" if named(query, COLOURS) else "brand"
    value = believed(title, facts, trait)
    return value and ("A" if value == named(query, BRANDS + COLOURS) else "B")


def answer(row: CommerceRow, facts: list[dict], partner: dict[str, str]) -> str | None:
    """The label that follows from the row's texts and these facts of its photos; None where none follows."""
    text = row.input
    if row.task == "AP":
        question, document = text["question"].partition(": ")[2], " ".join(text["document"])
        for name, (asked, stated, unreadable) in mart_words.VISIBLE.items():
            if question == asked:
                if unreadable in document:
                    return "no"
                values = SIZES if name == "size" else BRANDS if name == "brand" else tuple(CATEGORIES)
                told = any(stated.format(value=value) in document for value in values)
                return "yes" if told or name in facts[0] else "no"
        answers = next(answers for asked, answers in mart_words.UNSEEN.values() if asked == question)
        return "yes" if any(one in document for one in answers) else "no"
    if row.task == "CC":
        found = believed(text["title"], facts[0], "category")
        return next((o[0] for o in row.options if o[3:] == found), None)
    if row.task == "PRP":
        a, b = (believed(text[f"product {k}"], facts[k - 1], "category") for k in (1, 2))
        if not (a and b):
            return None
        return "C" if a == b else "B" if CATEGORIES[a].coarse == CATEGORIES[b].coarse else "A"
    if row.task in ("PSI", "MPC"):
        found = relation(text["query"], text["product title"], facts[0], partner)
        return found if row.task == "MPC" or found is None else "yes" if found == "B" else "no"
    if row.task == "SA":
        return sentiment(text["review"], facts[0])
    return next_purchase(row, facts)


def sentiment(review: str, facts: dict) -> str | None:
    for label, opinions in mart_words.OPINIONS.items():
        if any(opinion in review for opinion in opinions):
            return label
    severe = {"crack": "E", "leak": "E", "crush": "E", "dent": "D", "tear": "D", "stain": "C", "scratch": "C"}
    said = next((d for d, words in mart_words.DAMAGE_SAID.items() if any(word in review for word in words)), None)
    if said or facts.get("damage") in severe:
        return severe[said or facts["damage"]]
    if any(word in review for word in mart_words.WHOLE_SAID):
        return "B"
    if "in place of one" in review or "for the price of one" in review:
        return "A"
    return None if "damage" not in facts else "B" if facts["count"] == "1" else "A"


def next_purchase(row: CommerceRow, facts: list[dict]) -> str | None:
    texts = [*row.input["purchase history"], *row.options]
    for read in (lambda k: believed(texts[k], facts[k], "colour"), lambda k: group_of(texts[k])):
        tastes = {read(k) for k in range(4)}
        if len(tastes) == 1 and None not in tastes:
            return next("ABCDE"[k] for k in range(5) if {read(4 + k)} == tastes)
    return None


def group_of(text: str) -> str:
    return CATEGORIES[named(text, tuple(CATEGORIES))].coarse


def partners(rows: list[CommerceRow]) -> dict[str, str]:
    """Each group's partner, as the redundant pairs of PRP show it."""
    pairs = [categories(row) for row in rows if row.task == "PRP" and row.output == "A" and row.stratum == "redundant"]
    return {CATEGORIES[a].coarse: CATEGORIES[b].coarse for a, b in pairs}


@pytest.mark.parametrize("task", MAKERS)
def test_texts_and_facts_decide_as_the_stratum_says(rows: list[CommerceRow], task: str) -> None:
    partner = partners(rows)
    assert len(partner) == 12
    for row in (row for row in rows if row.task == task):
        blind = [{} for _ in row.facts]
        assert answer(row, list(row.facts), partner) == row.output, row
        by_text = answer(row, blind, partner)
        if row.stratum != "needed":
            assert by_text == row.output, row
        elif task != "AP":  # AP without its photo: no means only that the document is silent
            assert by_text is None, row
        else:
            assert by_text == "no", row


@pytest.mark.parametrize("task", MAKERS)
def test_a_model_of_texts_stays_near_the_constant_where_the_photo_is_needed(task: str) -> None:
    counts = {"train": 300, "test": 200}
    made = mart_rows(shop(480), counts=counts, tasks=[task], strata={"needed": 1}, seed=1)
    texts = {split: [json.dumps([r.input, r.options]) for r in made if r.split == split] for split in counts}
    labels = {split: np.array([row.output for row in made if row.split == split]) for split in counts}
    words = CountVectorizer(ngram_range=(1, 2), token_pattern=r"[A-Za-z]+")
    model = LogisticRegression(max_iter=200).fit(words.fit_transform(texts["train"]), labels["train"])
    right = np.mean(model.predict(words.transform(texts["test"])) == labels["test"])
    constant = max(LABEL_SHARES[task].values()) / sum(LABEL_SHARES[task].values())
    assert right < constant + 0.1  # n 200: three standard deviations


def test_the_same_arguments_give_the_same_rows_and_a_seed_others() -> None:
    small, counts = shop(480), {"train": 8, "ood": 4}
    assert mart_rows(small, counts=counts) == mart_rows(small, counts=counts)
    assert mart_rows(small, counts=counts) != mart_rows(small, counts=counts, seed=1)


def test_further_products_add_tests_and_change_no_row() -> None:
    first, rest = shop(480), shop(780)
    rest = dataclasses.replace(rest, products=rest.products[480:], feedback=rest.feedback[6 * 480 :])
    counts, own = {"train": 8, "test": 40, "ood": 4}, {one.product_id for one in rest.products}
    more = mart_rows(rest, counts={"test": 60, "ood": 6}, after=counts)
    made = [*mart_rows(first, counts=counts), *more]
    assert Counter((row.task, row.split) for row in more) == {
        (t, s): n for t in MAKERS for s, n in (("test", 60), ("ood", 6))
    }
    assert len({row.row_id for row in made}) == len(made) and {row.product_id for row in more} <= own
    groups = {split: {row.known["group"] for row in made if row.split == split} for split in ("test", "ood")}
    assert len(groups["ood"]) == 3 and not groups["ood"] & groups["test"]
    in_domain = {one.product_id for one in rest.products} - {row.product_id for row in more if row.split == "ood"}
    assert len({row.product_id for row in more if row.split == "test"}) > len(in_domain) / 2  # not a quarter of them
    assert len({json.dumps([row.input, row.photos]) for row in made}) == len(made)


def test_a_shop_too_small_and_wrong_names_are_said() -> None:
    with pytest.raises(ValueError, match=r"mart/SR/val/0000, stratum needed, label .: none of .*more products"):
        mart_rows(shop(24), counts={"val": 4}, tasks=["SR"], strata={"needed": 1})
    with pytest.raises(ValueError, match="found 'needful'"):
        mart_rows(shop(24), strata={"needful": 1})
    for groups in (["drinks"], ["drinks", "bath", "home", "snack"]):
        with pytest.raises(ValueError, match="ood_groups: found"):
            mart_rows(shop(24), ood_groups=groups)
    strange = dataclasses.replace(shop(24).products[0], coarse="shoes")
    with pytest.raises(ValueError, match="product M00000: coarse: found 'shoes'"):
        mart_rows(dataclasses.replace(shop(24), products=[strange]))


def test_a_rendered_shop_gives_rows_over_real_pixels(tmp_path: Path) -> None:
    mart = load_catalogue(render_mart(tmp_path / "mart", products=96, photos=3, dates=1))
    made = mart_rows(mart, counts={"train": 6, "ood": 6}, tasks=[task for task in MAKERS if task != "SR"])
    assert all(Path(photo).is_file() for row in made for photo in row.photos)
    assert leaks(made).empty
