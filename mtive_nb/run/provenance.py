"""Provenance of a run: versions, git state, device, peak memory. Queried by calls, never at import."""

import os
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

SHOWN = ("torch", "transformers", "peft", "accelerate", "trl", "numpy", "mtive-nb")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results; "absent" if not installed."""
    found = {"python": platform.python_version()}
    for name in SHOWN:
        try:
            found[name.replace("-", "_")] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name.replace("-", "_")] = "absent"
    return found


def git_state(home: Path) -> dict[str, Any]:
    """Return a checkout's commit and whether files differ from it; None outside git or before the first commit.

    Files under outputs/ do not count: no result depends on the committed results beside it.
    """

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=home, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit, status = ask("rev-parse", "HEAD"), ask("status", "--porcelain", "--", ".", ":(exclude)outputs")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def device_name() -> str:
    """Return the GPU's name if torch is loaded and detects one, else "CPU" with its number of threads."""
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        if torch.cuda.is_available():
            return torch.cuda.get_device_name()
    threads = os.environ.get("OMP_NUM_THREADS") or str(os.cpu_count())
    return f"CPU, {threads} thread{'' if threads == '1' else 's'}"


def peak_mib() -> float:
    """Return the peak main memory of this process, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts in bytes, Linux in KiB.
    return round(peak / 2**20 if sys.platform == "darwin" else peak / 2**10, 1)


def peak_gpu_mib() -> float | None:
    """Return the peak GPU memory that torch allocated, in MiB; None without a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return round(torch.cuda.max_memory_allocated() / 2**20, 1)


def parameters_in_cells() -> dict[str, Any]:
    """Return the UPPER_CASE values of a notebook that is run by hand; empty outside IPython."""
    if "IPython" not in sys.modules or (shell := sys.modules["IPython"].get_ipython()) is None:
        return {}
    kinds = (int, float, str, bool, list, dict)
    return {k: v for k, v in shell.user_ns.items() if k.isupper() and type(v) in kinds and not k.startswith("_")}
