"""Work on a stack by several processes: experts one by one, a stage's steps in shares, answers task by task.

Experts share a frozen trunk and nothing else, so each can be trained by a process of its own. A pocket-sized model spends
much of its time between its matrices, where threads do not help: on two cores two processes of one thread each are
faster than two threads (LOG.md). On a GPU one process at a time is the rule: `processes=1`.
"""

import copy
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
    beta: float = 0.0  # weight of the uniform loss


_mine: LoraStack | None = None  # a worker's own copy of the stack


def _share_of_the_cores(processes: int) -> int:
    return max(1, len(os.sched_getaffinity(0)) // processes)


def _copy_stack(stack: LoraStack, threads: int) -> None:
    global _mine
    torch.set_num_threads(threads)
    _mine = copy.deepcopy(stack)  # what arrives lies in memory that all processes share


def _on_my_copy(work: Callable, *given: object) -> object:
    return work(_mine, *given)


@contextmanager
def copies_of(stack: LoraStack, processes: int) -> Iterator[Callable[..., Future]]:
    """Inside, `submit(work, *given)` has work(a copy of the stack, *given) done by one of so many processes."""
    threads = _share_of_the_cores(processes)
    with ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=_copy_stack, initargs=(stack, threads)
    ) as pool:
        yield lambda work, *given: pool.submit(_on_my_copy, work, *given)


def _train(stack: LoraStack, job: Job, given: dict) -> pd.DataFrame:
    torch.manual_seed(given["seed"])  # an adapter's first weights do not depend on what was trained before it
    stack.add(job.name, job.spec, parent=job.parent)
    return train_adapter(stack, job.name, job.records, steps=job.steps, rate=job.rate, beta=job.beta, **given)


def _train_and_take(stack: LoraStack, job: Job, given: dict) -> tuple[pd.DataFrame, dict[str, torch.Tensor]]:
    log = _train(stack, job, given)
    weights = {n: w.numpy() for n, w in stack.adapter_weights(job.name).items()}
    stack.unload(job.name)
    return log, weights


def train_adapters(stack: LoraStack, jobs: Sequence[Job], *, processes: int = 1, **given: object) -> dict[str, pd.DataFrame]:  # fmt: skip
    """Train every job's adapter and leave all of them on `stack`; returns {name: log of train_adapter}.

    `given` goes to train_adapter: root, checkpoints, batch, accumulate, side_px, checkpointing, seed. The result is the
    same for any number of `processes`; each takes its share of the cores.
    """
    given = {"seed": 0, **given}
    if processes < 2:
        return {job.name: _train(stack, job, given) for job in jobs}
    longest_first, found = sorted(jobs, key=lambda j: -j.steps), {}
    with copies_of(stack, processes) as submit:
        waiting = {submit(_train_and_take, job, given): job for job in longest_first}
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


def _train_a_share(rank: int, processes: int, port: int, stack: LoraStack, name: str, given: dict, log: Path) -> None:
    torch.set_num_threads(_share_of_the_cores(processes))
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    os.environ |= {k: str(v) for k, v in (where | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}).items()}
    own = copy.deepcopy(stack)  # what arrives lies in memory that all processes share
    found = train_adapter(own, name, **given)
    if rank == 0:
        shared = stack.adapter_weights(name)
        for weight_name, weight in own.adapter_weights(name).items():
            shared[weight_name].copy_(weight)
        found.to_pickle(log)


def train_adapter_together(
    stack: LoraStack, name: str, records: list[dict], *, processes: int = 1, accumulate: int = 1, **given: object
) -> pd.DataFrame:
    """As train_adapter, with a step's batches divided among `processes`: the same adapter up to rounding.

    For a small model on a CPU. Errors: ValueError where `accumulate` batches cannot be divided.
    """
    if processes < 2:
        return train_adapter(stack, name, records, accumulate=accumulate, **given)
    if accumulate % processes:
        raise ValueError(f"accumulate: found {accumulate} batches a step; expected a multiple of {processes} processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stack.model.share_memory()
    given |= {"records": records, "accumulate": accumulate // processes}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.pkl"
        multiprocessing.spawn(_train_a_share, (processes, port, stack, name, given, log), nprocs=processes, daemon=True)
        stack.activate(name)
        stack.model.eval()
        return pd.read_pickle(log)
