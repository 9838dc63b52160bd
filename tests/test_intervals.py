import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from mtive_nb.evaluate.intervals import (
    Interval,
    bootstrap_interval,
    bootstrap_sums,
    mean_of_sums,
    over_runs,
    paired_difference,
    unpaired_difference,
    weighted_f1_of_sums,
    wilson_interval,
)
from mtive_nb.evaluate.metrics import Classified
from mtive_nb.evaluate.scores import confusion_features


def test_bootstrap_of_a_mean_agrees_with_the_normal_interval():
    values = np.random.default_rng(0).normal(3, 2, size=800)
    found = bootstrap_interval(values, seed=1, resamples=4000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.02)
    assert found.high == pytest.approx(values.mean() + half, abs=0.02)


def _coverage(*, clustered: bool) -> float:
    """How often the interval holds the true mean 0 when items of one product share most of their noise."""
    rng, hits, trials = np.random.default_rng(2), 0, 200
    groups = np.repeat(np.arange(40), 5)
    for trial in range(trials):
        values = rng.normal(size=40)[groups] + 0.3 * rng.normal(size=200)
        found = bootstrap_interval(values, seed=trial, resamples=300, groups=groups if clustered else None)
        hits += found.low <= 0 <= found.high
    return hits / trials


def test_coverage_holds_with_clusters_and_fails_without():
    assert 0.88 <= _coverage(clustered=True) <= 0.99
    assert _coverage(clustered=False) < 0.75


def test_any_statistic_is_drawn_by_group():
    values, groups = np.array([1.0, 1.0, 5.0, 5.0, 9.0]), ["a", "a", "b", "b", "c"]
    seen = []

    def median(sample):
        seen.append(sample)
        return float(np.median(sample))

    found = bootstrap_interval(values, statistic=median, groups=groups, resamples=100, seed=0)
    assert found.value == 5
    assert 1 <= found.low <= 5 <= found.high <= 9
    assert all(np.sum(sample == 1) % 2 == 0 and np.sum(sample == 5) % 2 == 0 for sample in seen)


def test_f1_of_sums_equals_scikit_learn():
    rng = np.random.default_rng(3)
    labels = rng.choice(["box", "can", "jar"], size=60)
    predicted = np.where(rng.random(60) < 0.6, labels, rng.choice(["box", "can", "jar", "(no class)"], size=60))
    features = confusion_features(Classified(tuple(predicted), tuple(labels)))
    truth = f1_score(labels, predicted, average="weighted", zero_division=0)
    assert weighted_f1_of_sums(features.sum(axis=0, keepdims=True))[0] == pytest.approx(truth)
    found = bootstrap_sums(features, weighted_f1_of_sums, seed=0)
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(truth)
    rows = rng.integers(60, size=(400, 60))
    slow = [f1_score(labels[row], predicted[row], average="weighted", zero_division=0) for row in rows]
    assert found.low == pytest.approx(np.quantile(slow, 0.025), abs=0.04)


def test_paired_difference_is_narrower_than_the_systems_apart():
    rng = np.random.default_rng(4)
    base = rng.normal(0, 10, size=300)
    found = paired_difference(base + 1 + rng.normal(0, 0.5, size=300), base, seed=0)
    assert 0.9 < found.low < 1 < found.high + 0.1
    assert found.high - found.low < 0.2  # apart, each mean alone is uncertain by more than 2


