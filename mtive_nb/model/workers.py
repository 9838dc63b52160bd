"""Independent pieces of work on one model, by several processes of this machine: experts, answers, scores.

A pocket-sized model spends much of its time between its matrices, where threads do not help: on two cores two processes
of one thread each are faster than two threads (LOG.md). On a GPU one process at a time is the rule: one worker.
"""

import copy
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

import torch
from torch import multiprocessing

from mtive_nb.model.load import Vlm
from mtive_nb.model.stack import LoraStack
from mtive_nb.run import progress

_mine: LoraStack | Vlm | None = None  # a worker's own copy of the model


def share_of_the_cores(processes: int) -> int:
    return max(1, len(os.sched_getaffinity(0)) // processes)


def _copy_model(model: LoraStack | Vlm, threads: int) -> None:
    global _mine
    torch.set_num_threads(threads)
    _mine = copy.deepcopy(model)  # what arrives lies in memory that all processes share


def _on_my_copy(work: Callable, item: tuple) -> object:
    return work(_mine, *item)


def by_processes(
    model: LoraStack | Vlm, work: Callable, items: Sequence[tuple], *, workers: int = 2, what: str = ""
) -> list:
    """[work(a copy of the model, *item) for item in items], by so many processes; one worker is the model itself.

    `what`: the name under which progress is shown, none where the work shows its own.
    """
    if workers < 2:
        return [work(model, *item) for item in (progress(items, what=what) if what else items)]
    threads, spawn = share_of_the_cores(workers), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=_copy_model, initargs=(model, threads)) as pool:
        begun = [pool.submit(_on_my_copy, work, item) for item in items]
        return [done.result() for done in (progress(begun, what=what) if what else begun)]
