"""One notebook in papermill: a process of its own, a temporary folder, a rename when it ended well."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mtive_nb.run.atomic import write_atomic
from mtive_nb.run.content import RESULTS, results_digest, results_of
from mtive_nb.run.graph import Notebook
from mtive_nb.run.progress import MARK
from mtive_nb.run.stale import read_run

FINGERPRINT, LOG = "fingerprint.json", "papermill.log"


def partial_dir(profile_dir: Path, name: str) -> Path:
    """Where a run writes until it ended well; hidden, so that nothing takes it for a result."""
    return profile_dir / f".{name}.partial"


def failed_dir(profile_dir: Path, name: str) -> Path:
    """Where a failed run is kept aside."""
    return profile_dir / f"{name}.failed"


def clear_partial(profile_dir: Path, name: str, *, fingerprint: dict[str, Any]) -> Path:
    """An empty temporary folder, but for the checkpoints of a broken-off or failed run of the very same thing."""
    partial, failed = partial_dir(profile_dir, name), failed_dir(profile_dir, name)
    if _made_of(partial) == fingerprint:
        for path in partial.iterdir():
            if path.name not in ("checkpoints", FINGERPRINT):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return partial
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if _made_of(failed) == fingerprint and (failed / "checkpoints").is_dir():
        os.replace(failed / "checkpoints", partial / "checkpoints")
    write_atomic(partial / FINGERPRINT, json.dumps(fingerprint))
    return partial


def _made_of(folder: Path) -> dict[str, Any] | None:
    """The fingerprint that a run was started with."""
    try:
        return json.loads((folder / FINGERPRINT).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def restore_old(profile_dir: Path, name: str) -> None:
    """Undo half a swap: a runner killed between the two renames left the good result under another name."""
    old, target = profile_dir / f".{name}.old", profile_dir / name
    if old.is_dir():
        if target.exists():
            shutil.rmtree(old)
        else:
            os.replace(old, target)


def swap_in(profile_dir: Path, name: str) -> None:
    """Put the finished temporary folder in the place of the last good result."""
    old, target = profile_dir / f".{name}.old", profile_dir / name
    if target.exists():
        os.replace(target, old)
    os.replace(partial_dir(profile_dir, name), target)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(failed_dir(profile_dir, name), ignore_errors=True)


def cell_states(executed: Path) -> list[str]:
    """papermill's state of each cell of an executed notebook: pending, running, completed, failed."""
    try:
        cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    except (FileNotFoundError, json.JSONDecodeError):
        return []  # papermill is writing it
    return [cell["metadata"].get("papermill", {}).get("status", "pending") for cell in cells]


