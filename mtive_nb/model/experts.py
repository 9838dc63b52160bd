"""Training many adapters that do not depend on each other, several at a time.

Experts share a frozen trunk and nothing else, so each can be trained by a worker of its own (workers.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from mtive_nb.model.stack import AdapterSpec, LoraStack
from mtive_nb.model.train import train_adapter
from mtive_nb.model.workers import by_processes


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


def _train(stack: LoraStack, job: Job, given: dict) -> pd.DataFrame:
    torch.manual_seed(given["seed"])  # an adapter's first weights do not depend on what was trained before it
    stack.add(job.name, job.spec, parent=job.parent)
    return train_adapter(stack, job.name, job.records, steps=job.steps, rate=job.rate, beta=job.beta, **given)


def _train_and_take(stack: LoraStack, job: Job, given: dict) -> tuple[pd.DataFrame, dict[str, torch.Tensor]]:
    log = _train(stack, job, given)
    weights = {n: w.numpy() for n, w in stack.adapter_weights(job.name).items()}
    stack.unload(job.name)
    return log, weights


def train_adapters(stack: LoraStack, jobs: Sequence[Job], *, processes: int = 1, each: Callable = by_processes,
                   **given: object) -> dict[str, pd.DataFrame]:  # fmt: skip
    """Train every job's adapter and leave all of them on `stack`; returns {name: log of train_adapter}.

    `given` goes to train_adapter: root, checkpoints, batch, accumulate, side_px, checkpointing, seed. The result is the
    same for any number of `processes`, each with its share of the cores, and for `each` by_ray of serve/cluster.py.
    """
    given = {"seed": 0, **given}
    if processes < 2:
        return {job.name: _train(stack, job, given) for job in jobs}
    longest_first = sorted(jobs, key=lambda job: -job.steps)
    found = each(stack, _train_and_take, [(job, given) for job in longest_first], workers=processes)
    trained = dict(zip([job.name for job in longest_first], found, strict=True))
    for job in jobs:
        stack.add(job.name, job.spec, parent=job.parent)
        stack.put_weights(job.name, {n: torch.from_numpy(w) for n, w in trained[job.name][1].items()})
    stack.activate(jobs[-1].name)
    stack.model.eval()
    return {job.name: trained[job.name][0] for job in jobs}
