"""The graph of notebooks, and what makes one stale."""

import json
from pathlib import Path

import nbformat
import pytest

from mtive_nb.run.atomic import write_atomic
from mtive_nb.run.graph import GraphError, read_graph, selected, upstream_of
from mtive_nb.run.params import ParameterError
from mtive_nb.run.stale import (
    data_fingerprint,
    fingerprint,
    notebook_fingerprint,
    package_fingerprint,
    reasons,
    results_fingerprint,
)


def make(folder: Path, name: str, *cells: str) -> Path:
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    folder.mkdir(exist_ok=True)
    nbformat.write(book, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def make_line(folder: Path) -> None:
    """00; 01 <- 02 <- 04, 01 <- 03."""
    make(folder, "00_base", "1")
    make(folder, "01_data", "1")
    make(folder, "02_instructions", 'run.upstream("01")')
    make(folder, "03_filter", 'x = run.upstream("01") / "a"')
    make(folder, "04_stage1", "def f():\n    return run.upstream('02')")


def test_edges_are_literals_in_code(tmp_path: Path) -> None:
    path = make(
        tmp_path,
        "05_stage2",
        '%matplotlib inline\nimport os\na = run.upstream("04") / "x"',
        '# run.upstream("01")\ntext = \'run.upstream("02")\'\nother.upstream("03")',
        "%%bash\nrun.upstream nothing (",
    )
    assert upstream_of(path) == ("04",)


def test_a_computed_edge_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path, "05_stage2", "n = '04'\nrun.upstream(n)")
    with pytest.raises(GraphError, match=r"05_stage2\.ipynb: code cell 1.*expected run\.upstream"):
        upstream_of(path)


def test_selection_is_recursive_and_leaves_00_out(tmp_path: Path) -> None:
    make_line(tmp_path)
    graph = read_graph(tmp_path)
    assert [n.number for n in selected(graph, ["04"])] == ["01", "02", "04"]
    assert [n.number for n in selected(graph, ["03_filter"])] == ["01", "03"]
    assert [n.number for n in selected(graph, [])] == ["01", "02", "03", "04"]
    assert [n.number for n in selected(graph, ["00"])] == ["00"]
    with pytest.raises(GraphError, match="no notebook 9.*01_data"):
        selected(graph, ["9"])


@pytest.mark.parametrize(
    ("cell", "message"), [('run.upstream("09")', "no notebook 09"), ('run.upstream("05")', "lower-")]
)
def test_missing_and_later_notebooks(tmp_path: Path, cell: str, message: str) -> None:
    make(tmp_path, "05_stage2", cell)
    with pytest.raises(GraphError, match=message):
        read_graph(tmp_path)


def test_one_number_twice(tmp_path: Path) -> None:
    make(tmp_path, "05_stage2", "1")
    make(tmp_path, "05_other", "1")
    with pytest.raises(GraphError, match="two notebooks have the number 05"):
        read_graph(tmp_path)


def ran(folder: Path, made_of: dict) -> None:
    """What a good run leaves, as far as staleness looks."""
    write_atomic(folder / "run.json", json.dumps({"fingerprint": made_of, "results": results_fingerprint(folder)}))


def test_each_change_is_named(tmp_path: Path) -> None:
    make_line(tmp_path / "notebooks")
    graph = read_graph(tmp_path / "notebooks")
    names = {number: notebook.name for number, notebook in graph.items()}
    outputs = tmp_path / "outputs"
    given = {"parameters": {"SEED": 0}, "profile_dir": outputs, "package": "p", "data": "d", "names": names}

    (outputs / "01_data").mkdir(parents=True)
    (outputs / "01_data" / "products.jsonl").write_text("a")
    ran(outputs / "01_data", {})
    made_of = fingerprint(graph["02"], **given)
    folder = outputs / "02_instructions"
    assert reasons(folder, now=made_of) == ["never ran in this profile"]
    folder.mkdir()
    assert reasons(folder, now=made_of) == ["its last run was by hand, not by the runner"]
    ran(folder, made_of)
    assert reasons(folder, now=made_of) == []

    for change, text in [
        ({"parameters": {"SEED": 1}}, "its parameters changed"),
        ({"package": "q"}, "the package changed"),
        ({"data": "e"}, "the data (MTIVE_DATA) changed"),
    ]:
        assert reasons(folder, now=fingerprint(graph["02"], **(given | change))) == [text]
    assert reasons(folder, now=made_of, running={"01"}) == ["upstream 01 runs first"]

    (outputs / "01_data" / "products.jsonl").write_text("b")
    ran(outputs / "01_data", {})
    assert reasons(folder, now=fingerprint(graph["02"], **given)) == ["the results of 01 changed"]
    make(tmp_path / "notebooks", "02_instructions", 'run.upstream("01")', "2")
    assert reasons(folder, now=fingerprint(graph["02"], **given))[0] == "the notebook changed"


def test_outputs_and_times_change_no_fingerprint(tmp_path: Path) -> None:
    path = make(tmp_path, "01_data", "1")
    before = notebook_fingerprint(path)
    book = nbformat.read(path, 4)
    book.cells[0].outputs = [nbformat.v4.new_output("stream", text="hello")]
    book.cells[0].execution_count = 3
    nbformat.write(book, path)
    assert notebook_fingerprint(path) == before
    book.cells[0].source = "2"
    nbformat.write(book, path)
    assert notebook_fingerprint(path) != before


def test_results_are_what_others_read(tmp_path: Path) -> None:
    write_atomic(tmp_path / "metrics.jsonl", "1")
    before = results_fingerprint(tmp_path)
    for aside in ("run.json", "papermill.log", "01_data.ipynb", "figures/a.svg"):
        write_atomic(tmp_path / aside, "x")
    assert results_fingerprint(tmp_path) == before
    write_atomic(tmp_path / "tables" / "a.csv", "x")
    assert results_fingerprint(tmp_path) != before


def test_package_and_data_fingerprints(tmp_path: Path) -> None:
    package = tmp_path / "package"
    write_atomic(package / "data" / "mart.py", "1")
    before = package_fingerprint(package)
    for aside in ("show/plots.py", "report/page.py", "data/mart/render.pyc"):
        write_atomic(package / aside, "x")
    assert package_fingerprint(package) == before
    write_atomic(package / "data" / "words.txt", "x")
    assert package_fingerprint(package) != before

    assert data_fingerprint(str(tmp_path)) != data_fingerprint(str(package))
    one = data_fingerprint(str(package))
    write_atomic(package / "data" / "mart.py", "22")
    assert data_fingerprint(str(package)) != one
    with pytest.raises(ParameterError, match="MTIVE_DATA=.*no such folder"):
        data_fingerprint(str(tmp_path / "nowhere"))
