"""Verdicts of several chapters and runs, joined by the registered design and counted by kind."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from mtive_nb.__main__ import main
from mtive_nb.evaluate.claims import ONE_RUN, load_claims, measured
from mtive_nb.evaluate.design import registered_at
from mtive_nb.evaluate.intervals import Interval
from mtive_nb.report.chapters import run_folders
from mtive_nb.report.page import write_report
from mtive_nb.report.verdicts import BASES, by_kind, claims_board, decided_on, summary
from mtive_nb.run.atomic import write_atomic
from mtive_nb.run.graph import Project


@pytest.fixture
def two_runs(tmp_path: Path) -> Project:
    """Chapters 20 and 24 with two seeds, and 09 with one: four claims, two comparative, one of each other kind."""
    project = Project(tmp_path)
    wide = {task: Interval(20.0, 15.0, 25.0, 100) for task in ("AE", "DD", "PM")}
    for profile, gain in (("pocket", 3.0), ("pocket1", 2.8)):
        near = Interval(gain, gain - 0.5, gain + 0.5, 400, groups=60)
        rows = [measured("vitpro-beats-own-base", wide), measured("vitpro-icl-helps-pretrained", {"AE": near})]
        folder = project.outputs / profile / "24_vitpro" / "tables"
        write_atomic(folder / "claims.csv", pd.DataFrame(rows).to_csv(index=False))
        rows = [measured("mtive-stack-beats-base-mtl", {"mean": near})]
        folder = project.outputs / profile / "20_report" / "tables"
        write_atomic(folder / "claims.csv", pd.DataFrame(rows).to_csv(index=False))
    exact = [measured("mtive-add-expert-keeps-old-outputs", {"AE": 0.0, "DD": 0.0}, n=16)]
    folder = project.outputs / "pocket" / "09_continual" / "tables"
    write_atomic(folder / "claims.csv", pd.DataFrame(exact).to_csv(index=False))
    return project


def test_a_claim_is_decided_over_all_registered_runs_that_there_are(two_runs: Project) -> None:
    found = {c["claim"]: c for c in claims_board(run_folders(two_runs.outputs / "pocket"))}
    helps = found["mtive-stack-beats-base-mtl"]  # t(1) = 12.7 standard errors of 0.1 to either side of 2.9
    assert [helps[k] for k in ("gain", "low", "high", "n", "seeds", "verdict")] == [
        "2.9",
        "1.6",
        "4.2",
        "800",
        "2",
        "holds",
    ]
    assert helps["short"] == "2 of 5 runs, 120 of 300 products, 200 of 1,000 questions per task"
    once = found["vitpro-icl-helps-pretrained"]  # of one_run: a second run is not joined
    assert (once["gain"], once["seeds"], once["remark"]) == ("3.0", "1", ONE_RUN)
    exact = found["mtive-add-expert-keeps-old-outputs"]
    assert (exact["verdict"], exact["seeds"], exact["short"]) == ("holds", "1", "")
    alone = {c["claim"]: c for c in claims_board(run_folders(two_runs.outputs / "pocket1"))}
    assert alone["mtive-stack-beats-base-mtl"]["seeds"] == "1"  # a run of its own profile, not joined


def test_claims_are_counted_by_kind(two_runs: Project, monkeypatch, capsys) -> None:
    counts = by_kind(claims_board(run_folders(two_runs.outputs / "pocket")))
    assert [(row["paper"], row["kind"], row["testable"], row["holds"]) for row in counts] == [
        ("MTIVE", "structural or exact", 1, 1), ("MTIVE", "comparative", 1, 1), ("VIT-Pro", "trained v. untrained", 1, 1), ("VIT-Pro", "comparative", 1, 1),
    ]  # fmt: skip
    monkeypatch.setattr("mtive_nb.report.verdicts.find_project", lambda: two_runs)
    assert main(["claims", "pocket"]) == 0
    said = capsys.readouterr().out
    testable = [c for c in load_claims() if c["testable_small_scale"] != "no" and c["priority"] < 3]
    whole = (
        f"Decided (not open): 4 of {len(testable)} testable claims of priority 1 and 2, 1 of these with the variance"
    )
    assert whole in said and "Open: 0; 0 of these differences" in said
    assert "VIT-Pro, trained v. untrained: 3 testable, 1 holds, 0 open, 0 does not hold, 2 not measured" in said
    assert "MTIVE: 1 decided with training variance, 0 decided on one run, 1 decided exactly" in said
    assert "VIT-Pro: 0 decided with training variance, 2 decided on one run, 0 decided exactly" in said
    assert said.count("paid models (3)") == 1 and "; chapter 24, 1 run; an unknown number of " in said
    assert (
        "stack-beats-base-mtl: holds, 2.9 points (1.6 to 4.2; mean); chapter 20, 2 runs; 2 of 5 runs, 120 of 300"
        in said
    )
    assert main(["claims", "mine"]) == 2


def test_a_reader_that_stops_early_ends_the_command_without_a_traceback() -> None:
    words = [sys.executable, "-m", "mtive_nb", "claims", "reference/pocket"]
    with subprocess.Popen(
        words, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as claims:
        claims.stdout.close()  # as `| head` does
        assert claims.stderr.read() == b""
    assert claims.returncode == 1


def test_the_page_shows_each_claim_s_design_and_the_counts_by_kind(two_runs: Project) -> None:
    page = write_report(two_runs, "pocket").read_text()
    assert "Registered: VIT-Pro v. untuned, points, 1 run, drawn by product" in page
    assert ONE_RUN in page and '<th scope="col">decided on one run</th>' in page
    assert f"{registered_at()}." in page and "<td>trained v. untrained</td>" in page
    assert page.count("Needs paid models: ") == 1


def test_open_differences_that_are_surely_too_small_to_matter_are_counted(tmp_path: Path) -> None:
    small, unclear = Interval(0.1, -0.6, 0.8, 400, groups=60), Interval(0.1, -6.0, 8.0, 400, groups=60)
    rows = [measured("mtive-stack-beats-base-mtl", {"mean": small})]
    rows.append(measured("mtive-stack-cuts-hallucination", {"mean": unclear}))
    folder = tmp_path / "outputs" / "pocket" / "20_report"
    write_atomic(folder / "tables" / "claims.csv", pd.DataFrame(rows).to_csv(index=False))
    said = summary(claims_board([folder]))
    assert "Open: 2; 1 of these differences are surely smaller than what matters" in said


def test_one_run_never_counts_as_decided_with_the_variance_of_training() -> None:
    claim = {"claim": "mtive-stack-beats-base-mtl", "verdict": "holds"}
    several, once, exactly = BASES
    assert [decided_on(claim | {"seeds": n}) for n in ("5", "1", "", None)] == [several, once, once, once]
    assert decided_on(claim | {"verdict": "open", "seeds": "5"}) == ""
    assert decided_on({"claim": "mtive-frozen-weights-untouched", "verdict": "holds", "seeds": "1"}) == exactly
