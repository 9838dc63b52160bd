"""Every notebook runs from end to end with the smoke parameters, through papermill as a user's batch does."""

import ast
import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from mtive_nb.model.train import Training
from mtive_nb.run.params import read_parameters

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def code_cells(path: Path) -> list[dict]:
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


@pytest.fixture(scope="session")
def smoke(smoke_run) -> Path:
    """The results of all notebooks, each run once."""
    return smoke_run(*(path.name[:2] for path in NOTEBOOKS))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_ran_and_left_its_results(smoke, path):
    folder = smoke / path.stem
    record = json.loads((folder / "run.json").read_text())
    assert record["seconds"] > 0 and record["profile"] == "smoke"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        assert {"paper", "table", "row", "column", "value", "unit", "better", "n", "seed"} <= row.keys()
        assert row["row"] != "system", f"{row['table']}: the name of a column in place of the row's"
    executed = nbformat.read(folder / path.name, as_version=4)
    assert "What we saw" in "".join(c.source for c in executed.cells[-2:])
    assert executed.cells[-1].outputs, "the last cell says nothing"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_cell_leaves_a_warning(smoke, path):
    outputs = [o for c in code_cells(smoke / path.stem / path.name) for o in c.outputs if o.get("name") == "stderr"]
    assert [o.text for o in outputs if "Warning" in o.text] == []


def test_stack_equality_holds_in_the_smoke_run(smoke):
    rows = [json.loads(line) for line in (smoke / "06_experts" / "metrics.jsonl").read_text().splitlines()]
    equal = {r["row"]: r["value"] for r in rows if r["table"] == "stack equality"}
    assert len(equal) == 3 and max(equal.values()) < 1e-3


def test_the_report_of_the_smoke_run_is_written(smoke):
    command = [sys.executable, "-m", "mtive_nb", "report", "smoke"]
    environment = os.environ | {"MTIVE_HOME": str(smoke.parents[1])}
    subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, timeout=120)
    page = (smoke / "report.html").read_text()
    assert "MTIVE_MTL" in page and "rule-based judge" in page
    assert re.search(r"- AE: \d+ records \(\d+ different\), \d+ steps, seed 0", (smoke / "model_card.md").read_text())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_house_rules(path):
    notebook = nbformat.read(path, as_version=4)
    first = notebook.cells[0].source
    assert first.startswith(f"# {path.name[:2]} ")
    assert all(mark in first for mark in ("**Question.**", "**Reads**", "**Writes**", "**Takes**"))
    cells = code_cells(path)
    assert "parameters" in cells[0].metadata.get("tags", [])
    assert not any(c.outputs or c.execution_count for c in cells), "outputs stay out of git"
    assert max(len(c.source.splitlines()) for c in cells) <= 30
    assert not any(isinstance(node, ast.ClassDef) for c in cells for node in ast.walk(ast.parse(c.source)))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_parameter_is_read(path):
    cells = code_cells(path)
    names = [n.target.id for n in ast.parse(cells[0].source).body if isinstance(n, ast.AnnAssign)]
    rest = "\n".join(c.source for c in cells[1:])
    assert names and not [n for n in names if not re.search(rf"\b{n}\b", rest)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_reads_line_names_what_the_code_reads(path):
    cells = nbformat.read(path, as_version=4).cells
    code = "\n".join(c.source for c in cells if c.cell_type == "code")
    edges = set(re.findall(r'run\.upstream\("(\d\d)"', code))
    reads = re.search(r"\*\*Reads\*\*(.*?)\*\*Writes\*\*", cells[0].source, re.S).group(1)
    assert edges == set(re.findall(r"\b(\d\d)\b", reads))


def test_a_further_row_of_the_same_model_says_what_the_base_says(smoke):
    with (smoke / "07_evaluation" / "tables" / "answers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows and all(row["the base again"] == row["zero-shot"] for row in rows)


def test_several_seeds_are_joined_as_one_run_alone_where_there_is_one(smoke):
    values = {}
    for name in ("07_evaluation", "08_baselines", "21_seeds"):
        rows = [json.loads(line) for line in (smoke / name / "metrics.jsonl").read_text().splitlines()]
        values[name] = {(r["row"], r["column"]): (r["value"], r["low"], r["high"]) for r in rows if r["table"] == "T1"}
    assert values["07_evaluation"] and {row for row, _ in values["08_baselines"]} == {"Base_MoE"}
    assert values["21_seeds"] == values["07_evaluation"] | values["08_baselines"]


def test_all_chapters_train_with_one_loss():
    declared = {path.stem: read_parameters(path).get("BALANCE") for path in NOTEBOOKS}
    defaults = {stem: parameter.default for stem, parameter in declared.items() if parameter}
    assert [stem[:2] for stem in defaults] == ["04", "05", "06"] and set(defaults.values()) == {Training(1).balance}


@pytest.mark.parametrize("arm", ["AE", "Base_MoE", "PT", "Base_SL+Replay(100%)", "CASLIE", "CASLIE, SA"])
def test_rates_are_searched_on_val_and_a_trial_is_not_run_twice(smoke, search, tmp_path, monkeypatch, capsys, arm):
    out = tmp_path / "search.jsonl"
    words = ["smoke", arm, "--rates", "0.001", "0.003", "--passes", "1", "--limit", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["search_rates.py", *words])
    monkeypatch.setenv("MTIVE_HOME", str(smoke.parents[1]))
    for _ in range(2 if arm == "AE" else 1):  # what a search goes on after is the same for every arm
        search.main()
        assert "best of 2 trials on val" in capsys.readouterr().out
        trials = [json.loads(line) for line in out.read_text().splitlines()]
        assert [(t["arm"], t["rate"], t["passes"]) for t in trials] == [(arm, 0.001, 1), (arm, 0.003, 1)]
    assert all(t["n"] > 0 and t["steps"] > 0 and 0 <= t["score"] <= 1 for t in trials)
