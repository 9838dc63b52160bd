"""The graph of notebooks, and what makes one stale."""

import json
import os
from pathlib import Path

import nbformat
import pytest

from mtive_nb.run.atomic import write_atomic
from mtive_nb.run.content import (
    PACKAGE,
    RESULTS,
    code_of_chapter,
    data_digest,
    hash_code,
    public_names,
    results_digest,
    results_of,
)
from mtive_nb.run.graph import (
    GraphError,
    Notebook,
    chapters_of,
    code_of,
    load_chapters,
    read_graph,
    selected,
    upstream_of,
)
from mtive_nb.run.params import ParameterError
from mtive_nb.run.stale import data_fingerprint, data_paths, fingerprint, notebook_fingerprint, reasons


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
    results = results_of(folder)
    write_atomic(folder / RESULTS, json.dumps(results))
    write_atomic(folder / "run.json", json.dumps({"fingerprint": made_of, "results": results_digest(results)}))


def test_each_change_is_named(tmp_path: Path) -> None:
    make_line(tmp_path / "notebooks")
    graph = read_graph(tmp_path / "notebooks")
    names = {number: notebook.name for number, notebook in graph.items()}
    outputs = tmp_path / "outputs"
    common = {"parameters": {"SEED": 0}, "profile_dir": outputs, "code": {"a.py": "1"}, "data": "d", "names": names}

    (outputs / "01_data").mkdir(parents=True)
    (outputs / "01_data" / "products.jsonl").write_text("a")
    ran(outputs / "01_data", {})
    made_of = fingerprint(graph["02"], **common)
    folder = outputs / "02_instructions"
    assert reasons(folder, now=made_of) == ["never ran in this profile"]
    folder.mkdir()
    assert reasons(folder, now=made_of) == ["its last run was by hand, not by the runner"]
    write_atomic(folder / "pairs.jsonl", "many pairs")
    ran(folder, made_of)
    assert reasons(folder, now=made_of) == []

    for change, text in [
        ({"parameters": {"SEED": 1}}, "its parameters changed"),
        ({"code": {"a.py": "2"}}, "a.py changed"),
        ({"code": dict.fromkeys("abcde", "1")}, "a, a.py, b and 3 more changed"),
        ({"data": "e"}, "its data changed"),
    ]:
        assert reasons(folder, now=fingerprint(graph["02"], **(common | change))) == [text]
    assert reasons(folder, now=made_of, running={"01"}) == ["upstream 01 runs first"]
    assert reasons(folder, now=made_of | {"upstream": {}}) == ["it reads fewer notebooks"]

    write_atomic(folder / "pairs.jsonl", "many")
    assert reasons(folder, now=made_of) == ["pairs.jsonl changed after the run"]
    write_atomic(folder / "pairs.jsonl", "many pairs")
    assert reasons(folder, now=made_of) == []
    whole = (folder / "run.json").read_text()
    for half in ({"fingerprint": made_of}, {"results": "x"}, {}):
        write_atomic(folder / "run.json", json.dumps(half))
        assert reasons(folder, now=made_of) == ["its last run was by hand, not by the runner"]
    write_atomic(folder / "run.json", whole)

    make(tmp_path / "notebooks", "02_instructions", 'run.upstream("01")', "2")
    assert reasons(folder, now=fingerprint(graph["02"], **common))[0] == "the notebook changed"


def test_a_result_counts_by_its_content_whatever_run_json_says(tmp_path: Path) -> None:
    make_line(tmp_path / "notebooks")
    graph = read_graph(tmp_path / "notebooks")
    names = {number: notebook.name for number, notebook in graph.items()}
    common = {"parameters": {}, "profile_dir": tmp_path, "code": {}, "data": "none", "names": names}
    records = tmp_path / "01_data" / "records" / "emdiv.jsonl"
    write_atomic(records, "one\ntwo\n")
    ran(tmp_path / "01_data", {})
    folder = tmp_path / "02_instructions"
    folder.mkdir()
    ran(folder, fingerprint(graph["02"], **common))
    write_atomic(records, "one\n")  # cut short after its run
    assert reasons(folder, now=fingerprint(graph["02"], **common)) == ["the results of 01 changed"]
    assert reasons(tmp_path / "01_data", now=fingerprint(graph["01"], **common))[-1] == (
        "records/emdiv.jsonl changed after the run"
    )


def test_outputs_and_times_change_no_fingerprint(tmp_path: Path) -> None:
    path = make(tmp_path, "01_data", "1")
    before = notebook_fingerprint(path)
    book = nbformat.read(path, 4)
    book.cells[0].outputs = [nbformat.v4.new_output("stream", text="hello")]
    book.cells[0].execution_count = 3
    nbformat.write(book, path)
    assert notebook_fingerprint(path) == before
    for change in ({"source": "2"}, {"metadata": {"tags": ["parameters"]}}, {"cell_type": "raw"}):
        other = json.loads(path.read_text())
        other["cells"][0] |= change
        write_atomic(tmp_path / "other.ipynb", json.dumps(other))
        assert notebook_fingerprint(tmp_path / "other.ipynb") != before, change


