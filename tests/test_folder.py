"""Run folders: records, metrics, tables, figures, seeds."""

import gc
import json
import random
import re
import subprocess
import sys
import types
import weakref
from pathlib import Path

import IPython
import numpy
import pandas
import pytest
from IPython.core.formatters import DisplayFormatter
from IPython.display import HTML

from mtive_nb.run import progress, start_run
from mtive_nb.run.frames import LEFT
from mtive_nb.run.progress import duration
from mtive_nb.run.provenance import git_state

T1 = {"paper": "mtive", "table": "T1", "row": "Base_SL", "column": "AE/Acc", "unit": "points", "n": 10}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, and no trace of a runner around the tests."""
    (tmp_path / "notebooks").mkdir()
    for name in (
        "MTIVE_RUN_DIR",
        "MTIVE_PROFILE_DIR",
        "MTIVE_PARAMETERS",
        "MTIVE_COMMAND",
        "MTIVE_BATCH",
        "MTIVE_KEEP",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MTIVE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True)
def torch_seeds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A stand-in for torch that remembers its seeds: the real one takes seconds to import."""
    seeds: list[int] = []
    torch = types.ModuleType("torch")
    torch.manual_seed = seeds.append
    torch.cuda = types.SimpleNamespace(is_available=lambda: False)
    monkeypatch.setitem(sys.modules, "torch", torch)
    return seeds


def lines(run) -> list[dict]:
    return [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]


def test_folder_and_record(home: Path) -> None:
    run = start_run("04_stage1", profile="pocket", seed=5)
    assert run.dir == home / "outputs" / "pocket" / "04_stage1"
    run.note("stand_in", "a")
    run.note("stand_in", "b")
    run.note("stand_in", "a")
    run.note("loss", 1)
    run.note("loss", 2)
    run.close()
    record = json.loads(run.json_path.read_text())
    assert record["notes"] == {"stand_in": ["a", "b"], "loss": 2}
    assert record["seed"] == 5
    assert record["seconds"] >= 0
    assert record["peak_mib"] > 1
    assert set(record["versions"]) == {
        "python", "torch", "transformers", "peft", "accelerate", "trl", "numpy", "mtive_nb",
    }  # fmt: skip
    assert record["git"] == {"commit": None, "dirty": None}


