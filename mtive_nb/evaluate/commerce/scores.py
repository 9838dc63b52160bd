"""CASLIE's scores of its seven tasks (section 5, appendix D) and eBay's of EcomMMMU, with intervals.

CASLIE's released evaluation reads an answer as its option: spaces stripped, and the first character where a colon occurs
("A: exact match" is A). An option that is no label of the questions' truth, letter case included, is a failed answer.
That evaluation counts failed answers and drops them, questions and all. Here a failed answer is wrong ("wrong", our
scores); the released rule ("dropped") stands beside.

AP and PSI print precision, recall and F1 of yes; the other tasks print macro averages over the classes that occur. The
paper's tables A7 and A12 and half of A9 head precision "M-Rec" and recall "M-Pre"; ours stand under their own names.
Shapes: n answers, K classes, R resamples.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy.linalg import block_diag

from mtive_nb.data.commerce.rows import COMMERCE_TASKS
from mtive_nb.evaluate.intervals import Interval, bootstrap_interval, bootstrap_sums, resampled_sums
from mtive_nb.run.published import columns_of

# Each task's main metric, and its name in the paper's tables.
MAIN = {"AP": ("F1", "F1"), "CC": ("Acc", "R@1"), "PRP": ("F1", "M-F1"), "PSI": ("F1", "F1"), "MPC": ("Acc", "Acc"),
        "SA": ("F1", "M-F1"), "SR": ("Acc", "R@1")}  # fmt: skip
OF_YES = ("AP", "PSI")  # scored on one class; the other tasks on all
FULL = {"A7": "AP", "A8": "CC", "A9": "PRP", "A10": "PSI", "A11": "MPC", "A12": "SA", "A13": "SR"}
# table -> our arm -> the paper's row; other arms keep their own names.
_VLM = "ft-LLaVA-NExT-Interleave"
_FULL_ROWS = {
    "uniM3": "CASLIE-M/uniM3", "UIA": "CASLIE-M/EC3-uniM3", "CASLIE": "CASLIE-M/EC3-CQE-uniM3",
    "VLM, photos": _VLM, "CLIP head": "ft-FashionCLIP",
}  # fmt: skip
PRINTED = dict.fromkeys(FULL, _FULL_ROWS) | {
    "T4": {"CASLIE": "CASLIE-M", "VLM, photos": "ft-LLaVA-Interleave", "CLIP head": "ft-FashionCLIP"},
    "T5": {"CASLIE": "CASLIE-M/Gen", "specialists": "CASLIE-M/T-spec"},
    "T6": {"uniM3": "uniM3-M", "UIA": "UIA-M", "CASLIE": "CASLIE-M"},
    "A3": {
        "VLM, photos": f"{_VLM} | w image | no captioner",
        "VLM, captions": f"{_VLM}* | w caption | Llama-3.2-Vision-Instruct",
        "uniM3": "uniM3-M | w/o caption | no captioner",
        "context-free": "CASLIE-M | w/o context | Llama-3.2-Vision-Instruct",
        "CASLIE": "CASLIE-M | w/ context & caption | Llama-3.2-Vision-Instruct",
    },
    "A4": {
        "1 judge": "Single | Llama-3.2-Vision-Instruct",
        **{f"{n} judges": f"MV | {n} models" for n in (3, 5, 7)},
    },
    "A6": {"CASLIE": "CASLIE-M"},
}
METRICS = ("Acc", "Pre", "Rec", "F1", "#Failed")
RULES = ("wrong", "dropped")  # what a failed answer is
DOMAINS = {"ind": "IND", "ood": "OOD"}  # a record's variant, and its name in the paper
FAILED = "(failed)"
SCORE_COLUMNS = ("system", "domain", "task", "metric", "rule", "value", "low", "high", "n", "unit", "better")


def option_of(answer: str) -> str:
    """Return the option that an answer names, as CASLIE's released evaluation reads it."""
    text = answer.strip()
    return text[0] if ":" in text else text


