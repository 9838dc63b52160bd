"""Verdicts of several chapters and runs, joined by the registered design and counted by kind."""

from pathlib import Path

import pandas as pd
import pytest

from mtive_nb.__main__ import main
from mtive_nb.evaluate.claims import load_claims, measured
from mtive_nb.evaluate.design import registered_at
from mtive_nb.evaluate.intervals import Interval
from mtive_nb.report.chapters import run_folders
from mtive_nb.report.page import write_report
from mtive_nb.report.verdicts import by_kind, claims_board
from mtive_nb.run.atomic import write_atomic
from mtive_nb.run.graph import Project


@pytest.fixture
def two_runs(tmp_path: Path) -> Project:
    """Chapter 24 with two seeds, and 09 with one: three claims, one of each kind."""
    project = Project(tmp_path)
    wide = {task: Interval(20.0, 15.0, 25.0, 100) for task in ("AE", "DD", "PM")}
    for profile, gain in (("pocket", 3.0), ("pocket1", 2.8)):
        near = dict.fromkeys(wide, Interval(gain, gain - 0.5, gain + 0.5, 100))
        rows = [measured("vitpro-beats-own-base", wide), measured("vitpro-icl-helps-pretrained", near)]
        folder = project.outputs / profile / "24_vitpro" / "tables"
        write_atomic(folder / "claims.csv", pd.DataFrame(rows).to_csv(index=False))
    exact = [measured("mtive-add-expert-keeps-old-outputs", {"AE": 0.0, "DD": 0.0}, n=16)]
    folder = project.outputs / "pocket" / "09_continual" / "tables"
    write_atomic(folder / "claims.csv", pd.DataFrame(exact).to_csv(index=False))
    return project


def test_a_claim_is_decided_over_all_registered_runs_that_there_are(two_runs: Project) -> None:
    found = {c["claim"]: c for c in claims_board(run_folders(two_runs.outputs / "pocket"))}
    helps = found["vitpro-icl-helps-pretrained"]  # t(1) = 12.7 standard errors of 0.1 to either side of 2.9
    assert [helps[k] for k in ("gain", "low", "high", "n", "seeds", "verdict")] == [
        "2.9",
        "1.6",
        "4.2",
        "200",
        "2",
        "holds",
    ]
    assert helps["short"] == "2 of 5 runs, 200 of 1,000 questions a task"
    exact = found["mtive-add-expert-keeps-old-outputs"]
    assert (exact["verdict"], exact["seeds"], exact["short"]) == ("holds", "1", "")
    alone = {c["claim"]: c for c in claims_board(run_folders(two_runs.outputs / "pocket1"))}
    assert alone["vitpro-icl-helps-pretrained"]["seeds"] == "1"  # a run of its own profile, not joined


def test_claims_are_counted_by_kind(two_runs: Project, monkeypatch, capsys) -> None:
    counts = by_kind(claims_board(run_folders(two_runs.outputs / "pocket")))
    assert [(row["paper"], row["kind"], row["testable"], row["holds"]) for row in counts] == [
        ("MTIVE", "structural or exact", 1, 1), ("VIT-Pro", "trained v. untrained", 1, 1), ("VIT-Pro", "comparative", 1, 1),
    ]  # fmt: skip
    monkeypatch.setattr("mtive_nb.report.verdicts.find_project", lambda: two_runs)
    assert main(["claims", "pocket"]) == 0
    said = capsys.readouterr().out
    testable = [c for c in load_claims() if c["testable_small_scale"] != "no" and c["priority"] < 3]
    assert f"Decided (not open): 3 of {len(testable)} testable claims of priority 1 and 2" in said
    assert "VIT-Pro, trained v. untrained: 3 testable, 1 holds, 0 open, 0 does not hold, 2 not measured" in said
    assert said.count("paid models (3)") == 1 and "vitpro-beats-own-base: holds; 2 of 5 runs" in said
    assert main(["claims", "mine"]) == 2


def test_the_page_shows_each_claim_s_design_and_the_counts_by_kind(two_runs: Project) -> None:
    page = write_report(two_runs, "pocket").read_text()
    assert "Registered: VIT-Pro v. untuned, points, 5 runs, drawn by product" in page
    assert f"{registered_at()}." in page and "<td>trained v. untrained</td>" in page
    assert page.count("Needs paid models: ") == 1
