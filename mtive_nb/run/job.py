"""One notebook run by papermill: its own process, a temporary folder, a rename on success."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mtive_nb.run.atomic import remove, write_atomic
from mtive_nb.run.content import RESULTS, read_json, results_digest, results_of
from mtive_nb.run.graph import Notebook
from mtive_nb.run.guard import RUN_DIR, end_workers_of
from mtive_nb.run.progress import MARK
from mtive_nb.run.stale import read_run

FINGERPRINT, PARAMETERS, LOG = "fingerprint.json", "parameters.yaml", "papermill.log"
CHECKPOINTS, SPENT = "checkpoints", "spent.json"


def partial_dir(profile_dir: Path, name: str) -> Path:
    """Return the folder that a run writes to until it succeeds; hidden, so that nothing reads it as a result."""
    return profile_dir / f".{name}.partial"


def failed_dir(profile_dir: Path, name: str) -> Path:
    """Return the folder that keeps a failed run."""
    return profile_dir / f"{name}.failed"


def clear_partial(profile_dir: Path, name: str, *, fingerprint: dict[str, Any]) -> Path:
    """Return an empty temporary folder; it keeps checkpoints of a killed or failed run with the same fingerprint.

    SPENT holds the seconds that these checkpoints took, so that a run that goes on does not look fast.
    """
    partial, failed = partial_dir(profile_dir, name), failed_dir(profile_dir, name)
    spent_s = 0.0
    if partial.is_dir() and read_json(partial / FINGERPRINT) == fingerprint:
        spent_s = _spent_s(partial)
        for path in partial.iterdir():
            if path.name not in (CHECKPOINTS, FINGERPRINT):
                remove(path)
    else:
        remove(partial)
        partial.mkdir(parents=True)
        if read_json(failed / FINGERPRINT) == fingerprint and (failed / CHECKPOINTS).is_dir():
            spent_s = _spent_s(failed)
            os.replace(failed / CHECKPOINTS, partial / CHECKPOINTS)
        write_atomic(partial / FINGERPRINT, json.dumps(fingerprint))
    if spent_s:
        write_atomic(partial / SPENT, json.dumps({"seconds": spent_s}))
    return partial


def _spent_s(folder: Path) -> float:
    """Return the seconds of the runs that left checkpoints: of the last, from its first file to its log's last line."""
    if not (folder / CHECKPOINTS).is_dir():
        return 0.0
    begun, ended = folder / PARAMETERS, folder / LOG
    last_s = ended.stat().st_mtime - begun.stat().st_mtime if begun.exists() and ended.exists() else 0.0
    return read_json(folder / SPENT).get("seconds", 0.0) + last_s


def restore_old(profile_dir: Path, name: str) -> None:
    """Undo a partial swap: a runner killed between its two renames left the good result in .<name>.old."""
    old, target = profile_dir / f".{name}.old", profile_dir / name
    if old.is_dir():
        if target.exists():
            shutil.rmtree(old)
        else:
            os.replace(old, target)


def swap_in(profile_dir: Path, name: str) -> None:
    """Replace the last good result with the finished temporary folder."""
    old, target = profile_dir / f".{name}.old", profile_dir / name
    if target.exists():
        os.replace(target, old)
    os.replace(partial_dir(profile_dir, name), target)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(failed_dir(profile_dir, name), ignore_errors=True)


def cell_states(executed: Path) -> list[str]:
    """Return papermill's state of each cell of an executed notebook: pending, running, completed, failed."""
    try:
        cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    except (FileNotFoundError, ValueError):
        return []  # papermill is still writing the file, perhaps in the middle of a character
    return [cell["metadata"].get("papermill", {}).get("status", "pending") for cell in cells]


def _left_out(folder: Path) -> str:
    return read_run(folder).get("notes", {}).get("left_out", "")


