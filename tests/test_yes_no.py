import numpy as np
import pytest

from mtive_nb.evaluate.yes_no import (
    accuracy_gains,
    accuracy_ratio,
    accuracy_table,
    exact_by_attribute,
    right_yes_no,
    task_gains,
    yes_no_scores,
)


def ask(task, truth, k):
    return {"id": f"{task}{k}", "task": task, "answer": truth, "product_id": f"p{k % 3}"}


RECORDS = [ask("AE", "yes" if k % 2 else "no", k) for k in range(8)] + [ask("DD", "yes", k) for k in range(4)]


def test_columns_are_the_tasks_accuracies_and_their_mean():
    says = ["yes"] * 8 + ["Yes, it is.", "yes", "no", "perhaps"]
    table = yes_no_scores(RECORDS, {"always": says, "right": [r["answer"] for r in RECORDS]}, seed=0)
    value = table.set_index(["system", "column"])["value"]
    assert value["always", "AE/Acc"] == 50 and value["always", "DD/Acc"] == 50 and value["always", "Overall/Acc"] == 50
    assert (value["right"] == 100).all()
    assert list(table["n"])[:3] == [8, 4, 12]
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    uneven = yes_no_scores(RECORDS, {"x": [r["answer"] for r in RECORDS[:8]] + ["no"] * 4}, seed=0)
    assert uneven["value"].tolist() == [100, 0, 50]  # the mean of tasks, not of answers


def test_other_truths_and_missing_answers_are_errors():
    with pytest.raises(ValueError, match="record AE0: answer: expected yes or no"):
        yes_no_scores([ask("AE", "red", 0)], {"x": ["red"]}, seed=0)
    with pytest.raises(ValueError, match="x: found 1 answers, expected 12"):
        yes_no_scores(RECORDS, {"x": ["yes"]}, seed=0)


def test_gains_are_paired_by_task_and_on_average():
    right = right_yes_no(RECORDS, [r["answer"] for r in RECORDS])
    worse = right.copy()
    worse[:4] = 0  # half of AE, none of DD
    found = accuracy_gains(RECORDS, worse, right, seed=0)
    assert {task: one.value for task, one in found.items()} == {"AE": -50, "DD": 0, "mean": -25}
    assert found["DD"].low == found["DD"].high == 0 and found["AE"].low < -50 < found["AE"].high
    assert task_gains(RECORDS, worse, right) == {task: found[task] for task in ("AE", "DD")}
    assert found["mean"].n == 12 and np.array_equal(right, np.ones(12))


def test_ratio_is_of_the_means_over_tasks():
    right = np.ones(len(RECORDS))
    left = np.r_[np.full(8, 0.5), np.ones(4)]
    assert accuracy_ratio(RECORDS, left, right, seed=0).value == pytest.approx(0.75)
    assert accuracy_ratio(RECORDS, right, left, seed=0).value == pytest.approx(1 / 0.75)


def test_attributes_are_matched_by_the_records_that_ask_for_them():
    asked = [{"brand": "WYMA", "colour": "red"}, {"colour": ["blue", "navy"]}, {"colour": "red"}]
    records = [ask("AE", "-", k) | {"facts": {"asked": facts, "known": {}}} for k, facts in enumerate(asked)]
    said = ['{"brand": "wyma", "colour": "blue"}', '{"colour": "Navy"}', '{"brand": "WYMA"}']
    found = exact_by_attribute(records, {"x": said}, {"brand": "Brand", "colour": "Color", "name": "Name"})
    assert {name: exact["x"].tolist() for name, (_, exact) in found.items()} == {"Brand": [1], "Color": [0, 1, 0]}
    assert [r["id"] for r in found["Brand"][0]] == ["AE0"]
    table = accuracy_table(*found["Color"])
    assert table["column"].tolist() == ["Color/Acc", "Overall/Acc"] and table["value"][0] == pytest.approx(100 / 3)
