"""The runner with real papermill: good and bad ends, kills, resuming, jobs. Each run costs about three seconds."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from mtive_nb.__main__ import main
from mtive_nb.run import lock
from mtive_nb.run.content import read_json
from mtive_nb.run.execute import run_notebooks
from mtive_nb.run.graph import GraphError, Project
from mtive_nb.run.guard import end_workers_of
from mtive_nb.run.job import clear_partial, restore_old, swap_in
from mtive_nb.run.lock import LockedError, profile_lock
from mtive_nb.run.params import ParameterError

PARAMETERS = 'PROFILE: str = "pocket"\nSEED: int = 0\nRATE: float = 1e-3  # a step\'s size\n'
WRITE = "import os, pathlib\nout = pathlib.Path(os.environ['MTIVE_RUN_DIR'])\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """An empty project."""
    for folder in ("notebooks", "params/pocket"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("MTIVE_RUN_DIR", "MTIVE_PROFILE_DIR", "MTIVE_DATA", "MTIVE_KEEP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MTIVE_HOME", str(tmp_path))
    return Project(tmp_path)


def make(project: Project, name: str, *cells: str) -> Path:
    parameters = nbformat.v4.new_code_cell(PARAMETERS)
    parameters.metadata.tags = ["parameters"]
    book = nbformat.v4.new_notebook(cells=[parameters, *map(nbformat.v4.new_code_cell, cells)])
    path = project.notebooks / f"{name}.ipynb"
    nbformat.write(book, path)
    return path


def profile_dir(project: Project) -> Path:
    return project.outputs / "pocket"


def run(project: Project, *numbers: str, **options):
    said: list[str] = []
    outcome = run_notebooks("pocket", numbers=numbers, project=project, tell=said.append, **options)
    return outcome, "\n".join(said)


def test_runs_skips_and_names_what_changed(project: Project) -> None:
    # 02 reads what 01 wrote; 01's result does not hang on its comment, only on RATE.
    make(project, "01_data", WRITE + "(out / 'rate.txt').write_text(f'{type(RATE).__name__} {RATE}')")
    make(project, "02_use", WRITE + "up = out.parent / '01_data'\n# the edge:\nif False:\n    run.upstream('01')")
    (project.params / "pocket" / "01_data.yaml").write_text("# minutes: 2\nRATE: 1e-4\n")

    outcome, said = run(project, dry_run=True)
    assert "01_data   run  never ran in this profile  2 min 00 s" in said
    assert not profile_dir(project).exists()

    outcome, said = run(project, "02")
    assert outcome.ran == ["01_data", "02_use"]
    assert "02: runs 01 first" in said
    assert (profile_dir(project) / "01_data" / "rate.txt").read_text() == "float 0.0001"
    record = json.loads((profile_dir(project) / "01_data" / "run.json").read_text())
    assert record["parameters"]["RATE"] == 0.0001
    assert record["command"] == "python -m mtive_nb run pocket 02"

    outcome, said = run(project)
    assert (outcome.ran, outcome.skipped) == ([], ["01_data", "02_use"])

    make(project, "01_data", WRITE + "# why\n(out / 'rate.txt').write_text(f'{type(RATE).__name__} {RATE}')")
    outcome, said = run(project)
    assert (outcome.ran, outcome.skipped) == (["01_data"], ["02_use"])
    assert "the results that it reads did not change" in said

    (project.params / "pocket" / "01_data.yaml").write_text("RATE: 3e-4\n")
    _, said = run(project, dry_run=True)
    assert "its parameters changed" in said
    assert "upstream 01 runs first" in said


def test_only_the_named_one_runs_on_results_as_they_are(project: Project) -> None:
    make(project, "01_data", WRITE + "(out / 'a').touch()")
    make(project, "02_use", "if False:\n    run.upstream('01')")
    with pytest.raises(GraphError, match=r"02_use reads 01: found no results.*--only"):
        run(project, "02", only=True)
    assert run(project)[0].ran == ["01_data", "02_use"]
    make(project, "01_data", WRITE + "(out / 'b').touch()")
    make(project, "02_use", "if False:\n    run.upstream('01')\n2")
    assert run(project, "02", only=True)[0].ran == ["02_use"]
    assert (profile_dir(project) / "01_data" / "a").exists()
    record = json.loads((profile_dir(project) / "02_use" / "run.json").read_text())
    assert record["command"] == "python -m mtive_nb run pocket 02 --only"


def test_a_typo_stops_before_anything_starts(project: Project) -> None:
    make(project, "01_data", WRITE + "(out / 'a').touch()")
    make(project, "02_use", "1")
    (project.params / "pocket" / "02_use.yaml").write_text("RAET: 1e-4\n")
    with pytest.raises(ParameterError, match=r"did you mean RATE\?"):
        run(project)
    assert not (profile_dir(project) / "01_data").exists()


def test_a_failure_keeps_the_old_result_and_stops_only_what_rests_on_it(project: Project) -> None:
    make(project, "01_data", WRITE + "(out / 'a').write_text('good')")
    make(project, "03_other", "1")
    assert run(project)[0].ok
    make(project, "01_data", WRITE + "(out / 'a').write_text('half')", "1 / 0")
    make(project, "02_use", "if False:\n    run.upstream('01')")
    make(project, "03_other", "2")
    outcome, said = run(project)
    assert outcome.ran == ["03_other"]
    assert set(outcome.failed) == {"01_data", "02_use"}
    assert "ZeroDivisionError" in said
    assert (profile_dir(project) / "01_data" / "a").read_text() == "good"
    assert (profile_dir(project) / "01_data.failed" / "a").read_text() == "half"
    assert "ZeroDivisionError" in (profile_dir(project) / "01_data.failed" / "papermill.log").read_text()
    assert not (profile_dir(project) / ".01_data.partial").exists()


def test_a_chapter_with_nothing_to_work_on_is_left_out_with_its_reason(project: Project) -> None:
    open_run = "import mtive_nb as m\nrun = m.start_run('01_data', profile='pocket', seed=0)"
    make(project, "01_data", open_run, "run.leave_out('no test questions for DD')", "1 / 0")
    make(project, "02_use", "if False:\n    run.upstream('01')")
    outcome, said = run(project)
    assert outcome.ok and outcome.ran == ["01_data", "02_use"]
    assert "[01_data] left out: no test questions for DD" in said
    assert json.loads((profile_dir(project) / "01_data" / "run.json").read_text())["notes"]["left_out"]
    assert run(project)[0].ran == []  # up to date, like any finished chapter


@pytest.mark.parametrize(
    ("cell", "message"),
    [("import os\nos.kill(os.getpid(), 9)", "exit code"), ("raise SystemExit(0)", "did not run")],
    ids=["dead kernel", "early exit with 0"],
)
def test_bad_ends_that_look_good(project: Project, cell: str, message: str) -> None:
    make(project, "01_data", cell, "print('after')")
    outcome, _ = run(project)
    assert message in outcome.failed["01_data"]
    log = (profile_dir(project) / "01_data.failed" / "papermill.log").read_text()
    assert "Executing Cell 2" in log
    assert not (profile_dir(project) / "01_data").exists()
    assert (profile_dir(project) / "01_data.failed").exists()


def start_runner(project: Project) -> subprocess.Popen:
    """The command line's runner in a process of its own."""
    words = [sys.executable, "-m", "mtive_nb", "run", "pocket"]
    return subprocess.Popen(words, cwd=project.home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, *, seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


LONG = (
    WRITE
    + """import time
kept = out / "checkpoints"
kept.mkdir(exist_ok=True)
(out / "seen.txt").write_text(",".join(sorted(p.name for p in kept.iterdir())))
(out / "half.txt").touch() if not any(kept.iterdir()) else None
first = not any(kept.iterdir())
(kept / "step-1").touch()
(out / "pid.txt").write_text(str(os.getpid()))
time.sleep(60 if first else 0)
"""
)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "SIGTERM"])
def test_a_killed_runner_leaves_no_child_and_resumes(project: Project, number: int) -> None:
    make(project, "01_data", LONG)
    runner = start_runner(project)
    partial = profile_dir(project) / ".01_data.partial"
    wait_for(lambda: (partial / "pid.txt").exists() and (partial / "pid.txt").read_text())
    kernel = psutil.Process(int((partial / "pid.txt").read_text()))
    started = psutil.Process(runner.pid).children(recursive=True)
    assert kernel in started
    runner.send_signal(number)
    assert runner.wait(timeout=30) == (-9 if number == signal.SIGKILL else 143)
    gone, alive = psutil.wait_procs(started, timeout=15)
    assert not alive
    assert (partial / "checkpoints" / "step-1").exists()

    # In the same profile at once: it waits for the lock, then goes on from the checkpoint.
    again = start_runner(project)
    said, _ = again.communicate(timeout=60)
    assert again.returncode == 0, said
    done = profile_dir(project) / "01_data"
    assert (done / "seen.txt").read_text() == "step-1"
    assert not (done / "half.txt").exists()
    assert not (done / "checkpoints").exists() and not (done / "spent.json").exists()


