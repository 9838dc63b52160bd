"""Train many independent adapters, several at a time.

Experts share only a frozen trunk, so a separate worker can train each expert (parallel.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from mtive_nb.model.lineage import AdapterSpec
from mtive_nb.model.parallel import by_processes
from mtive_nb.model.stack import LoraStack
from mtive_nb.model.train import Training, train_adapter

STAGES = {"PT": "04", "IT": "05"}  # the adapters of stages 1 and 2, and the chapters that train them


def expert_name(task: str) -> str:
    """Return the name of a task's adapter: the task's own, but PT_expert for packaging type, as PT names stage 1."""
    return f"{task}_expert" if task in STAGES else task


@dataclass(frozen=True)
class AdapterPlan:
    """An adapter to train: name, spec, parent adapter (None: the bare base), training records and training settings."""

    name: str
    spec: AdapterSpec
    parent: str | None
    records: list[dict]
    training: Training
    held_out: Sequence[dict] = ()  # records whose loss the log shows


def _train(stack: LoraStack, plan: AdapterPlan, checkpoints: Path | None) -> pd.DataFrame:
    torch.manual_seed(plan.training.seed)  # an adapter's initial weights do not depend on earlier training runs
    stack.add(plan.name, plan.spec, parent=plan.parent)
    how = {"held_out": plan.held_out, "checkpoints": checkpoints}
    return train_adapter(stack, plan.name, plan.records, plan.training, **how)


def _train_and_take(
    stack: LoraStack, plan: AdapterPlan, checkpoints: Path | None
) -> tuple[pd.DataFrame, dict[str, torch.Tensor]]:
    log = _train(stack, plan, checkpoints)
    weights = {n: w.cpu().numpy() for n, w in stack.adapter_weights(plan.name).items()}
    stack.unload(plan.name)
    return log, weights


def train_adapters(
    stack: LoraStack,
    plans: Sequence[AdapterPlan],
    *,
    checkpoints: Path | None = None,
    processes: int = 1,
    each: Callable = by_processes,
) -> dict[str, pd.DataFrame]:
    """Train every plan's adapter, leave all adapters on `stack` and return {name: log of train_adapter}.

    The result is the same for any number of `processes`, each with its share of the cores. `each` distributes the
    work: by_processes here, or by_ray of serve/cluster.py, with the same result. Errors: those of train_adapter.
    """
    if processes < 2:
        return {plan.name: _train(stack, plan, checkpoints) for plan in plans}
    longest_first = sorted(plans, key=lambda plan: -plan.training.steps)
    found = each(stack, _train_and_take, [(plan, checkpoints) for plan in longest_first], workers=processes)
    trained = dict(zip([plan.name for plan in longest_first], found, strict=True))
    for plan in plans:
        stack.add(plan.name, plan.spec, parent=plan.parent)
        stack.put_weights(plan.name, {n: torch.from_numpy(w) for n, w in trained[plan.name][1].items()})
    stack.activate(plans[-1].name)
    stack.model.eval()
    return {plan.name: trained[plan.name][0] for plan in plans}
