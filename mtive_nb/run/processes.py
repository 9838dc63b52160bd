"""Spreads independent items of work over processes."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Item, Found = TypeVar("Item"), TypeVar("Found")


def spread(work: Callable[[Item], Found], items: Sequence[Item], *, processes: int, chunk: int) -> list[Found]:
    """Return `work(item)` of each item in their order, by so many processes that take `chunk` items at a time."""
    if processes <= 1:
        return [work(item) for item in items]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(work, items, chunksize=chunk))
