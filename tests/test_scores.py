import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from mtive_nb.data.records import make_record
from mtive_nb.evaluate.examples import example_rows
from mtive_nb.evaluate.judge.rule import Judgement
from mtive_nb.evaluate.scores import OWN_TABLE, SCORE_FIELDS, T1_TASKS, accuracy_rows, score_table, wide_table
from mtive_nb.run import start_run
from mtive_nb.run.published import columns_of

COLOURS = ("blue", "red", "green")
PACKAGINGS = ("box", "can", "jar")
WRONG = {
    "yes": "no",
    "no": "yes",
    "blue": "red",
    "red": "green",
    "green": "blue",
    "box": "can",
    "can": "jar",
    "jar": "box",
}


def _record(task, variant, number, *, answer, asked=None, label=None, known=None):
    facts = None if asked is None else {"asked": asked, "known": known or asked}
    return make_record(
        f"{task}-{variant}-{number}",
        product_id=f"p{number // 2}",
        task=task,
        variant=variant,
        images=["a.jpg"],
        answer=answer,
        question=f"{task}?",
        label=label,
        facts=facts,
        source="test",
        split="test",
    )


@pytest.fixture(scope="module")
def records():
    made = []
    for k in range(24):
        colour, polar, packaging = COLOURS[k % 3], ("yes", "no")[k % 2], PACKAGINGS[k % 3]
        made.append(_record("AE", "aug", k, answer=colour, asked={"colour": colour}))
        made.append(_record("DD", "bin", k, answer=polar, asked={"damaged": polar}, label=polar))
        made.append(_record("PM", "bin", k, answer=polar, asked={"match": polar}, label=polar))
        made.append(_record("PM", "aug", k, answer=polar, asked={"match": polar}, label=polar))
        made.append(_record("PT", "gen", k, answer=packaging, asked={"packaging": packaging}, label=packaging))
        made.append(_record("PT", "bin", k, answer=polar, asked={"answer": polar}, label=polar))
        date = f"{k + 1:02d} AUG 2021"
        made.append(_record("EX", "aug", k, answer=date, asked={"expiry": date}))
        made.append(_record("EX", "aug", 100 + k, answer="yes", asked={"has_expiry": "yes"}, label="yes"))
    return made


@pytest.fixture(scope="module")
def answers(records):
    right = [record["answer"] for record in records]
    half = [a if np.random.default_rng(i).random() < 0.5 else WRONG.get(a, "") for i, a in enumerate(right)]
    return {"MTIVE_MTL": right, "Base_SL": half, "silent": [""] * len(right)}


@pytest.fixture(scope="module")
def scores(records, answers):
    return score_table(records, answers, seed=0, resamples=300)


def _value(scores, system, metric):
    return scores[(scores["system"] == system) & (scores["metric"] == metric)].iloc[0]


def test_perfect_and_silent_systems(scores):
    for metric in scores["metric"].unique():
        perfect, silent = (_value(scores, system, metric)["value"] for system in ("MTIVE_MTL", "silent"))
        if metric.endswith("/Hal"):
            assert perfect == silent == 0
        elif "Unparsed" in metric:
            assert (perfect, silent) == (0, 1)
        else:
            assert perfect == (100 if metric.endswith(("AE/Acc", "PM/Acc", "EX/Acc", "/Rel")) else 1)
            assert silent == 0


def test_f1_and_accuracy_equal_scikit_learn(scores, records, answers):
    chosen = [i for i, r in enumerate(records) if (r["task"], r["variant"]) == ("PM", "bin")]
    truth, given = [records[i]["label"] for i in chosen], [answers["Base_SL"][i] for i in chosen]
    row = _value(scores, "Base_SL", "PM/F1w")
    assert row["value"] == pytest.approx(f1_score(truth, given, average="weighted"))
    assert (row["paper"], row["table"], row["n"]) == ("mtive", "T2", 24)
    accuracy = _value(scores, "Base_SL", "PM/Acc binary")
    assert accuracy["value"] == pytest.approx(np.mean(np.array(truth) == np.array(given)))
    assert 0 < accuracy["low"] < accuracy["value"] < accuracy["high"] < 1


def test_yes_no_and_classes_of_one_task_stay_apart(scores):
    assert _value(scores, "MTIVE_MTL", "PT/Acc")["n"] == _value(scores, "MTIVE_MTL", "PT/Acc binary")["n"] == 24


def test_exact_match_of_dates_leaves_out_questions_whether_there_is_one(scores):
    assert _value(scores, "MTIVE_MTL", "EX/EM")["n"] == 24
    assert _value(scores, "MTIVE_MTL", "EX/Acc")["n"] == 48


