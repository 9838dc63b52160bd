"""The claims board decides by its rule, on data whose verdict is known."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from mtive_nb.evaluate.claims import (
    FAILS,
    HOLDS,
    NOT_MEASURED,
    OPEN,
    SYSTEMS,
    board,
    claims_of_run,
    decide,
    decided_again,
    find_claim,
    judged_run,
    load_claims,
    measured,
    not_testable,
    verdict,
)
from mtive_nb.evaluate.design import load_design
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
    assert exact["verdict"] == HOLDS and exact["by_task"] == "engine holds, vLLM holds" and exact["n"] == 800
    broken = measured("mtive-hot-swap-no-interruption", {"engine": 0.0, "vLLM": 2.0}, n=800)
    assert broken["verdict"] == FAILS and broken["gain"] == 2.0 and broken["decided_by"] == "vLLM"
    same = measured("mtive-stack-equals-merged-shared", {"AE": 2e-5})
    assert same["verdict"] == HOLDS and same["n"] == 1
    other = measured("mtive-shared-lora-is-faster", {"request": Interval(-17.0, -20.0, -14.0, 30)}, unit="x")
    assert other["unit"] == "x" and other["published"] is None
    assert measured("mtive-shared-lora-is-faster", {"request": 1.0})["published"] == -17.0
    with pytest.raises(KeyError, match="mtive-nothing"):
        measured("mtive-nothing", {"AE": 1.0})


@pytest.mark.parametrize(
    ("claim_id", "intervals", "decided_by"),
    [  # each: the least favourable task, whatever the size of its value
        ("mtive-stack-beats-own-base", {"AE": (30, 20, 40), "DD": (5, 1, 9), "PM": (8, 2, 14)}, "DD"),
        ("mtive-stack-beats-own-base", {"AE": (30, 20, 40), "DD": (5, -1, 11), "PM": (2, 1, 3)}, "DD"),
        ("mtive-stack-beats-own-base", {"AE": (-3, -5, -1), "DD": (5, -9, 19), "PM": (50, 40, 60)}, "AE"),
        ("mtive-no-replay-forgets", {"AE": (-30, -40, -20), "DD": (-5, -9, -1)}, "DD"),
        ("vitpro-four-bit-costs-little", {"AE": (0.1, -1, 1.2), "DD": (-1.5, -1.9, -1.1)}, "DD"),
        ("vitpro-four-bit-costs-little", {"AE": (-28, -38, -17), "DD": (0, -3, 3), "PM": (0, 0, 0)}, "AE"),
        ("mtive-stack-latency-close-to-base-mtl", {"short": (0.9, 0.8, 1.0), "long": (1.01, 1.0, 1.02)}, "long"),
    ],
)
def test_the_row_shows_the_interval_that_decided(claim_id, intervals, decided_by):
    row = measured(claim_id, {task: Interval(*ends, 50) for task, ends in intervals.items()})
    assert row["decided_by"] == decided_by
    assert (row["gain"], row["low"], row["high"], row["n"]) == (*intervals[decided_by], 50)
    verdicts = dict(part.split(" ", 1) for part in row["by_task"].split(", "))
    assert verdicts[decided_by] == row["verdict"]
    assert row["published"] == find_claim(claim_id)["test"].get("margin_by_task", {}).get(decided_by, row["published"])


def test_a_claim_that_the_paper_contradicts_says_so_beside_its_verdict():
    registered = [c for c in load_claims() if c["id"] in load_design().claims]
    remarks = {c["id"]: measured(c["id"], {"mean": 0.0})["remark"] for c in registered}
    contradicted = {c["id"] for c in registered if c["support"] == "contradicted"}
    assert {i for i, remark in remarks.items() if "contradict" in remark} == contradicted != set()


def test_about_equal_holds_within_the_tolerance():
    data = judged({"AE": 0.2, "DD": -0.2}, noise=0.5)
    near = claim(relation="about_equal", over_tasks="each", tolerance=1.0)
    assert decide(near, data)["verdict"] == HOLDS
    assert decide(near, judged({"AE": 4.0, "DD": -4.0}, noise=0.5))["verdict"] == FAILS


def test_a_run_is_read_into_marks_labels_and_abstentions():
    facts = {"asked": {"expiry": "04.08.2027", "production": "Unanswerable"}, "known": {"expiry": "04.08.2027"}}
    common = {"product_id": "P", "answer": "", "label": "yes", "facts": facts}
    records = [
        common | {"id": "a", "task": "EX", "variant": "gen"},
        common | {"id": "b", "task": "DD", "variant": "bin"},
    ]
    made_up = '{"expiry": "04.08.2027", "production": "01.08.2027"}'
    honest = '{"expiry": "04.08.2027", "production": "Unanswerable"}'
    said = {"zero-shot": [made_up, "no"], "MTIVE_MTL": [honest, "yes"], "of no claim": ["", ""]}
    frames = judged_run(records, said, {"damage": ["dent"]}, seed=3)
    assert all(
        set(frame["system"]) == {"zero-shot", "MTIVE_MTL"} and set(frame["seed"]) == {3} for frame in frames.values()
    )
    marks = frames["judged"].set_index("system")["accuracy"]
    assert marks["MTIVE_MTL"] > marks["zero-shot"]
    assert frames["yes_no"].set_index("system")["answer"].to_dict() == {"zero-shot": "no", "MTIVE_MTL": "yes"}
    abstained = frames["abstained"].set_index(["system", "id"])[["label", "answer"]]
    assert abstained.loc[("MTIVE_MTL", "a production")].tolist() == [True, True]
    assert abstained.loc[("zero-shot", "a production")].tolist() == [True, False]
    assert abstained.loc[("MTIVE_MTL", "a expiry")].tolist() == [False, False]


def test_a_claim_decided_again_differs_by_the_answers_that_were_replaced():
    records = [
        {"id": f"{task}{k}", "product_id": f"P{k}", "task": task, "variant": "gen", "answer": "box", "label": "box",
         "facts": {"asked": {"packaging": "box"}, "known": {"packaging": "box"}}}
        for task in ("AE", "DD", "PM", "EX", "PT") for k in range(6)
    ]  # fmt: skip
    table = pd.DataFrame({"id": [r["id"] for r in records], "Base_MoE": "can", "Base_SL": "box", "Base_MTL": "box"})
    asked = records, table, {"packaging": ["box", "can"]}
    stands = decided_again("mtive-moe-beats-shared-lora", asked, {}, seed=0)
    assert (stands["verdict"], stands["gain"], stands["n"]) == (FAILS, -100.0, 6)  # every task fails; PT is not there
    assert stands["by_task"] == "AE does not hold, DD does not hold, PM does not hold, EX does not hold"
    of_ae = {"Base_MoE": {f"AE{k}": "box" for k in range(6)}}
    again = decided_again("mtive-moe-beats-shared-lora", asked, of_ae, seed=0)
    assert again["decided_by"] == "DD" and again["by_task"].startswith("AE open, DD does not hold")
    assert decided_again("mtive-moe-beats-shared-lora", asked, of_ae, seed=0, tasks=["AE", "DD"])["gain"] == -50.0
    with pytest.raises(ValueError, match="found .'Base_MTL', 'PT'.; it compares .'Base_MoE', 'Base_SL'. on"):
        decided_again("mtive-moe-beats-shared-lora", asked, {"Base_MTL": {}}, seed=0, tasks=["AE", "PT"])


def test_a_chapter_leaves_the_claims_on_its_answers_and_those_that_it_measured():
    records = [
        {"id": f"{task}{k}", "product_id": f"P{k}", "task": task, "variant": "gen", "answer": "box", "label": "box",
         "facts": {"asked": {"packaging": "box"}, "known": {"packaging": "box"}}}
        for task in ("AE", "DD", "PM", "EX") for k in range(6)
    ]  # fmt: skip
    answers = {"Base_MoE": ["box"] * 24, "Base_SL": ["can"] * 24}
    moved = measured("mtive-frozen-weights-untouched", {"tensors": 1.0}, n=7)
    found = claims_of_run(records, answers, {"packaging": ["box", "can"]}, further=[moved])
    verdicts = found.set_index("claim")["verdict"].to_dict()
    assert verdicts == {"mtive-moe-beats-shared-lora": HOLDS, "mtive-frozen-weights-untouched": FAILS}
    assert found["n"].tolist() == [6, 7] and found["decided_by"].tolist() == ["AE", "tensors"]


def test_abstention_is_decided_by_f1_where_something_is_not_there():
    rng, rows = np.random.default_rng(0), []
    for task, share in (("EX", 0.4), ("PM", 0.0)):
        for k in range(120):
            none = rng.random() < share
            for system, right in (("zero-shot", 0.5), ("MTIVE_MTL", 0.95)):
                rows.append(
                    (0, f"{task}{k}", f"P{k % 30}", task, system, none, none if rng.random() < right else not none)
                )
    table = pd.DataFrame(rows, columns=["seed", "id", "product_id", "task", "system", "label", "answer"])
    asked = claim(right="base_zs", metric="abstention_f1_on_unanswerable", tasks=["PM", "EX"], over_tasks="each")
    found = decide(asked, {"abstained": table})
    of = {s: f1_score(t["label"], t["answer"]) for s, t in table[table["task"] == "EX"].groupby("system")}
    assert found["gain"] == pytest.approx(of["MTIVE_MTL"] - of["zero-shot"]) and found["verdict"] == HOLDS
    assert (found["by_task"], found["decided_by"], found["n"]) == ("EX holds", "EX", 120)
    assert found["remark"] == "holds on EX; not asked on PM"
    assert decide(asked, {"abstained": table[table["task"] == "PM"]}) is None


def judged(gains: dict[str, float], *, n=80, seeds=1, noise=0.0) -> dict[str, pd.DataFrame]:
    rng, rows = np.random.default_rng(0), []
    for seed in range(seeds):
        for task, gain in gains.items():
            for k in range(n):
                base = rng.uniform(20, 60)
                for system, value in (("Base_MTL", base), ("MTIVE_MTL", base + gain + noise * rng.normal())):
                    rows.append((seed, f"{task}{k}", f"P{k % 20}", task, system, value, 100 - value))
    names = ["seed", "id", "product_id", "task", "system", "accuracy", "hallucination"]
    return {"judged": pd.DataFrame(rows, columns=names)}


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
    assert found["decided_by"] == "mean"
    each = decide(claim(over_tasks="each"), data)
    assert (each["verdict"], each["decided_by"], each["n"]) == (FAILS, "DD", 160)
    assert each["gain"] == pytest.approx(-2, abs=0.3) and each["low"] < each["gain"] < each["high"] < 0
    assert decide(claim(metric="hallucination_rate", relation="less"), data)["verdict"] == HOLDS
    assert decide(claim(), judged({"AE": 0.1, "DD": -0.1}, noise=8.0))["verdict"] == OPEN


def test_what_was_not_measured_is_said_and_not_guessed():
    data = judged({"AE": 1.0})
    rows = board([claim(), claim(tasks=["AE"]), claim(right="claude") | {"testable_small_scale": "no"}], data)
    assert rows["verdict"].tolist() == ["not measured in this run", HOLDS, "not testable here: w"]
    row, found = not_testable("mtive-stack-beats-base-mtl"), find_claim("mtive-stack-beats-base-mtl")
    assert row["verdict"] == f"not testable here: {found['testable_why']}"
    assert (row["unit"], row["published"]) == ("points", found["test"]["margin_published"]["value"])


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
    found = decide(asked, {"yes_no": binary})
    of = {
        (t, s): f1_score(part["label"], part["answer"], average="weighted", zero_division=0)
        for (t, s), part in binary.groupby(["task", "system"])
    }
    gain = of[found["decided_by"], "MTIVE_MTL"] - of[found["decided_by"], "zero-shot"]
    assert found["verdict"] == HOLDS and found["gain"] == pytest.approx(gain) and found["n"] == 160
    assert found["low"] < gain < found["high"]
    assert decide(asked, judged({"AE": 1.0})) is None and decide(asked, {"yes_no": binary[:0]}) is None
    turned = binary.assign(system=binary["system"].map({"zero-shot": "MTIVE_MTL", "MTIVE_MTL": "zero-shot"}))
    assert decide(asked, {"yes_no": turned})["verdict"] == FAILS


def test_a_claim_without_values_is_not_measured():
    assert measured("mtive-add-expert-keeps-old-outputs", {})["verdict"] == NOT_MEASURED