@dataclass
class NotebookJob:
    """A running notebook. `threads`: number of OpenMP threads."""

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
        """Start papermill under a guard. The last good result stays unchanged."""
        end_workers_of(partial_dir(self.profile_dir, self.notebook.name))  # of a runner and a guard that were killed
        partial = clear_partial(self.profile_dir, self.notebook.name, fingerprint=self.fingerprint)
        values = partial / PARAMETERS
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
                # A living guard holds the lock, even after the runner was killed.
                pass_fds=() if self.lock_fd is None else (self.lock_fd,),
            )

    def environment(self, partial: Path) -> dict[str, str]:
        """Return the child's environment: folders, parameters, command and number of threads."""
        # Resolved here: the notebook runs in the project's folder, which may differ from the caller's.
        data = os.environ.get("MTIVE_DATA")
        given = {"MTIVE_DATA": str(Path(data).resolve())} if data else {}
        return (os.environ | given) | {
            "MTIVE_HOME": str(self.home),
            RUN_DIR: str(partial),
            "MTIVE_PROFILE_DIR": str(self.profile_dir),
            "MTIVE_PARAMETERS": json.dumps(self.parameters),
            "MTIVE_COMMAND": self.command,
            "MTIVE_BATCH": "1",
            "OMP_NUM_THREADS": str(self.threads),
            # Use this environment's kernel, not a kernel of the same name in the user's home.
            "JUPYTER_PREFER_ENV_PATH": "1",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }

    def finish(self) -> str | None:
        """Move an ended run into place and return None, or keep it as failed and return what went wrong."""
        problem = self._problem()
        end_workers_of(partial_dir(self.profile_dir, self.notebook.name))  # of a guard that was killed
        name, partial = self.notebook.name, partial_dir(self.profile_dir, self.notebook.name)
        if problem is None:
            wall_s = self.elapsed_s + read_json(partial / SPENT).get("seconds", 0.0)
            (partial / SPENT).unlink(missing_ok=True)
            if os.environ.get("MTIVE_KEEP") != "1":
                shutil.rmtree(partial / CHECKPOINTS, ignore_errors=True)
            record, results = read_run(partial), results_of(partial)
            write_atomic(partial / RESULTS, json.dumps(results))
            record |= {
                "notebook": name,
                "parameters": self.parameters,
                "command": self.command,
                "seconds": record.get("seconds") or round(self.elapsed_s, 1),
                "wall_seconds": round(wall_s, 1),
                "fingerprint": self.fingerprint,
                "results": results_digest(results),
            }
            write_atomic(partial / "run.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
            swap_in(self.profile_dir, name)
            return None
        failed = failed_dir(self.profile_dir, name)
        shutil.rmtree(failed, ignore_errors=True)
        os.replace(partial, failed)
        return f"{problem}; the failed run is kept, see outputs/{self.profile_dir.name}/{failed.name}/{LOG}"

    @property
    def left_out(self) -> str:
        """Why a finished chapter ended before its last cell (Run.leave_out), or an empty text."""
        return _left_out(self.profile_dir / self.notebook.name)

    def _problem(self) -> str | None:
        """Return what went wrong, or None. A dead kernel leaves cells marked completed, so the exit code counts first."""
        code = self.process.wait()
        if _left_out(partial_dir(self.profile_dir, self.notebook.name)):
            return None
        if code < 0:
            return f"its guard was killed ({signal.Signals(-code).name})"
        if code != 0:
            return f"papermill ended with exit code {code}{' (papermill or the kernel killed)' if code > 128 else ''}"
        states = cell_states(self.executed)
        undone = [number for number, state in enumerate(states, start=1) if state != "completed"]
        if undone or not states:
            return f"cells {', '.join(map(str, undone)) or 'all'} did not run, although the exit code of papermill is 0"
        return None

    def stop(self) -> None:
        """End papermill and its kernel; keep the temporary folder, so that the next run can use its checkpoints."""
        if self.process is not None and self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
            end_workers_of(partial_dir(self.profile_dir, self.notebook.name))

    def last_lines(self, count: int) -> list[str]:
        """Return the last `count` lines of the log, for a message."""
        for folder in (partial_dir, failed_dir):
            log = folder(self.profile_dir, self.notebook.name) / LOG
            if log.exists():
                with log.open("rb") as file:
                    file.seek(max(0, log.stat().st_size - 8192))
                    return file.read().decode(errors="replace").splitlines()[-count:]
        return []

    def inner_progress(self) -> str:
        """Return the newest `progress` line of the running cell without its mark, or an empty string."""
        marked = [line.split(MARK, 1)[1] for line in self.last_lines(200) if MARK in line]
        return marked[-1].strip() if marked else ""


def dump_for_papermill(parameters: dict[str, Any]) -> str:
    """Return YAML that papermill's loader reads back as the same values (PyYAML writes 1e-4 as 0.0001 or 1.0e-05)."""
    return yaml.safe_dump(parameters, allow_unicode=True, sort_keys=False)