def test_saying_unanswerable_always_earns_nothing_where_a_date_is_printed():
    printed = [_record("EX", "aug", k, answer="03/04/23", asked={"expiry": "03/04/23"}) for k in range(3)]
    blank = [_record("EX", "aug", 9, answer="Unanswerable", asked={"expiry": "Unanswerable"})]
    found = score_table(printed + blank, {"shy": ["Unanswerable"] * 4}, seed=0, resamples=50)
    assert _value(found, "shy", "EX/EM")["value"] == 0.25
    present = _value(found, "shy", "EX/EM present")
    assert (present["value"], present["n"]) == (0, 3)


def test_metrics_go_where_the_paper_prints_them(scores, tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("MTIVE_HOME", str(tmp_path))
    run = start_run("07_evaluation", profile="pocket", seed=0)
    assert run.metrics(scores) is scores and len(run.recorded) == len(scores)
    for metric in run.recorded:
        assert metric["low"] <= metric["value"] <= metric["high"]
        assert metric["paper"] == "own" or metric["column"] in columns_of(metric["paper"], metric["table"])
    assert ("MTIVE_MTL", "T1", "AE/Hal") in {(m["row"], m["table"], m["column"]) for m in run.recorded}


def test_each_score_stands_in_its_table_with_its_unit_and_direction(scores):
    """T1 and T2 are the paper's, in its units; all else is ours, in fractions. Less is better of what is wrong."""
    assert list(scores.columns) == list(SCORE_FIELDS) and not scores.isna().any(axis=None)
    for row in scores.itertuples():
        in_t1 = row.metric[3:] in ("Acc", "Rel", "Hal") and row.task in T1_TASKS
        in_t2 = row.metric in ("DD/F1w", "PM/F1w")
        table = ("mtive", "T1") if in_t1 else ("mtive", "T2") if in_t2 else ("own", OWN_TABLE)
        assert (row.paper, row.table) == table and row.metric.startswith(f"{row.task}/")
        assert row.unit == ("points 0-100" if in_t1 else "fraction") and row.value <= (100 if in_t1 else 1)
        assert row.better == ("lower" if "Hal" in row.metric or "Unparsed" in row.metric else "higher")
    assert set(scores["metric"]) == {
        "AE/Acc", "AE/Rel", "AE/Hal", "AE/EM", "AE/EM record", "EX/Acc", "EX/Rel", "EX/Hal", "EX/EM", "EX/EM date",
        "EX/EM present", "PM/Acc", "PM/Rel", "PM/Hal", "DD/Acc binary", "DD/F1w", "DD/Unparsed binary", "PM/Acc binary",
        "PM/F1w", "PM/Unparsed binary", "PT/Acc", "PT/F1w", "PT/Unparsed", "PT/Acc binary", "PT/F1w binary",
        "PT/Unparsed binary",
    }  # fmt: skip


def test_open_answers_are_judged_in_points_in_t1_and_in_fractions_in_tasks_of_ones_own():
    records = [_record("mine", "gen", k, answer="blue", asked={"colour": "blue"}) for k in range(4)]
    records += [_record("DD", "gen", k, answer="dent", asked={"damage": "dent"}) for k in range(4)]
    found = score_table(records, {"half": ["blue", "blue", "red", ""] + ["dent", "dent", "", ""]}, resamples=50)
    values = dict(zip(found["metric"], found["value"], strict=True))
    assert (values["mine/Acc"], values["mine/EM"], values["DD/Acc"]) == (0.5, 0.5, 50)
    assert [m for m in values if m.startswith("DD")] == ["DD/Acc", "DD/Rel", "DD/Hal"], "damage is no attribute to copy"


def test_every_score_s_interval_draws_products(records, answers):
    """Each question asked eight times: products drawn, the intervals stay as they are."""
    said = ["" if k % 5 == 0 else answer for k, answer in enumerate(answers["Base_SL"])]
    one = score_table(records, {"some": said}, resamples=300)
    often = {"some": [answer for answer in said for _ in range(8)]}
    many = score_table([record for record in records for _ in range(8)], often, resamples=300)
    for end in ("value", "low", "high"):
        assert many[end].tolist() == pytest.approx(one[end].tolist())
    assert many["n"].tolist() == [8 * n for n in one["n"]]


def test_the_wide_table_shows_systems_by_columns(scores):
    table = wide_table(scores, paper="mtive", table="T1")
    assert list(table.index) == ["MTIVE_MTL", "Base_SL", "silent"]
    assert table.loc["MTIVE_MTL", "AE/Acc"] == "100.0 [100.0, 100.0]"
    ours = wide_table(scores[scores["metric"] != "AE/EM"], paper="mtive", table="T2")
    assert ours.loc["MTIVE_MTL", "DD/F1w"] == "1.000 [1.000, 1.000]"
    cut = scores[(scores["system"] != "silent") | (scores["metric"] != "AE/Acc")]
    assert wide_table(cut, paper="mtive", table="T1").loc["silent", "AE/Acc"] == ""


def test_a_system_without_an_answer_a_record_is_refused(records):
    with pytest.raises(ValueError, match="half has 1 answers"):
        score_table(records, {"half": ["yes"]}, seed=0)


def test_examples_show_where_systems_differ(records, answers):
    shown = example_rows(records, answers, n=2, seed=0)
    assert (shown.groupby("task").size() == 2).all()
    assert set(shown["task"]) == {"AE", "DD", "PM", "PT", "EX"}
    assert (shown["MTIVE_MTL"] == shown["truth"]).all()
    assert (shown["silent"] == "").all()
    assert not shown.duplicated(["task", "truth", "question", "id"]).any()
    assert list(shown["question"]) == [f"{task}?" for task in shown["task"]]


def test_examples_prefer_records_on_which_systems_disagree(records):
    right = [record["answer"] for record in records]
    other = list(right)
    disputed = next(i for i, r in enumerate(records) if r["id"] == "DD-bin-7")
    other[disputed] = WRONG[right[disputed]]
    shown = example_rows(records, {"a": right, "b": other}, n=1, seed=3)
    assert "DD-bin-7" in set(shown["id"])


def test_without_questions_there_is_no_gain():
    from mtive_nb.evaluate.scores import paired_gains

    assert paired_gains([], {"MTIVE_IT": [], "zero-shot": []}, {}, system="MTIVE_IT", over=["zero-shot"]).empty


def test_paired_gains_compare_the_same_records():
    from mtive_nb.evaluate.scores import paired_gains

    records = [
        {
            "id": str(k), "product_id": f"p{k % 5}", "task": "DD", "variant": "aug", "messages": [], "images": [],
            "answer": "dent", "label": "dent", "facts": {"asked": {"damage": "dent"}, "known": {"damage": "dent", "damaged": "yes"}},
        }
        for k in range(20)
    ]  # fmt: skip
    answers = {"good": ["dent"] * 20, "poor": ["dent"] * 10 + ["tear"] * 10}
    rows = paired_gains(records, answers, {"damage": ["dent", "tear"]}, system="good", over=["poor", "good"], seed=0)
    assert rows["gain"].tolist() == [50.0, 0.0] and rows["low"].iloc[0] > 0 and rows["high"].iloc[1] == 0
    assert rows["n"].tolist() == [20, 20]


class Lenient:
    """A judge to whom every answer is right."""

    def judge(self, record, answer):
        return Judgement(100.0, 100.0, 0.0, 1, 0)


def test_gains_are_those_of_the_judge_that_is_given_and_of_products_of_their_run(monkeypatch):
    from mtive_nb.evaluate import scores

    record = {
        "id": "0", "product_id": "p", "task": "DD", "variant": "gen", "messages": [], "images": [], "answer": "dent",
        "label": "dent", "facts": {"asked": {"damage": "dent"}, "known": {"damage": "dent", "damaged": "yes"}},
    }  # fmt: skip
    records = [record | {"id": str(k), "run": run} for k, run in enumerate(("a", "a", "b"))]
    answers, drawn = {"good": ["dent"] * 3, "poor": ["tear"] * 3}, []
    paired = scores.paired_difference

    def noted(*values, groups, **options):
        drawn.append(groups)
        return paired(*values, groups=groups, **options)

    monkeypatch.setattr(scores, "paired_difference", noted)
    rows = scores.paired_gains(records, answers, system="good", over=["poor"])
    assert rows["gain"].tolist() == [100.0] and rows["task"].tolist() == ["DD"] and rows["over"].tolist() == ["poor"]
    assert drawn == [[("a", "p"), ("a", "p"), ("b", "p")]]
    assert scores.paired_gains(records, answers, system="good", over=["poor"], judge=Lenient())["gain"].tolist() == [
        0.0
    ]


def test_accuracy_of_any_task_in_points() -> None:
    row = {"paper": "own", "table": "EMDIV", "system": "s", "low": 0.1, "high": 0.9, "n": 3, "better": "higher"}
    rows = [("AE", "AE/Acc", 40.0, "points 0-100"), ("AE", "AE/Acc binary", 0.5, "fraction"), ("AE", "AE/EM", 0.2, "fraction"),
            ("PT", "PT/Acc", 0.25, "fraction"), ("mine-too", "mine-too/Acc binary", 0.75, "fraction")]  # fmt: skip
    table = pd.DataFrame([row | dict(zip(("task", "metric", "value", "unit"), values, strict=True)) for values in rows])
    found = accuracy_rows(table)
    assert dict(zip(found["metric"], found["value"], strict=True)) == {
        "AE/Acc": 40.0, "PT/Acc": 25.0, "mine-too/Acc binary": 75.0
    }  # fmt: skip
    assert set(found["unit"]) == {"points 0-100"} and table["value"].tolist() == [values[2] for values in rows]
