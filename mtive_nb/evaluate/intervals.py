"""Intervals for means and other statistics: percentile bootstrap over products, paired differences, Wilson.

Items of one product are not independent (five questions may show the same shampoo). The bootstrap therefore draws
products with replacement, not items.

A number from several training runs has groups (run, product), and the interval has two levels. Each run has its own shop,
so the spread s of the runs' own values contains all variance, that of training and that of products. With R runs the
interval is value -+ t(R - 1) s / sqrt(R), which is the interval of a mixed model with balanced random runs. It is never
narrower than the bootstrap of products within the runs. Drawing runs with replacement would be too narrow: of 3 runs it
contains the truth in about 80% of cases, not in 95% (benchmarks/coverage.py).

A statistic that depends on the items only through sums (a mean, F1 from the confusion counts) costs one matrix product
for all resamples: sums = weights @ sums of each group.
Shapes: n items, G groups (products), R resamples, d features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from scipy.special import stdtrit

Limits = tuple[float, float]
ANY = (-np.inf, np.inf)


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its interval at `level`, computed from `n` items of `groups` products (None: not counted)."""

    value: float
    low: float
    high: float
    n: int
    level: float = 0.95
    groups: int | None = None

    def row(self, name: str = "value") -> dict[str, float]:
        """Return the value under `name`, low, high and n, as cells of a table."""
        return {name: self.value, "low": self.low, "high": self.high, "n": self.n}

    def times(self, factor: float) -> Interval:
        """Return the interval in another unit, such as 100 times a share."""
        return replace(self, value=factor * self.value, low=factor * self.low, high=factor * self.high)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    *,
    statistic: Callable[[np.ndarray], float] = np.mean,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    groups: Sequence[object] | None = None,
) -> Interval:
    """Percentile bootstrap of `statistic` over `values` (n,) or (n, d); with `groups`, whole groups are drawn.

    Groups (run, product) of several runs widen the interval to the runs' spread. The mean is vectorised; any other
    statistic is called once per resample on the drawn rows. The percentile interval has no width when all values are
    equal: use `wilson_interval` for such a share.
    Errors: ValueError for no values, for a value that is not finite, for a wrong number of groups.
    """
    values = _checked(values, groups)
    if statistic is np.mean and values.ndim == 1:
        features = np.stack([values, np.ones(len(values))], axis=1)
        return bootstrap_sums(
            features, mean_of_sums, level=level, resamples=resamples, seed=seed, groups=groups,
            limits=(values.min(), values.max()),
        )  # fmt: skip
    codes, run_of_group = _codes(groups, len(values))
    often = _weights(run_of_group, resamples, seed)[:, codes].astype(int)  # (R, G) -> (R, n)
    found = np.array([statistic(np.repeat(values, times, axis=0)) for times in often], dtype=float)
    run_of_item = np.array(run_of_group)[codes]
    of_runs = [float(statistic(values[run_of_item == run])) for run in range(max(run_of_group) + 1)]
    one = _interval(float(statistic(values)), found, of_runs, level=level, n=len(values))
    return one if groups is None else replace(one, groups=len(run_of_group))


def bootstrap_sums(
    features: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    groups: Sequence[object] | None = None,
    n: int | None = None,
    limits: Limits = ANY,
) -> Interval:
    """Percentile bootstrap of a statistic of sums: `statistic` maps the sums (R, d) of the features (n, d) to (R,).

    Groups (run, product) of several runs widen the interval to the runs' spread, at most to `limits`. n: what the interval
    is said to rest on, where that is not the number of rows.
    """
    features = _checked(features, groups)
    codes, run_of_group = _codes(groups, len(features))
    found = statistic(resampled_sums(features, resamples=resamples, seed=seed, groups=groups))  # (R, d) -> (R,)
    value = float(statistic(features.sum(axis=0, keepdims=True))[0])
    of_runs = statistic(_sums(features, np.array(run_of_group)[codes], max(run_of_group) + 1))  # (runs, d) -> (runs,)
    one = _interval(value, found, of_runs, level=level, n=len(features) if n is None else n, limits=limits)
    return one if groups is None else replace(one, groups=len(run_of_group))


def resampled_sums(
    features: np.ndarray, *, resamples: int = 2000, seed: int = 0, groups: Sequence[object] | None = None
) -> np.ndarray:
    """Sum the features (n, d) over resamples of whole groups, each run's drawn among its own, (R, d)."""
    codes, run_of_group = _codes(groups, len(features))
    return _weights(run_of_group, resamples, seed) @ _sums(features, codes, len(run_of_group))  # (R, G) @ (G, d)


def over_runs(intervals: Sequence[Interval]) -> Interval:
    """Join a number's intervals from several training runs, each with its own shop: the mean, with both levels.

    The interval is that of the runs' values, and never narrower than the mean of so many independent intervals.
    Errors: ValueError for no intervals.
    """
    if not intervals:
        raise ValueError("over_runs: found no intervals; expected one a run")
    values = np.array([one.value for one in intervals])
    value, runs = float(values.mean()), len(values)
    below = np.linalg.norm([one.value - one.low for one in intervals]) / runs
    above = np.linalg.norm([one.high - one.value for one in intervals]) / runs
    n = sum(one.n for one in intervals)
    groups = None if any(one.groups is None for one in intervals) else sum(one.groups for one in intervals)
    return _widened(Interval(value, value - below, value + above, n, intervals[0].level, groups), values)


def paired_difference(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    *,
    groups: Sequence[object] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of mean(a) - mean(b) for two systems on the same items in the same order; pairs are drawn together.

    Errors: ValueError for different shapes.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"paired_difference: shapes {a.shape} and {b.shape}; expected the same items for both systems")
    return bootstrap_interval(a - b, groups=groups, level=level, resamples=resamples, seed=seed)