@dataclass
class NotebookJob:
    """A notebook that is being run. `threads`: what OpenMP may use."""

    notebook: Notebook
    profile_dir: Path
    home: Path
    parameters: dict[str, Any]
    fingerprint: dict[str, Any]
    command: str
    threads: int
    lock_fd: int | None = None
    started: float = field(default_factory=time.monotonic)
    process: subprocess.Popen | None = None

    @property
    def executed(self) -> Path:
        """The executed notebook, saved by papermill after each cell."""
        return partial_dir(self.profile_dir, self.notebook.name) / f"{self.notebook.name}.ipynb"

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    def start(self) -> None:
        """Start papermill under a guard. Nothing of the last good result is touched."""
        partial = clear_partial(self.profile_dir, self.notebook.name, fingerprint=self.fingerprint)
        values = partial / "parameters.yaml"
        write_atomic(values, dump_for_papermill(self.parameters))
        words = [sys.executable, "-m", "mtive_nb.run.guard", sys.executable, "-m", "papermill"]
        words += [str(self.notebook.path), str(self.executed), "-f", str(values), "-k", "python3", "-l", "python"]
        words += ["--cwd", str(self.home), "--no-progress-bar", "--log-output", "--autosave-cell-every", "30"]
        with (partial / LOG).open("wb") as log:
            self.process = subprocess.Popen(
                words,
                cwd=self.home,
                env=self.environment(partial),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # While a guard lives the lock is held, also after the runner was killed.
                pass_fds=() if self.lock_fd is None else (self.lock_fd,),
            )

    def environment(self, partial: Path) -> dict[str, str]:
        """The child's environment: where to write, what it is, and how many threads it may use."""
        # The notebook's working directory is the project's, the caller's may be another.
        data = os.environ.get("MTIVE_DATA")
        given = {"MTIVE_DATA": str(Path(data).resolve())} if data else {}
        return (os.environ | given) | {
            "MTIVE_HOME": str(self.home),
            "MTIVE_RUN_DIR": str(partial),
            "MTIVE_PROFILE_DIR": str(self.profile_dir),
            "MTIVE_PARAMETERS": json.dumps(self.parameters),
            "MTIVE_COMMAND": self.command,
            "MTIVE_BATCH": "1",
            "OMP_NUM_THREADS": str(self.threads),
            # The environment's own kernel, not one of the same name in the user's home.
            "JUPYTER_PREFER_ENV_PATH": "1",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }

    def finish(self) -> str | None:
        """Settle an ended process: None when its result now stands in place, else what went wrong."""
        problem = self._problem()
        name, partial = self.notebook.name, partial_dir(self.profile_dir, self.notebook.name)
        if problem is None:
            if os.environ.get("MTIVE_KEEP") != "1":
                shutil.rmtree(partial / "checkpoints", ignore_errors=True)
            record, results = read_run(partial), results_of(partial)
            write_atomic(partial / RESULTS, json.dumps(results))
            record |= {
                "notebook": name,
                "parameters": self.parameters,
                "command": self.command,
                "seconds": record.get("seconds") or round(self.elapsed_s, 1),
                "wall_seconds": round(self.elapsed_s, 1),
                "fingerprint": self.fingerprint,
                "results": results_digest(results),
            }
            write_atomic(partial / "run.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
            swap_in(self.profile_dir, name)
            return None
        failed = failed_dir(self.profile_dir, name)
        shutil.rmtree(failed, ignore_errors=True)
        os.replace(partial, failed)
        return f"{problem}; kept aside: outputs/{self.profile_dir.name}/{failed.name}/{LOG}"

    def _problem(self) -> str | None:
        """Only the exit code counts, and cells that never ran: a dead kernel leaves cells marked completed."""
        code = self.process.wait()
        if code != 0:
            return f"papermill ended with exit code {code}{' (its kernel or itself was killed)' if code > 128 else ''}"
        states = cell_states(self.executed)
        undone = [number for number, state in enumerate(states, start=1) if state != "completed"]
        if undone or not states:
            return f"cells {', '.join(map(str, undone)) or 'all'} did not run, although papermill ended with 0"
        return None

    def stop(self) -> None:
        """End papermill and its kernel; the temporary folder stays, its checkpoints serve the next run."""
        if self.process is not None and self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def last_lines(self, count: int) -> list[str]:
        """The end of the log, for a message."""
        for folder in (partial_dir, failed_dir):
            log = folder(self.profile_dir, self.notebook.name) / LOG
            if log.exists():
                with log.open("rb") as file:
                    file.seek(max(0, log.stat().st_size - 8192))
                    return file.read().decode(errors="replace").splitlines()[-count:]
        return []

    def inner_progress(self) -> str:
        """The newest line of `progress` in the running cell, without its mark; often empty."""
        marked = [line.split(MARK, 1)[1] for line in self.last_lines(200) if MARK in line]
        return marked[-1].strip() if marked else ""


def dump_for_papermill(parameters: dict[str, Any]) -> str:
    """YAML that papermill's own loader reads back as the same values (PyYAML writes 1e-4 as 0.0001 or 1.0e-05)."""
    return yaml.safe_dump(parameters, allow_unicode=True, sort_keys=False)
