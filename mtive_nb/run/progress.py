"""Progress of long work: a bar in JupyterLab, one rewritten line in a terminal, one line every 30 s in a batch run.

tqdm's widgets freeze at 0% in static HTML, and its plain bar writes ten lines a second into an executed notebook. The
bar here is an HTML element that is updated in place, and that a saved notebook keeps as it stood last.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from html import escape
from typing import Any, TypeVar

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


def progress(iterable: Iterable[T], total: int | None = None, *, what: str | Callable[[], str] = "") -> Iterator[T]:
    """Yield from `iterable` and show the count, the elapsed time and the time left.

    `total`: number of items if `iterable` has no length. Without `total` or a length, the time left is not shown. what:
    a label, or a function that gives one each time it is shown.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    every_s = BATCH_S if in_batch() else INTERACTIVE_S
    label = what if callable(what) else lambda: what
    started = shown = time.monotonic()
    count, show = 0, _shower()
    for item in iterable:
        yield item
        count += 1
        now = time.monotonic()
        if now - shown >= every_s:
            shown = now
            show(_line(count, total, now - started, what=label()), count / total if total else None)
    # A loop shorter than every_s shows nothing; otherwise the last line shows the end.
    if shown != started:
        show(_line(count, total, time.monotonic() - started, what=label()), 1.0, last=True)


def _line(count: int, total: int | None, elapsed_s: float, *, what: str) -> str:
    label = f"{what}: " if what else ""
    if not total:
        return f"{MARK}{label}{count} done, {duration(elapsed_s)}"
    left_s = elapsed_s / max(count, 1) * (total - count)
    left = f", about {duration(left_s)} left" if count < total else ""
    return f"{MARK}{label}{count}/{total} ({100 * count // total}%), {duration(elapsed_s)}{left}"


def _shower() -> Callable[..., None]:
    """Return what shows a line and a share from 0 to 1 (None: unknown) here: batch run, notebook or terminal."""
    if in_batch():
        return lambda line, share, last=False: print(line, flush=True)
    return _bar() if _in_notebook() else _rewrite


def _rewrite(line: str, share: float | None, *, last: bool = False) -> None:
    sys.stdout.write("\r" + line.removeprefix(MARK).ljust(100) + ("\n" if last else ""))
    sys.stdout.flush()


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return hasattr(ipython.get_ipython() if ipython else None, "kernel")


def _bar() -> Callable[..., None]:
    from IPython.display import HTML, display

    handle: Any = None

    def show(line: str, share: float | None, *, last: bool = False) -> None:
        nonlocal handle
        value = "" if share is None else f' value="{share:.3f}"'
        page = HTML(f"<progress{value}></progress> {escape(line.removeprefix(MARK))}")
        if handle is None:
            handle = display(page, display_id=True)
        else:
            handle.update(page)

    return show
