"""Generate a model's answers to records: greedy decoding, in batches by task and form, in the records' own order."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from pathlib import Path

import torch
from torch import nn

from mtive_nb.data.records import records_sha256
from mtive_nb.model.batches import answer_tokens, batch_of, rough_tokens
from mtive_nb.model.load import Vlm, answering_fingerprint, base_fingerprint
from mtive_nb.model.mixed import images_of_rows, mixed_experts
from mtive_nb.model.parallel import by_processes
from mtive_nb.model.stack import LoraStack
from mtive_nb.run import progress
from mtive_nb.run.atomic import write_atomic

CUT = " [cut]"  # the end of an answer that the limit cut off, where such ends are marked


def _answer_in_batches(
    vlm: Vlm, records: list[dict], order: list[int], ready: Callable[[list[int], dict], AbstractContextManager[nn.Module]],
    *, batch: int, max_new_tokens: int, what: str, mark_cut: bool = False,
) -> list[str]:  # fmt: skip
    """Generate answers in the records' own order; `ready(rows, inputs)` provides the network for a batch of rows."""
    end = vlm.model.generation_config.eos_token_id  # one token, several or none
    ends = torch.tensor([] if end is None else end).reshape(-1)
    answers = [""] * len(records)
    for start in progress(range(0, len(order), batch), what=what):
        rows = order[start : start + batch]
        inputs = batch_of(vlm, [records[i] for i in rows])
        with ready(rows, inputs) as network:
            tokens = network.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        said = tokens[:, inputs["input_ids"].shape[1] :].cpu()
        texts = vlm.processor.batch_decode(said, skip_special_tokens=True)
        for i, text, ended in zip(rows, texts, torch.isin(said, ends).any(1).tolist(), strict=True):
            answers[i] = text.strip() + (CUT if mark_cut and not ended else "")
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
    mark_cut: bool = False,
) -> list[str]:
    """Return one answer per record, by greedy decoding with the active adapters.

    `fold` folds a stack's adapters into the base's weights during decoding: the same answers, faster. `what` labels the
    progress line. `mark_cut` adds CUT to an answer that `max_new_tokens` ended, not the model.
    """
    stacked = isinstance(model, LoraStack)
    vlm, network = (model.vlm, model.model) if stacked else (model, model.model)
    network.eval()
    forms = [(r["task"], r["variant"], len(r["images"])) for r in records]
    order = sorted(range(len(records)), key=forms.__getitem__)
    limits = {"batch": batch, "max_new_tokens": max_new_tokens, "what": what, "mark_cut": mark_cut}
    with model.lean() if stacked and fold else nullcontext():
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
    """Return answers as generate_answers, record i by expert i over `trunk` (None: the trunk alone).

    A batch may mix any experts.
    """
    stack.model.eval()
    adapters = {name: stack.adapter(name) for name in set(experts) if name is not None} | {None: None}
    order = sorted(range(len(records)), key=list(map(rough_tokens, records)).__getitem__)

    def ready(rows: list[int], inputs: dict) -> AbstractContextManager[nn.Module]:
        shown = images_of_rows([records[i] for i in rows], inputs)
        return mixed_experts(stack, [adapters[experts[i]] for i in rows], trunk=trunk, **shown)

    limits = {"batch": batch, "max_new_tokens": max_new_tokens, "what": "answers"}
    return _answer_in_batches(stack.vlm, records, order, ready, **limits)


@torch.inference_mode()
def next_token_logits(stack: LoraStack, records: list[dict]) -> torch.Tensor:
    """Return the logits of the answer's first token, (B, V), with the active adapters, without folding."""
    stack.model.eval()
    return stack.model(**batch_of(stack.vlm, records), logits_to_keep=1).logits[:, -1]


def yes_no_tokens(vlm: Vlm) -> tuple[int, int]:
    """Return the ids of the first tokens of the answers yes and no. Errors: ValueError where both begin alike."""
    yes, no = (answer_tokens(vlm.processor, word)[0][0] for word in ("yes", "no"))
    if yes == no:
        raise ValueError(f"{vlm.name}: its tokenizer begins yes and no with the same token; no single token decides")
    return yes, no


@torch.inference_mode()
def chosen_yes_no(stack: LoraStack, records: list[dict], *, batch: int = 64) -> list[str]:
    """Return yes or no for each record by the likelier first token, even if the model prefers another word."""
    yes, no = yes_no_tokens(stack.vlm)
    said = []
    for start in progress(range(0, len(records), batch), what="yes or no"):
        logits = next_token_logits(stack, records[start : start + batch])
        said += ["yes" if row[yes] > row[no] else "no" for row in logits]
    return said


def _answer_task(
    stack: LoraStack, adapter: str | None, records: list[dict], kept: Path, batch: int, max_new_tokens: int
) -> list[str]:
    stack.activate(adapter)
    what = kept.stem.rpartition("_")[0].replace("_", " ")
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
    """Return every system's answers, {system: one answer per record}.

    systems: {system: {task: adapter}}, None for the bare base. cache: folder for each system's answers to each task, so
    an interrupted run resumes where it stopped; files are named by questions, photos, weights and settings as well.
    processes: number of processes that share the work, for a small model on a CPU. each: by_processes here, or by_ray of serve/cluster.py on many machines.
    """
    parts = [(system, task, adapter) for system, adapters in systems.items() for task, adapter in adapters.items()]
    asked = {task: [r for r in records if r["task"] == task] for _, task, _ in parts}
    of_task = {task: f"{records_sha256(rows)} {max_new_tokens}" for task, rows in asked.items()}
    branches = {adapter: stack.branch(adapter) if adapter else () for _, _, adapter in parts}
    base = base_fingerprint(stack.vlm.model)
    of_adapter = {a: answering_fingerprint(stack.vlm, branch, base=base) for a, branch in branches.items()}
    keys = {part: sha256(f"{of_task[part[1]]} {of_adapter[part[2]]}".encode()).hexdigest()[:16] for part in parts}
    kept = {part: Path(cache) / f"{part[0]}_{part[1]}_{keys[part]}.json" for part in parts}
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
