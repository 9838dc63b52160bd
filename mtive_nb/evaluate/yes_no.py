"""Accuracy on yes/no questions, a column a task and their mean: VIT-Pro's MMPI-Obj and its ablations (T3, T5 to T8)."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mtive_nb.evaluate.intervals import bootstrap_sums
from mtive_nb.evaluate.metrics import yes_no


def yes_no_scores(
    records: Sequence[dict], answers_by_system: Mapping[str, Sequence[str]], *, seed: int
) -> pd.DataFrame:
    """A row a system and column (`<task>/Acc`, then `Overall/Acc`, the mean of the tasks): value, low, high in points, n.

    An answer that says neither yes nor no is wrong. Intervals draw products. Errors: ValueError where a record's truth is
    neither, or a system has not one answer a record.
    """
    truths = [record["answer"] for record in records]
    if wrong := [r["id"] for r in records if r["answer"] not in ("yes", "no")]:
        raise ValueError(f"record {wrong[0]}: answer: expected yes or no")
    tasks, groups = list(dict.fromkeys(r["task"] for r in records)), [r["product_id"] for r in records]
    of_task = np.array([[r["task"] == task for task in tasks] for r in records], float)  # (n, tasks)
    rows = []
    for system, answers in answers_by_system.items():
        if len(answers) != len(records):
            raise ValueError(f"{system}: found {len(answers)} answers, expected {len(records)}")
        right = np.array([yes_no(a) == t for a, t in zip(answers, truths, strict=True)], float)
        sums = np.concatenate([of_task * right[:, None], of_task], axis=1)  # (n, 2 tasks)
        for k, column in enumerate([*tasks, "Overall"]):
            chosen = [k] if k < len(tasks) else list(range(len(tasks)))
            found = bootstrap_sums(sums, _mean_accuracy(chosen, len(tasks)), seed=seed, groups=groups)
            n = int(of_task[:, chosen].sum())
            value, low, high = (100 * v for v in (found.value, found.low, found.high))
            rows.append({"system": system, "column": f"{column}/Acc", "value": value, "low": low, "high": high, "n": n})
    return pd.DataFrame(rows)


def _mean_accuracy(chosen: list[int], tasks: int):  # noqa: ANN202 - a statistic of sums (R, 2 tasks) -> (R,)
    def statistic(sums: np.ndarray) -> np.ndarray:
        return (sums[:, chosen] / np.maximum(sums[:, [tasks + k for k in chosen]], 1)).mean(axis=1)

    return statistic