def ecommmu_option_of(answer: str, labels: Sequence[str]) -> str:
    """Return the label before an answer's colon, else the longest label with which the answer begins, else FAILED.

    A label ends where a word ends: "A. exact" is A, "Apple" is not.
    """
    text = answer.strip()
    for label in sorted(labels, key=len, reverse=True):
        if text.partition(":")[0].strip() == label or (
            text.startswith(label) and not text[len(label) : len(label) + 1].isalnum()
        ):
            return label
    return FAILED


def constant_answers(records: Sequence[Mapping[str, Any]], train: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the answers of two systems that read nothing: the task's commonest label in `train`, and always yes.

    "always yes" differs in tasks whose labels are yes and no; the paper's scores of some systems lie below it.
    Errors: ValueError for a task without a record in `train`.
    """
    seen: dict[str, Counter] = {}
    for record in train:
        seen.setdefault(record["task"], Counter())[record["label"]] += 1
    if missing := {r["task"] for r in records} - seen.keys():
        raise ValueError(f"constant_answers: found no training record of {sorted(missing)}; expected at least one each")
    common = {task: counts.most_common(1)[0][0] for task, counts in seen.items()}
    yes = {task: "yes" if set(counts) <= {"yes", "no"} else common[task] for task, counts in seen.items()}
    answers = {"commonest class": common, "always yes": yes}
    return {name: [of_task[r["task"]] for r in records] for name, of_task in answers.items()}


@dataclass(frozen=True)
class Confusion:
    """Answers to the questions of one task as cells of a confusion matrix.

    classes: the K labels of the truth. cells (n, K * (K + 1)): 1 at the answer's true class and read class, of which the
    last is FAILED. groups (n): run and product, the units of the bootstrap. of_yes: score the class yes alone.
    """

    classes: tuple[str, ...]
    cells: np.ndarray
    groups: list[tuple[Any, str]]
    of_yes: bool

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> "Confusion":
        """Read the answers to one task's records. Errors: ValueError for a record without a label."""
        if unlabelled := [r["id"] for r in records if not r.get("label")]:
            raise ValueError(f"record {unlabelled[0]}: field 'label': found none, expected the right option")
        classes = tuple(sorted({r["label"] for r in records}))
        place = {label: k for k, label in enumerate(classes)}
        cells = np.zeros((len(records), len(classes) * (len(classes) + 1)))
        for cell, record, answer in zip(cells, records, answers, strict=True):
            read = place.get(option_of(answer), len(classes))
            cell[place[record["label"]] * (len(classes) + 1) + read] = 1
        groups = [(r.get("run"), r["product_id"]) for r in records]
        return cls(classes, cells, groups, records[0]["task"] in OF_YES)

    def score(self, sums: np.ndarray, metric: str, rule: str) -> np.ndarray:
        """Return a metric of METRICS, (R,), from sums of cells (R, K * (K + 1)); 0 where it is 0 divided by 0."""
        counts = sums.reshape(len(sums), len(self.classes), -1)  # (R, K, K + 1)
        if metric == "#Failed":
            return counts[:, :, -1].sum(axis=1)
        kept = counts[:, :, :-1]
        hits, predicted = np.diagonal(kept, axis1=1, axis2=2), kept.sum(axis=1)  # (R, K) each
        support = (kept if rule == "dropped" else counts).sum(axis=2)
        if metric == "Acc":
            return hits.sum(axis=1) / np.maximum(support.sum(axis=1), 1)
        below = {"Pre": predicted, "Rec": support, "F1": (predicted + support) / 2}[metric]
        of_class = hits / np.maximum(below, 0.5)
        if self.of_yes:
            return of_class[:, self.classes.index("yes")] if "yes" in self.classes else np.zeros(len(sums))
        return of_class.sum(axis=1) / np.maximum((support + predicted > 0).sum(axis=1), 1)


def commerce_scores(
    records: Sequence[Mapping[str, Any]],
    answers_by_system: Mapping[str, Sequence[str]],
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> pd.DataFrame:
    """Return every metric of every system by domain, task and rule, with columns SCORE_COLUMNS.

    Intervals resample products, each run's among its own. #Failed is a count and the same under both rules.
    Errors: ValueError for another number of answers than records, a task outside COMMERCE_TASKS, a record without label.
    """
    rows = []
    for system, answers in answers_by_system.items():
        for (domain, task), cells in _confusions(records, answers, system=system).items():
            about = {"system": system, "domain": domain, "task": task}
            for metric, rule in product(METRICS, RULES):
                score = partial(cells.score, metric=metric, rule=rule)
                found = bootstrap_sums(cells.cells, score, groups=cells.groups, seed=seed, resamples=resamples)
                kind = ("count", "lower") if metric == "#Failed" else ("fraction", "higher")
                rows.append(about | {"metric": metric, "rule": rule, "unit": kind[0], "better": kind[1]} | found.row())
    return pd.DataFrame(rows, columns=list(SCORE_COLUMNS))


def _confusions(records: Sequence[Mapping[str, Any]], answers: Sequence[str], *, system: str) -> dict[tuple[str, str], Confusion]:  # fmt: skip
    if len(answers) != len(records):
        raise ValueError(f"{system}: found {len(answers)} answers, expected one for each of {len(records)} records")
    if foreign := [r["id"] for r in records if r["task"] not in COMMERCE_TASKS]:
        raise ValueError(f"record {foreign[0]}: field 'task': expected one of {', '.join(COMMERCE_TASKS)}")
    parts: dict[tuple[str, str], list[int]] = {}
    for k, record in enumerate(records):
        parts.setdefault((DOMAINS[record["variant"]], record["task"]), []).append(k)
    return {place: Confusion.of([records[k] for k in own], [answers[k] for k in own]) for place, own in parts.items()}


def main_scores(records: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> dict[tuple[str, str], float]:
    """Return the main metric by (domain, task), from 0 to 1, a failed answer wrong. Errors: as commerce_scores."""
    parts = _confusions(records, answers, system="answers").items()
    return {
        place: float(cells.score(cells.cells.sum(axis=0, keepdims=True), MAIN.get(place[1], ("Acc",))[0], "wrong")[0])
        for place, cells in parts
    }


def paper_table(scores: pd.DataFrame, table: str, *, rule: str = "wrong") -> pd.DataFrame:
    """Return those `commerce_scores` that one of CASLIE's tables prints, as `run.metrics` reads them.

    table: "T4", "T5", "T6", "A3", "A4", "A6" (main metrics) or "A7" to "A13" (one task in full). Further columns: paper,
    table, column. An arm that the table prints has the paper's name (PRINTED). The released rule's scores have their own
    table, "T6, failed dropped"; without scores the table is empty. Errors: ValueError for another table.
    """
    if table not in PRINTED:
        raise ValueError(f"paper_table: found {table!r}; expected T4, T5, T6, A3, A4, A6 or A7 to A13")
    printed, task = columns_of("caslie", table), FULL.get(table)
    own = scores[(scores["rule"] == rule) & (scores["task"].isin([task] if task else MAIN))]
    if task:
        heads = {"Acc": "HR@1"} if task in ("CC", "SR") else {m: f"M-{m}" for m in ("Pre", "Rec", "F1")}
        column = own["domain"] + "/" + own["metric"].map(lambda m: heads.get(m, m))
    else:
        own = own[own["metric"] == own["task"].map(lambda t: MAIN[t][0])]
        by_domain = own["domain"] + "/" + own["task"]
        column = by_domain if "IND/AP" in printed else own["task"] + "/" + own["task"].map(lambda t: MAIN[t][1])
        own = own if "IND/AP" in printed else own[own["domain"] == "IND"]
    found = own.assign(column=column)
    found = found[found["column"].isin(printed)]
    place = ("caslie", table) if rule == "wrong" else ("own", f"{table}, failed dropped")
    named = found["system"].replace(PRINTED.get(table, {}))
    return found.assign(system=named, paper=place[0], table=place[1]).reset_index(drop=True)


@dataclass(frozen=True)
class Gains:
    """Gains of one system over another on the main metrics in points, 100 (left - right); mean: that over tasks.

    The paper prints left / right - 1. Where right is near 0, one lucky answer would decide such a mean.
    """

    by_task: dict[str, Interval]
    mean: Interval


def commerce_gains(
    records: Sequence[Mapping[str, Any]],
    left: Sequence[str],
    right: Sequence[str],
    *,
    tasks: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> Gains:
    """Return the gains of the answers `left` over the answers `right` in both domains, on `tasks` or all that occur.

    A task out of domain has the claims' name: "AP_ood". A product is drawn with its questions of all tasks.
    Errors: ValueError as commerce_scores, and where no record is of these tasks.
    """
    parts, others = (_confusions(records, said, system=side) for said, side in ((left, "left"), (right, "right")))
    named = {f"{task}_ood" if where == "OOD" else task: (where, task) for where, task in parts}
    named = {name: key for name, key in named.items() if tasks is None or name in tasks}
    if not named:
        raise ValueError(f"commerce_gains: found no record of {tasks or 'any task'}; expected some")
    cells = [np.hstack([parts[key].cells, others[key].cells]) for key in named.values()]
    products = [parts[key].groups for key in named.values()]
    drawn = resampled_sums(block_diag(*cells), groups=[one for own in products for one in own], seed=seed, resamples=resamples)  # fmt: skip
    gains = []  # (1 + R,) a task: the sample itself, then its resamples
    for key, own, sums in zip(named.values(), cells, _split(drawn, cells), strict=True):
        both = np.hsplit(np.vstack([own.sum(axis=0, keepdims=True), sums]), 2)
        said, beside = (parts[key].score(side, MAIN.get(key[1], ("Acc",))[0], "wrong") for side in both)
        gains.append(100 * (said - beside))
    by_task = {name: _interval(*one) for name, *one in zip(named, gains, products, strict=True)}
    return Gains(by_task, _interval(np.mean(gains, axis=0), [one for own in products for one in own]))


def _split(sums: np.ndarray, cells: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Split sums (R, d) of tasks side by side into the tasks' own."""
    return np.split(sums, np.cumsum([own.shape[1] for own in cells])[:-1], axis=1)


def _interval(values: np.ndarray, groups: Sequence) -> Interval:
    """Return values[0] with the 95% interval of its resamples, the rest; groups: the product of each answer."""
    low, high = np.quantile(values[1:], (0.025, 0.975))
    ends = float(min(low, values[0])), float(max(high, values[0]))
    return Interval(float(values[0]), *ends, len(groups), groups=len(set(groups)))


def ecommmu_points(records: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> np.ndarray:
    """Return 100 for each answer that names the right label, else 0, shape (n,); labels are those of the task's records."""
    labels: dict[str, set[str]] = {}
    for record in records:
        labels.setdefault(record["task"], set()).add(record["label"])
    read = [ecommmu_option_of(a, tuple(labels[r["task"]])) for r, a in zip(records, answers, strict=True)]
    return 100.0 * np.array([said == r["label"] for said, r in zip(read, records, strict=True)], dtype=float)


def ecommmu_scores(
    records: Sequence[Mapping[str, Any]], answers_by_system: Mapping[str, Sequence[str]], *, seed: int = 0
) -> pd.DataFrame:
    """Return accuracies in percent as eBay's T5 prints them, a failed answer wrong: rows as `run.metrics` reads them.

    Columns: "AP/Acc" ..., "SR/R@1", and "Avg/Acc", the mean over tasks weighted by their records. A question of BQA has
    a third label, cannot answer. Errors: ValueError for another number of answers than records.
    """
    tasks, rows = list(dict.fromkeys(r["task"] for r in records)), []
    for system, answers in answers_by_system.items():
        if len(answers) != len(records):
            raise ValueError(f"{system}: found {len(answers)} answers, expected one for each of {len(records)} records")
        right = ecommmu_points(records, answers)
        for name in [*tasks, "Avg"]:
            own = np.array([name in (r["task"], "Avg") for r in records])
            groups = [(r.get("run"), r["product_id"]) for r, mine in zip(records, own, strict=True) if mine]
            one = bootstrap_interval(right[own], groups=groups, seed=seed)
            place = {"paper": "ebay", "table": "T5", "column": f"{name}/{'R@1' if name == 'SR' else 'Acc'}"}
            rows.append({"system": system} | place | one.row() | {"unit": "percent", "better": "higher"})
    return pd.DataFrame(rows)
