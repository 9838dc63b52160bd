"""Training many adapters that do not depend on each other, several at a time.

Experts share a frozen trunk and nothing else, so each can be trained by a process of its own. A pocket-sized model spends
much of its time between its matrices, where threads do not help: on two cores two processes of one thread each are
faster than two threads (LOG.md). On a GPU one process at a time is the rule: `processes=1`.
"""

import copy
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import pandas as pd
import torch
from torch import multiprocessing

from mtive_nb.model.stack import AdapterSpec, LoraStack
from mtive_nb.model.train import train_adapter


@dataclass(frozen=True)
class Job:
    """An adapter to be trained: its name, what it is, what it stands on, and how it learns."""

    name: str
    spec: AdapterSpec
    parent: str | None
    records: list[dict]
    steps: int
    rate: float


_mine: LoraStack | None = None  # a worker's own copy of the stack


def _copy_stack(stack: LoraStack, threads: int) -> None:
    global _mine
    torch.set_num_threads(threads)
    _mine = copy.deepcopy(stack)  # what arrives lies in memory that all processes share


def _train(stack: LoraStack, job: Job, given: dict) -> pd.DataFrame:
    torch.manual_seed(given["seed"])  # an adapter's first weights do not depend on what was trained before it
    stack.add(job.name, job.spec, parent=job.parent)
    return train_adapter(stack, job.name, job.records, steps=job.steps, rate=job.rate, **given)


def _train_in_worker(job: Job, given: dict) -> tuple[pd.DataFrame, dict[str, torch.Tensor]]:
    log = _train(_mine, job, given)
    weights = {n: w.numpy() for n, w in _mine.adapter_weights(job.name).items()}
    _mine.unload(job.name)
    return log, weights


def train_adapters(stack: LoraStack, jobs: Sequence[Job], *, processes: int = 1, **given: object) -> dict[str, pd.DataFrame]:  # fmt: skip
    """Train every job's adapter and leave all of them on `stack`; returns {name: log of train_adapter}.

    `given` goes to train_adapter: root, checkpoints, batch, accumulate, side_px, checkpointing, seed. The result is the
    same for any number of `processes`; each takes its share of the cores.
    """
    given = {"seed": 0, **given}
    if processes < 2:
        return {job.name: _train(stack, job, given) for job in jobs}
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    longest_first, found = sorted(jobs, key=lambda j: -j.steps), {}
    with ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=_copy_stack, initargs=(stack, threads)
    ) as pool:
        waiting = {pool.submit(_train_in_worker, job, given): job for job in longest_first}
        for done in as_completed(waiting):
            found[waiting[done].name] = done.result()
    for job in jobs:
        stack.add(job.name, job.spec, parent=job.parent)
        mine = stack.adapter_weights(job.name)
        for name, weight in found[job.name][1].items():
            mine[name].copy_(torch.from_numpy(weight))
    stack.activate(jobs[-1].name)
    stack.model.eval()
    return {job.name: found[job.name][0] for job in jobs}