def test_wilson_equals_the_textbook():
    # Newcombe (1998), table I: 81 of 263 and 0 of 20, score method without continuity correction
    found = wilson_interval(81, 263)
    assert (found.low, found.high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    none = wilson_interval(0, 20)
    assert (none.low, none.high) == (0, pytest.approx(0.1611, abs=1e-4))
    assert wilson_interval(20, 20).high == 1


def test_the_value_lies_in_its_interval_even_for_one_group():
    found = bootstrap_interval([0.1, 0.2, 0.7], groups=["a", "a", "a"], seed=0)
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize(("values", "groups"), [([], None), ([float("nan")], None), ([1.0, 2.0], ["a"])])
def test_unusable_values_are_refused(values, groups):
    with pytest.raises(ValueError, match="bootstrap"):
        bootstrap_interval(values, groups=groups, seed=0)


def test_same_seed_same_interval():
    values = np.random.default_rng(5).random(50)
    assert bootstrap_interval(values, seed=6) == bootstrap_interval(values, seed=6)
    assert bootstrap_interval(values, seed=6) != bootstrap_interval(values, seed=7)


def test_runs_widen_the_interval_to_the_spread_of_their_values():
    rng = np.random.default_rng(5)
    seeds, products = np.repeat(range(3), 200), np.tile(range(200), 3)
    values = np.repeat([0.0, 5.0, 10.0], 200) + rng.normal(size=600)  # runs differ far more than products
    groups = list(zip(seeds.tolist(), products.tolist(), strict=True))
    apart = bootstrap_interval(values, groups=groups, seed=0)
    pooled = bootstrap_interval(values, groups=[f"{s} {p}" for s, p in groups], seed=0)
    assert apart.value == pooled.value == pytest.approx(values.mean())
    of_runs = values.reshape(3, 200).mean(axis=1)
    textbook = stats.t.interval(0.95, 2, loc=of_runs.mean(), scale=stats.sem(of_runs))
    anything = bootstrap_sums(np.stack([values, np.ones(600)], axis=1), lambda s: s[:, 0] / s[:, 1], groups=groups)
    assert (anything.low, anything.high) == pytest.approx(textbook)
    assert (apart.low, apart.high) == pytest.approx((values.min(), min(textbook[1], values.max())))  # a mean's limits
    assert pooled.high - pooled.low < 1.0


def test_runs_that_agree_keep_the_interval_of_their_products():
    of_products = np.random.default_rng(8).normal(size=50)
    values, groups = np.tile(of_products, 4), [(run, k) for run in range(4) for k in range(50)]
    found = bootstrap_interval(values, groups=groups, seed=0)
    assert found.high - found.low == pytest.approx(2 * 1.96 * of_products.std() / 200**0.5, rel=0.1)


def test_intervals_of_runs_are_joined_as_their_answers_are():
    rng = np.random.default_rng(9)
    values = rng.normal(size=(5, 80)) + rng.normal(size=(5, 1))
    groups = [(run, k) for run in range(5) for k in range(80)]
    at_once = bootstrap_sums(np.stack([values.ravel(), np.ones(400)], axis=1), mean_of_sums, groups=groups)
    joined = over_runs([bootstrap_interval(run) for run in values])
    assert (joined.value, joined.low, joined.high) == pytest.approx((at_once.value, at_once.low, at_once.high))
    one = Interval(1.0, 0.5, 2.0, 40)
    assert over_runs([one]) == one and over_runs([one] * 4) == Interval(1.0, 0.75, 1.5, 160)
    with pytest.raises(ValueError, match="no intervals"):
        over_runs([])


@pytest.fixture(scope="module")
def simulation():
    file = Path(__file__).parents[1] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_of_intervals", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("runs", "share"), [(3, 0.0), (3, 0.9), (5, 0.5), (5, 0.9)])
def test_the_truth_lies_in_95_percent_of_the_intervals_of_few_runs(simulation, runs, share):
    found = {row["interval"]: row for row in simulation.coverage(runs, share, trials=200)}
    assert found["two levels"]["high"] >= 0.95  # the 95% interval of the coverage, so at least nominal within noise
    if share == 0.9:  # nearly all variance is training: what the two levels are for
        assert found["products"]["high"] < 0.75 and found["runs drawn"]["coverage"] < found["two levels"]["coverage"]


def test_one_run_is_drawn_as_if_it_were_not_named():
    rng = np.random.default_rng(6)
    values, products = rng.normal(size=90), (np.arange(90) % 30).tolist()
    named = bootstrap_interval(values, groups=[("only", p) for p in products], seed=2)
    assert named == bootstrap_interval(values, groups=products, seed=2)


def test_unpaired_difference_of_two_sorts_of_items():
    rng = np.random.default_rng(0)
    left = np.arange(300) % 3 == 0  # 100 of them
    values = rng.normal(0, 1, 300) + 2 * left
    found = unpaired_difference(values, left, groups=np.arange(300) // 2, seed=0)
    assert abs(found.value - (values[left].mean() - values[~left].mean())) < 1e-12 and found.n == 300
    width = 2 * 1.96 * (1 / 100 + 1 / 200) ** 0.5
    assert found.low < 2 < found.high and 0.8 * width < found.high - found.low < 1.2 * width


def test_items_said_four_times_change_no_difference_where_groups_name_them():
    rng = np.random.default_rng(1)
    values, left = rng.normal(size=120), rng.random(120) < 0.4
    once = unpaired_difference(values, left, level=0.9)
    often = unpaired_difference(*(np.repeat(a, 4) for a in (values, left)), groups=np.repeat(range(120), 4), level=0.9)
    assert (often.value, often.low, often.high) == pytest.approx((once.value, once.low, once.high)) and often.n == 480


def test_every_interval_names_its_level_and_count_and_draws_alike_by_default():
    values = np.random.default_rng(8).normal(size=60)
    found = bootstrap_interval(values, level=0.9)
    wide = bootstrap_interval(values, seed=0, resamples=2000)
    assert (found.n, found.level, wide.level) == (60, 0.9, 0.95) and wide.low < found.low < found.high < wide.high
    features = np.stack([values, np.ones(60)], axis=1)
    assert wide == bootstrap_interval(values) == bootstrap_sums(features, mean_of_sums)
    assert wide == paired_difference(values, np.zeros(60)) and found == paired_difference(
        values, np.zeros(60), level=0.9
    )
    one = wilson_interval(1, 1, level=0.9)
    assert (one.value, one.n, one.level) == (1.0, 1, 0.9) and 0 < one.low < 1
    for k, n in ((1, 0), (-1, 3), (4, 3)):
        with pytest.raises(ValueError, match=f"wilson_interval: {k} of {n}; expected"):
            wilson_interval(k, n)
    with pytest.raises(ValueError, match=r"paired_difference: shapes \(2,\) and \(3,\)"):
        paired_difference([1, 2], [1, 2, 3])


def test_an_interval_counts_the_groups_it_drew():
    values, of = np.arange(12.0), [(run, product) for run in (0, 1) for product in ("a", "b", "c") for _ in range(2)]
    assert bootstrap_interval(values, groups=of).groups == 6 and bootstrap_interval(values).groups is None
    one, other = (bootstrap_interval(values[part], groups=of[part]) for part in (slice(6), slice(6, 12)))
    assert (one.groups, over_runs([one, other]).groups) == (3, 6)
    assert over_runs([one, Interval(1.0, 0.0, 2.0, 6)]).groups is None
    spread = bootstrap_interval(values, groups=of, statistic=np.median)
    assert spread.groups == 6 and paired_difference(values, values[::-1], groups=of).groups == 6
