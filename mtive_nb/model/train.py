"""Training one adapter of a stack by transformers' Trainer: every stage, every expert, every mixture goes through here.

What makes it faster than a Trainer used plainly: records of like length share a batch, photos are decoded once, only
the columns that hold answers become logits (benchmarks/training.py measures it), and finished stages are folded into
the base while an expert trains.
"""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from mtive_nb.model.batches import Collator, RecordDataset
from mtive_nb.model.losses import IGNORE, noise_robust_loss
from mtive_nb.model.mixture import LoraMixture
from mtive_nb.model.stack import LoraStack
from mtive_nb.run import progress

CHECKPOINT = "trainable.safetensors"


class SortedSteps(Sampler[int]):
    """Records in random order, each optimizer step's sorted by length: its batches need little padding.

    A step of `size` records sees what it would without sorting; sorting across steps was faster and learned less
    (LOG.md). The order depends on seed and epoch alone, so that a resumed epoch sees the same batches. Where `shares`
    processes divide the step, it is dealt out like cards: nobody waits for the one with all the long records.
    """

    def __init__(self, lengths: list[int], *, size: int, seed: int, shares: int = 1) -> None:
        self.lengths, self.size, self.seed, self.shares, self.epoch = np.array(lengths), size, seed, shares, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self))
        for start in range(0, len(self), self.size):
            step = order[start : start + self.size]
            step = step[np.argsort(self.lengths[step], kind="stable")]
            for first in range(self.shares):
                yield from step[first :: self.shares].tolist()


class TrainableCheckpoints(Trainer):
    """Trainer whose checkpoints hold the trainable weights alone, under the names that they have in memory."""

    def _trainable(self) -> dict[str, torch.Tensor]:
        return {n: p.data for n, p in self.model.named_parameters() if p.requires_grad}

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_file({n: p.cpu().contiguous() for n, p in self._trainable().items()}, Path(output_dir) / CHECKPOINT)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        saved, mine = load_file(Path(resume_from_checkpoint) / CHECKPOINT), self._trainable()
        if saved.keys() != mine.keys():
            raise ValueError(
                f"{resume_from_checkpoint}: {len(saved)} weights of another adapter; {len(mine)} are in training"
            )
        for name, weight in mine.items():
            weight.copy_(saved[name])


