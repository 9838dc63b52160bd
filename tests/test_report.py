"""The report: the papers' numbers beside ours, one page without other files."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import html5lib
import nbformat
import numpy
import pandas
import pytest
from PIL import Image

from mtive_nb.data.records import make_record, write_records
from mtive_nb.evaluate.claims import ONE_RUN
from mtive_nb.report.board import headline, shown_board
from mtive_nb.report.chapters import CARDS, captions, run_folders
from mtive_nb.report.compare import compared_runs
from mtive_nb.report.executed import MAX_BYTES, chapter_links, small_notebook
from mtive_nb.report.page import write_report
from mtive_nb.report.reference import DirtyRunError, copy_reference
from mtive_nb.report.tables import column_groups, number, pivoted
from mtive_nb.report.verdicts import claims_board, tally
from mtive_nb.run.atomic import write_atomic
from mtive_nb.run.graph import GraphError, Project
from mtive_nb.run.metrics import read_metrics
from mtive_nb.run.published import PAPERS, load_published, load_tables

ROOT = Path(__file__).parents[1]


def png(side_px: int = 8) -> bytes:
    """A picture of noise, which no compression makes small."""
    pixels = numpy.random.default_rng(0).integers(0, 256, (side_px, side_px, 3), dtype=numpy.uint8)
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "PNG")
    return packed.getvalue()


PNG = png()
EXECUTED = {
    "nbformat": 4, "nbformat_minor": 5,
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "papermill": {"output_path": "/home/me/x"}, "widgets": {"state": 1}},
    "cells": [{"cell_type": "code", "id": "a", "source": "run()", "execution_count": 1, "metadata": {"papermill": {}}, "outputs": []}],
}  # fmt: skip


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
    write_atomic(folder / "07_evaluation.ipynb", json.dumps(EXECUTED))
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
    # Both as differences to Base_SL, the printed +55.0 and our level below; rows that one side only has, escaped.
    assert rows["Base_SL"][1] == "+0.0printed +55.0"
    assert rows["Base_SL"][2].startswith("+0.0level 61.5")
    assert "60.5 to 62.5" in rows["Base_SL"][2]
    assert "n 400 · seed 3" in rows["Base_SL"][2]
    assert rows["Gemma3-4B"][1:3] == ["-33.7printed +21.3", "–"]
    assert rows["Always <the> majorityours only"][1] == "–"
    assert rows["Always <the> majorityours only"][2].startswith("-49.2level 12.2")
    assert "no interval" in rows["Always <the> majorityours only"][2]
    assert "Idefics2-8B (row not printed)" in page
    # The stand-ins stand within the table concerned: one that names another table does not.
    table = page.split('<section id="mtive-T1">')[1].split("</section>")[0]
    assert table.count('class="stand-in"') == 2
    assert "rule-based judge" in table and "T1: a grammar" in table and "T2: a scale" not in table
    assert rows["live v. merged"][2] == "3e-06"  # its notebook's own numbers
    assert any(row and row[0] == "07_evaluation" and "files changed since" in row[1] for row in parser.rows)
    assert 'href="07_evaluation/07_evaluation.ipynb"' in page
    assert "and 76 more rows" in page
    assert "04_stage1" not in page


def test_a_row_printed_as_a_star_is_the_one_that_both_are_differences_to(project: Project) -> None:
    about = {"paper": "vitpro", "unit": "points 0-100", "low": None, "high": None}
    rows = [metric("T6", r, "AE/Acc", v, **about) for r, v in (("VM+VLC+LM", 47.5), ("VM", 48.5), ("untuned", 40.0))]
    rows += [metric("T7", r, "Memory_GB", v, **about | {"unit": "GB"}) for r, v in (("no 4-bit quantization", 0.5), ("with 4-bit quantization", 0.125))]  # fmt: skip
    rows += [metric("T11", r, c, 10.0, **about) for r in ("Brand", "Color") for c in ("IDEFICS2/Acc", "VIT-Pro/Acc")]
    path = project.outputs / "pocket" / "24_vitpro" / "metrics.jsonl"
    write_atomic(path, "".join(json.dumps(m) + "\n" for m in rows))
    page = write_report(project, "pocket").read_text()
    found = {}
    for table in ("T6", "T7", "T11"):
        section = page.split(f'<section id="vitpro-{table}">')[1].split("</section>")[0]
        parser = Rows()
        parser.feed(section)
        ours = [row for row in parser.rows if any("level" in cell for cell in row)]
        found |= {(table, row[0].strip().removesuffix("ours only")): row for row in ours}
        assert "row 1" not in section and "blank in print" not in section
        assert ("Both as differences to" in section) == (table != "T11")  # there, each row is marked
    printed = {(p.row, p.column): p.value for p in load_published() if (p.paper, p.table) == ("vitpro", "T6")}
    assert found["T6", "VM+VLC+LM"][1] == "+0.0printed *" and found["T6", "VM+VLC+LM"][2].startswith("+0.0level 47.5")
    assert found["T6", "VM"][1].startswith(printed["VM", "AE/Acc"]) and found["T6", "VM"][2].startswith(
        "+1.0level 48.5"
    )
    assert found["T6", "untuned"][2].startswith("-7.5level 40.0")
    assert any(cell.startswith("-0.375level 0.125") for cell in found["T7", "with 4-bit quantization"])


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
    assert any(of_both.items() | counts.items() <= row.items() for row in tally(joined))
    of_other = [{"claim": "vitpro-d", "verdict": "holds", "priority": "1"}]
    assert [row["paper"] for row in tally(joined + of_other)] == ["MTIVE", "MTIVE", "VIT-Pro", "VIT-Pro"]
    assert not joined[0]["tries"]
    of_part = "claim,statement,verdict,decided_by,gain,low,high,n,priority,remark\n"
    of_part += (
        "mtive-f,F,holds,EX,0.5,0.25,0.75,80,2,holds on EX; not asked on PM\nmtive-g,G,open,,,,,,2,contradicted\n"
    )
    write_atomic(project.outputs / "pocket" / "22_recipe" / "tables" / "claims.csv", of_part)
    page = write_report(project, "pocket").read_text()
    assert (
        f"<b>holds on EX; not asked on PM; {ONE_RUN}</b>" in page
        and "EX: 0.25 to 0.75" in page
        and "open; contradicted" in page
    )
    (project.outputs / "pocket" / "22_recipe" / "tables" / "claims.csv").unlink()
    again = "claim,changed,on,verdict,gain,low,high\nmtive-a,as it stands,EX,open,1.0,-1.0,3.0\n"
    again += 'mtive-a,"no router, told",EX,holds,2.25,0.5,4.0\nmtive-z,of no claim here,EX,holds,1.0,0.5,2.0\n'
    write_atomic(project.outputs / "pocket" / "26_why" / "tables" / "why.csv", again)
    joined = claims_board(run_folders(project.outputs / "pocket"))
    assert [[t["verdict"] for t in c["tries"]] for c in joined] == [["open", "holds"], [], []]
    page = write_report(project, "pocket").read_text()
    assert "Decided again (26_why, EX)" in page and "no router, told 2.25 (0.5 to 4), <b>holds</b>" in page
    assert "n 2,880 · 3 seeds" in page and "Not measured, or not testable here (" in page and "1.03" in page


def test_the_board_says_units_sides_and_parts_in_words(project: Project) -> None:
    head = "claim,statement,priority,verdict,decided_by,gain,low,high,by_task,n,seeds,published,unit\n"
    row = 'mtive-hot-swap-no-interruption,S,1,holds,one_part,1,1,1,"swaps, engine holds, swaps, vLLM does not hold",9,1,,x\n'
    write_atomic(project.outputs / "pocket" / "14_serving" / "tables" / "claims.csv", head + row)
    shown = {claim["claim"]: claim for claim in shown_board(run_folders(project.outputs / "pocket"))}
    found = shown["mtive-hot-swap-no-interruption"]
    assert found["tasks"] == [("swaps, engine", "holds"), ("swaps, vLLM", "does not hold")]
    assert (found["unit"], found["decided_by"]) == ("times", "one part")
    assert shown["ebay-crops-beat-pan-and-scan"]["right"] == "ii ft small (labels: crops, input: pan and scan)"


def test_page_stands_alone(project: Project) -> None:
    page = write_report(project, "pocket").read_text()
    assert not re.findall(r'(?:src|href)="https?:|@import|url\(', page)
    assert {src.split(";")[0] for src in re.findall(r'src="([^"]*)', page)} <= {"data:image/png", "data:image/jpeg"}


def test_page_is_valid_and_every_link_arrives(project: Project) -> None:
    page = write_report(project, "pocket").read_text()
    parser = html5lib.HTMLParser()
    parser.parse(page)
    assert parser.errors == []
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids)) and set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)


def test_tables_without_a_number_of_ours_are_listed(project: Project) -> None:
    page = write_report(project, "pocket").read_text()
    missing = page.split('<section id="missing">')[1].split("</section>")[0]
    assert re.findall(r"MTIVE (T\d+)", missing) == [f"T{k}" for k in range(2, 13)]
    of_paper = {name: re.findall(rf"<li>{name} (\w+)", missing) for name in PAPERS.values()}
    assert of_paper["CASLIE"] == [f"T{k}" for k in range(1, 7)] + [f"A{k}" for k in range(1, 15)]
    assert all(of_paper.values()) and not any("text" in names for names in of_paper.values())


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
    write_atomic(project.outputs / "pocket" / "07_evaluation" / "figures" / "big.png", large := png(620))
    old = project.outputs / "reference" / "pocket" / "99_old" / "run.json"
    write_atomic(old, "{}")
    set_git(project, {"commit": "0123456789abcdef", "dirty": False})
    said: list[str] = []
    target = copy_reference(project, "pocket", tell=said.append)
    found = sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file())
    inside = ["07_evaluation.ipynb", "figures/big.jpeg", "figures/loss.png", "metrics.jsonl", "run.json"]
    inside += ["tables/long.csv"]
    assert found == [f"07_evaluation/{name}" for name in inside] + ["README.md", "report.html"]
    assert (target / "07_evaluation/figures/big.jpeg").stat().st_size < 2**20 < len(large)
    assert 'href="07_evaluation/07_evaluation.ipynb"' in (target / "report.html").read_text()
    assert "(07_evaluation/07_evaluation.ipynb)" in (target / "README.md").read_text()
    assert said == ["07_evaluation: run by hand, its numbers carry no stamp of the runner"]
    write_atomic(project.outputs / "pocket" / "07_evaluation" / "tables" / "answers.csv", "id,truth\n")
    write_atomic(project.outputs / "pocket" / "07_evaluation" / "tables" / "claims.csv", "claim,n\n")
    copy_reference(project, "pocket", whole=False)
    kept = sorted(p.relative_to(target / "07_evaluation").as_posix() for p in target.rglob("*") if p.is_file())
    assert kept == ["metrics.jsonl", "run.json", "tables/answers.csv", "tables/claims.csv"]


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


def test_one_number_of_many_seeds_stands_for_those_of_one(project: Project) -> None:
    rows = [metric("T1", r, "AE/Acc", v, seeds=3, n=720) for r, v in (("Base_SL", 60.0), ("MTIVE_MTL", 64.5))]
    path = project.outputs / "pocket" / "21_seeds" / "metrics.jsonl"
    write_atomic(path, "".join(json.dumps(m) + "\n" for m in rows))
    metrics = [m for folder in run_folders(project.outputs / "pocket") for m in read_metrics(folder)]
    found = headline(metrics)
    (stack,) = [row for row in found["rows"] if row["name"] == "MTIVE_MTL"]
    # The paper prints +62.8 - 55.0 or the like: the same difference from published.csv.
    printed = {(p.row, p.column): float(p.value) for p in load_published() if (p.paper, p.table) == ("mtive", "T1")}
    assert stack["paper"] == f"{printed['MTIVE_MTL', 'AE/Acc'] - printed['Base_SL', 'AE/Acc']:+.1f}"
    assert (stack["ours"], stack["level"], found["seeds"], found["tasks"]) == ("+4.5", "64.5", 3, ["AE"])
    assert 0 <= stack["ours_at"] <= 100 and (stack["ours_at"] > found["zero"])


def test_runs_are_compared_over_the_same_photos(project: Project) -> None:
    for name, value, source in (("pocket1", 63.5, "mart"), ("grocery", 20.0, "real")):
        folder = project.outputs / name
        write_atomic(folder / "07_evaluation" / "metrics.jsonl", json.dumps(metric("T1", "Base_SL", "AE/Acc", value)))
        write_atomic(folder / "01_catalogue" / "run.json", json.dumps({"parameters": {"SOURCE": source}}))
    found = compared_runs(project.outputs / name for name in ("pocket", "pocket1", "grocery"))
    assert [run["source"] for run in found["runs"]] == ["mart", "mart", "real"]
    lines = {(line["system"], line["measure"]): line for line in found["lines"]}
    assert [cell["value"] for cell in lines["Base_SL", "AE/Acc"]["cells"]] == ["61.5", "63.5", "20.0"]
    assert lines["Base_SL", "AE/Acc"]["spread"] == "2.0"  # of the two on Pocket Mart
    assert lines["Always <the> majority", "AE/Acc"]["cells"][1:] == [None, None]


def test_examples_show_their_photo_and_mark_each_answer(project: Project) -> None:
    shop = project.outputs / "pocket" / "01_catalogue"
    Image.new("RGB", (300, 200), "red").save((shop.mkdir(), shop / "a.png")[1])
    facts = {"asked": {"colour": "red", "packaging": "box"}, "known": {"colour": "red", "packaging": "box"}}
    about = {
        "product_id": "P",
        "task": "AE",
        "variant": "gen",
        "images": [shop / "a.png"],
        "source": "mart",
        "split": "test",
    }
    record = make_record("one", question="Which <colour>?", answer="a red box", facts=facts, **about)
    write_records([record], shop / "records" / "emdiv.jsonl")
    words = {"colour": ["red", "blue"], "packaging": ["box", "bag"]}
    write_atomic(shop / "records" / "vocabulary.json", json.dumps(words))
    table = "id,task,question,truth,first,second,third\none,AE,Which?,a red box,A red box,a red bag,a blue bag\n"
    write_atomic(project.outputs / "pocket" / "07_evaluation" / "tables" / "examples.csv", table)
    page = write_report(project, "pocket").read_text()
    card = page.split('<article class="example">')[1].split("</article>")[0]
    assert re.findall(r'<li class="(\w+)">.*?<b>(\w+)</b>', card) == [
        ("right", "first"), ("partly", "second"), ("wrong", "third"),
    ]  # fmt: skip
    assert "Which &lt;colour&gt;?" in card and card.count("data:image/jpeg") == 1

    # A copy holds no records and no photos, and its page shows the same cards.
    set_git(project, {"commit": "0123456789abcdef", "dirty": False})
    write_atomic(shop / "run.json", json.dumps({"git": {"commit": "0123456789abcdef", "dirty": False}}))
    copied = copy_reference(project, "pocket", tell=lambda _: None)
    shutil.rmtree(shop)
    shutil.rmtree(project.outputs / "pocket")
    copied.rename(project.outputs / "pocket")
    assert not list(project.outputs.glob("pocket/*/records"))
    again = write_report(project, "pocket").read_text()
    assert again.split('<article class="example">')[1].split("</article>")[0] == card
    assert (project.outputs / "pocket" / "07_evaluation" / CARDS).stat().st_size < 2**14


def test_a_long_table_of_scores_is_pivoted_and_another_is_not() -> None:
    lines = [{"row": r, "column": c, "value": r + c} for r in "ab" for c in ("x", "y")]
    (table,) = pivoted(lines)
    assert [[cell["value"] for cell in row["cells"]] for row in table["rows"]] == [["ax", "ay"], ["bx", "by"]]
    assert pivoted([*lines, lines[0]]) == []  # two numbers for one cell
    assert pivoted([{"row": str(k), "column": str(k), "value": "1"} for k in range(5)]) == []  # a diagonal


def test_an_executed_chapter_is_small_and_says_nothing_of_the_machine() -> None:
    home = Path("/home/me/project")
    picture = base64.b64encode(png(500)).decode()
    outputs = [
        {"output_type": "display_data", "metadata": {}, "data": {"image/png": picture, "text/plain": "<Figure>"}},
        {"output_type": "stream", "name": "stdout", "text": ["[progress] 1/2\n", f"{home}/outputs/x\n"]},
        {"output_type": "stream", "name": "stderr", "text": "a warning"},
        {"output_type": "display_data", "metadata": {}, "data": {"text/html": f'<img src="data:image/png;base64,{picture}">'}},
    ]  # fmt: skip
    left_out = {"output_type": "error", "ename": "LeftOut", "evalue": "nothing", "traceback": ["Left out: nothing"]}
    cells = [EXECUTED["cells"][0] | {"outputs": outputs}, EXECUTED["cells"][0] | {"outputs": [left_out]}]
    small = small_notebook(json.loads(json.dumps(EXECUTED | {"cells": cells})), side_px=350, home=home)
    nbformat.validate(nbformat.from_dict(small))
    text = json.dumps(small)
    assert len(text) < MAX_BYTES < len(picture) and "/home/me" not in text and "papermill" not in text
    figure, stream, table = small["cells"][0]["outputs"]
    (kind,) = figure["data"]
    assert Image.open(io.BytesIO(base64.b64decode(figure["data"][kind]))).width == 350
    assert stream["text"] == "outputs/x\n" and "data:image/" in table["data"]["text/html"]


def test_a_chapter_links_its_neighbours_and_the_contents() -> None:
    titles = {"01_a": "01 A", "02_b": "02 B", "04_c": "04 C"}
    assert chapter_links("02_b", titles) == (
        "[← 01 A](../01_a/01_a.ipynb) · [Contents](../README.md) · [04 C →](../04_c/04_c.ipynb)"
    )
    assert chapter_links("01_a", titles).startswith("[Contents]")


def test_every_figure_has_a_caption() -> None:
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        code = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        for name in re.findall(r'run\.figure\(\s*f?"([\w{}]+)"', code):
            assert f"{path.name[:2]}/{re.sub(r'_{.*', '', name)}" in captions(), f"{path.name}: {name}"