def test_results_are_what_others_read(tmp_path: Path) -> None:
    write_atomic(tmp_path / "metrics.jsonl", "1")
    before = results_digest(results_of(tmp_path))
    for aside in ("run.json", "papermill.log", "01_data.ipynb", "figures/a.svg", RESULTS):
        write_atomic(tmp_path / aside, "{}")
    assert results_digest(results_of(tmp_path)) == before
    write_atomic(tmp_path / "tables" / "a.csv", "x")
    assert results_digest(results_of(tmp_path)) != before


def test_a_device_or_folder_is_not_replaced(tmp_path) -> None:
    os.mkfifo(tmp_path / "device")
    for name in ("device", "."):
        with pytest.raises(OSError, match="expected a file or nothing there"):
            write_atomic(tmp_path / name, "x")
    assert (tmp_path / "device").is_fifo() and len(list(tmp_path.iterdir())) == 1


def test_code_is_what_the_imports_lead_to() -> None:
    code = code_of_chapter(["import mtive_nb as m", "records = m.load_records(path)"])  # a later cell uses the name
    assert {"__init__.py", "data/records.py", "data/splits.py", "data/photos.py"} <= code.keys()
    assert not [name for name in code if name.startswith(("model/", "evaluate/"))]
    within = code_of_chapter(["def f():\n    from mtive_nb.evaluate.claims import board"])
    assert (
        {"evaluate/claims.py", "evaluate/claims.yaml", "run/published.csv"}
        <= within.keys()
        > code.keys() - within.keys()
    )
    assert {"model/pocket_base/model.safetensors"} <= code_of_chapter(["from mtive_nb import load_vlm"]).keys()
    assert code_of_chapter(["import json"]) == {}


def test_a_module_counts_by_its_statements(tmp_path: Path) -> None:
    path = tmp_path / "module.py"

    def hashed(text: str) -> str:
        path.write_text(text)
        hash_code.cache_clear()
        return hash_code(path)

    one = hashed('"""Doc."""\n\n\ndef f(x):\n    """Say."""\n    return x  # why\n')
    assert hashed('"""Other."""\ndef f( x ):\n    """Words."""\n\n    return x\n') == one
    assert hashed('"""Doc."""\n\n\ndef f(x):\n    return x + 1\n') != one


def test_a_statement_in_the_judges_agreement_makes_stale_who_compares_judges_alone() -> None:
    notebooks = sorted((PACKAGE.parent / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    resting = [p.stem for p in notebooks if "evaluate/judge/agreement.py" in code_of_chapter(code_of(p))]
    assert resting == ["15_caslie", "23_judges", "26_why", "29_caslie_choices"]


def test_public_names_lead_to_modules() -> None:
    names = public_names()
    assert names["train_adapter"] == "mtive_nb.model.train" and len(names) > 20


def test_data_count_by_content(tmp_path: Path) -> None:
    one, other, kept = tmp_path / "one", tmp_path / "other", tmp_path / "kept.json"
    for folder in (one, other):
        write_atomic(folder / "a" / "photo.jpg", "same size")
    assert data_digest(one, cache_file=kept) == data_digest(other, cache_file=kept) == data_digest(one, cache_file=kept)
    write_atomic(one / "a" / "photo.jpg", "same-size")  # as many bytes
    assert data_digest(one, cache_file=kept) == data_digest(one) != data_digest(other)
    assert data_fingerprint([]) == "none" != data_fingerprint([one]) != data_fingerprint([other])


def test_the_data_of_a_chapter_are_what_it_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Notebook("01", make(tmp_path, "01_data", "SOURCE"), ())
    names_it = Notebook("11", make(tmp_path, "11_print", 'os.environ["MTIVE_DATA"]'), ())
    for name in ("shop", "photos", "real", "mart"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("MTIVE_DATA", str(tmp_path / "photos"))
    found = {source: data_paths(plain, {"SOURCE": source}, home=tmp_path) for source in ("mart", "real", "shop")}
    assert found == {"mart": set(), "real": {tmp_path / "photos"}, "shop": {tmp_path / "shop"}}
    assert data_paths(names_it, {}, home=tmp_path) == {tmp_path / "photos"}
    (rows := tmp_path / "rows.jsonl").write_text("{}\n")
    own = data_paths(Notebook("15", plain.path, ()), {"ROWS": "rows.jsonl", "PHOTOS": "gone"}, home=tmp_path)
    assert own == {rows}
    before = data_fingerprint(own)
    rows.write_text('{"id": 1}\n')
    assert data_fingerprint(own) != before, "a corrected row is other data"
    monkeypatch.setenv("MTIVE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ParameterError, match="MTIVE_DATA=.*no such folder"):
        data_paths(plain, {"SOURCE": "mart"}, home=tmp_path)


def test_the_list_of_chapters_is_that_of_the_notebooks() -> None:
    notebooks = {p.stem[:2]: p.stem[3:] for p in (PACKAGE.parent / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    assert {number: about["name"] for number, about in load_chapters().items()} == notebooks
    assert {about["runs"] for about in load_chapters().values()} == {"path", "all", "asked"}
    assert set(chapters_of("path")) < set(chapters_of("seeds"))
