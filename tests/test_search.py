"""The search over rates and passes: no answer of test counts, and a trial draws what its chapter would."""

from types import SimpleNamespace

import pytest

from mtive_nb.evaluate.continual import steps_in
from mtive_nb.model.train import Training


def records(n: int, *, variant: str = "gen", split: str = "train") -> list[dict]:
    return [{"id": f"{variant}{k}", "task": "AE", "variant": variant, "split": split} for k in range(n)]


def test_passes_of_an_arm_become_steps_and_records(search):
    common = Training(1, batch=4, accumulate=2)
    fixed = search.Arm("PT", None, None, "IT", common, records(80), [])
    assert fixed.at(1) == (fixed.records, 10) and fixed.at(2.5)[1] == 25
    pool = records(100) + records(100, variant="bin")
    drawn = search.Arm("AE", None, None, "IT", common, [], [], draw={"AE": (pool, {"gen": 0.75, "bin": 0.25}, 10)})
    for passes, n in ((1, 80), (0.5, 40)):
        rows, steps = drawn.at(passes)
        assert len(rows) == n and steps == 10 * passes
        assert sum(row["variant"] == "bin" for row in rows) == n / 4
    assert [steps_in(n, passes=1, a_step=16) for n in (800, 10336, 15, 0)] == [50, 646, 1, 1]


def test_questions_of_another_split_are_refused(search):
    arm = search.Arm("AE", SimpleNamespace(), None, "IT", Training(1), [], records(2, split="test"))
    with pytest.raises(ValueError, match="AE: found records of test among those that score, expected val alone"):
        search.scored(arm, {})
