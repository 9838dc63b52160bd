"""Claims of CASLIE and eBay, decided on answers whose gains are known."""

import pandas as pd
import pytest

from mtive_nb.data.commerce.ebay_benches import BENCHES
from mtive_nb.data.commerce.rows import CommerceRow
from mtive_nb.evaluate.commerce.claims import by_stratum, commerce_claims
from mtive_nb.evaluate.commerce.ebay_claims import adaptation_claims

TASKS = ("AP", "CC", "PRP", "PSI", "MPC", "SA", "SR")


def caslie(tasks=TASKS, n=20):
    labels = {"AP": ("yes", "no"), "PSI": ("yes", "no")}
    return [
        {"id": f"{t}{k}{v}", "product_id": f"{t}{k}", "task": t, "variant": v, "label": labels.get(t, ("A", "B"))[k % 2]}
        for t in tasks for v in ("ind", "ood") for k in range(n)
    ]  # fmt: skip


def test_a_better_arm_holds_a_worse_one_fails_and_absent_arms_are_left_out():
    records = caslie()
    right = [r["label"] for r in records]
    half = [r["label"] if int(r["id"][len(r["task"])]) % 2 == 0 else "x" for r in records]
    board = commerce_claims(records, {"CASLIE": right, "uniM3": half, "UIA": half}).set_index("claim")
    assert board.loc["caslie-captions-beat-text-only", "verdict"] == "holds"
    assert board.loc["caslie-always-using-can-hurt", "verdict"] == "open"  # equal answers: no difference
    assert set(board.index) == {
        f"caslie-{name}" for name in ("captions-beat-text-only", "choosing-beats-always-using", "always-using-can-hurt")
    }
    worse = commerce_claims(records, {"CASLIE": half, "uniM3": right}).set_index("claim")
    assert worse.loc["caslie-captions-beat-text-only", "verdict"] == "does not hold"


def test_tasks_that_were_not_asked_are_named():
    records = caslie(tasks=("CC",))
    right = [r["label"] for r in records]
    (row,) = commerce_claims(records, {"CASLIE": right, "uniM3": ["x"] * len(right)}).to_dict("records")
    assert "not asked on AP, PRP" in row["remark"] and row["n"] == len(records)


def test_accuracy_by_stratum_counts_rows_of_the_stratum_alone():
    rows = [
        CommerceRow(str(k), "CC", "", {}, "A", "ood" if k % 2 else "test", product_id=str(k), stratum=s)
        for k, s in enumerate(["needed"] * 4 + ["idle"] * 4 + [""])
    ]
    found = by_stratum(rows, {"arm": ["A"] * 4 + ["B"] * 5}).set_index(["domain", "column"])["value"]
    assert found.to_dict() == {("IND", "needed"): 100, ("OOD", "needed"): 100, ("IND", "idle"): 0, ("OOD", "idle"): 0}


def ebay(n=30):
    return [
        {"id": f"{task}{k}", "task": task, "product_id": f"P{k}", "facts": {"asked": {"colour": "red"}, "known": {"colour": "red"}, "in_title": False}}
        for task in BENCHES.values() if "classes" not in task for k in range(n)
    ]  # fmt: skip


@pytest.mark.parametrize("better", [True, False])
def test_adaptation_is_decided_by_gains_in_points(better):
    records = ebay()
    good, bad = (['{"colour": "red"}' if "dae" in r["task"] else text for r in records] for text in ("red", "blue"))
    adapted, zero = (good, bad) if better else (bad, good)
    kept = pd.DataFrame([{"arm": "half", "before": 50.0, "change": -20.0, "low": -25.0, "high": -15.0, "n": 300}])
    arms = {"verified": adapted, "raw": zero, "zero-shot": zero}
    board = adaptation_claims(records, arms, kept, adapted="verified", mixed="half").set_index("claim")
    said = "holds" if better else "does not hold"
    assert board.loc["ebay-adaptation-beats-same-backbone", "verdict"] == said
    assert board.loc["ebay-verified-aspects-train-better", ["verdict", "gain"]].tolist() == [
        said,
        100 if better else -100,
    ]
    assert board.loc["ebay-verified-aspects-train-better", "n"] == 90  # three benchmarks of 30 questions
    assert board.loc["ebay-adaptation-keeps-general-skill", "verdict"] == "does not hold"  # 50 / 30 is above 1.01