def test_a_checkout_is_changed_by_code_and_not_by_its_own_results(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    result = tmp_path / "outputs" / "reference" / "run.json"
    result.parent.mkdir(parents=True)
    result.write_text("{}")
    (tmp_path / "code.py").write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    result.write_text('{"seed": 0}')
    (result.parent / "new.json").write_text("{}")
    state = git_state(tmp_path)
    assert state["dirty"] is False and len(state["commit"]) == 40
    (tmp_path / "code.py").write_text("2")
    assert git_state(tmp_path) == {"commit": state["commit"], "dirty": True}
    git("checkout", "code.py")
    (tmp_path / "more.py").write_text("3")
    assert git_state(tmp_path)["dirty"] is True


def test_tables_of_a_run_keep_dollars(home: Path) -> None:
    start_run("04_stage1", profile="pocket", seed=5)
    table = pandas.DataFrame({"title": ["$5 and $6"]})
    assert "mathjax_ignore" in table.to_html() and "mathjax_ignore" in table.style.to_html()


def test_texts_of_a_run_s_tables_stand_on_the_left(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = types.SimpleNamespace(display_formatter=DisplayFormatter(), user_ns={})
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    start_run("04_stage1", profile="pocket", seed=5)
    html = shell.display_formatter.formatters["text/html"]
    table = pandas.DataFrame({"answer": ["yes", "<no>"] * 40, "n": range(80)}).set_index(
        pandas.Index([3] * 80, name="id")
    )
    page = html(table)
    assert page.replace(f" {LEFT}", "") == table._repr_html_()
    left = re.findall(rf"<t[hd] {LEFT}.*?>(.*?)<", page)
    assert left[:5] == ["", "answer", "id", "", "3"] and "yes" in left and "n" not in left and "..." in left
    assert "<td>0</td>" in page and "<th>n</th>" in page
    spans = table.set_index("answer", append=True)  # a name that spans rows
    assert re.findall(rf"<t[hd] {LEFT}.*?>(.*?)<", html(spans[:1])) == ["", "", "id", "answer", "3", "yes"]
    two_heads = pandas.concat({"a": table}, axis=1)
    assert html(two_heads) == two_heads._repr_html_()
    wide = pandas.DataFrame([range(30)])
    with pandas.option_context("display.max_columns", 20):
        assert html(wide) == wide._repr_html_()


def test_runner_environment_decides_the_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTIVE_RUN_DIR", str(home / "elsewhere"))
    monkeypatch.setenv("MTIVE_PROFILE_DIR", str(home / "siblings"))
    (home / "siblings" / "01_data").mkdir(parents=True)
    run = start_run("04_stage1", profile="pocket", seed=0)
    assert run.dir == home / "elsewhere"
    assert run.upstream("01") == home / "siblings" / "01_data"
    (home / "pocket1" / "01_data").mkdir(parents=True)
    assert run.upstream("01", profile="pocket1") == home / "pocket1" / "01_data"
    with pytest.raises(FileNotFoundError, match="python -m mtive_nb run pocket2 01"):
        run.upstream("01", profile="pocket2")


def test_seeds(home: Path, torch_seeds: list[int]) -> None:
    start_run("a", profile="pocket", seed=11)
    drawn = random.random(), numpy.random.rand()
    start_run("a", profile="pocket", seed=11)
    assert drawn == (random.random(), numpy.random.rand())
    assert drawn[0] == random.Random(11).random()
    assert torch_seeds == [11, 11]


def test_upstream_missing_names_the_command(home: Path) -> None:
    run = start_run("04_stage1", profile="pocket", seed=0)
    (home / "outputs" / "pocket" / "01_data.failed").mkdir()
    with pytest.raises(FileNotFoundError, match="python -m mtive_nb run pocket 01"):
        run.upstream("01")


def test_metrics(home: Path) -> None:
    run = start_run("07_evaluation", profile="pocket", seed=2)
    run.metric(1, **T1, low=0.5, high=2)
    run.metric(3, **T1)
    run.metric(4, **T1, seed=9, seeds=3)
    first, second = lines(run)
    assert (first["value"], first["low"], first["seed"]) == (3.0, None, 2)
    assert (second["value"], second["seed"], first["seeds"], second["seeds"]) == (4.0, 9, 1, 3)
    assert list(first) == [
        "paper",
        "table",
        "row",
        "column",
        "value",
        "unit",
        "better",
        "n",
        "low",
        "high",
        "seed",
        "seeds",
    ]
    again = start_run("07_evaluation", profile="pocket", seed=2)
    assert lines(again) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"column": "AE/Accuracy"}, r"no column 'AE/Accuracy' \(did you mean AE/Acc\?\)"),
        ({"table": "T99"}, "prints no numbers in table 'T99'"),
        ({"paper": "other"}, "expected one of mtive"),
        ({"better": "more"}, "expected one of higher"),
        ({"n": 0}, "at least one item"),
        ({"low": 2.0, "high": 3.0}, "outside its interval"),
    ],
)
def test_bad_metrics(home: Path, change: dict, message: str) -> None:
    run = start_run("07_evaluation", profile="pocket", seed=2)
    with pytest.raises(ValueError, match=message):
        run.metric(1.0, **(T1 | change))
    with pytest.raises(ValueError, match="found nan"):
        run.metric(float("nan"), **T1)
    assert lines(run) == []


def test_a_long_table_records_itself(home: Path) -> None:
    run = start_run("07_evaluation", profile="pocket", seed=2)
    frame = pandas.DataFrame(
        [
            {"system": "A", "metric": "AE/Acc", "value": 1.0, "low": 0.5, "high": 2.0, "n": 3, "paper": "mtive", "table": "T1"},
            {"system": "B", "metric": "AE/Acc", "value": 2.0, "low": float("nan"), "high": 3.0, "n": 4, "paper": "own", "table": "x"},
            {"system": "C", "metric": "AE/Acc", "value": float("nan"), "low": 0.0, "high": 3.0, "n": 4, "paper": "own", "table": "x"},
        ]
    )  # fmt: skip
    assert run.metrics(frame, unit="points", seeds=3) is frame
    first, second = lines(run)  # what could not be measured is left out
    assert first == T1 | {
        "row": "A",
        "value": 1.0,
        "unit": "points",
        "n": 3,
        "low": 0.5,
        "high": 2.0,
        "seed": 2,
        "seeds": 3,
        "better": "higher",
    }
    assert (second["row"], second["paper"], second["low"], second["high"]) == ("B", "own", None, 3.0)
    run.metrics(
        frame.head(1).drop(columns=["paper", "table"]),
        table="one",
        row="everyone",
        column="loss",
        unit="nats",
        better="lower",
    )
    assert [(m["row"], m["column"], m["better"]) for m in lines(run)[2:]] == [("everyone", "loss", "lower")]
    with pytest.raises(ValueError, match="no column 'AE/Right'"):
        run.metrics(frame.assign(metric="AE/Right"), unit="points")


