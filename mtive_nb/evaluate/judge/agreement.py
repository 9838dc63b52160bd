"""Agreement of two judges by task: Cohen's kappa, Pearson's and Spearman's correlation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from mtive_nb.evaluate.intervals import Interval, bootstrap_interval

# For kappa, a score above its cut is 1: more than half accurate, more than half relevant, any hallucination.
CUTS = {"accuracy": 50.0, "relevancy": 50.0, "hallucination": 0.0}
_KEYS = ["system", "id", "product_id", "task"]


def agreement(tables: Mapping[str, pd.DataFrame], *, seed: int = 0, resamples: int = 2000) -> pd.DataFrame:
    """Measure the agreement of two judges on the same answers: a row for each task, score and statistic.

    tables: {judge's name: its table from `judge_systems`}, two entries; rows are matched by system and record.
    Columns: judges, task, score, statistic (kappa, pearson, spearman), value in [-1, 1] with low and high (95%,
    products drawn with replacement), n pairs, left_out (pairs without one judge's score). Where a judge's scores are
    constant, value and interval are NaN; a resample with constant scores counts as 0.
    Errors: ValueError for other than two tables, or for tables of different answers.
    """
    if len(tables) != 2:
        raise ValueError(f"agreement: found {len(tables)} tables ({', '.join(tables)}); expected those of two judges")
    one, other = (table[_KEYS + list(CUTS)] for table in tables.values())
    pairs = one.merge(other, on=_KEYS, suffixes=("_a", "_b"), validate="one_to_one")
    if not len(pairs) == len(one) == len(other):
        found = f"{len(one)} and {len(other)} judged answers, {len(pairs)} in common"
        raise ValueError(f"agreement: found {found}; expected the same systems and records from both judges")
    rows = []
    for task, part in pairs.groupby("task", sort=False):
        for score, cut in CUTS.items():
            both = part.dropna(subset=[f"{score}_a", f"{score}_b"])
            values = both[[f"{score}_a", f"{score}_b"]].to_numpy(dtype=float)
            for name, statistic in STATISTICS.items():
                seen = (values > cut).astype(float) if name == "kappa" else values
                found = _interval(seen, statistic, groups=list(both["product_id"]), seed=seed, resamples=resamples)
                row = {"judges": " v. ".join(tables), "task": task, "score": score, "statistic": name}
                rows.append(row | found.row() | {"left_out": len(part) - len(both)})
    return pd.DataFrame(rows)


def kappa(pairs: np.ndarray) -> float:
    """Cohen's kappa of two raters' 0 and 1, (n, 2): agreement beyond chance (p_o - p_e) / (1 - p_e) (Cohen, 1960).

    scikit-learn's version takes a millisecond per call, too slow for every resample; a test compares ours with it.
    """
    a, b = pairs.mean(axis=0)
    chance = a * b + (1 - a) * (1 - b)
    return float(((pairs[:, 0] == pairs[:, 1]).mean() - chance) / (1 - chance)) if chance < 1 else 0.0


def pearson(pairs: np.ndarray) -> float:
    """Pearson's correlation of the two columns of (n, 2); 0 where a column is constant."""
    return 0.0 if _flat(pairs) else float(np.corrcoef(pairs, rowvar=False)[0, 1])


def spearman(pairs: np.ndarray) -> float:
    """Spearman's correlation of the two columns of (n, 2): Pearson's of the ranks; ties share their mean rank."""
    return pearson(pd.DataFrame(pairs).rank().to_numpy())


STATISTICS: dict[str, Callable[[np.ndarray], float]] = {"kappa": kappa, "pearson": pearson, "spearman": spearman}


def _flat(pairs: np.ndarray) -> bool:
    return len(pairs) == 0 or bool((np.ptp(pairs, axis=0) == 0).any())


def _interval(
    pairs: np.ndarray, statistic: Callable[[np.ndarray], float], *, groups: list[str], seed: int = 0, resamples: int
) -> Interval:
    if _flat(pairs):
        nan = float("nan")
        return Interval(nan, nan, nan, len(pairs))
    return bootstrap_interval(pairs, statistic=statistic, groups=groups, seed=seed, resamples=resamples)
