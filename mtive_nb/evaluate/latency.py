"""Times of two or more ways to do the same, run in turn: on a shared machine only their ratios mean something."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import pandas as pd

from mtive_nb.model.mixture import LoraMixture
from mtive_nb.model.stack import LoraStack
from mtive_nb.model.train import Training, train_adapter


def times_in_turn(ways: Mapping[str, Callable[[], object]], *, rounds: int,
                  before: Mapping[str, Callable[[], object]] | None = None) -> pd.DataFrame:  # fmt: skip
    """Seconds, a column a way and a row a round; each way runs once before, unmeasured. Every second round runs backwards.

    `before` gets a way ready each time, unmeasured.
    """
    ready = {name: (before or {}).get(name, lambda: None) for name in ways}
    for name, way in ways.items():
        ready[name]()
        way()
    rows = []
    for k in range(rounds):
        row = {}
        for name in list(ways) if k % 2 == 0 else reversed(list(ways)):
            ready[name]()
            started = time.perf_counter()
            ways[name]()
            row[name] = time.perf_counter() - started
        rows.append(row)
    return pd.DataFrame(rows)[list(ways)]


def ratios_to(times: pd.DataFrame, first: str) -> pd.DataFrame:
    """Each way's time over that of `first`, round by round: system, value (median), low and high (the extremes)."""
    ratios = times.div(times[first], axis=0)
    rows = {"value": ratios.median(), "low": ratios.min(), "high": ratios.max()}
    return pd.DataFrame(rows).rename_axis("system").reset_index()


def still_runs(
    ways: Mapping[str, tuple[LoraStack | LoraMixture, str, list[dict]]], training: Training
) -> dict[str, Callable[[], None]]:
    """Training runs to be timed or weighed, at a learning rate of zero: no weight moves, and the cost is the same.

    Each of `ways` is a model, an adapter and its records.
    """

    def train(model: LoraStack | LoraMixture, adapter: str, records: list[dict]) -> None:
        train_adapter(model, adapter, records, replace(training, rate=0.0))
        model.activate(None)  # a mixture would stay on under the next way

    return {name: partial(train, *way) for name, way in ways.items()}


def step_times_in_turn(
    ways: Mapping[str, tuple[LoraStack | LoraMixture, str, list[dict]]], training: Training, *, rounds: int
) -> pd.DataFrame:
    """Seconds an optimizer step, as `times_in_turn`, of `still_runs`."""
    return times_in_turn(still_runs(ways, training), rounds=rounds) / training.steps
