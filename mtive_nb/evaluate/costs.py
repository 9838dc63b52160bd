"""Compare the time and memory of alternatives for the same work."""

from collections.abc import Callable, Mapping

import pandas as pd

from mtive_nb.evaluate.latency import ratios_to, times_in_turn
from mtive_nb.evaluate.memory import peaks_of


def costs_in_turn(work: Mapping[str, Callable[[], object]], *, what: str, rounds: int) -> pd.DataFrame:
    """Time every entry of `work` in turn, measure its peak memory, and return a table that `Run.metrics` records.

    Two rows for each entry: "time of <what>", relative to the first entry (median, low and high over `rounds`), and
    "memory of <what>" in MB, measured once. Columns: system, value, low, high, column, unit, n.
    """
    times = ratios_to(times_in_turn(work, rounds=rounds), next(iter(work)))
    times = times.assign(column=f"time of {what}", unit="times the first row's", n=rounds)
    peaks = peaks_of(work).assign(column=f"memory of {what}", unit="MB", n=1)
    return pd.concat([times, peaks], ignore_index=True)
