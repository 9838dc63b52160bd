"""Answers of a model to records: greedy, in batches of one task and form, given back in the records' own order."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import nn

from mtive_nb.model.batches import batch_of, rough_tokens
from mtive_nb.model.load import Vlm
from mtive_nb.model.mixed import mixed_experts
from mtive_nb.model.parallel import by_processes
from mtive_nb.model.stack import LoraStack
from mtive_nb.run import progress
from mtive_nb.run.atomic import write_atomic


def _answer_in_batches(
    vlm: Vlm, records: list[dict], order: list[int], ready: Callable[[list[int], dict], AbstractContextManager[nn.Module]],
    *, batch: int, max_new_tokens: int, what: str,
) -> list[str]:  # fmt: skip
    """Answers in the records' own order; `ready(rows, inputs)` lends the network for a batch of these rows."""
    answers = [""] * len(records)
    for start in progress(range(0, len(order), batch), what=what):
        rows = order[start : start + batch]
        inputs = batch_of(vlm, [records[i] for i in rows])
        with ready(rows, inputs) as network:
            tokens = network.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        texts = vlm.processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(rows, texts, strict=True):
            answers[i] = text.strip()
    return answers


@torch.inference_mode()
def generate_answers(
    model: LoraStack | Vlm,
    records: list[dict],
    *,
    batch: int = 64,
    max_new_tokens: int = 64,
    what: str = "answers",
    fold: bool = True,
) -> list[str]:
    """One answer a record, by greedy decoding with whatever adapters are active.

    `fold` adds a stack's adapters into the base's weights while it answers: the same answers, sooner. `what` names the
    progress line.
    """
    stacked = isinstance(model, LoraStack)
    vlm, network = (model.vlm, model.model) if stacked else (model, model.model)
    network.eval()
    forms = [(r["task"], r["variant"], len(r["images"])) for r in records]
    order = sorted(range(len(records)), key=forms.__getitem__)
    limits = {"batch": batch, "max_new_tokens": max_new_tokens, "what": what}
    with model.folded() if stacked and fold else nullcontext():
        return _answer_in_batches(vlm, records, order, lambda *_: nullcontext(network), **limits)


@torch.inference_mode()
def generate_mixed_answers(
    stack: LoraStack,
    records: list[dict],
    experts: Sequence[str | None],
    *,
    trunk: str | None,
    batch: int = 64,
    max_new_tokens: int = 64,
) -> list[str]:
    """As generate_answers, record i by expert i over `trunk` (None: the trunk alone); a batch holds any experts at once."""
    stack.model.eval()
    adapters = {name: stack.adapter(name) for name in set(experts) if name is not None} | {None: None}
    order = sorted(range(len(records)), key=list(map(rough_tokens, records)).__getitem__)

    def ready(rows: list[int], inputs: dict) -> AbstractContextManager[nn.Module]:
        shown = {"images": [len(records[i]["images"]) for i in rows], "grid_thw": inputs.get("image_grid_thw")}
        return mixed_experts(stack, [adapters[experts[i]] for i in rows], trunk=trunk, **shown)

    limits = {"batch": batch, "max_new_tokens": max_new_tokens, "what": "answers"}
    return _answer_in_batches(stack.vlm, records, order, ready, **limits)


@torch.inference_mode()
def next_token_logits(stack: LoraStack, records: list[dict]) -> torch.Tensor:
    """Logits of the answer's first token, (B, V), with whatever adapters are active, all of them live."""
    stack.model.eval()
    return stack.model(**batch_of(stack.vlm, records), logits_to_keep=1).logits[:, -1]


@torch.inference_mode()
def chosen_yes_no(stack: LoraStack, records: list[dict], *, batch: int = 64) -> list[str]:
    """Yes or no to each record, whichever begins more likely: also of a model that would say something else."""
    encode = stack.vlm.processor.tokenizer.encode
    words = {word: encode(word, add_special_tokens=False)[0] for word in ("yes", "no")}
    said = []
    for start in progress(range(0, len(records), batch), what="yes or no"):
        logits = next_token_logits(stack, records[start : start + batch])
        said += ["yes" if row[words["yes"]] > row[words["no"]] else "no" for row in logits]
    return said


def _answer_task(
    stack: LoraStack, adapter: str | None, records: list[dict], kept: Path, batch: int, max_new_tokens: int
) -> list[str]:
    stack.activate(adapter)
    what = kept.stem.replace("_", " ")
    said = generate_answers(stack, records, batch=batch, max_new_tokens=max_new_tokens, what=what)
    write_atomic(kept, json.dumps(said))
    return said


def answers_of_systems(
    stack: LoraStack,
    systems: Mapping[str, Mapping[str, str | None]],
    records: list[dict],
    *,
    cache: Path,
    batch: int = 64,
    max_new_tokens: int = 64,
    processes: int = 1,
    each: Callable = by_processes,
) -> dict[str, list[str]]:
    """Answers of every system, {system: one a record}; a system names the adapter of each task (None: the bare base).

    A system's answers to a task are kept under `cache`, so that a run that was cut short goes on where it stopped.
    `processes` of their own share the work: for a small model on a CPU; `each`: by_processes here, or by_ray of
    serve/cluster.py on many machines.
    """
    parts = [(system, task, adapter) for system, adapters in systems.items() for task, adapter in adapters.items()]
    kept = {part: Path(cache) / f"{part[0]}_{part[1]}.json" for part in parts}
    asked = {task: [r for r in records if r["task"] == task] for _, task, _ in parts}
    missing = [
        (adapter, asked[task], kept[system, task, adapter], batch, max_new_tokens)
        for system, task, adapter in parts
        if not kept[system, task, adapter].is_file()
    ]
    each(stack, _answer_task, missing, workers=processes)
    answers = {system: [""] * len(records) for system in systems}
    for (system, task, _), path in kept.items():
        rows = [i for i, r in enumerate(records) if r["task"] == task]
        for i, text in zip(rows, json.loads(path.read_text()), strict=True):
            answers[system][i] = text
    return answers
