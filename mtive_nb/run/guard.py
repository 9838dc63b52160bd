"""`python -m mtive_nb.run.guard COMMAND ...` runs a command and ends it, with all it started, when the runner is gone.

The runner holds the other end of the guard's stdin and never writes: however the runner ends, kill -9 included, the
pipe closes. Killing papermill's process group would not do: a kernel lives in a session of its own.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading

import psutil

GRACE_S = 2.0
PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Make this process the parent of what its children leave behind (Linux; elsewhere a kernel ends itself)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_descendants() -> None:
    """Ask every process below this one to end, then kill what is left."""
    below = psutil.Process().children(recursive=True)
    for process in below:
        _signal(process, signal.SIGTERM)
    _, left = psutil.wait_procs(below, timeout=GRACE_S)
    # A process that was being started may have come meanwhile.
    for process in {*left, *psutil.Process().children(recursive=True)}:
        _signal(process, signal.SIGKILL)


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
    """Run `command` to its end and return its exit code (128 + signal for one that a signal ended)."""
    adopt_orphans()
    threading.Thread(target=_watch_runner, daemon=True).start()
    # Ctrl-C reaches the runner, which closes the pipe; SIGTERM to the guard itself ends the children likewise.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: (end_descendants(), os._exit(128 + signal.SIGTERM)))
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    code = child.wait()
    # What a dead papermill left behind: its kernel.
    end_descendants()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
