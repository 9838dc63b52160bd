"""Run work on one model in several local processes: experts, answers, scores, or one data-parallel training run.

A pocket-sized model spends much of its time outside matrix products, where threads do not help. On two cores, two
processes of one thread each are faster than two threads (LOG.md). On a GPU, use one worker.
"""

import copy
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import multiprocessing

from mtive_nb.model.load import Vlm
from mtive_nb.model.stack import LoraStack
from mtive_nb.model.train import Training, train_adapter
from mtive_nb.run import progress
from mtive_nb.run.guard import die_with_parent

_mine: LoraStack | Vlm | None = None  # a worker's own copy of the model


def on_gpu(model: object) -> bool:
    """Return whether a stack or a VLM lies on a GPU; other workers' tools, such as roles behind an address, do not."""
    device = getattr(getattr(model, "vlm", model), "device", None)
    return device is not None and device.type == "cuda"


def share_of_the_cores(processes: int) -> int:
    return max(1, len(os.sched_getaffinity(0)) // processes)


def _copy_model(model: LoraStack | Vlm, threads: int) -> None:
    global _mine
    die_with_parent()
    torch.set_num_threads(threads)
    _mine = copy.deepcopy(model)  # the received model lies in memory that all processes share


def _on_my_copy(work: Callable, item: tuple) -> object:
    return work(_mine, *item)


def by_processes(
    model: LoraStack | Vlm, work: Callable, items: Sequence[tuple], *, workers: int = 2, what: str = ""
) -> list:
    """Return [work(copy of the model, *item) for item in items], computed by `workers` processes.

    A single worker uses the model itself, as does a model on a GPU, of which processes would each need a copy. `what`: label of the progress line; empty if the work shows its own progress.
    """
    if workers < 2 or on_gpu(model):
        return [work(model, *item) for item in (progress(items, what=what) if what else items)]
    threads, spawn = share_of_the_cores(workers), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=_copy_model, initargs=(model, threads)) as pool:
        begun = [pool.submit(_on_my_copy, work, item) for item in items]
        return [done.result() for done in (progress(begun, what=what) if what else begun)]


def batches_of_each(accumulate: int, processes: int) -> int:
    """Return how many of a step's `accumulate` batches each process runs.

    Errors: ValueError where `accumulate` is not a multiple of `processes`.
    """
    if accumulate % processes:
        raise ValueError(f"accumulate: found {accumulate} batches a step; expected a multiple of {processes} processes")
    return accumulate // processes


def _train_a_share(rank: int, processes: int, port: int, stack: LoraStack, name: str, records: list[dict],
                   training: Training, held_out: Sequence[dict], checkpoints: Path | None, log: Path) -> None:  # fmt: skip
    torch.set_num_threads(share_of_the_cores(processes))
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    os.environ |= {k: str(v) for k, v in (where | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}).items()}
    own = copy.deepcopy(stack)  # the received stack lies in memory that all processes share
    found = train_adapter(own, name, records, training, held_out=held_out, checkpoints=checkpoints)
    if rank == 0:
        stack.put_weights(name, own.adapter_weights(name))
        found.to_pickle(log)


def train_adapter_in_shares(
    stack: LoraStack,
    name: str,
    records: list[dict],
    training: Training,
    *,
    held_out: Sequence[dict] = (),
    checkpoints: Path | None = None,
    processes: int = 1,
) -> pd.DataFrame:
    """Train as train_adapter does, with each step's batches divided among `processes`: the same adapter up to rounding.

    For a small model on a CPU; on a GPU a single process takes all. Errors: ValueError where `accumulate` is not a multiple of `processes`.
    """
    if processes < 2 or on_gpu(stack):
        return train_adapter(stack, name, records, training, held_out=held_out, checkpoints=checkpoints)
    training = replace(training, accumulate=batches_of_each(training.accumulate, processes))
    # torch advises against a check that batches without photos need; a process reads the level when it loads torch.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stack.model.share_memory()
    with tempfile.TemporaryDirectory() as folder:
        checkpoints, log = checkpoints or Path(folder) / "checkpoints", Path(folder) / "log.pkl"
        share = (processes, port, stack, name, records, training, held_out, checkpoints, log)
        stack.hashes.pop(name, None)  # what was saved is another adapter than what is trained here
        multiprocessing.spawn(_train_a_share, share, nprocs=processes, daemon=True)
        stack.activate(name)
        stack.model.eval()
        return pd.read_pickle(log)
