"""One runner per profile: a lock that the operating system releases when its holders end."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

# After a kill -9 of the runner, its guards need a moment to end the kernels.
PATIENCE_S = 15.0


class LockedError(RuntimeError):
    """Another runner, or notebooks of a runner that has ended, hold this profile's lock, or it cannot be written."""


@contextmanager
def profile_lock(profile_dir: Path) -> Iterator[int]:
    """Hold the profile's lock and yield its file descriptor; guards inherit it, so the lock outlives a killed runner.

    If the lock's runner is dead, wait up to PATIENCE_S for its notebooks to end. Errors: LockedError.
    """
    path = profile_dir / ".lock"
    try:
        profile_dir.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise LockedError(
            f"outputs/{profile_dir.name} cannot be written ({error.strerror}: {error.filename}); make it writable, or "
            "point MTIVE_HOME at a project of your own"
        ) from None
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pid = _holder(path)
                if _alive(pid):
                    raise LockedError(
                        f"another runner (process {pid}) is at work in outputs/{profile_dir.name}; "
                        f"wait for it, or end it with: kill {pid}"
                    ) from None
                if time.monotonic() > deadline:
                    raise LockedError(
                        f"outputs/{profile_dir.name}/.lock is held by notebooks of a runner that has ended "
                        f"(process {pid}); "
                        "end their processes (python -m mtive_nb.run.guard ...) and start again"
                    ) from None
                time.sleep(0.2)
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps({"pid": os.getpid()}).encode(), 0)
        yield fd
    finally:
        os.close(fd)


def _holder(path: Path) -> int | None:
    try:
        return json.loads(path.read_text())["pid"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return None


def _alive(pid: int | None) -> bool:
    try:
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
