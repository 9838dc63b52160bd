"""Times of two or more ways to do the same, run in turn: on a shared machine only their ratios mean something."""

import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pandas as pd

from mtive_nb.model.mixture import LoraMixture
from mtive_nb.model.stack import LoraStack
from mtive_nb.model.train import train_adapter


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


def still_trainings(ways: Mapping[str, tuple[LoraStack | LoraMixture, str, list[dict]]], *, steps: int,
                    **given: object) -> dict[str, Callable[[], None]]:  # fmt: skip
    """Trainings of `steps` optimizer steps, to be timed or weighed: at a learning rate of zero, which costs the same.

    Each of `ways` is a model, an adapter and its records; `given` goes to train_adapter: root, batch, accumulate, side_px.
    """

    def train(model: LoraStack | LoraMixture, adapter: str, records: list[dict]) -> None:
        with tempfile.TemporaryDirectory() as fresh:  # nothing to go on from
            train_adapter(model, adapter, records, steps=steps, rate=0.0, checkpoints=Path(fresh), **given)
        model.activate(None)  # a mixture would stay on under the next way

    return {name: partial(train, *way) for name, way in ways.items()}


def step_times_in_turn(ways: Mapping[str, tuple[LoraStack | LoraMixture, str, list[dict]]], *, steps: int, rounds: int,
                       **given: object) -> pd.DataFrame:  # fmt: skip
    """Seconds an optimizer step, as `times_in_turn`, of `still_trainings`."""
    return times_in_turn(still_trainings(ways, steps=steps, **given), rounds=rounds) / steps