class StageTrainer(TrainableCheckpoints):
    """Trainer with MTIVE's loss, steps sorted by length, and a mixture's load-balance loss where there is one."""

    def __init__(self, *args: object, beta: float = 0.0, mixture: LoraMixture | None = None, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.beta, self.mixture = beta, mixture
        self.model_accepts_loss_kwargs = True  # Trainer then counts the answer tokens of a whole accumulation step

    def compute_loss(self, model, inputs: dict, return_outputs: bool = False, num_items_in_batch=None):  # noqa: ANN001, ANN201
        labels = inputs.pop("labels")
        columns = int((labels != IGNORE).any(0).sum()) + 1  # the answers' columns and the one that predicts the first
        with self.mixture.routing(inputs["attention_mask"]) if self.mixture else nullcontext() as routed:
            outputs = model(**inputs, logits_to_keep=columns, use_cache=False)
        loss = noise_robust_loss(outputs.logits, labels[:, -columns:], beta=self.beta, num_items=num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # the tokens are counted over all, the gradients averaged
        if routed:
            loss = loss + self.mixture.penalty(routed) / self.current_gradient_accumulation_steps
        return (loss, outputs) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: RecordDataset | None = None) -> Sampler:
        data = train_dataset or self.train_dataset
        shares = self.args.world_size
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * shares
        return SortedSteps(data.lengths(), size=step, seed=self.args.seed, shares=shares)


class Watch(TrainerCallback):
    """Prints progress, and notes the seconds of training in the trainer's own log, which its checkpoints keep."""

    def __init__(self, what: str) -> None:
        self.what = what

    def on_train_begin(self, args, state, control, **_) -> None:  # noqa: ANN001
        before = max((row.get("seconds", 0.0) for row in state.log_history), default=0.0)
        self.started = time.monotonic() - before
        steps = range(state.global_step, state.max_steps)
        shown = state.is_world_process_zero  # of several processes one tells
        self.ticks = iter(progress(steps, what=self.what) if shown else ())
        next(self.ticks, None)

    def on_step_end(self, args, state, control, **_) -> None:  # noqa: ANN001
        next(self.ticks, None)

    def on_log(self, args, state, control, **_) -> None:  # noqa: ANN001
        state.log_history[-1]["seconds"] = time.monotonic() - self.started


def adapter_arguments(folder: Path, *, steps: int, batch: int = 8, accumulate: int = 1, rate: float = 1e-3,
                      checkpointing: bool = False, save_steps: int = 200, seed: int = 0) -> dict:  # fmt: skip
    """What every training of an adapter shares, as arguments of TrainingArguments: 5% warm-up, a cosine to 0."""
    return {
        "output_dir": str(folder), "max_steps": steps, "per_device_train_batch_size": batch, "learning_rate": rate,
        "gradient_accumulation_steps": accumulate, "lr_scheduler_type": "cosine", "warmup_steps": max(1, steps // 20),
        "weight_decay": 0.0, "max_grad_norm": 1.0, "logging_steps": max(1, min(20, steps // 10)), "seed": seed,
        "save_steps": save_steps, "save_total_limit": 1, "activation_checkpointing": checkpointing, "report_to": [],
        "remove_unused_columns": False, "disable_tqdm": True, "use_cpu": not torch.cuda.is_available(),
        "log_level": "error",
    }  # fmt: skip


def go_on(trainer: Trainer) -> None:
    """Train, from the last checkpoint on where there is one, without the Trainer's own printing."""
    trainer.remove_callback(PrinterCallback)
    resume = any(Path(trainer.args.output_dir).glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=resume or None)


def training_log(trainer: Trainer) -> pd.DataFrame:
    """What a trainer logged, before it was cut short, too: step, loss, rate, seconds and, where there is one, reward."""
    rows = [row for row in trainer.state.log_history if "loss" in row]
    # A training taken up at its end makes one step more, at a rate of 0.
    log = pd.DataFrame([row for row in rows if row["step"] <= trainer.args.max_steps])
    log = log.rename(columns={"learning_rate": "rate"})
    return log[[c for c in ("step", "loss", "rate", "seconds", "reward") if c in log]]


def train_adapter(
    stack: LoraStack | LoraMixture, name: str, records: list[dict], *, root: Path, checkpoints: Path, steps: int,
    batch: int = 16, rate: float = 1e-3, beta: float = 0.0, accumulate: int = 1, workers: int = 0,
    side_px: int | None = None, checkpointing: bool = False, save_steps: int = 200, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Train adapter `name`, the newest of its branch or a mixture, on the records' answers; returns the log.

    The log's rows are step, loss (a mixture's with its load-balance loss), rate, seconds.
    `steps` optimizer steps of `batch` x `accumulate` records, learning rate `rate` with 5% warm-up and a cosine to 0;
    `beta` as in noise_robust_loss. Goes on from the last checkpoint in `checkpoints` / name. `checkpointing` trades
    time for memory (gradient checkpointing). Raises ValueError where there is nothing to train on.
    """
    if not records:
        raise ValueError(f"adapter {name!r}: found no record to train on")
    stack.activate(name, trainable=True)
    folder = Path(checkpoints) / name
    on_gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        **adapter_arguments(
            folder, steps=steps, batch=batch, accumulate=accumulate, rate=rate, checkpointing=checkpointing,
            save_steps=save_steps, seed=seed,
        ),
        data_seed=seed, dataloader_num_workers=workers,
        bf16=on_gpu and stack.vlm.model.dtype == torch.bfloat16,
    )  # fmt: skip
    data = RecordDataset(records, root=root, side_px=side_px)
    collator = Collator(stack.vlm.processor)
    trainer = StageTrainer(
        stack.model, arguments, train_dataset=data, data_collator=collator, callbacks=[Watch(name)], beta=beta,
        mixture=stack if isinstance(stack, LoraMixture) else None,
    )  # fmt: skip
    stack.assert_trainable(name)
    # Accelerate's mark of an earlier training: with it the model would not be wrapped, and processes learn apart.
    vars(stack.model).pop("_is_accelerate_prepared", None)
    with stack.folded(keep=name):
        go_on(trainer)
    stack.assert_trainable(name)
    stack.activate(name)
    stack.model.eval()
    return training_log(trainer)
