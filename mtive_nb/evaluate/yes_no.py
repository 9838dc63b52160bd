"""Accuracy per task and its mean over tasks: VIT-Pro's MMPI benchmarks and ablations (T3 to T8); system differences."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from mtive_nb.evaluate.intervals import Interval, bootstrap_sums, shares
from mtive_nb.evaluate.metrics import attribute_matches
from mtive_nb.evaluate.reading import yes_no


def right_yes_no(records: Sequence[dict], answers: Sequence[str], *, system: str = "answers") -> np.ndarray:
    """Mark each answer as right (1) or wrong (0), (n,); an answer with neither yes nor no is wrong.

    Errors: ValueError where a record's truth is neither yes nor no, or the numbers of answers and records differ.
    """
    if wrong := [r["id"] for r in records if r["answer"] not in ("yes", "no")]:
        raise ValueError(f"record {wrong[0]}: answer: expected yes or no")
    if len(answers) != len(records):
        raise ValueError(f"{system}: found {len(answers)} answers, expected {len(records)}")
    return np.array([yes_no(a) == r["answer"] for a, r in zip(answers, records, strict=True)], float)


def yes_no_scores(
    records: Sequence[dict], answers_by_system: Mapping[str, Sequence[str]], *, seed: int = 0
) -> pd.DataFrame:
    """Return `accuracy_table` for answers to yes/no questions. Errors: those of `right_yes_no`."""
    right = {name: right_yes_no(records, answers, system=name) for name, answers in answers_by_system.items()}
    return accuracy_table(records, right, seed=seed)


def accuracy_table(records: Sequence[dict], right: Mapping[str, np.ndarray], *, seed: int = 0) -> pd.DataFrame:
    """Return a row per system and column: value, low, high in points, n.

    Columns: `<task>/Acc`, then `Overall/Acc`, the mean of the tasks. right: {system: 0 or 1 for each record}. Intervals
    resample products.
    """
    rows = []
    for system, of_records in right.items():
        for task, found in _means(records, of_records, seed=seed).items():
            row = {"system": system, "column": f"{'Overall' if task == 'mean' else task}/Acc"}
            rows.append(row | found.row())
    return pd.DataFrame(rows)


def accuracy_gains(
    records: Sequence[dict], left: np.ndarray, right: np.ndarray, *, seed: int = 0
) -> dict[str, Interval]:
    """Return accuracy of `left` minus accuracy of `right` in points, by task and as the `mean` of tasks.

    left, right: 0 or 1 for each record.
    """
    return _means(records, np.asarray(left) - np.asarray(right), seed=seed)


def task_gains(records: Sequence[dict], left: np.ndarray, right: np.ndarray, *, seed: int = 0) -> dict[str, Interval]:
    """Return `accuracy_gains` by task, without the mean over tasks."""
    gains = accuracy_gains(records, left, right, seed=seed)
    return {task: gain for task, gain in gains.items() if task != "mean"}


def exact_by_attribute(
    records: Sequence[dict], answers_by_system: Mapping[str, Sequence[str]], names: Mapping[str, str]
) -> dict[str, tuple[list[dict], dict[str, np.ndarray]]]:
    """Return exact matches by attribute: {name: (records that ask for the attribute, {system: 0 or 1 per record})}.

    names: {our attribute: name in the result}. Each returned record has this name as its task, for `accuracy_table` and
    `task_gains`. An attribute that no record asks for is left out.
    """
    hits = {
        system: [attribute_matches(a, r["facts"]["asked"]) for a, r in zip(answers, records, strict=True)]
        for system, answers in answers_by_system.items()
    }
    found = {}
    for attribute, name in names.items():
        if rows := [k for k, record in enumerate(records) if attribute in record["facts"]["asked"]]:
            exact = {system: np.array([of_record[k][attribute] for k in rows]) for system, of_record in hits.items()}
            found[name] = [records[k] | {"task": name} for k in rows], exact
    return found


def accuracy_ratio(records: Sequence[dict], left: np.ndarray, right: np.ndarray, *, seed: int = 0) -> Interval:
    """Return the ratio of `left`'s accuracy to `right`'s, each averaged over tasks; the interval resamples products.

    left, right: 0 to 1 for each record.
    """
    _, of_task, groups = _by_task(records)
    sums = np.concatenate([of_task * np.asarray(left)[:, None], of_task * np.asarray(right)[:, None], of_task], axis=1)

    def statistic(sums: np.ndarray) -> np.ndarray:
        one, other, count = np.split(sums, 3, axis=1)  # (R, tasks) each
        return shares(one, count).mean(axis=1) / np.maximum(shares(other, count).mean(axis=1), 1e-9)

    return bootstrap_sums(sums, statistic, seed=seed, groups=groups)


def _by_task(records: Sequence[dict]) -> tuple[list[str], np.ndarray, list[str]]:
    """Return the tasks, each record's membership in each task (n, tasks), and the records' products."""
    tasks = list(dict.fromkeys(r["task"] for r in records))
    of_task = np.array([[r["task"] == task for task in tasks] for r in records], float)
    return tasks, of_task, [r["product_id"] for r in records]


def _means(records: Sequence[dict], values: np.ndarray, *, seed: int = 0) -> dict[str, Interval]:
    """Return 100 times the mean of `values` (n,) over each task's records, and the `mean` over tasks."""
    tasks, of_task, groups = _by_task(records)
    sums = np.concatenate([of_task * values[:, None], of_task], axis=1)  # (n, 2 tasks)
    found = {}
    for name, chosen in {**{task: [k] for k, task in enumerate(tasks)}, "mean": list(range(len(tasks)))}.items():
        one = bootstrap_sums(sums, _mean_of_tasks(chosen, len(tasks)), seed=seed, groups=groups)
        asked = np.flatnonzero(of_task[:, chosen].any(axis=1))
        found[name] = replace(one.times(100), n=len(asked), groups=len({groups[k] for k in asked}))
    return found


def _mean_of_tasks(chosen: list[int], tasks: int):  # noqa: ANN202 - a statistic of sums (R, 2 tasks) -> (R,)
    def statistic(sums: np.ndarray) -> np.ndarray:
        return shares(sums[:, chosen], sums[:, [tasks + k for k in chosen]]).mean(axis=1)

    return statistic
