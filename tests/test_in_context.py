import numpy as np
import pytest

from mtive_nb.data.in_context import hand_picked, in_context, random_of_category
from mtive_nb.evaluate.predict import generate_answers
from mtive_nb.model.batches import Collator, RecordDataset
from mtive_nb.model.load import load_vlm


@pytest.fixture
def asked(records):
    """The first two records as questions, the rest as examples with categories; all of one task and variant."""
    given = [
        r | {"task": "AE", "variant": "gen", "facts": {"known": {"category": "abc"[k % 3]}}}
        for k, r in enumerate(records)
    ]
    return given[:2], given[2:]


def test_examples_stand_before_the_question(asked):
    records, train = asked
    for choice in ("hand-picked", "random"):
        for before, after in zip(records, in_context(records, train, n=3, choice=choice), strict=True):
            assert len(after["messages"]) == 3 * 2 + 2 and after["messages"][-2:] == before["messages"]
            assert after["images"][-len(before["images"]) :] == before["images"] and after["answer"] == before["answer"]
            shown = sum(p["type"] == "image" for m in after["messages"] if m["role"] == "user" for p in m["content"])
            assert shown == len(after["images"])


def test_picked_examples_show_every_answer_and_random_ones_the_category(asked):
    records, train = asked
    chosen = hand_picked(train, 4)
    assert len({r["answer"] for r in chosen}) == 4 and len({r["product_id"] for r in chosen}) == 4
    same = random_of_category(train, records[1], 3, np.random.default_rng(0))
    assert {r["facts"]["known"]["category"] for r in same} == {"b"}


def test_too_few_examples_and_another_choice_are_errors(asked):
    records, train = asked
    with pytest.raises(ValueError, match="choice: found 'best'"):
        in_context(records, train, n=2, choice="best")
    with pytest.raises(ValueError, match="AE gen: found 1 examples of other products, expected 4"):
        in_context(records, train[:1], n=4, choice="hand-picked")


def test_a_model_answers_behind_examples(asked, tiny_folder, photo_folder):
    records, train = asked
    vlm = load_vlm(str(tiny_folder), dtype="float32")
    behind = in_context(records, train, n=2, choice="hand-picked")
    data = RecordDataset(behind)
    text = vlm.processor.tokenizer.decode(Collator(vlm.processor, answers=False)([data[0]])["input_ids"][0])
    assert text.count("<|im_start|>assistant") == 3 and text.rstrip().endswith("assistant")
    assert len(generate_answers(vlm, behind, max_new_tokens=2)) == 2
