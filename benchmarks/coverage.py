"""How often does a 95% interval contain the truth, when several training runs answer questions about several products?

    python benchmarks/coverage.py [--trials 2000]

Simulates gains whose true mean is known: a part that each training run adds, a part that each of its products adds, and
noise of each question. `share` is the training runs' share of the variance of one run's mean. Three intervals:
  two levels   the package's, of groups (run, product)
  runs drawn   runs with replacement, then each run's products: the usual two-level bootstrap, without widening
  products     products alone, as if all answers came from one training run
`shops` says how runs get their shops: "own" gives each run its own, "crossed" has two shops by two training seeds and
one run of both anew, so that runs share shops, hence products. Prints one line of JSON a setting: coverage with its
95% interval, and the median half width in units of the true standard error of as many independent runs.
"""

import argparse
import json

import numpy as np

from mtive_nb.evaluate.intervals import Interval, bootstrap_interval, wilson_interval

PRODUCTS, QUESTIONS = 60, 4  # of a run
CROSSED = ((0, 0), (0, 1), (1, 0), (1, 1), (2, 2))  # shop, training seed


def simulated(rng: np.random.Generator, runs: int, share: float, *, crossed: bool = False) -> np.ndarray:
    """Return gains (runs, products, questions) whose true mean is 0; a run's mean has variance 1."""
    pairs = CROSSED if crossed else [(k, k) for k in range(runs)]
    trained = rng.normal(0, share**0.5, size=runs)
    of_shop = rng.normal(0, ((1 - share) * PRODUCTS / 2) ** 0.5, size=(runs, PRODUCTS))
    noise = rng.normal(0, ((1 - share) * PRODUCTS * QUESTIONS / 2) ** 0.5, size=(runs, PRODUCTS, QUESTIONS))
    return np.stack([trained[seed] + of_shop[shop][:, None] + noise[k] for k, (shop, seed) in enumerate(pairs)])


def runs_drawn(gains: np.ndarray, rng: np.random.Generator, resamples: int) -> Interval:
    """The usual two-level percentile bootstrap of gains (runs, products, questions)."""
    runs, products = gains.shape[:2]
    drawn = rng.integers(runs, size=(resamples, runs, 1))
    of_runs = gains.mean(axis=2)[drawn, rng.integers(products, size=(resamples, runs, products))]
    low, high = np.quantile(of_runs.mean(axis=(1, 2)), (0.025, 0.975))
    return Interval(float(gains.mean()), float(low), float(high), gains.size)


def intervals_of(gains: np.ndarray, rng: np.random.Generator, resamples: int) -> dict[str, Interval]:
    """Return the three intervals of one simulated experiment."""
    groups = [(run, product) for run, product, _ in np.ndindex(gains.shape)]
    options = {"resamples": resamples, "seed": 0}  # one draw of products serves all trials: the gains differ
    return {
        "two levels": bootstrap_interval(gains.ravel(), groups=groups, **options),
        "runs drawn": runs_drawn(gains, rng, resamples),
        "products": bootstrap_interval(gains.ravel(), groups=[f"{run} {p}" for run, p in groups], **options),
    }


def coverage(
    runs: int, share: float, *, trials: int, crossed: bool = False, resamples: int = 400, seed: int = 0
) -> list[dict]:
    """Return a row an interval: its coverage over `trials` simulated experiments, and its median half width."""
    rng = np.random.default_rng(seed)
    found = [intervals_of(simulated(rng, runs, share, crossed=crossed), rng, resamples) for _ in range(trials)]
    about = {"runs": runs, "share": share, "shops": "crossed" if crossed else "own", "trials": trials}
    rows = []
    for name in found[0]:
        ends = np.array([(one[name].low, one[name].high) for one in found])
        hits = wilson_interval(int(((ends[:, 0] <= 0) & (ends[:, 1] >= 0)).sum()), trials)
        width = float(np.median(ends[:, 1] - ends[:, 0])) / 2 * runs**0.5
        measured = {"coverage": hits.value, "low": hits.low, "high": hits.high, "half_width": width}
        rows.append(about | {"interval": name} | {key: round(value, 3) for key, value in measured.items()})
    return rows


def main() -> None:
    """Print a line of JSON for each number of runs, share of training, and interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000, help="simulated experiments a setting")
    asked = parser.parse_args()
    for runs in (1, 3, 5, 10):
        for share in (0.0, 0.5, 0.9):
            for row in coverage(runs, share, trials=asked.trials):
                print(json.dumps(row), flush=True)
    for share in (0.0, 0.5, 0.9):
        for row in coverage(len(CROSSED), share, trials=asked.trials, crossed=True):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
