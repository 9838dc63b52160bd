"""How probable is an answer among fixed options (yes or no, or a task's classes), and can the number be trusted?

An option is a sequence of tokens. Where the options still possible part, the model's logits choose among their next
tokens; the probability of an option is the product of these choices. A temperature (Guo et al. 2017), fitted to one
task's validation answers, divides the logits: above 1 it lowers the confidence of answers, and never changes them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from transformers import ProcessorMixin

from mtive_nb.evaluate.calibration import calibration
from mtive_nb.model.batches import answer_tokens, batch_of
from mtive_nb.model.stack import LoraStack
from mtive_nb.run import progress

YES_NO = ("yes", "no")
KINDS = ("yes/no", "class")
SPREAD = 0.25  # of the prior on log temperature; benchmarks/temperature.py chose it on val
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Choice:
    """An option that a model chose; `partings` are the logits at each token where options part, its own logit first."""

    option: str
    partings: tuple[tuple[float, ...], ...]

    def confidence(self, temperature: float = 1.0) -> float:
        """Return the option's probability among all options, in (0, 1]."""
        scaled = [np.array(logits) / temperature for logits in self.partings]
        return float(np.exp(sum(row[0] - logsumexp(row) for row in scaled)))

    def probability_yes(self, temperature: float = 1.0) -> float:
        """Return the probability of yes, for a choice between yes and no."""
        confidence = self.confidence(temperature)
        return confidence if self.option == "yes" else 1 - confidence


Options = Mapping[str, Sequence[int]]  # option -> its tokens, the end of the answer last


def option_tokens(processor: ProcessorMixin, options: Sequence[str]) -> dict[str, list[int]]:
    """Return each option's tokens as a chat ends with it, with the end of the answer."""
    return {name: answer_tokens(processor, name)[0] for name in options}


def _possible(options: Options, said: Sequence[int]) -> list[int]:
    """Return the next tokens of the options that begin with the tokens `said`, each once."""
    n = len(said)
    return list(dict.fromkeys(o[n] for o in options.values() if len(o) > n and list(o[:n]) == list(said)))


def follow(option: str, options: Options, logits: Sequence[Mapping[int, float] | torch.Tensor]) -> Choice:
    """Return the choice of an option, from the logits (or log-probabilities) of each token of its answer."""
    tokens, partings = list(options[option]), []
    for t, row in zip(range(len(tokens)), logits, strict=False):
        others = [token for token in _possible(options, tokens[:t]) if token != tokens[t]]
        if others:
            partings.append(tuple(float(row[token]) for token in (tokens[t], *others)))
    return Choice(option, tuple(partings))


def option_of(text: str, tokens: Sequence[int], options: Options) -> str | None:
    """Return the option that an answer is, or that a comma or full stop follows (`yes, it is`); else None (`no name`)."""
    begun = [o for o, own in options.items() if list(tokens[: len(own) - 1]) == list(own[:-1]) and text.startswith(o)]
    found = max(begun, key=len, default=None)
    return None if found is None or text[len(found) :][:1] not in ("", *",.;:!") else found


@torch.inference_mode()
def choose(stack: LoraStack, records: Sequence[dict], options: Options, *, batch: int = 64) -> list[Choice]:
    """Return the option that the active adapters choose for each record: greedy decoding, held to the options."""
    stack.model.eval()
    depth = next(t for t in range(1, 99) if len({tuple(o[:t]) for o in options.values()}) == len(options))
    end, choices = stack.vlm.processor.tokenizer.eos_token_id, []
    with stack.lean():
        for start in progress(range(0, len(records), batch), what="choices"):
            inputs = batch_of(stack.vlm, records[start : start + batch])
            prompt = inputs["input_ids"].shape[1]
            made = stack.model.generate(
                **inputs,
                max_new_tokens=depth,
                do_sample=False,
                prefix_allowed_tokens_fn=lambda _, ids, k=prompt: _possible(options, ids[k:].tolist()) or [end],
                output_logits=True,
                return_dict_in_generate=True,
            )
            for row, said in enumerate(made.sequences[:, prompt:].tolist()):
                option = next(name for name, o in options.items() if list(o[:depth]) == said[: len(o)])
                choices.append(follow(option, options, [step[row] for step in made.logits]))
    return choices


def choices_of_experts(
    stack: LoraStack,
    adapters: Mapping[str, str | None],
    records: Sequence[dict],
    *,
    classes: Mapping[str, Sequence[str]] | None = None,
    batch: int = 64,
) -> pd.DataFrame:
    """Return each task's choices by its adapter: id, product_id, split, task, kind, truth, choice (a Choice), right.

    Kind "yes/no" covers the binary records of every task, kind "class" the open records whose label is one of the
    task's `classes`. Other records are left out. right: 0 or 1.
    """
    parts = []
    for task, adapter in adapters.items():
        of_task, names = [r for r in records if r["task"] == task], (classes or {}).get(task, ())
        polar = [r for r in of_task if r["variant"] == "bin"]
        named = [r for r in of_task if r["variant"] != "bin" and r["label"] in names]
        for kind, some, options in zip(KINDS, (polar, named), (YES_NO, names), strict=True):
            if some:
                stack.activate(adapter)
                found = choose(stack, some, option_tokens(stack.vlm.processor, options), batch=batch)
                about = {key: [r[key] for r in some] for key in ("id", "product_id", "split", "task")}
                parts.append(pd.DataFrame(about | {"kind": kind, "truth": [r["label"] for r in some], "choice": found}))
    columns = ["id", "product_id", "split", "task", "kind", "truth", "choice"]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    said = [choice.option for choice in table["choice"]]
    return table.assign(right=[float(a == b) for a, b in zip(said, table["truth"], strict=True)])


