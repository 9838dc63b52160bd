"""Work on a Ray cluster instead of local processes, with the same results. Needs the extra `scale`.

`by_ray` replaces `by_processes` (answers, scores, one expert per item: Ray Data over the items).
`train_adapter_by_ray` replaces `train_adapter_in_shares` (a stage's steps in shares: Ray Train with the same Trainer).
The notebooks' parameter ENGINE selects "local" or "ray".
Photos, checkpoints and caches must lie where every worker can access them. If a worker dies, only its current work is
lost: Ray gives that work to another worker, and everything written before remains.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from mtive_nb.model.load import Vlm
from mtive_nb.model.parallel import batches_of_each, by_processes, on_gpu, train_adapter_in_shares
from mtive_nb.model.stack import LoraStack
from mtive_nb.model.train import Training, train_adapter
from mtive_nb.run.params import choose


def workers_of(engine: str) -> Callable:
    """Return `by_processes` for "local", `by_ray` for "ray". Errors: ValueError for any other engine."""
    return choose("ENGINE", engine, {"local": by_processes, "ray": by_ray})


def stage_training_of(engine: str) -> Callable:
    """Return `train_adapter_in_shares` for "local", `train_adapter_by_ray` for "ray". Errors: as `workers_of`."""
    return choose("ENGINE", engine, {"local": train_adapter_in_shares, "ray": train_adapter_by_ray})


def by_ray(model: LoraStack | Vlm, work: Callable, items: Sequence[tuple], *, workers: int = 2, what: str = "",
           tries: int = 3) -> list:  # fmt: skip
    """Return [work(a copy of the model, *item) for item in items], computed by actors of a Ray cluster.

    Uses the connected cluster, or starts one. A worker takes a GPU where the model is on one. `tries`: how often an item
    restarts after its worker died. `what`: if not empty, Ray shows its progress. Results are in the order of the items.
    """
    import ray
    from ray import cloudpickle

    kept, gpus = ray.put(cloudpickle.dumps(model)), int(on_gpu(model))

    class Worker:
        def __init__(self) -> None:
            torch.set_num_threads(1)
            self.model = cloudpickle.loads(ray.get(kept))

        def __call__(self, row: dict) -> dict:
            return {"k": row["k"], "found": cloudpickle.dumps(work(self.model, *cloudpickle.loads(row["item"])))}

    rows = [{"k": k, "item": cloudpickle.dumps(item)} for k, item in enumerate(items)]
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = bool(what)
    done = (
        ray.data.from_items(rows, override_num_blocks=max(1, len(rows)))
        .map(Worker, concurrency=workers, num_cpus=1, num_gpus=gpus, max_restarts=tries, max_task_retries=tries)
        .take_all()
    )
    return [cloudpickle.loads(row["found"]) for row in sorted(done, key=lambda row: row["k"])]


def train_adapter_by_ray(
    stack: LoraStack,
    name: str,
    records: list[dict],
    training: Training,
    *,
    held_out: Sequence[dict] = (),
    checkpoints: Path,
    processes: int = 2,
    tries: int = 3,
) -> pd.DataFrame:
    """Train as train_adapter does, a step's batches divided among cluster workers: the same adapter up to rounding.

    A worker takes a GPU where the stack is on one. If a worker dies, training restarts from the last checkpoint, up to `tries` times. Errors: ValueError if `processes`
    does not divide `accumulate`.
    """
    import ray
    from ray import cloudpickle, train
    from ray.train.torch import TorchConfig, TorchTrainer

    checkpoints = Path(checkpoints).resolve()
    of_each = replace(training, accumulate=batches_of_each(training.accumulate, processes))
    kept, gpus = ray.put(cloudpickle.dumps((stack, records, held_out))), on_gpu(stack)
    made = checkpoints / f"{name}.pt"

    def share() -> None:
        if not gpus:
            torch.set_num_threads(1)
        own, mine, others = cloudpickle.loads(ray.get(kept))
        log = train_adapter(own, name, mine, of_each, held_out=others, checkpoints=checkpoints)
        if train.get_context().get_world_rank() == 0:
            torch.save({"weights": own.adapter_weights(name), "log": log.to_dict("list")}, made)

    with tempfile.TemporaryDirectory() as storage:
        TorchTrainer(
            share,
            scaling_config=train.ScalingConfig(num_workers=processes, use_gpu=gpus),
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
            run_config=train.RunConfig(storage_path=storage, failure_config=train.FailureConfig(max_failures=tries)),
        ).fit()
    found = torch.load(made, weights_only=True)
    stack.put_weights(name, found["weights"])
    made.unlink()
    stack.activate(name)
    stack.model.eval()
    return pd.DataFrame(found["log"])
