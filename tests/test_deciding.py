"""The layer that decides claims, against the normal interval of means over products: level, clusters, runs, rules."""

import numpy as np
import pandas as pd
import pytest
from conftest import make_record

from mtive_nb.evaluate.claims import FAILS, HOLDS, OPEN, decide, measured
from mtive_nb.evaluate.intervals import Interval
from mtive_nb.evaluate.scores import attribute_scores, majority_answers, paired_gains
from mtive_nb.evaluate.yes_no import accuracy_gains, accuracy_ratio

PRODUCTS, ITEMS = 150, 4
CLAIM = {
    "id": "c", "statement": "s", "priority": 1, "testable_small_scale": "yes", "testable_why": "w",
    "test": {"left": "mtive_mtl", "right": "base_mtl", "metric": "judge_accuracy", "relation": "greater",
             "tasks": ["AE", "DD"], "over_tasks": "mean"},
}  # fmt: skip


def claim(**changes: object) -> dict:
    return CLAIM | {"test": CLAIM["test"] | changes}


def marks(gain: np.ndarray, *, task: str, seed: int = 0) -> pd.DataFrame:
    """Judged answers of two systems: `gain` (products,) is what every item of a product gains."""
    rows = []
    for product, value in enumerate(gain):
        for item in range(ITEMS):
            about = {"seed": seed, "id": f"{task}{product}/{item}", "product_id": f"{task}{product}", "task": task}
            rows += [about | {"system": "Base_MTL", "accuracy": 50.0}]
            rows += [about | {"system": "MTIVE_MTL", "accuracy": 50.0 + value}]
    return pd.DataFrame(rows)


def half_width(of_products: np.ndarray) -> float:
    """Half of the 95% interval of a mean whose independent units are products."""
    return 1.96 * of_products.std() / len(of_products) ** 0.5


def half_of(found: Interval | dict) -> float:
    low, high = (found["low"], found["high"]) if isinstance(found, dict) else (found.low, found.high)
    return (high - low) / 2


@pytest.fixture
def gains() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {"AE": rng.normal(4, 6, PRODUCTS), "DD": rng.normal(2, 9, PRODUCTS)}


def test_a_task_s_interval_is_that_of_its_products_at_95_percent(gains):
    found = decide(claim(tasks=["AE"], over_tasks="each"), {"judged": marks(gains["AE"], task="AE")}, resamples=4000)
    assert half_of(found) == pytest.approx(half_width(gains["AE"]), rel=0.06)
    assert found["gain"] == pytest.approx(gains["AE"].mean()) and found["n"] == PRODUCTS * ITEMS


def test_the_mean_s_interval_is_that_of_the_mean_of_tasks_at_95_percent(gains):
    table = pd.concat([marks(gain, task=task) for task, gain in gains.items()])
    found = decide(claim(), {"judged": table}, resamples=4000)
    both = (gains["AE"] + gains["DD"]) / 2  # products are drawn together over tasks
    assert half_of(found) == pytest.approx(half_width(both), rel=0.06)


def test_runs_are_drawn_where_an_answer_has_a_seed(gains):
    runs = [gains["AE"] * 0.1 + step for step in (0.0, 20.0, 40.0)]
    table = pd.concat([marks(gain, task="AE", seed=seed) for seed, gain in enumerate(runs)])
    found = decide(claim(tasks=["AE"], over_tasks="each"), {"judged": table})
    assert found["low"] < runs[0].mean() + 2 and found["high"] > runs[2].mean() - 2 and found["seeds"] == 3


