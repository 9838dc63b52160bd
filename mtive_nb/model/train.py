"""Train one adapter of a stack with transformers' Trainer: every stage, expert and mixture uses this module.

Five changes make training faster than a plain Trainer (benchmarks/training.py measures the gain). Records of similar
length share a batch. Photos are decoded once. The tower sees a photo once, where no adapter changes it. Only columns
with answers become logits. Finished stages are folded into the base while an expert trains.
"""

import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Sampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from mtive_nb.data.records import records_sha256
from mtive_nb.model.batches import Collator, RecordDataset, batch_of, rough_tokens
from mtive_nb.model.lineage import as_python
from mtive_nb.model.load import Vlm, answering_fingerprint
from mtive_nb.model.losses import IGNORE, noise_robust_loss
from mtive_nb.model.mixture import LoraMixture
from mtive_nb.model.resume import go_on, trainable_weights, weights_sha256
from mtive_nb.model.stack import LoraStack
from mtive_nb.run import progress

CHECKPOINT = "trainable.safetensors"
EVALUATIONS = 6  # of held-out records during a training run


def answer_columns(labels: torch.Tensor) -> int:
    """Return the last columns of (B, T) labels that need logits: those of answers, and the one before the first."""
    return int((labels != IGNORE).any(0).sum()) + 1


class SortedSteps(Sampler[int]):
    """Random order of records, sorted by length within each optimizer step so that batches need little padding.

    A step has the same `size` records as without sorting. Sorting across steps was faster but learned less (LOG.md).
    The order depends only on seed and epoch, so a resumed epoch has the same batches. Where `shares` processes divide
    a step, each takes one batch in turn: the records of `shares` batches are dealt out among them, so that no process
    gets all the long records. `accumulate`: batches of each process in a step.
    """

    def __init__(self, lengths: list[int], *, size: int, seed: int, shares: int = 1, accumulate: int = 1) -> None:
        self.lengths, self.size, self.seed, self.epoch = np.array(lengths), size, seed, 0
        self.shares, self.at_once = shares, size // accumulate  # records of one batch of every process

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self))
        for start in range(0, len(self), self.size):
            step = order[start : start + self.size]
            step = step[np.argsort(self.lengths[step], kind="stable")]
            for begin in range(0, len(step), self.at_once):
                for first in range(self.shares):
                    yield from step[begin : begin + self.at_once][first :: self.shares].tolist()


