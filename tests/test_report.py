"""The report: the papers' numbers beside ours, one page without other files."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas
import pytest

from mtive_nb.report.chapters import run_folders
from mtive_nb.report.page import column_groups, read_metrics, write_report
from mtive_nb.report.reference import DirtyRunError, copy_reference
from mtive_nb.report.tables import number
from mtive_nb.report.verdicts import claims_board, tally
from mtive_nb.run.atomic import write_atomic
from mtive_nb.run.graph import GraphError, Project
from mtive_nb.run.published import load_published, load_tables

PNG = bytes.fromhex("89504e470d0a1a0a")


def metric(table: str, row: str, column: str, value: float, **more) -> dict:
    line = {"paper": "mtive", "table": table, "row": row, "column": column, "value": value, "unit": "points"}
    return line | {"better": "higher", "n": 400, "low": value - 1, "high": value + 1, "seed": 3} | more


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "outputs" / "pocket" / "07_evaluation"
    metrics = [
        metric("T1", "Base_SL", "AE/Acc", 61.5),
        metric("T1", "Always <the> majority", "AE/Acc", 12.25, low=None, high=None),
        metric("stack", "live v. merged", "largest difference", 3e-6, paper="own", unit="logits", better="lower"),
    ]
    write_atomic(folder / "metrics.jsonl", "".join(json.dumps(m) + "\n" for m in metrics))
    record = {"seed": 3, "seconds": 75, "peak_mib": 1500.2, "command": "python -m mtive_nb run pocket 07"}
    record |= {
        "git": {"commit": "0123456789abcdef", "dirty": True},
        "notes": {"stand_in": ["rule-based judge", "T1: a grammar", "T2: a scale"]},
    }
    write_atomic(folder / "run.json", json.dumps(record))
    write_atomic(folder / "07_evaluation.ipynb", "{}")
    write_atomic(folder / "figures" / "loss.png", PNG)
    write_atomic(folder / "figures" / "loss.svg", "<svg/>")
    write_atomic(folder / "tables" / "long.csv", pandas.DataFrame({"a": range(100)}).to_csv(index=False))
    (tmp_path / "outputs" / "pocket" / "04_stage1.failed").mkdir()
    return Project(tmp_path)


class Rows(HTMLParser):
    """The cells' text of each table row of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_page(project: Project) -> None:
    page = write_report(project, "pocket").read_text()
    parser = Rows()
    parser.feed(page)
    # T1 is shown task by task, so a row comes four times; AE is the first.
    rows = {row[0].strip(): row for row in reversed(parser.rows) if row}
    # The paper's +55.0 verbatim, ours beside it; a row that the paper only has; one that only we have, escaped.
    assert rows["Base_SL"][1] == "+55.0"
    assert rows["Base_SL"][2].startswith("61.5")
    assert "60.5 to 62.5" in rows["Base_SL"][2]
    assert "n 400 · seed 3" in rows["Base_SL"][2]
    assert rows["Gemma3-4B"][1:3] == ["+21.3", "–"]
    assert rows["Always <the> majorityours only"][1] == "–"
    assert "no interval" in rows["Always <the> majorityours only"][2]
    assert "Idefics2-8B (row not printed)" in page
    # The stand-in stands within the table concerned, in each of its parts.
    stand_ins = [row for row in parser.rows if row and "rule-based judge" in row[0]]
    assert len(stand_ins) == 4
    # One that names its table stands there alone, and in its notebook's own part, which comes last.
    named = [["T1: a grammar" in cell, "T2: a scale" in cell] for row in parser.rows for cell in row]
    assert [found for found in named if any(found)] == [[True, False]] * 4 + [[True, True]]
    assert rows["live v. merged"][2] == "3e-06"
    assert any(row and row[0] == "07_evaluation" and "files changed since" in row[1] for row in parser.rows)
    assert 'href="07_evaluation/07_evaluation.ipynb"' in page
    assert "and 76 more rows" in page
    assert "04_stage1" not in page