@pytest.mark.parametrize(
    ("shift", "verdict"), [((9, 9), HOLDS), ((9, -9), FAILS), ((9, 0), OPEN), ((-9, -9), FAILS), ((0, -9), FAILS)]
)
def test_each_task_must_hold_where_the_claim_says_each(shift, verdict):
    noise = np.random.default_rng(1).normal(0, 6, PRODUCTS)
    noise -= noise.mean()
    table = pd.concat([marks(noise + s, task=task) for s, task in zip(shift, ("AE", "DD"), strict=True)])
    assert decide(claim(over_tasks="each"), {"judged": table})["verdict"] == verdict
    values = {task: Interval(s, s - 1, s + 1, 9) for s, task in zip(shift, ("AE", "DD"), strict=True)}
    assert measured("mtive-stack-beats-base-mtl", values)["verdict"] == verdict


@pytest.fixture
def answered() -> tuple[list[dict], np.ndarray, np.ndarray]:
    """Records of `ITEMS` a product, and two systems' hits (n,), which agree within a product."""
    records = [make_record(k) | {"product_id": f"p{k // ITEMS}", "task": "AE"} for k in range(PRODUCTS * ITEMS)]
    rng = np.random.default_rng(3)
    left, right = (np.repeat((rng.random(PRODUCTS) < share).astype(float), ITEMS) for share in (0.7, 0.5))
    return records, left, right


def test_gains_and_ratios_are_drawn_by_product(answered):
    records, left, right = answered
    found = accuracy_gains(records, left, right)["AE"]
    assert half_of(found) == pytest.approx(100 * half_width((left - right)[::ITEMS]), rel=0.08)
    relative = left[::ITEMS] / left.mean() - right[::ITEMS] / right.mean()  # the delta method
    ratio = accuracy_ratio(records, left, right)
    assert half_of(ratio) == pytest.approx(ratio.value * half_width(relative), rel=0.12)


def test_scores_by_attribute_and_paired_gains_are_drawn_by_product(answered):
    records, left, right = answered
    facts = {"asked": {"colour": "blue"}, "known": {"colour": "blue"}}
    records = [r | {"variant": "gen", "facts": facts, "answer": "blue", "label": None} for r in records]
    says = {name: ["blue" if hit else "red" for hit in hits] for name, hits in (("one", left), ("two", right))}
    rows = attribute_scores(records, says).set_index("system")
    assert half_of(dict(rows.loc["one"])) == pytest.approx(half_width(left[::ITEMS]), rel=0.08)
    (gain,) = paired_gains(records, says, {"colour": ["blue", "red"]}, system="one", over=["two"]).to_dict("records")
    assert half_of(gain) == pytest.approx(100 * half_width((left - right)[::ITEMS]), rel=0.08)


def test_the_majority_is_that_of_the_question_s_words_then_of_its_form():
    def asked(task: str, variant: str, question: str, answer: str, k: int = 0) -> dict:
        return make_record(k, question=question, answer=answer) | {"task": task, "variant": variant, "label": None}

    train = [
        *[asked("AE", "gen", "Colour?", "blue")] * 3, *[asked("AE", "gen", "Brand?", "Zevo")] * 4,
        *[asked("AE", "aug", "Colour?", "red")] * 5, *[asked("PT", "gen", "Colour?", "box")] * 6,
        *[asked("DD", "bin", "Damaged?", "no")] * 3, *[asked("DD", "gen", "Whole?", "yes")] * 2,
        *[asked("PM", "bin", "Same?", "yes")] * 9,
    ]  # fmt: skip
    wanted = {
        ("AE", "gen", "Colour?", "green"): "blue", ("AE", "gen", "Brand?", "x"): "Zevo",
        ("AE", "aug", "Colour?", "x"): "red", ("PT", "gen", "Colour?", "x"): "box",
        ("AE", "gen", "New words?", "x"): "Zevo", ("AE", "aug", "New words?", "x"): "red",
        ("DD", "bin", "Damaged?", "yes"): "no", ("DD", "gen", "Whole?", "yes"): "no",
        ("PM", "bin", "Another?", "no"): "yes", ("EX", "gen", "Date?", "x"): "",
    }  # fmt: skip
    assert majority_answers([asked(*one) for one in wanted], train) == list(wanted.values())