def fit_temperature(choices: Sequence[Choice], right: Sequence[float], *, spread: float = SPREAD) -> float:
    """Return the temperature that minimises the negative log-likelihood of being right, from e^-3 to e^3.

    A prior, log temperature ~ N(0, spread), keeps a few answers from moving it far from 1. spread: above 0.
    """
    right = np.asarray(right, float)
    owner = np.array([k for k, choice in enumerate(choices) for _ in choice.partings], int)
    rows = [row for choice in choices for row in choice.partings]
    logits = np.full((len(rows), max(map(len, rows), default=1)), -np.inf)  # (partings, most options)
    for padded, row in zip(logits, rows, strict=True):
        padded[: len(row)] = row

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        logs = np.bincount(owner, scaled[:, 0] - logsumexp(scaled, axis=1), minlength=len(choices))
        sure = np.clip(np.exp(logs), 1e-12, 1 - 1e-12)
        return (log_temperature / spread) ** 2 / 2 - np.sum(right * np.log(sure) + (1 - right) * np.log1p(-sure))

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def fit_temperatures(choices: pd.DataFrame) -> pd.DataFrame:
    """Return a row per task and kind of choices_of_experts: temperature, n (number of choices)."""
    rows = [
        {
            "task": task,
            "kind": kind,
            "temperature": fit_temperature(list(some["choice"]), some["right"]),
            "n": len(some),
        }
        for (task, kind), some in choices.groupby(["task", "kind"], sort=False)
    ]
    return pd.DataFrame(rows, columns=["task", "kind", "temperature", "n"])


def with_confidence(choices: pd.DataFrame, temperatures: pd.DataFrame) -> pd.DataFrame:
    """Return the choices of tasks and kinds that have a temperature, with the columns `before` and `after`: confidence."""
    joined = choices.merge(temperatures[["task", "kind", "temperature"]], on=["task", "kind"])
    before = [choice.confidence() for choice in joined["choice"]]
    after = [c.confidence(t) for c, t in zip(joined["choice"], joined["temperature"], strict=True)]
    return joined.assign(before=np.array(before, float), after=np.array(after, float))


def calibration_table(confident: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Return the expected calibration error of with_confidence by task, kind and state (before, after).

    Columns: task, kind, state, value, low, high (in [0, 1]; intervals resample products), n.
    """
    rows = []
    for (task, kind), some in confident.groupby(["task", "kind"], sort=False):
        for state in ("before", "after"):
            error = calibration(some.assign(confidence=some[state]), seed=seed)["ECE"]
            rows.append({"task": task, "kind": kind, "state": state} | error.row())
    return pd.DataFrame(rows, columns=["task", "kind", "state", "value", "low", "high", "n"])


def threshold_table(
    yes: Sequence[float] | np.ndarray, truth: Sequence[bool] | np.ndarray, *, thresholds: Sequence[float] = THRESHOLDS
) -> pd.DataFrame:
    """Return what each threshold costs: answers with max(p, 1 - p) at or above it are automatic, a person answers the rest.

    yes: probability of yes; truth: whether yes is right. A row per threshold: automatic and to_a_person (shares of all
    answers), precision_yes, recall_yes and accuracy of the automatic answers; NaN where there is none to count.
    """
    yes, truth = np.asarray(yes, float), np.asarray(truth, bool)
    rows = []
    for threshold in thresholds:
        kept = np.maximum(yes, 1 - yes) >= threshold
        said, true = yes[kept] > 0.5, truth[kept]
        hits = (said & true).sum()
        share = kept.mean() if len(kept) else np.nan
        row = {"threshold": threshold, "automatic": share, "to_a_person": 1 - share}
        row |= {"precision_yes": _ratio(hits, said.sum()), "recall_yes": _ratio(hits, true.sum())}
        rows.append(row | {"accuracy": _ratio((said == true).sum(), len(true))})
    return pd.DataFrame(rows)


def thresholds_by_task(confident: pd.DataFrame) -> pd.DataFrame:
    """Return threshold_table of the yes/no answers of with_confidence, with calibrated probabilities; first column: task."""
    parts = []
    for task, some in confident[confident["kind"] == "yes/no"].groupby("task", sort=False):
        yes = np.where([choice.option == "yes" for choice in some["choice"]], some["after"], 1 - some["after"])
        found = threshold_table(yes, some["truth"] == "yes")
        found.insert(0, "task", task)
        parts.append(found)
    return pd.concat(parts, ignore_index=True) if parts else threshold_table([], []).iloc[:0]


def calibration_entries(
    temperatures: pd.DataFrame,
    errors: pd.DataFrame,
    *,
    experts: Mapping[str, str],
    classes: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, dict]]:
    """Return calibration.json: {task: {kind: temperature, n, ece_before, ece_after, expert's sha256, options}}.

    errors: calibration_table of test answers; the errors are null where the task has none.
    """
    found: dict[str, dict[str, dict]] = {}
    for row in temperatures.itertuples():
        of_form = errors[(errors["task"] == row.task) & (errors["kind"] == row.kind)].set_index("state")["value"]
        entry = {"temperature": row.temperature, "n": row.n}
        entry |= {f"ece_{state}": of_form.get(state) for state in ("before", "after")}
        options = list(YES_NO if row.kind == "yes/no" else classes[row.task])
        found.setdefault(row.task, {})[row.kind] = entry | {"expert": experts[row.task], "options": options}
    return found


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