def test_a_wide_table_and_a_series_record_themselves(home: Path) -> None:
    run = start_run("13_latency", profile="pocket", seed=2)
    wide = pandas.DataFrame({"P50": [1.0, 2.0], "rate": [3.0, 4.0], "note": ["x", "y"]}, index=["one", "two"])
    run.metrics(wide, table="speed", unit={"P50": "ms", "rate": "1/s"}, better={"P50": "lower", "rate": "higher"}, n=5)
    run.metrics(pandas.Series({"first": 5.0, "last": 4.0}), table="loss", row="PT", unit="nats", better="lower", n=9)
    run.metrics(pandas.Series({"PT": 7.0}), table="size", column="weights", unit="count", better="none", n=1)
    found = [(m["table"], m["row"], m["column"], m["value"], m["unit"], m["better"], m["n"]) for m in lines(run)]
    assert found == [
        ("speed", "one", "P50", 1.0, "ms", "lower", 5),
        ("speed", "one", "rate", 3.0, "1/s", "higher", 5),
        ("speed", "two", "P50", 2.0, "ms", "lower", 5),
        ("speed", "two", "rate", 4.0, "1/s", "higher", 5),
        ("loss", "PT", "first", 5.0, "nats", "lower", 9),
        ("loss", "PT", "last", 4.0, "nats", "lower", 9),
        ("size", "PT", "weights", 7.0, "count", "none", 1),
    ]
    with pytest.raises(ValueError, match="at least one item"):
        run.metrics(pandas.Series({"PT": 7.0}), table="size", column="weights", unit="count")
    with pytest.raises(ValueError, match="expected both"):
        run.metrics(pandas.Series({"PT": 7.0}), column="weights", n=1)


def test_tables_and_figures(home: Path) -> None:
    from matplotlib.figure import Figure

    run = start_run("07_evaluation", profile="pocket", seed=2)
    frame = pandas.DataFrame({"a": [1, 2], "b": ["x", "y, z"]})
    assert run.table("counts", frame) is frame
    assert pandas.read_csv(run.dir / "tables" / "counts.csv").equals(frame)
    run.table("named", frame.set_index("b"))
    assert list(pandas.read_csv(run.dir / "tables" / "named.csv").columns) == ["b", "a"]
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([1, 2])
    assert run.figure("loss", figure) is figure
    assert sorted(p.name for p in (run.dir / "figures").iterdir()) == ["loss.png", "loss.svg"]


def test_checkpoints_go_when_the_run_is_done(home: Path) -> None:
    run = start_run("04_stage1", profile="pocket", seed=0)
    (run.checkpoint_dir / "step-1").touch()
    again = start_run("04_stage1", profile="pocket", seed=0)
    assert (again.checkpoint_dir / "step-1").exists()
    again.close(keep_checkpoints=True)
    assert (again.dir / "checkpoints").exists()
    again.close()
    assert not (again.dir / "checkpoints").exists()


def test_progress_is_silent_when_short_and_says_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MTIVE_BATCH", "1")
    assert list(progress(range(3), what="short")) == [0, 1, 2]
    assert capsys.readouterr().out == ""
    clock = iter(range(0, 1000, 20))
    # `mtive_nb.run.progress` as an attribute is the function; its module is found by name.
    module = sys.modules["mtive_nb.run.progress"]
    monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    assert list(progress(iter("abcd"), 4, what="stage 1")) == list("abcd")
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "[progress] stage 1: 2/4 (50%), 40 s, about 40 s left"
    assert out[-1].startswith("[progress] stage 1: 4/4 (100%)")


def test_progress_is_one_bar_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def display(page: HTML, display_id: bool) -> types.SimpleNamespace:
        shown.append(page.data)
        return types.SimpleNamespace(update=lambda later: shown.append(later.data))

    module = sys.modules["mtive_nb.run.progress"]
    clock = iter(range(0, 1000, 20))
    monkeypatch.delenv("MTIVE_BATCH", raising=False)
    monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr("IPython.get_ipython", lambda: types.SimpleNamespace(kernel=None))
    monkeypatch.setattr("IPython.display.display", display)
    labels = iter(["<AE>", "loss 2", "loss 1"])
    assert list(progress([1, 2], what=lambda: next(labels))) == [1, 2]
    assert shown[0] == '<progress value="0.500"></progress> &lt;AE&gt;: 1/2 (50%), 20 s, about 20 s left'
    assert shown[-1].startswith('<progress value="1.000"></progress> loss 1: 2/2 (100%)') and len(shown) == 3


def test_durations() -> None:
    assert [duration(s) for s in (8, 185, 4800)] == ["8 s", "3 min 05 s", "1 h 20 min"]


def test_a_second_run_in_the_same_kernel_keeps_nothing_of_the_first_alive(home):
    class Model:
        pass

    start_run("01_a", profile="smoke", seed=0)
    frozen, model = gc.get_freeze_count(), Model()
    model.itself, gone = model, weakref.ref(model)
    start_run("01_a", profile="smoke", seed=0)
    del model
    gc.collect()
    assert 0 < gc.get_freeze_count() <= frozen and gone() is None
