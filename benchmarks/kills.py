"""Does a run that is killed at any moment lose or spoil a result, or leave a process behind?

    python benchmarks/kills.py [--kills 50] [--chapters 01 02 04 05] [--seed 0]

Smoke runs of several chapters, in a folder of their own. An undisturbed run gives their time and their results. Then the
runner, its guard or the kernel gets SIGKILL at a random moment, again and again; each run goes on where the last one was
cut short, and a run that ends before its kill begins anew. After each kill: do processes of the run live on (`left`)? Is
a finished chapter gone (`lost`), or other than its run.json says (`spoiled`)? In the end an undisturbed run must pass,
with the records and adapters of the first one (`different`). A smoke training is too short to leave a checkpoint before
its end; tests/test_train.py resumes one. Prints JSON lines (`make soak`).
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

from mtive_nb.run.content import hash_file, results_digest, results_of
from mtive_nb.run.stale import read_run

HOME = Path(__file__).resolve().parents[1]
PATIENCE_S = 60.0  # a runner whose guard or kernel was killed ends within this time
VICTIMS = {"runner": "-m mtive_nb run", "guard": "mtive_nb.run.guard", "kernel": "ipykernel_launcher"}


def start(home: Path, chapters: list[str]) -> subprocess.Popen:
    """Start a runner of the smoke profile's chapters in the project at `home`."""
    words = [sys.executable, "-m", "mtive_nb", "run", "smoke", *chapters]
    settings = os.environ | {"MTIVE_HOME": str(home)}
    settings["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HOME), settings.get("PYTHONPATH")]))
    with (home / "log.txt").open("a") as log:
        return subprocess.Popen(words, cwd=HOME, env=settings, stdout=log, stderr=subprocess.STDOUT)


def undisturbed(home: Path, chapters: list[str]) -> float:
    """Run to the end and return the seconds it took. Errors: RuntimeError where the run fails."""
    started = time.monotonic()
    if status := start(home, chapters).wait():
        raise RuntimeError(f"the run ended with status {status}:\n{(home / 'log.txt').read_text()[-2000:]}")
    return time.monotonic() - started


def finished(home: Path) -> dict[str, bool]:
    """Return each finished chapter, and whether its results are those that its run.json names."""
    folders = [path.parent for path in (home / "outputs" / "smoke").glob("[0-9][0-9]_*/run.json")]
    folders = [folder for folder in folders if not folder.name.endswith(".failed")]
    return {f.name: read_run(f).get("results") == results_digest(results_of(f)) for f in folders}


def made(home: Path) -> dict[str, str]:
    """Hash the records and adapters of all chapters; tables hold times, which differ from run to run."""
    smoke = home / "outputs" / "smoke"
    files = [*smoke.glob("[0-9][0-9]_*/records/*.jsonl"), *smoke.glob("[0-9][0-9]_*/**/*.safetensors")]
    return {path.relative_to(smoke).as_posix(): hash_file(path) for path in files}


def command_of(process: psutil.Process) -> str:
    """Return a process's command line, "" where it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def of_project(home: Path) -> list[psutil.Process]:
    """Return the processes that work for the project at `home`."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("MTIVE_HOME") == str(home):
                found.append(process)
    return found


def kill(runner: subprocess.Popen, victim: str, home: Path) -> tuple[str, int]:
    """Kill the victim, or the runner where there is none yet; returns who was killed and how many processes live on."""
    started = [psutil.Process(runner.pid), *psutil.Process(runner.pid).children(recursive=True)]
    found = [process for process in started if VICTIMS[victim] in command_of(process)]
    os.kill(found[0].pid if found else runner.pid, signal.SIGKILL)
    try:
        runner.wait(PATIENCE_S)
    finally:
        _, alive = psutil.wait_procs({*started, *of_project(home)}, timeout=PATIENCE_S)
        for process in alive:
            process.kill()
    return victim if found else "runner", len(alive)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--chapters", nargs="+", default=["01", "02", "04", "05"])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draws, counts, killed = random.Random(given.seed), Counter(left=0, lost=0, spoiled=0), Counter()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        for folder in ("notebooks", "params", "pyproject.toml"):
            (home / folder).symlink_to(HOME / folder)
        took_s = undisturbed(home, given.chapters)
        wanted, before = made(home), {}
        if not wanted:
            raise RuntimeError(f"{given.chapters}: found no records and no adapters to compare")
        shutil.rmtree(home / "outputs")
        while killed.total() < given.kills:
            runner = start(home, given.chapters)
            try:
                runner.wait(draws.uniform(0, took_s))
                shutil.rmtree(home / "outputs")  # it was done before its kill
                before, counts["runs that ended first"] = {}, counts["runs that ended first"] + 1
                continue
            except subprocess.TimeoutExpired:
                who, left = kill(runner, draws.choice(list(VICTIMS)), home)
            now = finished(home)
            killed[who] += 1
            counts.update(left=left, lost=len(before.keys() - now.keys()), spoiled=list(now.values()).count(False))
            before = now
            print(json.dumps({"kill": killed.total(), "of": who, "finished": sorted(now), **counts}), flush=True)
        undisturbed(home, given.chapters)
        again = made(home)
    counts["different"] = sum(wanted.get(file) != again.get(file) for file in {*wanted, *again})
    for metric, value in (counts | {f"{who}s killed": n for who, n in killed.items()}).items():
        print(json.dumps({"metric": metric, "value": value, "n": killed.total(), "files compared": len(wanted)}))
    sys.exit(any(counts[fault] for fault in ("left", "lost", "spoiled", "different")))


if __name__ == "__main__":
    main()
