"""Replay, T4's rows and T8's properties, on cases small enough to work out by hand."""

import pandas as pd
import pytest

from mtive_nb.evaluate.continual import properties, replay_name, replay_records, t4_rows


def rows(prefix, n):
    return [{"id": f"{prefix}{k}"} for k in range(n)]


def test_replay_keeps_all_that_is_new_and_a_share_of_what_is_old():
    old, new = rows("o", 200), rows("n", 10)
    for share, kept in ((0.0, 0), (0.01, 2), (1.0, 200)):
        ids = [r["id"] for r in replay_records(old, new, share=share, seed=1)]
        assert sorted(i for i in ids if i[0] == "n") == sorted(r["id"] for r in new)
        assert len({i for i in ids if i[0] == "o"}) == kept and len(ids) == 10 + kept
    assert replay_records(old, new, share=0.5, seed=1) != replay_records(old, new, share=0.5, seed=2)
    with pytest.raises(ValueError, match=r"found 1\.5"):
        replay_records(old, new, share=1.5, seed=1)


def test_t4_has_the_papers_columns_and_points():
    scores = pd.DataFrame(
        [
            ("AE/Acc", 40.0, "points"), ("EX/EM", 0.5, "fraction"), ("EX/Acc", 70.0, "points"),
            ("PT/Acc", 0.25, "fraction"), ("AE/Rel", 90.0, "points"),
        ],
        columns=["metric", "value", "unit"],
    ).assign(system="Base_SL", paper="mtive", table="T1", low=0.0, high=1.0)  # fmt: skip
    found = t4_rows(scores, old=["AE", "EX"], new=["PT"]).set_index("metric")
    assert found["value"].to_dict() == {"Existing/AE": 40.0, "Existing/EX": 50.0, "New/PT": 25.0}
    assert (
        set(found["table"]) == {"T4"}
        and found.loc["New/PT", "high"] == 100.0
        and found.loc["Existing/AE", "high"] == 1.0
    )


def test_properties_follow_from_what_fell():
    gains = pd.DataFrame(
        [("none", "AE", -9, -5), ("none", "DD", -1, 2), ("all", "AE", 1, 3), ("all", "DD", 0, 1), ("MTL", "AE", 0, 0)],
        columns=["system", "task", "gain", "high"],
    )
    found = properties(
        gains, unchanged={"MTL": True, "none": False}, own_file={"MTL": True, "none": False}, replayed={"none": "all"}
    ).pivot(index="property", columns="system", values="found")
    assert found["MTL"].to_dict() == {
        "Architectural Modularity": "yes", "Incremental Task Integration": "yes",
        "Requires Data Re-balancing": "no", "Susceptibility to Interference": "Low",
    }  # fmt: skip
    assert found["none"].to_dict() == {
        "Architectural Modularity": "no", "Incremental Task Integration": "no",
        "Requires Data Re-balancing": "yes", "Susceptibility to Interference": "High",
    }  # fmt: skip
    assert replay_name(0.01) == "Base_SL+Replay(1%)"
