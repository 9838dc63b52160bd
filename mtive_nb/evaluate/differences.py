"""What the board's bootstrap sums: each item's features for a difference of two systems, and the statistic of their sums.

`part` is a table with a column of marks or answers per system, paired by item; labels stand in its index.
Shapes: n items, d features, R resamples.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from mtive_nb.evaluate.intervals import mean_of_sums, weighted_f1_of_sums
from mtive_nb.evaluate.metrics import classify
from mtive_nb.evaluate.scores import confusion_features

Statistic = Callable[[np.ndarray], np.ndarray]  # sums (R, d) -> (R,)


def _mean_difference(part: pd.DataFrame, left: str, right: str) -> tuple[np.ndarray, Statistic]:
    """Return each item's features (n, 2) and the statistic of their sums: the mean of left minus right."""
    apart = (part[left] - part[right]).astype(float)
    return np.stack([apart, np.ones(len(apart))], axis=1), mean_of_sums


def mean_of(parts: Sequence[tuple[np.ndarray, Statistic]]) -> Statistic:
    """Return the mean of the tasks' statistics, as a function of the sums of their features side by side."""
    edges = np.cumsum([features.shape[1] for features, _ in parts])[:-1]
    statistics = [statistic for _, statistic in parts]
    return lambda sums: np.mean(
        [s(own) for s, own in zip(statistics, np.split(sums, edges, axis=1), strict=True)], axis=0
    )


def _f1_difference(part: pd.DataFrame, left: str, right: str) -> tuple[np.ndarray, Statistic]:
    """Return each item's features (n, d) and the statistic of their sums: weighted F1 of left minus right."""
    labels = list(part.index.get_level_values("label"))
    one, other = (confusion_features(classify(list(part[system]), labels)) for system in (left, right))
    cut = one.shape[1]
    return np.hstack([one, other]), lambda sums: weighted_f1_of_sums(sums[:, :cut]) - weighted_f1_of_sums(sums[:, cut:])


def _abstention_difference(part: pd.DataFrame, left: str, right: str) -> tuple[np.ndarray, Statistic]:
    """Return features (n, 6) and the statistic of their sums: F1 of left minus right.

    Features: correct, false and missed abstentions of left, then of right.
    """
    truth = part.index.get_level_values("label").to_numpy(dtype=bool)
    said = [part[system].to_numpy(dtype=bool) for system in (left, right)]
    features = [hits for s in said for hits in (s & truth, s & ~truth, ~s & truth)]

    def f1(sums: np.ndarray) -> np.ndarray:
        return 2 * sums[:, 0] / np.maximum(2 * sums[:, 0] + sums[:, 1] + sums[:, 2], 1)

    return np.stack(features, axis=1).astype(float), lambda sums: f1(sums[:, :3]) - f1(sums[:, 3:])


# By the frames of `judged_run`.
DIFFERENCES = {"judged": _mean_difference, "yes_no": _f1_difference, "abstained": _abstention_difference}
