"""Time two or more variants of the same work, run in turn: on a shared machine only ratios are meaningful."""

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
    """Return seconds, one column per variant and one row per round.

    Each variant first runs once, untimed. Every second round runs in reverse order. `before`: untimed preparation of a
    variant, called before each of its runs.
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
    """Return each variant's time divided by that of `first`, round by round.

    Columns: system, value (median), low and high (extremes).
    """
    ratios = times.div(times[first], axis=0)
    rows = {"value": ratios.median(), "low": ratios.min(), "high": ratios.max()}
    return pd.DataFrame(rows).rename_axis("system").reset_index()


def still_runs(
    ways: Mapping[str, tuple[LoraStack | LoraMixture, str, list[dict]]], training: Training
) -> dict[str, Callable[[], None]]:
    """Return training runs for time and memory measurements, at learning rate 0: the same cost, unchanged weights.

    Each value of `ways` is a model, an adapter's name and the training records. Every run looks at its photos anew, as
    the first pass of a training does.
    """

    def train(model: LoraStack | LoraMixture, adapter: str, records: list[dict]) -> None:
        model.vlm.kept.forget()
        train_adapter(model, adapter, records, replace(training, rate=0.0))
        model.activate(None)  # a mixture would stay on in the next variant

    return {name: partial(train, *way) for name, way in ways.items()}


def step_times_in_turn(
    ways: Mapping[str, tuple[LoraStack | LoraMixture, str, list[dict]]], training: Training, *, rounds: int
) -> pd.DataFrame:
    """Return `times_in_turn` of `still_runs`, in seconds per optimizer step."""
    return times_in_turn(still_runs(ways, training), rounds=rounds) / training.steps