WITH_CHILD = LONG.replace(
    "time.sleep(60", "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], "
    "start_new_session=True) if first else None\ntime.sleep(60"
)  # fmt: skip


def started_by(project: Project) -> tuple[subprocess.Popen, list[psutil.Process], psutil.Process]:
    """A runner in the midst of a notebook that has a child of its own: the runner, its descendants, its guard."""
    make(project, "01_data", WITH_CHILD)
    runner, partial = start_runner(project), profile_dir(project) / ".01_data.partial"
    below = lambda: psutil.Process(runner.pid).children(recursive=True)  # noqa: E731
    wait_for(lambda: (partial / "pid.txt").exists() and (partial / "pid.txt").read_text() and len(below()) >= 4)
    (guard,) = psutil.Process(runner.pid).children()
    assert "mtive_nb.run.guard" in guard.cmdline()
    return runner, below(), guard


def test_a_killed_guard_leaves_no_child_and_its_chapter_fails_in_words(project: Project) -> None:
    runner, started, guard = started_by(project)
    guard.kill()
    said, _ = runner.communicate(timeout=60)
    assert runner.returncode == 1 and "its guard was killed (SIGKILL)" in said
    assert not psutil.wait_procs(started, timeout=5)[1]
    assert run(project)[0].ran == ["01_data"]
    assert (profile_dir(project) / "01_data" / "seen.txt").read_text() == "step-1"


