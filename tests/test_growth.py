"""What benchmarks/growth.py measures is done on all rows: a step that read nothing would grow with nothing."""

from pathlib import Path

from conftest import script


def test_every_step_works_on_all_its_rows(tmp_path: Path) -> None:
    growth, rows = script("growth"), 40
    done = {name: step(rows, tmp_path / name)() for name, step in growth.STEPS.items()}
    assert not done["catalogue"].quarantine
    assert len(done["catalogue"].products) == len(done["catalogue"].feedback) == rows
    assert len(done["records"]) == len(done["shuffled"]) == 2 * len(done["sampling"]) == rows
    assert len(done["negatives"]) == rows // growth.SEARCHED and all(len(found) == 6 for found in done["negatives"])
    table = done["answers"].set_index("metric")
    assert table.loc["DD/Acc binary", "n"] == rows and table.loc["DD/Acc binary", "value"] < 1
    assert "answers" in done["report"].read_text()
    assert len(done["grounding"]) == rows and (done["grounding"]["score"] > 0).all()
    assert growth.measured("sampling", 10)[0] > 0
