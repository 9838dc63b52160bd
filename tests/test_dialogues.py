"""Stage 1's dialogues: ten templates with equal chances, true to their photos, short."""

from collections import Counter
from pathlib import Path

import pytest

from mtive_nb.data.catalogue import Catalogue, Feedback, load_catalogue
from mtive_nb.data.dialogues import GENERATIVE, TEMPLATES, build_dialogues, cut_sentences, with_noisy_text
from mtive_nb.data.mart.render import render_mart
from mtive_nb.data.records import load_records, question_of, write_records
from mtive_nb.data.splits import split_products


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = render_mart(tmp_path_factory.mktemp("dialogues") / "mart", products=52, photos=3, dates=1, seed=4)
    return load_catalogue(folder)


@pytest.fixture(scope="module")
def records(shop):
    return build_dialogues(shop, 2000, seed=1)


def product_of(path):
    return Path(path).stem.split("_")[0]


def is_catalogue_photo(path):
    return "_" not in Path(path).stem


def chi_square(found, expected):
    return sum((count - expected) ** 2 / expected for count in found)


def test_ten_templates_are_equally_likely(records):
    drawn = Counter(record["label"] for record in records)
    assert len(TEMPLATES) == 10 and len(GENERATIVE) == 6
    raw = drawn.pop("raw")
    assert set(drawn) == set(TEMPLATES) and 140 < raw < 260
    # 9 degrees of freedom: above 27.9 once in 1,000 draws.
    assert chi_square(drawn.values(), (2000 - raw) / 10) < 27.9


def test_answers_of_the_contrastive_templates_are_right_and_balanced(shop, records):
    asked = [record for record in records if record["variant"] == "bin"]
    for record in asked:
        first, second = map(product_of, record["images"])
        assert (first == second) == (record["answer"] == "yes")
        assert is_catalogue_photo(record["images"][0]) or is_catalogue_photo(record["images"][1])
    yes = sum(record["answer"] == "yes" for record in asked)
    assert abs(yes - len(asked) / 2) < 3.3 * (len(asked) / 4) ** 0.5
    literal = [r for r in build_dialogues(shop, 1200, seed=1, balance=False) if r["variant"] == "bin"]
    share = sum(record["answer"] == "yes" for record in literal) / len(literal)
    assert 0.17 < share < 0.33  # one row of four has a matching photo


def test_texts_are_those_of_the_product_and_the_customer_cut_short(shop, records):
    products = {product.product_id: product for product in shop.products}
    said = {row.images[0]: " ".join(row.text.split()) for row in shop.feedback}
    for record in records:
        if record["variant"] == "bin":
            continue
        assert len(record["answer"].split()) <= 14
        if record["label"].endswith("description") or is_catalogue_photo(record["images"][-1]):
            product = products[record["product_id"]]
            assert record["answer"] in (product.description + " " + product.title)
        else:
            photo = Path(record["images"][-1])
            assert said[f"images/{photo.name}"].startswith(record["answer"])
            assert len(record["answer"].split()) <= 12
        assert len(question_of(record).split()) <= 20


def test_two_turns_announce_the_images_in_order(records):
    record = next(r for r in records if r["label"].startswith("catalogue -> description, feedback"))
    texts = [part["text"] for m in record["messages"][::2] for part in m["content"] if part["type"] == "text"]
    assert [text for text in texts if text.endswith(":")] == ["Image 1:", "Image 2:"]
    assert [is_catalogue_photo(image) for image in record["images"]] == [True, False]
    orders = {tuple(map(is_catalogue_photo, r["images"])) for r in records if r["label"].startswith("shuffled")}
    assert orders == {(True, False), (False, True)}


def test_only_the_split_s_products_are_shown(shop, records, tmp_path):
    splits = split_products(product.product_id for product in shop.products)
    assert {splits[product_of(image)] for record in records for image in record["images"]} == {"train"}
    assert build_dialogues(shop, 2000, seed=1) == records
    assert load_records(write_records(records, tmp_path / "records.jsonl")) == records


def test_ablations_leave_out_contrast_and_hardness(shop):
    plain = build_dialogues(shop, 200, contrastive=False, raw_share=0.0)
    assert {record["label"] for record in plain} == set(GENERATIVE)
    coarse = {product.product_id: product.coarse for product in shop.products}

    def near(records):
        pairs = [tuple(map(product_of, r["images"])) for r in records if r["answer"] == "no"]
        return sum(coarse[a] == coarse[b] for a, b in pairs) / len(pairs)

    hard, chance = (near(build_dialogues(shop, 600, negatives=kind)) for kind in ("hard", "random"))
    assert hard > chance + 0.2
    with pytest.raises(ValueError, match="found negatives='soft'"):
        build_dialogues(shop, 1, negatives="soft")


def test_a_shop_without_customers_texts_fills_the_templates_it_can(shop):
    mute = [Feedback(f.feedback_id, f.product_id, "", f.images, f.facts) for f in shop.feedback]
    records = build_dialogues(Catalogue("mute", shop.root, shop.products, mute), 400)
    drawn = Counter(record["label"] for record in records if record["label"] != "raw")
    assert set(drawn) == {
        name for name in TEMPLATES if "-> feedback" not in name and "feedback photo -> feedback" not in name
    }
    assert all(record["answer"] for record in records)
    with pytest.raises(ValueError, match="no customer photo of mute is in the split 'val'"):
        build_dialogues(Catalogue("mute", shop.root, shop.products, []), 1, split="val")


def test_descriptions_end_with_a_whole_sentence_where_one_fits():
    assert cut_sentences("One two. Three four five. Six", 5) == "One two. Three four five."
    assert cut_sentences("One two three four", 3) == "One two three"


def test_noise_is_another_products_text_in_a_known_amount(records):
    texts = [k for k, r in enumerate(records) if r["variant"] != "bin"]
    noisy = with_noisy_text(records, share=0.3, seed=0)
    changed = [k for k in texts if noisy[k] is not records[k]]
    assert len(changed) == pytest.approx(0.3 * len(texts), abs=3)
    of_answer = {}
    for k in texts:
        of_answer.setdefault(records[k]["answer"], set()).add(records[k]["product_id"])
    for k in changed:
        assert noisy[k]["messages"][-1]["content"] == noisy[k]["answer"]
        assert of_answer[noisy[k]["answer"]] - {noisy[k]["product_id"]}
        assert noisy[k]["messages"][:-1] == records[k]["messages"][:-1] and noisy[k]["images"] == records[k]["images"]
    assert with_noisy_text(records, share=0.0, seed=0) == records
    with pytest.raises(ValueError, match="found 1.5"):
        with_noisy_text(records, share=1.5, seed=0)
