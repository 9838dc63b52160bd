"""Spreads independent items of work over processes."""

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from mtive_nb.run.guard import die_with_parent
from mtive_nb.run.progress import progress

Item, Found = TypeVar("Item"), TypeVar("Found")


def spread(
    work: Callable[[Item], Found], items: Sequence[Item], *, processes: int, chunk: int, what: str = ""
) -> list[Found]:
    """Return `work(item)` of each item in their order, by so many processes that take `chunk` items at a time.

    what: label of the progress line, "" for none.
    """

    def shown(found: Iterable[Found]) -> Iterable[Found]:
        return progress(found, len(items), what=what) if what else found

    if processes <= 1:
        return list(shown(map(work, items)))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawn, initializer=die_with_parent) as pool:
        return list(shown(pool.map(work, items, chunksize=chunk)))