def test_claims_are_joined_from_the_chapters_that_decided_them(project: Project) -> None:
    head = "claim,statement,priority,verdict,gain,low,high,by_task,n,seeds,published\n"
    board = (
        head
        + 'mtive-a,"A, it is",1,holds,1.5,0.5,2.5,AE holds,80,1,1.3\nmtive-b,B does,1,not measured in this run,,,,,,,\n'
    )
    board += "mtive-c,C never,2,not testable here: why,,,,,,,\n"
    for name, text in (
        ("20_report", board),
        ("13_latency", head + "mtive-a,A,1,open,9,9,9,,7,1,\nmtive-b,B does,1,open,1.1,1,1.2,,30,1,1.03\n"),
    ):
        write_atomic(project.outputs / "pocket" / name / "tables" / "claims.csv", text)
    found = claims_board(run_folders(project.outputs / "pocket"))
    assert [(c["claim"], c["verdict"], c["notebook"]) for c in found] == [
        ("mtive-a", "holds", "20_report"),
        ("mtive-b", "open", "13_latency"),
        ("mtive-c", "not testable here: why", "20_report"),
    ]
    over_seeds = head + "mtive-a,A,1,open,1.1,-0.5,2.5,AE open,2880.0,3.0,1.3\n"
    write_atomic(project.outputs / "pocket" / "21_seeds" / "tables" / "claims.csv", over_seeds)
    joined = claims_board(run_folders(project.outputs / "pocket"))
    assert [(c["claim"], c["verdict"], c["seeds"]) for c in joined][:2] == [
        ("mtive-a", "open", "3"),
        ("mtive-b", "open", "1"),
    ]
    in_points = "claim,verdict,gain,low,high,n,priority,unit\nmtive-e,open,0.4832,-1.1034,1.98,80,3,points\n"
    write_atomic(project.outputs / "pocket" / "22_recipe" / "tables" / "claims.csv", in_points)
    (of_e,) = [c for c in claims_board(run_folders(project.outputs / "pocket")) if c["claim"] == "mtive-e"]
    assert [of_e[k] for k in ("gain", "low", "high")] == ["0.5", "-1.1", "2.0"]
    (project.outputs / "pocket" / "22_recipe" / "tables" / "claims.csv").unlink()
    counts = {"testable": 2, "holds": 0, "open": 2, "does not hold": 0, "not measured": 0}
    of_both = {"paper": "MTIVE", "priority": "1 and 2"}
    assert of_both | counts in tally(joined)
    of_other = [{"claim": "vitpro-d", "verdict": "holds", "priority": "1"}]
    assert [row["paper"] for row in tally(joined + of_other)] == ["MTIVE", "MTIVE", "VIT-Pro", "VIT-Pro"]
    assert not joined[0]["tries"]
    of_part = "claim,statement,verdict,decided_by,gain,low,high,n,priority,remark\n"
    of_part += (
        "mtive-f,F,holds,EX,0.5,0.25,0.75,80,2,holds on EX; not asked on PM\nmtive-g,G,open,,,,,,2,contradicted\n"
    )
    write_atomic(project.outputs / "pocket" / "22_recipe" / "tables" / "claims.csv", of_part)
    page = write_report(project, "pocket").read_text()
    assert "<b>holds on EX; not asked on PM</b>" in page and "EX: 0.25 to 0.75" in page and "open; contradicted" in page
    (project.outputs / "pocket" / "22_recipe" / "tables" / "claims.csv").unlink()
    again = "claim,changed,on,verdict,gain,low,high\nmtive-a,as it stands,EX,open,1.0,-1.0,3.0\n"
    again += 'mtive-a,"no router, told",EX,holds,2.25,0.5,4.0\nmtive-z,of no claim here,EX,holds,1.0,0.5,2.0\n'
    write_atomic(project.outputs / "pocket" / "26_why" / "tables" / "why.csv", again)
    joined = claims_board(run_folders(project.outputs / "pocket"))
    assert [[t["verdict"] for t in c["tries"]] for c in joined] == [["open", "holds"], [], []]
    page = write_report(project, "pocket").read_text()
    assert (
        "Decided again (26_why, EX): as it stands 1" in page and "no router, told 2.25 (0.5 to 4), <b>holds</b>" in page
    )
    assert "n 2,880 · 3 seeds" in page and page.count("Needs paid models: ") == 1 and "1.03" in page


def test_page_stands_alone(project: Project) -> None:
    page = write_report(project, "pocket").read_text()
    assert not re.findall(r'(?:src|href)="https?:', page)
    assert re.findall(r'src="([^"]{22})', page) == ["data:image/png;base64,"]


def test_tables_without_a_number_of_ours_are_listed(project: Project) -> None:
    page = write_report(project, "pocket").read_text()
    missing = page.split('<section id="missing">')[1].split("</section>")[0]
    assert re.findall(r"MTIVE (T\d+)", missing) == [f"T{k}" for k in range(2, 13)]