def test_a_runner_killed_with_its_guard_leaves_nothing_that_the_next_one_meets(project: Project) -> None:
    runner, started, guard = started_by(project)
    runner.kill()
    guard.kill()
    runner.communicate(timeout=60)
    assert run(project)[0].ran == ["01_data"]
    assert not psutil.wait_procs(started, timeout=5)[1], "an orphan would write into the next run's folder"
    assert (profile_dir(project) / "01_data" / "seen.txt").read_text() == "step-1"


def test_workers_of_another_folder_live_on(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "import time; time.sleep(60)"]
    mine, other = (
        subprocess.Popen(words, env=os.environ | {"MTIVE_RUN_DIR": str(tmp_path / name)}) for name in ("a", "ab")
    )
    try:
        wait_for(lambda: psutil.Process(mine.pid).environ().get("MTIVE_RUN_DIR") == str(tmp_path / "a"))
        assert end_workers_of(tmp_path / "a") == 1 and not psutil.pid_exists(mine.pid) and other.poll() is None
    finally:
        for process in (mine, other):
            process.kill()
            process.wait()


def test_a_pools_worker_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    work = "import os, sys, time\nfrom pathlib import Path\ndef work(k):\n"
    work += "    Path(sys.argv[1] if len(sys.argv) > 1 else '', str(os.getpid())).touch(); time.sleep(60)\n"
    (tmp_path / "work.py").write_text(
        work + "if __name__ == '__main__':\n    from mtive_nb.run.processes import spread\n"
        "    from work import work\n    spread(work, [1, 2], processes=2, chunk=1)\n"
    )
    (tmp_path / "pids").mkdir()
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    words = [sys.executable, str(tmp_path / "work.py"), str(tmp_path / "pids")]
    owner = subprocess.Popen(words, env=os.environ | {"PYTHONPATH": paths})
    wait_for(lambda: len(list((tmp_path / "pids").iterdir())) == 2)
    workers = [psutil.Process(int(path.name)) for path in (tmp_path / "pids").iterdir()]
    owner.kill()
    owner.wait()
    assert not psutil.wait_procs(workers, timeout=5)[1]


def files_below(project: Project) -> list[Path]:
    return sorted(path for path in project.home.parent.rglob("*"))


