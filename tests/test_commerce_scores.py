"""CASLIE's scores: counts by hand under both rules for failed answers, sklearn beside, constants, gains, tables."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from mtive_nb.evaluate.commerce.scores import (
    FAILED,
    FULL,
    commerce_gains,
    commerce_scores,
    constant_answers,
    ecommmu_option_of,
    ecommmu_scores,
    option_of,
    paper_table,
)
from mtive_nb.run.metrics import checked_metric, lines_of
from mtive_nb.run.published import columns_of

# (true label, answer) by task; what each is read as stands behind where it is not plain
PSI = [
    ("yes", "yes"), ("yes", " yes\n"), ("yes", "no"), ("yes", "Yes"), ("yes", "yes: it replaces the other"),  # failed: 2
    ("no", "no"), ("no", "no"), ("no", "yes"), ("no", "maybe"), ("no", "no."),  # failed: 2
]  # fmt: skip
MPC = [
    ("A", "A: exact match"), ("A", "A"), ("A", "B: substitute"), ("B", " B : substitute"), ("B", "C"),  # C: no true label
    ("D", "E: other"), ("D", "D"),
]  # fmt: skip
SA = [
    ("A", "A"), ("A", "A: very positive"), ("A", "B: positive"), ("A", "very positive"), ("A", "a"), ("A", "A."),
    ("B", "B"), ("B", "A: very positive"), ("B", "B: positive"), ("B", "C"), ("B", "F: none"), ("B", ""),
    ("C", "C: neutral"), ("C", "C"), ("C", "B"), ("C", ":"), ("C", "E"), ("C", "Answer: C"), ("D", "D"), ("D", "E"),
    ("D", "D: negative"), ("D", "C: neutral"), ("E", "E: very negative"), ("E", "E"), ("E", "D"), ("E", "E:"),
]  # fmt: skip


def records_of(task, said, *, variant="ind"):
    return [
        {"id": f"{task}{k}", "product_id": f"p{k}", "task": task, "variant": variant, "label": label}
        for k, (label, _) in enumerate(said)
    ]


def scored(task, said):
    """{(metric, rule): value} of one system on one task."""
    scores = commerce_scores(records_of(task, said), {"model": [answer for _, answer in said]}, resamples=20)
    assert set(scores["n"]) == {len(said)} and (scores["low"] <= scores["value"]).all()
    return {(row.metric, row.rule): row.value for row in scores.itertuples()}


@pytest.mark.parametrize(
    "answer, option",
    [("A: exact match", "A"), (" yes\n", "yes"), ("Yes", "Yes"), ("yes: so", "y"), ("Answer: C", "A"), ("", ""), ("A.", "A.")],
)  # fmt: skip
def test_an_option_as_the_released_evaluation_reads_it(answer, option):
    assert option_of(answer) == option


def test_counts_by_hand_of_one_class():
    found = scored("PSI", PSI)  # 2 yes right, 1 wrong, 2 failed; 2 no right, 1 wrong, 2 failed
    assert found["#Failed", "wrong"] == found["#Failed", "dropped"] == 4
    assert found["Acc", "dropped"] == pytest.approx(4 / 6) and found["Acc", "wrong"] == pytest.approx(4 / 10)
    assert found["Pre", "dropped"] == pytest.approx(2 / 3) and found["Pre", "wrong"] == pytest.approx(2 / 3)
    assert found["Rec", "dropped"] == pytest.approx(2 / 3) and found["Rec", "wrong"] == pytest.approx(2 / 5)
    assert found["F1", "dropped"] == pytest.approx(2 / 3) and found["F1", "wrong"] == pytest.approx(4 / 8)


def test_counts_by_hand_of_several_classes():
    found = scored("MPC", MPC)
    assert found["#Failed", "wrong"] == 2
    assert found["Acc", "dropped"] == pytest.approx(4 / 5) and found["Acc", "wrong"] == pytest.approx(4 / 7)
    assert found["F1", "dropped"] == pytest.approx((4 / 5 + 2 / 3 + 1) / 3)
    assert found["F1", "wrong"] == pytest.approx((4 / 5 + 2 / 4 + 2 / 3) / 3)


@pytest.mark.parametrize("task, said", [("SA", SA), ("MPC", MPC), ("PSI", PSI), ("CC", MPC), ("SR", SA), ("AP", PSI)])
def test_sklearn_agrees_under_both_rules(task, said):
    found, labels = scored(task, said), sorted({label for label, _ in said})
    read = [(label, o if (o := option_of(answer)) in labels else FAILED) for label, answer in said]
    kept = [pair for pair in read if pair[1] != FAILED]
    assert found["#Failed", "dropped"] == len(read) - len(kept) > 0
    for rule, pairs in (("wrong", read), ("dropped", kept)):
        true, predicted = zip(*pairs, strict=True)
        assert found["Acc", rule] == pytest.approx(accuracy_score(true, predicted))
        how = (
            {"average": "binary", "pos_label": "yes"}
            if task in ("AP", "PSI")
            else {"average": "macro", "labels": labels}
        )
        if how["average"] == "binary":  # sklearn knows no third answer in binary averages
            how = {"average": "macro", "labels": ["yes"]}
        three = precision_recall_fscore_support(true, predicted, zero_division=0, **how)[:3]
        assert [found[m, rule] for m in ("Pre", "Rec", "F1")] == pytest.approx(three)


def test_classes_that_only_failed_answers_had_leave_the_released_average():
    """A class whose questions all failed counts in ours, and is gone from the released macro average."""
    found = scored("SA", [("A", "A"), ("A", "A"), ("B", "b"), ("B", "?")])
    assert found["F1", "dropped"] == 1 and found["F1", "wrong"] == 0.5


def test_nothing_readable_scores_0_not_an_error():
    found = scored("MPC", [("A", "x"), ("B", "y")])
    assert {value for (metric, _), value in found.items() if metric != "#Failed"} == {0.0}
    assert scored("AP", [("no", "no"), ("no", "yes")])["F1", "wrong"] == 0  # no question whose answer is yes


def test_the_paper_s_constants():
    """Label shares of the paper: F1 of always yes .811 (AP) and .369 (PSI), the commonest class of MPC .625."""
    said = {"AP": ["yes"] * 682 + ["no"] * 318, "PSI": ["yes"] * 226 + ["no"] * 774,
            "MPC": list("A" * 20 + "B" * 7 + "C" + "D" * 4)}  # fmt: skip
    records = list(itertools.chain(*(records_of(task, [(one, "") for one in labels]) for task, labels in said.items())))
    constants = constant_answers(records, records)
    scores = commerce_scores(records, constants, resamples=20).query("rule == 'wrong'")
    value = scores.set_index(["system", "task", "metric"])["value"]
    assert value["always yes", "AP", "F1"].round(3) == 0.811 and value["always yes", "PSI", "F1"].round(3) == 0.369
    assert value["commonest class", "MPC", "Acc"] == value["always yes", "MPC", "Acc"] == 0.625
    assert value["commonest class", "PSI", "F1"] == 0 and value["commonest class", "PSI", "Acc"] == 0.774
    with pytest.raises(ValueError, match=r"no training record of \['AP', 'MPC', 'PSI'\]"):
        constant_answers(records, [])


def test_intervals_draw_products_and_runs():
    """Ten rows of one product are one draw: wider than ten products; a second run widens them again."""
    said = [("A", "A" if k % 2 else "B") for k in range(40)] + [("B", "B")] * 40
    apart = records_of("MPC", said)
    together = [r | {"product_id": f"p{k % 2}"} for k, r in enumerate(apart)]
    answers = {"model": [answer for _, answer in said]}

    def width(records):
        row = commerce_scores(records, answers).query("metric == 'Acc' and rule == 'wrong'").iloc[0]
        return row["high"] - row["low"]

    assert width(together) > 2 * width(apart)
    runs = [r | {"run": k % 2} for k, r in enumerate(apart)]  # one run wrong in half of A, the other right
    assert width(runs) > 1.2 * width(apart)


def seven(domain="ind"):
    said = {"AP": PSI, "CC": MPC, "PRP": SA, "PSI": PSI, "MPC": MPC, "SA": SA, "SR": MPC}
    records = [r for task, own in said.items() for r in records_of(task, own, variant=domain)]
    return records, [answer for own in said.values() for _, answer in own]


@pytest.mark.parametrize("table", ["T4", "T5", "T6", "A3", "A4", "A6", *FULL])
def test_each_table_has_the_paper_s_columns(table):
    records, answers = seven()
    out, said = seven("ood")
    scores = commerce_scores(records + out, {"CASLIE": answers + said}, resamples=20)
    frame = paper_table(scores, table)
    assert set(frame["column"]) == set(columns_of("caslie", table))  # PSI and MPC out of domain are not printed
    lines = lines_of(frame, row="system", column="column", value="value", unit="", better="")
    assert len(lines) == len(frame) == len({(line["row"], line["column"]) for line in lines})
    options = {"n": 1, "seed": None, "seeds": 1, "low": None, "high": None}
    assert [checked_metric(options | line, seed=0)["paper"] for line in lines] == ["caslie"] * len(lines)
    dropped = paper_table(scores, table, rule="dropped")
    assert set(dropped["paper"]) == {"own"} and set(dropped["table"]) == {f"{table}, failed dropped"}
    assert (dropped["value"] >= frame["value"] - 1e-9).all()


def test_main_metrics_stand_where_the_paper_prints_them():
    records, answers = seven()
    frame = paper_table(commerce_scores(records, {"CASLIE": answers}, resamples=20), "T5").set_index("column")["value"]
    assert frame["PSI/F1"] == pytest.approx(0.5) and frame["CC/R@1"] == pytest.approx(4 / 7) == frame["MPC/Acc"]
    assert frame["SA/M-F1"] == scored("SA", SA)["F1", "wrong"]
    with pytest.raises(ValueError, match="found 'A2'; expected"):
        paper_table(commerce_scores(records, {"CASLIE": answers}, resamples=20), "A2")


def test_gains_are_points_by_task_and_on_the_mean():
    records = records_of("CC", [("A", "")] * 10) + records_of("SR", [("B", "")] * 10)
    right = ["A"] * 4 + ["x"] * 6 + ["B"] * 2 + ["x"] * 8
    left = ["A"] * 6 + ["x"] * 4 + ["B"] * 8 + ["x"] * 2
    gains = commerce_gains(records, left, right, resamples=200)
    assert {task: round(one.value) for task, one in gains.by_task.items()} == {"CC": 20, "SR": 60}
    assert gains.mean.value == pytest.approx(40) and gains.mean.n == 20
    only = commerce_gains(records, left, right, tasks=["CC"], resamples=50)
    assert list(only.by_task) == ["CC"] and only.mean.value == pytest.approx(20)
    same = commerce_gains(records, right, right, resamples=50)
    assert (same.mean.low, same.mean.value, same.mean.high) == (0, 0, 0)


def test_one_lucky_answer_moves_a_mean_by_no_more_than_its_share():
    records = records_of("CC", [("A", "")] * 10) + records_of("SR", [("B", "")] * 10)
    none, lucky = (["A"] * 4 + ["x"] * 6 + said for said in (["x"] * 10, ["B"] + ["x"] * 9))
    there, back = (commerce_gains(records, *pair, resamples=50).mean.value for pair in ((lucky, none), (none, lucky)))
    assert there == pytest.approx(5) and back == pytest.approx(-5)


def test_bad_input_is_named():
    records = records_of("CC", [("A", "")] * 2)
    with pytest.raises(ValueError, match="model: found 1 answers, expected one for each of 2"):
        commerce_scores(records, {"model": ["A"]})
    with pytest.raises(ValueError, match="record CC0: field 'task': expected one of AP"):
        commerce_scores([r | {"task": "AE"} for r in records], {"model": ["A", "A"]})
    with pytest.raises(ValueError, match="record CC1: field 'label': found none"):
        commerce_scores([records[0], records[1] | {"label": None}], {"model": ["A", "A"]})
    with pytest.raises(ValueError, match="no record of \\['SR'\\]"):
        commerce_gains(records, ["A", "A"], ["A", "A"], tasks=["SR"])


def test_the_mean_of_tasks_about_the_same_products_is_no_surer_than_one_of_them():
    tasks, rng = ("CC", "SR", "SA"), np.random.default_rng(0)
    right, left = (rng.choice(["A", "x"], 60, p=p) for p in ([0.3, 0.7], [0.4, 0.6]))
    records = [r | {"product_id": f"p{k}"} for t in tasks[:2] for k, r in enumerate(records_of(t, [("A", "")] * 60))]
    one, both = (commerce_gains(records[: 60 * n], [*left] * n, [*right] * n) for n in (1, 2))
    assert both.mean.high - both.mean.low == pytest.approx(one.mean.high - one.mean.low, rel=1e-6)


def test_ecommmu_reads_an_option_at_the_start_and_a_third_class():
    labels = ["yes", "no", "cannot answer", "A", "B"]
    read = {"A. exact": "A", "B: substitute": "B", "Apple": FAILED, "cannot answer from this": "cannot answer",
            "no": "no", "nothing": FAILED, " yes, it does": "yes", "I think no": FAILED, "": FAILED}  # fmt: skip
    assert {text: ecommmu_option_of(text, labels) for text in read} == read


def test_ecommmu_average_weighs_tasks_by_their_records():
    records = records_of("BQA", [(label, "") for label in ("yes", "no", "cannot answer", "cannot answer")])
    records += records_of("SR", [("A", "")] * 12)
    answers = ["yes", "cannot answer", "cannot answer.", "no"] + ["A: soap"] * 3 + ["Q"] * 9
    frame = ecommmu_scores(records, {"model": answers}).set_index("column")["value"]
    assert frame.to_dict() == {"BQA/Acc": 50.0, "SR/R@1": 25.0, "Avg/Acc": pytest.approx(100 * 5 / 16)}
    assert set(frame.index) <= set(columns_of("ebay", "T5"))
    with pytest.raises(ValueError, match="model: found 1 answers"):
        ecommmu_scores(records, {"model": ["A"]})
