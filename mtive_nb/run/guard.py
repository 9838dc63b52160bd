"""`python -m mtive_nb.run.guard COMMAND ...` runs a command and ends its process tree when the runner ends.

The runner holds the other end of the guard's stdin and never writes to it. The pipe closes when the runner ends, even
by kill -9. Killing papermill's process group would not suffice, because a kernel has its own session. If the guard itself
is killed, papermill dies with it (Linux), and the runner, or the next one, ends what is left in the run's folder.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil

GRACE_S = 2.0
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
RUN_DIR = "MTIVE_RUN_DIR"  # in the environment of all processes of a run: its folder


def die_with_parent() -> None:
    """Have this process killed when its parent ends (Linux; on other systems a kernel ends itself)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def adopt_orphans() -> None:
    """Make this process the parent of orphaned descendants (Linux; on other systems a kernel ends itself)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_descendants() -> None:
    """Terminate all descendants of this process; after GRACE_S, kill the rest."""
    below = psutil.Process().children(recursive=True)
    for process in below:
        _signal(process, signal.SIGTERM)
    _, left = psutil.wait_procs(below, timeout=GRACE_S)
    # Another process may have started in the meantime.
    for process in {*left, *psutil.Process().children(recursive=True)}:
        _signal(process, signal.SIGKILL)


def end_workers_of(folder: Path) -> int:
    """Kill the processes that a runner's run in this folder has left behind; return how many there were.

    Call it only with the profile's lock: no other run works in the folder then.
    """
    found = [process for process in psutil.process_iter() if _run_dir(process) == str(folder)]
    found = [process for process in found if process.pid != os.getpid()]
    for process in found:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(found, timeout=GRACE_S)
    return len(found)


def _run_dir(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(RUN_DIR)
    except (psutil.Error, OSError):  # of another user, or just ended
        return None


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass


def _watch_runner() -> None:
    while os.read(0, 1024):
        pass
    end_descendants()
    os._exit(128 + signal.SIGTERM)


def main(command: list[str]) -> int:
    """Run `command` and return its exit code (128 + signal number if a signal ended it)."""
    adopt_orphans()
    # Started before the thread, since between fork and exec only a process of one thread may run Python.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
    threading.Thread(target=_watch_runner, daemon=True).start()
    # The runner handles Ctrl-C and closes the pipe. SIGTERM to the guard itself also ends the children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: (end_descendants(), os._exit(128 + signal.SIGTERM)))
    code = child.wait()
    # A dead papermill leaves its kernel behind.
    end_descendants()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
