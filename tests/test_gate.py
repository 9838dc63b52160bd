"""The gate before the experts: its parts, and what counts as a well-formed answer."""

import json
import math

import pytest

from mtive_nb.evaluate import gate
from mtive_nb.evaluate.intervals import Interval
from mtive_nb.evaluate.predict import CUT

TRAIN = [
    {"answer": a} for a in ("This is body lotion by PIB.", '{"brand": "PIB", "colour": "red"}', "14 MAY 2021", "yes")
]
WORDS = gate.shop_words(TRAIN, {"colour": ["red", "blue"], "brand": ["KORVA"], "packaging": ["box"]})


@pytest.mark.parametrize(
    ("truth", "answer", "right"),
    [
        ("This is body lotion by PIB.", "This is a blue box by KORVA.", False),  # "a" is in no answer
        ("This is body lotion by PIB.", "This is blue box by KORVA", True),
        ("PIB", "TLUO G", False),
        ("PIB", "", False),
        ("PIB", ".", False),
        ("PIB", "red red red" + CUT, False),
        ("2", "3", True),
        ('{"colour": "red"}', '{"colour": "blue"}', True),
        ('{"colour": "red"}', '{"colour": "blue"', False),
        ('{"colour": "red"}', '["blue"]', False),
        ('{"colour": "red"}', "blue", False),
        ("yes", "No.", False),  # not of the shop's words: no training answer says no
        ("yes", "Yes.", True),
        ("no", "red", False),
        ("14 MAY 2021", "2021-05-14", True),
        ("14 MAY 2021", "14 MAY", False),
        ("14 MAY 2021", "red", False),
    ],
)
def test_well_formed(truth, answer, right):
    assert gate.well_formed({"answer": truth}, answer, WORDS) is right


def test_an_abstention_is_well_formed_where_its_words_are_known():
    words = WORDS | {"unanswerable", "unknown"}
    assert gate.well_formed({"answer": "yes"}, "Unanswerable", words)
    assert not gate.well_formed({"answer": "yes"}, "Unanswerable", WORDS)
    assert not gate.well_formed({"answer": "{}"}, "Unanswerable", words)


def test_the_share_of_well_formed_answers_is_in_per_cent():
    records = [{"answer": "yes"}, {"answer": "red"}, {"answer": "red"}, {"answer": "red"}]
    found = gate.well_formed_percent(records, ["yes", "blue", "box", "zebra"], WORDS)
    assert (found.value, found.n) == (75, 4) and 0 < found.low < 75 < found.high < 100
    assert math.isnan(gate.well_formed_percent([], [], WORDS).value)


def number(value, n, *, low=math.nan):
    return Interval(value, low, math.nan, n)


def test_a_part_is_met_at_its_bound_but_zero_shot_must_be_exceeded_by_the_whole_interval():
    over = f"{gate.OVER_ZERO_SHOT}german-label"  # a task of the shop's own has the others' condition
    found = {
        gate.FALL_1: number(30.0, 200),
        gate.FALL_2: number(39.9, 150),
        gate.EXAM_1: number(-3.0, 600, low=-5.0),
        gate.EXAM_2: number(math.nan, 0),
        f"{gate.OVER_ZERO_SHOT}AE": number(4.0, 50, low=1.0),
        over: number(2.0, 50, low=0.0),
    }
    table = gate.gate_table(found)
    assert dict(zip(table["part"], table["met"], strict=True)) == {
        gate.FALL_1: True, gate.FALL_2: False, gate.EXAM_1: True, f"{gate.OVER_ZERO_SHOT}AE": True, over: False,
    }  # fmt: skip
    said = gate.gate_sentence(table)
    assert "2 of 5" in said and gate.FALL_2 in said and gate.FALL_1 not in said
    assert "all 1 " in gate.gate_sentence(gate.gate_table({gate.FALL_1: number(30.0, 200)}))
    with pytest.raises(KeyError):
        gate.gate_table({"another": number(1.0, 1)})


def test_a_fall_says_what_it_is_and_what_was_not_measured():
    fall = gate.Fall(4.0, 3.0, 20)
    assert fall.percent == 25 and "fell from 4.00 to 3.00" in str(fall) and "(-25%)" in str(fall)
    assert fall.table()["value"].tolist() == [4.0, 3.0, 25.0] and fall.interval().n == 20
    assert "rose" in str(gate.Fall(3.0, 4.0, 20))
    assert "No record is held out" in str(gate.Fall(math.nan, math.nan, 0))


def test_the_gate_is_read_back_from_what_chapters_recorded(tmp_path):
    line = {"table": gate.TABLE, "row": gate.FALL_1, "value": 31.0, "low": None, "high": None, "n": 200}
    for name, lines in {"04": [line, line | {"table": "stage 1"}], "05": [line | {"row": gate.FALL_2}]}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    table = gate.recorded_gate(tmp_path / "04", tmp_path / "05")
    assert table["part"].tolist() == [gate.FALL_1, gate.FALL_2] and table["met"].tolist() == [True, False]
