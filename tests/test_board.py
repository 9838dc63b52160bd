"""The claims board decides by its rule, on data whose verdict is known."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from mtive_nb.evaluate.board import (
    FAILS,
    HOLDS,
    OPEN,
    SYSTEMS,
    board,
    decide,
    judged_answers,
    load_claims,
    measured,
    verdict,
)
from mtive_nb.evaluate.intervals import Interval


@pytest.mark.parametrize(
    ("low", "high", "relation", "tolerance", "expected"),
    [
        (0.1, 2.0, "greater", None, HOLDS), (-0.1, 2.0, "greater", None, OPEN), (-2.0, -0.1, "greater", None, FAILS),
        (-2.0, -0.1, "less", None, HOLDS), (0.1, 2.0, "less", None, FAILS), (-1.0, 1.0, "less", None, OPEN),
        (-1.0, 1.0, "about_equal", 2.0, HOLDS), (-3.0, 1.0, "about_equal", 2.0, OPEN), (2.1, 3.0, "about_equal", 2.0, FAILS),
    ],
)  # fmt: skip
def test_the_rule(low, high, relation, tolerance, expected):
    assert verdict(low, high, relation=relation, tolerance=tolerance) == expected


@pytest.mark.parametrize(("low", "high", "expected"), [(0.9, 1.0, HOLDS), (1.0, 1.1, OPEN), (1.1, 1.2, FAILS)])
def test_a_factor_stays_below_its_bound_or_not(low, high, expected):
    assert verdict(low, high, relation="at_most_factor", bound=1.03) == expected


def test_an_unknown_relation_is_refused():
    with pytest.raises(ValueError, match="'near', expected greater, less"):
        verdict(0, 1, relation="near")


def test_what_a_chapter_measured_is_decided_by_the_claims_own_rule():
    row = measured("mtive-stack-latency-close-to-base-mtl", {"request": Interval(1.1, 1.05, 1.2, 30)})
    assert (row["verdict"], row["gain"], row["n"], row["unit"]) == (FAILS, 1.1, 30, "x")
    exact = measured("mtive-hot-swap-no-interruption", {"engine": 0.0, "vLLM": 0.0}, n=800)
    assert exact["verdict"] == HOLDS and exact["by_task"] == "engine holds, vLLM holds"
    broken = measured("mtive-hot-swap-no-interruption", {"engine": 0.0, "vLLM": 2.0}, n=800)
    assert broken["verdict"] == FAILS and broken["gain"] == 2.0
    assert measured("mtive-stack-equals-merged-shared", {"AE": 2e-5})["verdict"] == HOLDS
    with pytest.raises(KeyError, match="mtive-nothing"):
        measured("mtive-nothing", {"AE": 1.0})


def test_a_tolerance_is_read_with_its_unit():
    data = judged({"AE": 0.2, "DD": -0.2}, noise=0.5)
    near = claim(relation="about_equal", over_tasks="each", tolerance={"value": 1.0, "unit": "points"})
    assert decide(near, data)["verdict"] == HOLDS
    assert decide(near, judged({"AE": 4.0, "DD": -4.0}, noise=0.5))["verdict"] == FAILS


def test_the_judges_marks_stand_a_row_an_answer_and_system():
    record = {"id": "r", "product_id": "P", "task": "DD", "variant": "gen", "answer": "yes, a dent", "label": "yes",
              "facts": {"asked": {"damaged": "yes", "damage": "dent"}, "known": {"damaged": "yes", "damage": "dent"}}}  # fmt: skip
    marks = judged_answers([record], {"A": ["yes, a dent"], "B": ["no"]}, {"damage": ["dent"]}, seed=3)
    assert marks["system"].tolist() == ["A", "B"] and set(marks["seed"]) == {3}
    assert marks["accuracy"].iloc[0] > marks["accuracy"].iloc[1]


def judged(gains: dict[str, float], *, n=80, seeds=1, noise=0.0) -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for seed in range(seeds):
        for task, gain in gains.items():
            for k in range(n):
                base = rng.uniform(20, 60)
                for system, value in (("Base_MTL", base), ("MTIVE_MTL", base + gain + noise * rng.normal())):
                    rows.append((seed, f"{task}{k}", f"P{k % 20}", task, system, value, 100 - value))
    names = ["seed", "id", "product_id", "task", "system", "accuracy", "hallucination"]
    return pd.DataFrame(rows, columns=names)


def claim(**changes) -> dict:
    test = {"left": "mtive_mtl", "right": "base_mtl", "metric": "judge_accuracy", "tasks": ["AE", "DD"],
            "over_tasks": "mean", "relation": "greater", "margin_published": {"value": 1.3}}  # fmt: skip
    return {"id": "c", "statement": "s", "priority": 1, "testable_small_scale": "yes", "testable_why": "w",
            "test": test | changes}  # fmt: skip


def test_a_mean_may_hold_where_one_task_does_not():
    data = judged({"AE": 9.0, "DD": -2.0}, noise=1.0, seeds=2)
    found = decide(claim(), data)
    assert found["verdict"] == HOLDS and found["gain"] == pytest.approx(3.5, abs=0.3)
    assert found["low"] < found["gain"] < found["high"] and found["n"] == 320 and found["seeds"] == 2
    assert decide(claim(over_tasks="each"), data)["verdict"] == FAILS
    assert decide(claim(metric="hallucination_rate", relation="less"), data)["verdict"] == HOLDS
    assert decide(claim(), judged({"AE": 0.1, "DD": -0.1}, noise=8.0))["verdict"] == OPEN


def test_what_was_not_measured_is_said_and_not_guessed():
    data = judged({"AE": 1.0})
    rows = board([claim(), claim(tasks=["AE"]), claim(right="claude") | {"testable_small_scale": "no"}], data)
    assert rows["verdict"].tolist() == ["not measured in this run", HOLDS, "not testable here: w"]


def test_the_claims_of_the_papers_are_carried_whole():
    claims = load_claims()
    assert len({c["id"] for c in claims}) == len(claims) and {c["paper"] for c in claims} == {
        "mtive",
        "vitpro",
        "ebay",
        "caslie",
    }
    named = {str(c["test"][side]) for c in claims if c["paper"] == "mtive" for side in ("left", "right")}
    assert set(SYSTEMS) <= named


def test_f1_of_yes_no_questions_is_compared_item_by_item():
    rng, rows = np.random.default_rng(0), []
    for task in ("DD", "PM"):
        for k in range(160):
            label = ("yes", "no")[k % 2]
            right = label if rng.random() < 0.9 else {"yes": "no", "no": "yes"}[label]
            for system, answer in (("zero-shot", "no"), ("MTIVE_MTL", right)):
                rows.append((0, f"{task}{k}", f"P{k % 40}", task, system, label, answer))
    binary = pd.DataFrame(rows, columns=["seed", "id", "product_id", "task", "system", "label", "answer"])
    asked = claim(right="base_zs", metric="f1_weighted", tasks=["DD", "PM"], over_tasks="each")
    found = decide(asked, judged({"AE": 1.0}), binary=binary)
    of = {
        (t, s): f1_score(part["label"], part["answer"], average="weighted", zero_division=0)
        for (t, s), part in binary.groupby(["task", "system"])
    }
    gain = np.mean([of[t, "MTIVE_MTL"] - of[t, "zero-shot"] for t in ("DD", "PM")])
    assert found["verdict"] == HOLDS and found["gain"] == pytest.approx(gain) and found["n"] == 320
    assert found["low"] < gain < found["high"]
    assert decide(asked, judged({"AE": 1.0})) is None
    turned = binary.assign(system=binary["system"].map({"zero-shot": "MTIVE_MTL", "MTIVE_MTL": "zero-shot"}))
    assert decide(asked, judged({"AE": 1.0}), binary=turned)["verdict"] == FAILS