def unpaired_difference(
    values: Sequence[float] | np.ndarray,
    of_left: Sequence[bool] | np.ndarray,
    *,
    groups: Sequence[object] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of the mean of `values` where `of_left` minus the mean of the rest; a group may contain both kinds."""
    values, left = np.asarray(values, dtype=float), np.asarray(of_left, dtype=float)
    features = np.stack([values * left, left, values * (1 - left), 1 - left], axis=1)

    def statistic(sums: np.ndarray) -> np.ndarray:
        return shares(sums[:, 0], sums[:, 1]) - shares(sums[:, 2], sums[:, 3])

    return bootstrap_sums(features, statistic, level=level, resamples=resamples, seed=seed, groups=groups)


def wilson_interval(k: int, n: int, *, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share k / n of independent items; its width is above 0 even at shares 0 and 1.

    Errors: ValueError unless 0 <= k <= n and n >= 1.
    """
    if not 0 <= k <= n or n < 1:
        raise ValueError(f"wilson_interval: {k} of {n}; expected 0 <= k <= n and n >= 1")
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    share = k / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = (z2 * (share * (1 - share) / n + z2 / (4 * n * n))) ** 0.5 / (1 + z2 / n)
    # At k = 0 or k = n, rounding may move an end past the share.
    return Interval(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)), n, level)


def weighted_f1_of_sums(counts: np.ndarray) -> np.ndarray:
    """F1 weighted by support, (R, K * K) confusion counts -> (R,); rows are true classes, columns predicted classes."""
    size = int(round(counts.shape[1] ** 0.5))
    counts = counts.reshape(-1, size, size)
    hits = np.diagonal(counts, axis1=1, axis2=2)  # (R, K)
    support, predicted = counts.sum(axis=2), counts.sum(axis=1)
    f1 = 2 * hits / np.maximum(support + predicted, 1)  # 2 TP / (2 TP + FP + FN); 0 where a class is absent
    return (f1 * support).sum(axis=1) / np.maximum(support.sum(axis=1), 1)


def mean_of_sums(sums: np.ndarray) -> np.ndarray:
    """Means (R,) from sums (R, 2): column 0 sums the values, column 1 counts the items."""
    return shares(sums[:, 0], sums[:, 1])


def shares(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Divide sums by counts of items, of equal shapes; NaN where a resample has no item, which then decides nothing."""
    return np.divide(sums, counts, out=np.full(np.shape(sums), np.nan), where=counts > 0)


def _sums(features: np.ndarray, codes: np.ndarray, groups: int) -> np.ndarray:
    """Sum the features of each group, (n, d) -> (G, d)."""
    sums = np.zeros((groups, features.shape[1]))
    np.add.at(sums, codes, features)
    return sums


def _checked(values: Sequence[float] | np.ndarray, groups: Sequence[object] | None) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if len(array) == 0:
        raise ValueError("bootstrap: found no values; expected at least one")
    if not np.isfinite(array).all():
        raise ValueError("bootstrap: found a value that is not finite; leave out missing measurements")
    if groups is not None and len(groups) != len(array):
        raise ValueError(f"bootstrap: {len(groups)} groups for {len(array)} values; expected one each")
    return array


def _codes(groups: Sequence[object] | None, n: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return each item's group (n,) and each group's run (G): the first element of a pair, else one run for all."""
    if groups is None:
        return np.arange(n), (0,) * n
    seen: dict[object, int] = {}
    codes = np.array([seen.setdefault(group, len(seen)) for group in groups])
    runs: dict[object, int] = {}
    return codes, tuple(runs.setdefault(g[0] if isinstance(g, tuple) else None, len(runs)) for g in seen)


@lru_cache(maxsize=4)  # the tables use the same draw for each metric and each system
def _weights(run_of_group: tuple[int, ...], resamples: int, seed: int) -> np.ndarray:
    """Count how often each resample draws each group among those of its run, (R, G)."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((resamples, len(run_of_group)))
    for run in range(max(run_of_group) + 1):
        own = np.flatnonzero(np.equal(run_of_group, run))
        weights[:, own] = _counts(rng, resamples, len(own))
    return weights


def _counts(rng: np.random.Generator, resamples: int, groups: int) -> np.ndarray:
    """Count each group's occurrences in `groups` draws with replacement per resample, (R, G)."""
    drawn = rng.integers(groups, size=(resamples, groups)) + groups * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * groups).reshape(resamples, groups)


def _interval(
    value: float, found: np.ndarray, of_runs: Sequence[float], *, level: float, n: int, limits: Limits = ANY
) -> Interval:
    """Return the interval of the resamples' values (R,), with several runs at least that of the runs' values."""
    low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    return _widened(Interval(value, float(low), float(high), n, level), of_runs, limits=limits)


def _widened(one: Interval, of_runs: Sequence[float], *, limits: Limits = ANY) -> Interval:
    """Widen an interval to the t interval of the runs' values, within `limits`, and to its own value."""
    # With few groups, rounding may move an end past the value itself.
    low, high = min(one.low, one.value), max(one.high, one.value)
    of_runs = [value for value in of_runs if np.isfinite(value)]  # a run without such items has no value
    if (runs := len(of_runs)) > 1:
        half = stdtrit(runs - 1, (1 + one.level) / 2) * np.std(of_runs, ddof=1) / runs**0.5
        low, high = min(low, max(one.value - half, limits[0])), max(high, min(one.value + half, limits[1]))
    return replace(one, low=float(low), high=float(high))