REFUSED = {
    "no jobs": (["run", "pocket", "--jobs", "0"], "--jobs 0: expected 1 or more"),
    "fewer than no jobs": (["run", "pocket", "--jobs", "-3"], "--jobs -3: expected 1 or more"),
    "unknown profile": (["run", "poket"], "there is no folder params/poket; did you mean pocket?"),
    "a folder outside": (["run", "../x"], "profile '../x': there is no folder params/../x"),
    "an absolute folder": (["run", "/tmp/x"], "profile '/tmp/x': there is no folder"),
    "unknown notebook": (["run", "pocket", "77"], "no notebook 77"),
    "unknown profile, planned": (["run", "../x", "--dry-run"], "there is no folder params/../x"),
    "retrain outside": (["retrain", "../x", "DD", "a.csv"], "06_*: not found"),
    "ask outside": (["ask", "../x", "DD", "a.png"], "a.png"),
    "versions outside": (["versions", "../x"], "05_*: not found"),
    "score outside": (["score", "../x", ".", "-o", "b.csv"], "found no photo"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_refused_command_is_one_line_and_writes_nothing(project: Project, capsys, monkeypatch, what: str) -> None:
    make(project, "01_data", "1")
    monkeypatch.chdir(project.home)
    words, message = REFUSED[what]
    before = files_below(project)
    assert main(words) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and said.out == ""
    assert files_below(project) == before


@pytest.mark.parametrize("kind", ["outputs a file", "read-only"])
def test_outputs_that_cannot_be_written_are_one_line(project: Project, capsys, monkeypatch, kind: str) -> None:
    make(project, "01_data", "1")
    if kind == "outputs a file":
        project.outputs.touch()
    else:

        def denied(path: str, *_: object) -> int:  # root, who runs some tests, may write anywhere
            raise PermissionError(13, "Permission denied", str(path))

        profile_dir(project).mkdir(parents=True)
        monkeypatch.setattr(lock.os, "open", denied)
    assert main(["run", "pocket"]) == 2
    said = capsys.readouterr().err
    assert "outputs/pocket cannot be written (" in said and said.count("\n") == 1


def test_jobs_run_together_and_share_the_cores(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    # Each waits for the other's mark: one after the other neither would end.
    cell = WRITE + (
        "import time\n(out / 'mark').touch()\n(out / 'threads').write_text(os.environ['OMP_NUM_THREADS'])\n"
        "other = out.parent / '{}' / 'mark'\nend = time.time() + 30\n"
        "while not other.exists() and not (out.parent / '{}').exists():\n"
        "    assert time.time() < end\n    time.sleep(0.1)"
    )
    make(project, "01_a", cell.format(".02_b.partial", "02_b"))
    make(project, "02_b", cell.format(".01_a.partial", "01_a"))
    outcome, _ = run(project, jobs=2)
    assert sorted(outcome.ran) == ["01_a", "02_b"]
    threads = int((profile_dir(project) / "01_a" / "threads").read_text())
    assert threads == max(1, len(os.sched_getaffinity(0)) // 2)


def test_two_runners_refuse_each_other(project: Project) -> None:
    make(project, "01_data", "1")
    holder = "import sys, time\nfrom pathlib import Path\nfrom mtive_nb.run.lock import profile_lock\n"
    holder += "with profile_lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    words = [sys.executable, "-c", holder, str(profile_dir(project))]
    other = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=rf"process {other.pid}\) is at work in outputs/pocket"):
            run(project)
    finally:
        other.kill()
        other.wait()
    # A lock whose holder is dead holds nobody up.
    with profile_lock(profile_dir(project)):
        pass


def test_only_checkpoints_of_the_same_run_are_kept(tmp_path: Path) -> None:
    first = clear_partial(tmp_path, "04_stage1", fingerprint={"a": 1})
    (first / "checkpoints").mkdir()
    (first / "checkpoints" / "step").touch()
    (first / "half.txt").touch()
    same = clear_partial(tmp_path, "04_stage1", fingerprint={"a": 1})
    assert sorted(p.name for p in same.rglob("*")) == ["checkpoints", "fingerprint.json", "step"]
    other = clear_partial(tmp_path, "04_stage1", fingerprint={"a": 2})
    assert [p.name for p in other.rglob("*")] == ["fingerprint.json"]


def test_a_run_that_goes_on_counts_the_time_of_its_checkpoints(tmp_path: Path) -> None:
    def ended_run(took_s: float, *, fingerprint: int = 1) -> float:
        """The seconds that a run finds spent, which itself takes `took_s` and leaves a checkpoint."""
        partial = clear_partial(tmp_path, "04_stage1", fingerprint={"a": fingerprint})
        found = read_json(partial / "spent.json").get("seconds", 0.0)
        (partial / "checkpoints").mkdir(exist_ok=True)
        for name, at in (("parameters.yaml", 1000.0), ("papermill.log", 1000.0 + took_s)):
            (partial / name).touch()
            os.utime(partial / name, (at, at))
        return found

    assert [ended_run(90.0), ended_run(30.0), ended_run(5.0)] == [0.0, 90.0, 120.0]
    os.replace(tmp_path / ".04_stage1.partial", tmp_path / "04_stage1.failed")
    assert ended_run(1.0) == 125.0
    assert ended_run(1.0, fingerprint=2) == 0.0  # begins anew


def test_a_failed_run_of_the_same_thing_gives_its_checkpoints(tmp_path: Path) -> None:
    first = clear_partial(tmp_path, "04_stage1", fingerprint={"a": 1})
    (first / "checkpoints").mkdir()
    os.replace(first, tmp_path / "04_stage1.failed")
    assert (clear_partial(tmp_path, "04_stage1", fingerprint={"a": 1}) / "checkpoints").is_dir()


def test_a_swap_that_was_cut_in_half_is_undone(tmp_path: Path) -> None:
    (tmp_path / ".01_data.old").mkdir()
    restore_old(tmp_path, "01_data")
    assert (tmp_path / "01_data").is_dir()
    (tmp_path / ".01_data.partial").mkdir()
    (tmp_path / ".01_data.partial" / "new").touch()
    swap_in(tmp_path, "01_data")
    assert [p.name for p in tmp_path.iterdir()] == ["01_data"]
    assert (tmp_path / "01_data" / "new").exists()
