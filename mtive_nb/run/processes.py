"""Spreads independent items of work over processes."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from mtive_nb.run.guard import die_with_parent

Item, Found = TypeVar("Item"), TypeVar("Found")


def spread(work: Callable[[Item], Found], items: Sequence[Item], *, processes: int, chunk: int) -> list[Found]:
    """Return `work(item)` of each item in their order, by so many processes that take `chunk` items at a time."""
    if processes <= 1:
        return [work(item) for item in items]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawn, initializer=die_with_parent) as pool:
        return list(pool.map(work, items, chunksize=chunk))
