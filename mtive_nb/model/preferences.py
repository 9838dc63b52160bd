"""Train experts from preferences and rewards instead of correct answers: DPO, MPO and GRPO, as TRL implements them.

TRL adds a new LoRA to the merged trunk. Its reference model, the model with that LoRA switched off, is therefore the
stack without the expert. The trained LoRA then moves onto the stack as an ordinary adapter with its lineage.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from datasets import Dataset
from transformers import Trainer
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

from mtive_nb.data.records import assistant_turn, records_sha256
from mtive_nb.model.batches import RecordDataset
from mtive_nb.model.lineage import AdapterSpec
from mtive_nb.model.load import Vlm, base_fingerprint
from mtive_nb.model.resume import go_on, trainable_weights, weights_sha256
from mtive_nb.model.stack import LoraStack
from mtive_nb.model.train import Training, Watch, trainer_arguments, training_log
from mtive_nb.run.content import digest

# MPO adds a preference loss, a quality loss and the likelihood of the chosen answer, with Wang et al. 2024's weights.
# Unlike Wang et al., TRL's BCO has no running shift of its rewards, and TRL's likelihood is a mean over tokens.
LOSSES = {
    "DPO": {"loss_type": ["sigmoid"]},
    "MPO": {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
}
# Override TRL's defaults: checkpointing has a new option name, the spec sets dropout, and weights keep their dtype.
UNLIKE_TRL = {"gradient_checkpointing": None, "disable_dropout": False, "bf16": False}
Reward = Callable[[dict, str], float]  # (record, answer) -> reward, preferably between 0 and 1


def train_by_preference(
    stack: LoraStack,
    name: str,
    spec: AdapterSpec,
    pairs: list[dict],
    training: Training,
    *,
    parent: str | None,
    strategy: str = "DPO",
    reference_weight: float = 0.1,
    checkpoints: Path,
) -> pd.DataFrame:
    """Train expert `name` over `parent` on `pairs`, records with `chosen` and `rejected` answers, and return the log.

    `reference_weight` (beta in DPO's equation) weights the distance to the reference, the stack without the expert.
    The uniform loss of `training` is not used. Errors: ValueError for a strategy that is not in LOSSES, or no pair.
    """
    if strategy not in LOSSES:
        raise ValueError(f"strategy: found {strategy!r}, expected one of {sorted(LOSSES)}")
    if not pairs:
        raise ValueError(f"adapter {name!r}: found no pair of answers to train on")
    rows = _prompts(pairs, stack.vlm, lambda row: {f: [assistant_turn(row[f])] for f in ("chosen", "rejected")})
    own = trainer_arguments(training, checkpoints / name, base=stack.vlm.model) | UNLIKE_TRL
    arguments = DPOConfig(**own, **LOSSES[strategy], beta=reference_weight, max_length=None)
    about = {"strategy": strategy, "reference_weight": reference_weight}
    return _train(stack, name, spec, parent, DPOTrainer, {"args": arguments, "train_dataset": rows}, pairs, about)


def train_by_reward(
    stack: LoraStack,
    name: str,
    spec: AdapterSpec,
    records: list[dict],
    training: Training,
    reward: Reward,
    *,
    parent: str | None,
    answers_each: int = 4,
    max_new_tokens: int = 48,
    reference_weight: float = 0.0,
    temperature: float = 1.0,
    checkpoints: Path,
) -> pd.DataFrame:
    """Train expert `name` by GRPO and return the log, with the mean reward since the previous row.

    GRPO samples `answers_each` answers to a question and reinforces answers above their mean reward. The loss is TRL's
    default (DAPO's): a mean over all tokens of a batch, not over each answer. The batch size of `training` counts
    answers. `reference_weight` weights the distance to the stack without the expert, which at 0 is not computed.
    Errors: ValueError where the batch is not a multiple of `answers_each`, or the records do not fill one batch.
    """
    batch = training.batch
    if batch % answers_each:
        raise ValueError(f"batch: found {batch}, expected a multiple of answers_each, {answers_each}")
    if len(records) < batch // answers_each:
        raise ValueError(f"adapter {name!r}: found {len(records)} records, a batch needs {batch // answers_each}")
    rows = _prompts(records, stack.vlm, lambda _row: {})

    def rewards(completions: list[list[dict]], number: list[int], **_: object) -> list[float]:
        return [reward(records[k], said[0]["content"].strip()) for k, said in zip(number, completions, strict=True)]

    drawn = {"num_generations": answers_each, "max_completion_length": max_new_tokens, "temperature": temperature}
    own = trainer_arguments(training, checkpoints / name, base=stack.vlm.model) | UNLIKE_TRL
    arguments = GRPOConfig(**own, **drawn, beta=reference_weight)
    settings = {"args": arguments, "train_dataset": rows, "reward_funcs": rewards}
    about = {"reference_weight": reference_weight, "reward": getattr(reward, "__qualname__", type(reward).__qualname__)}
    return _train(stack, name, spec, parent, GRPOTrainer, settings, records, about | drawn)


def _prompts(records: list[dict], vlm: Vlm, more: Callable[[dict], dict]) -> Dataset:
    """Return TRL's rows: images (decoded on access), prompt, record number, and the fields that `more` adds."""
    photos = RecordDataset(records, vlm.max_px)

    def rows(numbers: dict[str, list[int]]) -> dict[str, list]:
        made = [
            {"number": k, "images": photos[k]["pixels"], "prompt": records[k]["messages"][:-1], **more(records[k])}
            for k in numbers["number"]
        ]
        return {key: [row[key] for row in made] for key in made[0]}

    return Dataset.from_dict({"number": list(range(len(records)))}).with_transform(rows)


def _train(
    stack: LoraStack, name: str, spec: AdapterSpec, parent: str | None, kind: type[Trainer], settings: dict,
    records: list[dict], about: dict,
) -> pd.DataFrame:  # fmt: skip
    """Run one of TRL's trainers over the merged trunk, and put the trained LoRA onto the stack as `name`.

    about: what makes the run besides these arguments, for the key of its checkpoints.
    """
    stack.add(name, spec, parent=parent)  # refuses an invalid adapter before training starts
    vlm = stack.merged_trunk(parent)
    shared = {"processing_class": vlm.processor, "peft_config": stack.lora_config(spec), "callbacks": [Watch(name)]}
    trainer = kind(vlm.model, **shared, **settings)
    arguments = settings["args"]
    about = {
        "adapter": f"adapter {name!r}", "spec": asdict(spec), **about, "records": records_sha256(records),
        "truths": digest([[row.get(k) for k in ("chosen", "rejected", "label", "facts")] for row in records]),
        "model": base_fingerprint(vlm.model), "max_px": vlm.max_px, "rate": arguments.learning_rate,
        "steps": arguments.max_steps, "batch": arguments.per_device_train_batch_size, "seed": arguments.seed,
        "accumulate": arguments.gradient_accumulation_steps, "processes": arguments.world_size,
        "initial weights": weights_sha256(trainable_weights(trainer.model)),
    }  # fmt: skip
    go_on(trainer, about, by=__name__)
    trained = {n.replace(".default.", f".{name}."): p.data for n, p in trainer.model.named_parameters() if "lora_" in n}
    mine = stack.adapter_weights(name)
    if mine.keys() != trained.keys():
        raise RuntimeError(f"adapter {name!r}: TRL trained {len(trained)} weights, the stack expects {len(mine)}")
    stack.put_weights(name, trained)
    stack.activate(name)
    stack.model.eval()
    return training_log(trainer)
