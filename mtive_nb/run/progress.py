"""Plain-text progress: one rewritten line in a terminal or JupyterLab, one line every 30 s in a batch run.

tqdm's widgets freeze at 0% in static HTML, and its plain bar writes ten lines a second into an executed notebook.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")
# The runner finds this mark in a notebook's log and prints the inner progress beside the cell number.
MARK = "[progress] "
BATCH_S, INTERACTIVE_S = 30.0, 2.0


def duration(seconds: float) -> str:
    """Format seconds for reading: 8 s, 3 min 05 s, 1 h 20 min."""
    whole = int(round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def in_batch() -> bool:
    """Return whether the runner started this process."""
    return os.environ.get("MTIVE_BATCH") == "1"


def progress(iterable: Iterable[T], total: int | None = None, *, what: str = "") -> Iterator[T]:
    """Yield from `iterable` and print the count, the elapsed time and the time left.

    `total`: number of items if `iterable` has no length. Without `total` or a length, the time left is not shown.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    every_s = BATCH_S if in_batch() else INTERACTIVE_S
    started = shown = time.monotonic()
    count = 0
    for item in iterable:
        yield item
        count += 1
        now = time.monotonic()
        if now - shown >= every_s:
            shown = now
            _show(_line(count, total, now - started, what=what))
    # A loop shorter than every_s prints nothing; otherwise the last line shows the end.
    if shown != started:
        _show(_line(count, total, time.monotonic() - started, what=what), last=True)


def _line(count: int, total: int | None, elapsed_s: float, *, what: str) -> str:
    label = f"{what}: " if what else ""
    if not total:
        return f"{MARK}{label}{count} done, {duration(elapsed_s)}"
    left_s = elapsed_s / max(count, 1) * (total - count)
    left = f", about {duration(left_s)} left" if count < total else ""
    return f"{MARK}{label}{count}/{total} ({100 * count // total}%), {duration(elapsed_s)}{left}"


def _show(line: str, *, last: bool = False) -> None:
    if in_batch():
        print(line, flush=True)
    else:
        sys.stdout.write("\r" + line.removeprefix(MARK).ljust(100) + ("\n" if last else ""))
        sys.stdout.flush()