def test_a_table_of_texts_stands_under_the_printed_one(project: Project) -> None:
    property_table = "property,system,found\nArchitectural Modularity,MTIVE_MTL,yes as found\n"
    write_atomic(project.outputs / "pocket" / "09_continual" / "tables" / "T8.csv", property_table)
    write_atomic(
        project.outputs / "pocket" / "23_judges" / "tables" / "T12_prompt.csv", "in our words\nGive two marks\n"
    )
    page = write_report(project, "pocket").read_text()
    for table, text in (("T8", "yes as found"), ("T12", "Give two marks")):
        section = page.split(f'<section id="mtive-{table}">')[1].split("</section>")[0]
        assert text in section
    missing = page.split('<section id="missing">')[1].split("</section>")[0]
    assert "MTIVE T8" not in missing and "MTIVE T12" not in missing and "MTIVE T11" in missing


def test_no_results(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="python -m mtive_nb run grocery"):
        write_report(Project(tmp_path), "grocery")


def test_broken_metrics_name_file_and_line(project: Project) -> None:
    folder = project.outputs / "pocket" / "07_evaluation"
    (folder / "metrics.jsonl").write_text("{}\n{half")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
        read_metrics(folder)


def test_reference_holds_results_without_their_bulk(project: Project) -> None:
    write_atomic(project.outputs / "pocket" / "07_evaluation" / "adapter.safetensors", b"x" * 10)
    write_atomic(project.outputs / "pocket" / "07_evaluation" / "figures" / "big.svg", b"x" * (2**20 + 1))
    write_atomic(project.outputs / "pocket" / "07_evaluation" / "figures" / "big.png", PNG)
    old = project.outputs / "reference" / "pocket" / "99_old" / "run.json"
    write_atomic(old, "{}")
    set_git(project, {"commit": "0123456789abcdef", "dirty": False})
    said: list[str] = []
    target = copy_reference(project, "pocket", tell=said.append)
    found = sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file())
    inside = ["figures/big.png", "figures/loss.svg", "metrics.jsonl", "run.json", "tables/long.csv"]
    assert found == [f"07_evaluation/{name}" for name in inside] + ["report.html"]
    assert "07_evaluation.ipynb" not in (target / "report.html").read_text()
    assert said == ["07_evaluation: run by hand, its numbers carry no stamp of the runner"]


@pytest.mark.parametrize(
    ("git", "found"),
    [
        ({"commit": "0123456789abcdef", "dirty": True}, "files differed from the commit"),
        ({"commit": None, "dirty": None}, "no commit"),
        (None, "no commit"),
    ],
)
def test_a_run_of_a_changed_checkout_becomes_no_reference(project: Project, git: dict | None, found: str) -> None:
    set_git(project, git)
    old = project.outputs / "reference" / "pocket" / "99_old" / "run.json"
    write_atomic(old, "{}")
    with pytest.raises(DirtyRunError, match=rf"07_evaluation/run.json: {found}; .* run pocket 07 --force --only"):
        copy_reference(project, "pocket")
    assert [p.name for p in (project.outputs / "reference").rglob("*") if p.is_file()] == ["run.json"]  # as before


def set_git(project: Project, git: dict | None) -> None:
    path = project.outputs / "pocket" / "07_evaluation" / "run.json"
    write_atomic(path, json.dumps(json.loads(path.read_text()) | {"git": git}))


def test_published_numbers_as_printed() -> None:
    printed = {(p.paper, p.table, p.row, p.column): p.value for p in load_published()}
    assert printed["mtive", "T2", "MTIVE_MTL", "PM/F1w"] == "+0.60"
    assert printed["mtive", "T7", "Total", "Test"] == "21434"
    assert {(p.paper, p.table) for p in load_published()} <= set(load_tables())


def test_columns_and_numbers() -> None:
    assert column_groups(["a", "b"]) == [("", ["a", "b"])]
    wide = [f"{task}/{m}" for task in ("AE", "DD", "PM") for m in ("Acc", "Rel", "Hal")]
    assert [(title, len(columns)) for title, columns in column_groups(wide)] == [("AE", 3), ("DD", 3), ("PM", 3)]
    assert [number(x) for x in (1234.0, 0.86123, 55.04, 12345.67)] == ["1,234", "0.8612", "55.04", "12,345.7"]
    assert [number(x, "points") for x in (38.0208, 0.1389, 100)] == ["38.0", "0.1", "100.0"]
    assert number(0.5, "fraction") == "0.500" and number(12345.67, "nats") == "12,345.7"
