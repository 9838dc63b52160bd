"""Experts by preferences and rewards beside right answers: DPO, MPO and GRPO, all of them TRL's.

TRL gets the merged trunk and puts a fresh LoRA on it, so that its reference, the model with that LoRA switched off, is
the stack without the expert. What it has trained moves onto the stack as an adapter like any other, with its lineage.
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from datasets import Dataset
from transformers import PrinterCallback, Trainer
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

from mtive_nb.data.records import assistant_turn
from mtive_nb.model.batches import RecordDataset
from mtive_nb.model.stack import AdapterSpec, LoraStack
from mtive_nb.model.train import Watch, training_log

# MPO mixes a preference loss, a quality loss and the likelihood of the chosen answer, at the weights of Wang et al. 2024;
# TRL's terms differ from theirs in that BCO has no running shift of its rewards and the likelihood is a mean over tokens.
LOSSES = {
    "DPO": {"loss_type": ["sigmoid"]},
    "MPO": {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
}
Reward = Callable[[dict, str], float]  # of a record and an answer, best from 0 to 1


def train_by_preference(
    stack: LoraStack, name: str, spec: AdapterSpec, pairs: list[dict], *, parent: str | None, strategy: str = "DPO",
    root: Path, steps: int, beta: float = 0.1, side_px: int | None = None, **given: object,
) -> pd.DataFrame:  # fmt: skip
    """Train expert `name` over `parent` on pairs, records with `chosen` and `rejected` answers; returns the log.

    `beta` weighs the distance to the reference, the stack without the expert; `given` goes to `_arguments`. Errors:
    ValueError for a strategy that is not in LOSSES, or where there is no pair.
    """
    if strategy not in LOSSES:
        raise ValueError(f"strategy: found {strategy!r}, expected one of {sorted(LOSSES)}")
    if not pairs:
        raise ValueError(f"adapter {name!r}: found no pair of answers to train on")
    rows = _prompts(pairs, root, side_px, lambda row: {f: [assistant_turn(row[f])] for f in ("chosen", "rejected")})
    arguments = DPOConfig(**_arguments(name, steps=steps, **given), **LOSSES[strategy], beta=beta, max_length=None)
    return _train(stack, name, spec, parent, DPOTrainer, args=arguments, train_dataset=rows)


def train_by_reward(
    stack: LoraStack, name: str, spec: AdapterSpec, records: list[dict], reward: Reward, *, parent: str | None,
    root: Path, steps: int, batch: int = 16, answers_each: int = 4, max_new_tokens: int = 48, beta: float = 0.0,
    temperature: float = 1.0, side_px: int | None = None, **given: object,
) -> pd.DataFrame:  # fmt: skip
    """Train expert `name` by GRPO: of `answers_each` answers drawn to a question, those above their mean reward gain.

    The loss is TRL's default, a mean over all tokens of a batch (DAPO's) in place of one over each answer. `batch`
    counts answers; `beta` weighs the distance to the stack without the expert, which at 0 is not computed; `given` goes
    to `_arguments`. Returns the log, with the mean reward since the row before. Errors: ValueError where `batch` is not
    a multiple of `answers_each`, or there are fewer records than a batch asks.
    """
    if batch % answers_each:
        raise ValueError(f"batch: found {batch}, expected a multiple of answers_each, {answers_each}")
    if len(records) < batch // answers_each:
        raise ValueError(f"adapter {name!r}: found {len(records)} records, a batch asks {batch // answers_each}")
    rows = _prompts(records, root, side_px, lambda _row: {})

    def rewards(completions: list[list[dict]], number: list[int], **_: object) -> list[float]:
        return [reward(records[k], said[0]["content"].strip()) for k, said in zip(number, completions, strict=True)]

    drawn = {"num_generations": answers_each, "max_completion_length": max_new_tokens, "temperature": temperature}
    arguments = GRPOConfig(**_arguments(name, steps=steps, batch=batch, **given), **drawn, beta=beta)
    return _train(stack, name, spec, parent, GRPOTrainer, args=arguments, train_dataset=rows, reward_funcs=rewards)


def _prompts(records: list[dict], root: Path, side_px: int | None, more: Callable[[dict], dict]) -> Dataset:
    """TRL's rows, photos decoded when asked for: images, prompt, the record's number, and what `more` adds."""
    photos = RecordDataset(records, root=root, side_px=side_px)

    def rows(numbers: dict[str, list[int]]) -> dict[str, list]:
        made = [
            {"number": k, "images": photos[k]["pixels"], "prompt": records[k]["messages"][:-1], **more(records[k])}
            for k in numbers["number"]
        ]
        return {key: [row[key] for row in made] for key in made[0]}

    return Dataset.from_dict({"number": list(range(len(records)))}).with_transform(rows)


def _arguments(name: str, *, checkpoints: Path, steps: int, batch: int = 8, accumulate: int = 1, rate: float = 1e-3,
               checkpointing: bool = False, save_steps: int = 200, seed: int = 0) -> dict:  # fmt: skip
    """What all strategies share; as in train_adapter."""
    return {
        "output_dir": str(Path(checkpoints) / name), "max_steps": steps, "learning_rate": rate,
        "per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulate,
        "lr_scheduler_type": "cosine", "warmup_steps": max(1, steps // 20), "max_grad_norm": 1.0, "weight_decay": 0.0,
        "logging_steps": max(1, min(20, steps // 10)), "save_steps": save_steps, "save_total_limit": 1, "seed": seed,
        "remove_unused_columns": False, "report_to": [], "disable_tqdm": True, "gradient_checkpointing": None,
        "activation_checkpointing": checkpointing, "disable_dropout": False,
        "use_cpu": not torch.cuda.is_available(), "bf16": False, "log_level": "error",
    }  # fmt: skip


def _train(stack: LoraStack, name: str, spec: AdapterSpec, parent: str | None, kind: type[Trainer], *, args: object,
           **given: object) -> pd.DataFrame:  # fmt: skip
    """Run one of TRL's trainers over the merged trunk, and put the LoRA that it trained onto the stack as `name`."""
    stack.add(name, spec, parent=parent)  # refuses what cannot be before anything is trained
    vlm = stack.merged_trunk(parent)
    how = {"processing_class": vlm.processor, "peft_config": stack.lora_config(spec), "callbacks": [Watch(name)]}
    trainer = kind(vlm.model, args=args, **how, **given)
    trainer.remove_callback(PrinterCallback)
    resume = any(Path(args.output_dir).glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=resume or None)
    trained = {n.replace(".default.", f".{name}."): p.data for n, p in trainer.model.named_parameters() if "lora_" in n}
    mine = stack.adapter_weights(name)
    if mine.keys() != trained.keys():
        raise RuntimeError(f"adapter {name!r}: TRL trained {len(trained)} weights, the stack holds {len(mine)} for it")
    for key, weight in mine.items():
        weight.copy_(trained[key])
    stack.activate(name)
    stack.model.eval()
    return training_log(trainer)