class TrainableCheckpoints(Trainer):
    """Trainer whose checkpoints contain only the trainable weights, under their names in the model."""

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_file(
            {n: p.cpu().contiguous() for n, p in trainable_weights(self.model).items()}, Path(output_dir) / CHECKPOINT
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        saved, mine = load_file(Path(resume_from_checkpoint) / CHECKPOINT), trainable_weights(self.model)
        if saved.keys() != mine.keys():
            raise ValueError(
                f"{resume_from_checkpoint}: found {len(saved)} weights of another adapter; expected the {len(mine)} in training"
            )
        for name, weight in mine.items():
            weight.copy_(saved[name])


class StageTrainer(TrainableCheckpoints):
    """Trainer with MTIVE's loss, records sorted by length within a step, and a mixture's load-balance loss."""

    def __init__(
        self,
        *args: object,
        beta: float = 0.0,
        balance: str = "token",
        mixture: LoraMixture | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.beta, self.balance, self.mixture = beta, balance, mixture
        self.model_accepts_loss_kwargs = True  # Trainer then counts the answer tokens of a whole accumulation step

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | int | None:
        if self.balance == "record":  # the Trainer counts labels, so one label is left of each record: its last
            last = [batch["labels"][:, -1:] for batch in batch_samples]
            batch_samples = [{"labels": torch.cat([torch.full_like(one, IGNORE), one], 1)} for one in last]
        return super()._get_num_items_in_batch(batch_samples, device)

    def compute_loss(self, model, inputs: dict, return_outputs: bool = False, num_items_in_batch=None):  # noqa: ANN001, ANN201
        labels = inputs.pop("labels")
        columns = answer_columns(labels)
        with self.mixture.routing(inputs["attention_mask"]) if self.mixture else nullcontext() as routed:
            outputs = model(**inputs, logits_to_keep=columns, use_cache=False)
        how = {"beta": self.beta, "balance": self.balance, "num_items": num_items_in_batch}
        loss = noise_robust_loss(outputs.logits, labels[:, -columns:], **how)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # items are counted over all processes, gradients averaged
        if routed:
            loss = loss + self.mixture.penalty(routed) / (
                self.current_gradient_accumulation_steps if model.training else 1
            )
        return (loss, outputs) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: RecordDataset | None = None) -> Sampler:
        data = train_dataset or self.train_dataset
        shares, accumulate = self.args.world_size, self.args.gradient_accumulation_steps
        step = self.args.train_batch_size * accumulate * shares
        return SortedSteps(data.lengths(), size=step, seed=self.args.seed, shares=shares, accumulate=accumulate)


class Watch(TrainerCallback):
    """Shows progress with the last loss, and adds the seconds of training to the trainer's log, which checkpoints keep."""

    def __init__(self, what: str) -> None:
        self.what = self.label = what

    def on_train_begin(self, args, state, control, **_) -> None:  # noqa: ANN001
        before = max((row.get("seconds", 0.0) for row in state.log_history), default=0.0)
        self.started = time.monotonic() - before
        steps = range(state.global_step, state.max_steps)
        shown = state.is_world_process_zero  # only one of several processes shows progress
        self.ticks = iter(progress(steps, what=lambda: self.label) if shown else ())
        next(self.ticks, None)

    def on_step_end(self, args, state, control, **_) -> None:  # noqa: ANN001
        next(self.ticks, None)

    def on_log(self, args, state, control, **_) -> None:  # noqa: ANN001
        state.log_history[-1]["seconds"] = time.monotonic() - self.started
        if "loss" in state.log_history[-1]:
            self.label = f"{self.what}, loss {state.log_history[-1]['loss']:.3g}"


LARGE = 10**9  # weights of a base whose activations are computed a second time rather than kept


@dataclass(frozen=True)
class Training:
    """Training settings of an adapter: `steps` optimizer steps of `batch` x `accumulate` records each.

    rate: peak learning rate, reached after 5% of the steps; a cosine to 0 follows. beta: weight of the uniform loss in
    noise_robust_loss, from 0 to 1. balance: what counts equally in the loss, "token" or "record". checkpointing:
    gradient checkpointing, less memory for more time; None: for a base of LARGE weights or more. save_steps: steps between two checkpoints. workers: processes that
    decode photos. seed: order of the records and, in `train_adapters`, a new adapter's initial weights; those of
    `stack.add` are torch's next draw.
    """

    steps: int
    rate: float = 1e-3
    batch: int = 16
    accumulate: int = 1
    beta: float = 0.0
    balance: str = "token"
    checkpointing: bool | None = None
    save_steps: int = 200
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Errors: ValueError naming the field, what was found and what was expected."""
        as_python(self, "steps", "batch", "accumulate", "rate")
        for name in ("steps", "batch", "accumulate"):
            if not isinstance(found := getattr(self, name), int) or found < 1:
                raise ValueError(f"Training: {name}: found {found!r}, expected a whole number from 1")
        if not 0 <= self.rate < math.inf:
            raise ValueError(f"Training: rate: found {self.rate}, expected a finite rate, 0 or more")


def steps_for(records: int, most: int, *, passes: float, a_step: int) -> int:
    """Return the optimizer steps of at most `passes` passes over `records` records, `a_step` a step: from 1 to `most`."""
    return max(1, min(most, math.ceil(passes * records / a_step)))


def trainer_arguments(training: Training, folder: Path, *, base: PreTrainedModel) -> dict:
    """Return the arguments shared by all trainers of an adapter, named as in transformers' TrainingArguments.

    MTIVE_REPORT_TO names further loggers, with commas: "tensorboard,wandb".
    """
    steps, again = training.steps, training.checkpointing
    again = base.num_parameters() >= LARGE if again is None else again
    every = max(1, min(20, steps // 10))
    return {
        "output_dir": str(folder), "max_steps": steps, "per_device_train_batch_size": training.batch,
        "learning_rate": training.rate, "gradient_accumulation_steps": training.accumulate,
        "lr_scheduler_type": "cosine", "warmup_steps": max(1, steps // 20), "weight_decay": 0.0, "max_grad_norm": 1.0,
        "logging_steps": every, "eval_steps": every * max(1, round(steps / every / EVALUATIONS)), "seed": training.seed, "save_steps": training.save_steps,
        "save_total_limit": 1, "activation_checkpointing": again, "report_to": [name for name in os.environ.get("MTIVE_REPORT_TO", "").split(",") if name],
        "remove_unused_columns": False, "disable_tqdm": True, "use_cpu": not torch.cuda.is_available(),
        "log_level": "error", "logging_nan_inf_filter": False,
    }  # fmt: skip


def training_log(trainer: Trainer) -> pd.DataFrame:
    """Return a trainer's log, with rows from before an interruption: step, loss, held_out, rate, seconds and reward.

    held_out is the loss on held-out records, on the rows where it was measured; no such records, no such column.
    """
    rows = [row for row in trainer.state.log_history if "loss" in row]
    # A training run resumed at its end makes one more step, at a rate of 0.
    log = pd.DataFrame([row for row in rows if row["step"] <= trainer.args.max_steps])
    log = log.rename(columns={"learning_rate": "rate"})
    measured = {row["step"]: row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row}
    if measured:
        log["held_out"] = log["step"].map(measured)
    return log[[c for c in ("step", "loss", "held_out", "rate", "seconds", "reward") if c in log]]


def train_adapter(
    stack: LoraStack | LoraMixture,
    name: str,
    records: list[dict],
    training: Training,
    *,
    held_out: Sequence[dict] = (),
    checkpoints: Path | None = None,
) -> pd.DataFrame:
    """Train adapter `name`, the newest of its branch or a mixture, on the records' answers; return the training log.

    The log has a row for every few steps: step, loss in nats per token (balance "record": the mean over records of
    that; a mixture's loss includes its load-balance loss), rate, seconds. On about EVALUATIONS rows it has the same loss
    on `held_out` records, the mean over batches; nothing is chosen by it. Training resumes from the last whole checkpoint
    in `checkpoints` / name if that is of the same training run; without `checkpoints` nothing is kept. A run that is cut
    short leaves the adapter as it was. Errors: ValueError where there is no record, NotFiniteError.
    """
    if not records:
        raise ValueError(f"adapter {name!r}: found no record to train on")
    if checkpoints is None:
        with tempfile.TemporaryDirectory() as folder:
            return train_adapter(stack, name, records, training, held_out=held_out, checkpoints=Path(folder))
    stack.activate(name, trainable=True)
    arguments = TrainingArguments(
        **trainer_arguments(training, Path(checkpoints) / name, base=stack.vlm.model),
        data_seed=training.seed,
        dataloader_num_workers=training.workers,
        eval_strategy="steps" if held_out else "no",
        per_device_eval_batch_size=training.batch,
        prediction_loss_only=True,
        bf16=torch.cuda.is_available() and stack.vlm.model.dtype == torch.bfloat16,
    )
    if arguments.n_gpu > 1:  # else the Trainer would split a batch among GPUs, patches apart from their records
        arguments._n_gpu = 1
    trainer = StageTrainer(
        stack.model, arguments, train_dataset=RecordDataset(records, stack.vlm.max_px),
        eval_dataset=RecordDataset(held_out, stack.vlm.max_px) if held_out else None, beta=training.beta,
        balance=training.balance, data_collator=Collator(stack.vlm.processor), callbacks=[Watch(name)],
        mixture=stack if isinstance(stack, LoraMixture) else None,
    )  # fmt: skip
    stack.assert_trainable(name)
    about = _about(stack, name, records, training, processes=arguments.world_size)
    about |= {"held-out records": records_sha256(held_out)} if held_out else {}
    # Accelerate's mark of an earlier training run: with it, the model is not wrapped and processes train separately.
    vars(stack.model).pop("_is_accelerate_prepared", None)
    start = {n: weight.clone() for n, weight in trainable_weights(stack.model).items()}
    try:
        with stack.lean(keep=name):
            go_on(trainer, about)
    except BaseException:
        for n, weight in trainable_weights(stack.model).items():
            weight.copy_(start[n])
        raise
    stack.assert_trainable(name)
    stack.activate(name)
    stack.model.eval()
    return training_log(trainer)


def _about(
    stack: LoraStack | LoraMixture, name: str, records: list[dict], training: Training, *, processes: int
) -> dict[str, object]:
    """Return all that makes a training run, for the key of its checkpoints."""
    mixture = isinstance(stack, LoraMixture)
    below = stack.stack.active if mixture else stack.active[:-1]
    settings = {k: v for k, v in asdict(training).items() if k not in ("save_steps", "workers")}
    return {
        "adapter": f"adapter {name!r}", "spec": asdict(stack.spec if mixture else stack.specs[name]), **settings,
        "processes": processes, "records": records_sha256(records), "model": answering_fingerprint(stack.vlm, below),
        "initial weights": weights_sha256(trainable_weights(stack.model)),
    }  # fmt: skip


@torch.inference_mode()
def answer_predictions(
    model: LoraStack | Vlm, records: Sequence[dict], *, batch: int = 32, what: str = "held-out loss"
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Yield what the active adapters predict for the records' own answers, batch by batch, short records first.

    Each batch gives, for its N answer tokens (an answer's end among them), their records' places, log-probabilities
    (N, V) in float32 and true tokens (N,). `what` labels the progress line.
    """
    stacked = isinstance(model, LoraStack)
    vlm, network = model.vlm if stacked else model, model.model.eval()
    order = sorted(range(len(records)), key=list(map(rough_tokens, records)).__getitem__)
    with model.lean() if stacked else nullcontext():
        for start in progress(range(0, len(order), batch), what=what):
            rows = order[start : start + batch]
            inputs = batch_of(vlm, [records[i] for i in rows], answers=True)
            labels = inputs.pop("labels")
            columns = answer_columns(labels)
            targets = labels[:, -columns:][:, 1:]  # (B, K)
            kept = targets != IGNORE
            logits = network(**inputs, logits_to_keep=columns, use_cache=False).logits[:, :-1]  # (B, K, V)
            places = [rows[k] for k in kept.nonzero()[:, 0].tolist()]
            yield places, logits[kept].float().log_softmax(-1), targets[kept]


def answer_losses(model: LoraStack | Vlm, records: Sequence[dict], *, batch: int = 32) -> pd.DataFrame:
    """Return each record's loss on its own answer with the active adapters, in the records' order.

    Columns: nats (summed over the answer's tokens, its end among them) and tokens.
    """
    found = np.zeros((len(records), 2))
    for places, log_p, true in answer_predictions(model, records, batch=batch):
        nats = -log_p.gather(1, true[:, None])[:, 0].double().cpu().numpy()
        np.add.at(found, places, np.stack([nats, np.ones(len(nats))], axis=1))
    return pd.DataFrame(found, columns=["nats", "tokens"])


def held_out_loss(model: LoraStack | Vlm, records: list[dict], *, batch: int = 32) -> float:
    """Return the mean loss on the records' answers in nats per token, with the active adapters; NaN without records."""
    losses = answer_losses(model, records, batch=batch)
    return losses["nats"].sum() / losses["tokens"].sum() if records else math.nan
