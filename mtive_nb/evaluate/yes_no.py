"""Accuracy a task and the mean of tasks: VIT-Pro's MMPI benches and ablations (T3 to T8), and what two systems differ by."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from mtive_nb.evaluate.intervals import Interval, bootstrap_sums
from mtive_nb.evaluate.metrics import yes_no


def right_yes_no(records: Sequence[dict], answers: Sequence[str], *, system: str = "answers") -> np.ndarray:
    """Whether each answer is right, (n,) of 0 and 1; one that says neither yes nor no is wrong.

    Errors: ValueError where a record's truth is neither, or there is not one answer a record.
    """
    if wrong := [r["id"] for r in records if r["answer"] not in ("yes", "no")]:
        raise ValueError(f"record {wrong[0]}: answer: expected yes or no")
    if len(answers) != len(records):
        raise ValueError(f"{system}: found {len(answers)} answers, expected {len(records)}")
    return np.array([yes_no(a) == r["answer"] for a, r in zip(answers, records, strict=True)], float)


def yes_no_scores(
    records: Sequence[dict], answers_by_system: Mapping[str, Sequence[str]], *, seed: int = 0
) -> pd.DataFrame:
    """`accuracy_table` of answers to yes/no questions. Errors: those of `right_yes_no`."""
    right = {name: right_yes_no(records, answers, system=name) for name, answers in answers_by_system.items()}
    return accuracy_table(records, right, seed=seed)


def accuracy_table(records: Sequence[dict], right: Mapping[str, np.ndarray], *, seed: int = 0) -> pd.DataFrame:
    """A row a system and column (`<task>/Acc`, then `Overall/Acc`, the mean of the tasks): value, low, high in points, n.

    right: by system, 0 or 1 a record. Intervals draw products.
    """
    rows = []
    for system, of_records in right.items():
        for task, found in _means(records, of_records, seed=seed).items():
            row = {"system": system, "column": f"{'Overall' if task == 'mean' else task}/Acc"}
            rows.append(row | {"value": found.value, "low": found.low, "high": found.high, "n": found.n})
    return pd.DataFrame(rows)


def accuracy_gains(
    records: Sequence[dict], left: np.ndarray, right: np.ndarray, *, seed: int = 0
) -> dict[str, Interval]:
    """Accuracy of `left` less that of `right`, 0 or 1 a record each, in points: by task, and the `mean` of tasks."""
    return _means(records, np.asarray(left) - np.asarray(right), seed=seed)


def accuracy_ratio(records: Sequence[dict], left: np.ndarray, right: np.ndarray, *, seed: int = 0) -> Interval:
    """Mean over tasks of `left`'s accuracy over that of `right`'s, 0 to 1 a record each; products are drawn."""
    _, of_task, groups = _by_task(records)
    sums = np.concatenate([of_task * np.asarray(left)[:, None], of_task * np.asarray(right)[:, None], of_task], axis=1)

    def statistic(sums: np.ndarray) -> np.ndarray:
        one, other, count = np.split(sums, 3, axis=1)  # (R, tasks) each
        count = np.maximum(count, 1)
        return (one / count).mean(axis=1) / np.maximum((other / count).mean(axis=1), 1e-9)

    return bootstrap_sums(sums, statistic, seed=seed, groups=groups)


def _by_task(records: Sequence[dict]) -> tuple[list[str], np.ndarray, list[str]]:
    """The tasks, whether each record is of each, (n, tasks), and what is drawn together: the records' products."""
    tasks = list(dict.fromkeys(r["task"] for r in records))
    of_task = np.array([[r["task"] == task for task in tasks] for r in records], float)
    return tasks, of_task, [r["product_id"] for r in records]


def _means(records: Sequence[dict], values: np.ndarray, *, seed: int = 0) -> dict[str, Interval]:
    """100 times the mean value (n,) of each task's records, and the `mean` of those."""
    tasks, of_task, groups = _by_task(records)
    sums = np.concatenate([of_task * values[:, None], of_task], axis=1)  # (n, 2 tasks)
    found = {}
    for name, chosen in {**{task: [k] for k, task in enumerate(tasks)}, "mean": list(range(len(tasks)))}.items():
        one = bootstrap_sums(sums, _mean_of_tasks(chosen, len(tasks)), seed=seed, groups=groups)
        ends = {end: 100 * getattr(one, end) for end in ("value", "low", "high")}
        found[name] = replace(one, **ends, n=int(of_task[:, chosen].sum()))
    return found


def _mean_of_tasks(chosen: list[int], tasks: int):  # noqa: ANN202 - a statistic of sums (R, 2 tasks) -> (R,)
    def statistic(sums: np.ndarray) -> np.ndarray:
        return (sums[:, chosen] / np.maximum(sums[:, [tasks + k for k in chosen]], 1)).mean(axis=1)

    return statistic
