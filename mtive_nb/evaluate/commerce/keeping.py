"""Precision and recall of keeping: what visual verification kept, against known truth (data/instructions/verification.py).

eBay prints no such number. Aspects of listings whose photos' facts are known are scored; failed ones are left out and
counted. Intervals resample listings.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mtive_nb.data.commerce.listings import TRUTHS
from mtive_nb.evaluate.intervals import Interval, bootstrap_sums, mean_of_sums

_COLUMNS = ("metric", "value", "low", "high", "n", "unit", "better")


def keeping_scores(verdicts: pd.DataFrame, *, seed: int = 0, resamples: int = 2000) -> pd.DataFrame:
    """Score a `verdict_table`: columns metric, value, low, high, n (aspects), unit (fraction), better.

    precision: share of the kept aspects that the photo shows. recall: share of the shown aspects that are kept. f1:
    their harmonic mean. wrong kept, invisible kept: shares kept of the aspects with that truth. purity before: share of
    all aspects that the photo shows, the precision of keeping everything. failed: share without a verdict. A share of
    nothing has no row. Errors: ValueError for a table in which no aspect has a known truth.
    """
    known = verdicts[verdicts["truth"].isin(TRUTHS)]
    if known.empty:
        raise ValueError(
            "keeping_scores: no aspect with a known truth; expected listings whose photos' facts are known"
        )
    decided = known[known["outcome"] != "failed"]
    kept = (decided["outcome"] == "kept").to_numpy()
    shown, wrong, hidden = ((decided["truth"] == truth).to_numpy() for truth in TRUTHS)
    parts = {
        "precision": (kept & shown, kept),
        "recall": (kept & shown, shown),
        "f1": (2 * (kept & shown), kept.astype(int) + shown),  # 2 TP / (kept + shown)
        "wrong kept": (kept & wrong, wrong),
        "invisible kept": (kept & hidden, hidden),
        "purity before": (shown, np.ones(len(decided))),
    }
    groups, rows = decided["listing_id"].tolist(), []
    for metric, (top, bottom) in parts.items():
        if np.sum(bottom):
            interval = _share(top, bottom, groups, seed=seed, resamples=resamples)
            rows.append(_row(metric, interval, better="lower" if metric.endswith(" kept") else "higher"))
    failed = (known["outcome"] == "failed").to_numpy()
    interval = _share(failed, np.ones(len(known)), known["listing_id"].tolist(), seed=seed, resamples=resamples)
    return pd.DataFrame([*rows, _row("failed", interval, better="lower")], columns=_COLUMNS)


def _share(top: np.ndarray, bottom: np.ndarray, groups: list[str], *, seed: int, resamples: int) -> Interval:
    features = np.stack([top, bottom], axis=1).astype(float)
    options = {"groups": groups, "seed": seed, "resamples": resamples}
    return bootstrap_sums(features, mean_of_sums, n=int(np.count_nonzero(bottom)), **options)


def _row(metric: str, interval: Interval, *, better: str) -> tuple:
    return metric, interval.value, interval.low, interval.high, interval.n, "fraction", better
