"""Continual learning: replay of old data, forgetting of old tasks, and the resulting properties of a configuration.

MTIVE s4.2 (continual learning) and T4. This module decides T8's properties from measurements.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mtive_nb.run.published import columns_of


def replay_records(old: Sequence[dict], new: Sequence[dict], *, share: float, seed: int = 0) -> list[dict]:
    """Return all of `new` and a random `share` in [0, 1] of `old`, shuffled.

    Errors: ValueError for a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: found {share}, expected a number from 0 to 1")
    rng = np.random.default_rng(seed)
    kept = [old[i] for i in rng.permutation(len(old))[: round(share * len(old))]]
    rows = [*new, *kept]
    return [rows[i] for i in rng.permutation(len(rows))]


def replay_name(share: float) -> str:
    """Return T4's row name for a replay share: Base_SL+Replay(1%)."""
    return f"Base_SL+Replay({share:.0%})"


def steps_in(records: int, *, passes: float, a_step: int) -> int:
    """Return the whole optimizer steps, at least one, of `passes` passes over `records` records, `a_step` a step."""
    return max(1, int(passes * records / a_step))


def t4_rows(scores: pd.DataFrame, *, old: Sequence[str], new: Sequence[str]) -> pd.DataFrame:
    """Return the rows of score_table that T4 reports, with T4's column names and in points.

    The metric is accuracy; for EX, exact match. Tasks that the paper's T4 does not have are our own rows.
    """
    metrics = {f"{t}/{'EM' if t == 'EX' else 'Acc'}": f"Existing/{t}" for t in old} | {
        f"{t}/Acc": f"New/{t}" for t in new
    }
    rows = scores[scores["metric"].isin(metrics)].copy()
    rows["metric"] = rows["metric"].map(metrics)
    fractions = rows["unit"] == "fraction"
    rows.loc[fractions, ["value", "low", "high"]] *= 100
    papers = ["mtive" if column in columns_of("mtive", "T4") else "own" for column in rows["metric"]]
    return rows.assign(paper=papers, table="T4", unit="points")


def properties(gains: pd.DataFrame, *, unchanged: Mapping[str, bool], own_file: Mapping[str, bool],
               replayed: Mapping[str, str]) -> pd.DataFrame:  # fmt: skip
    """Return T8's properties except latency, decided from measurements: property, system, found, because.

    gains: `after` minus `before` on the old tasks, rows of system, task, gain, low, high in points. unchanged: whether
    a system's logits on old tasks stayed bit-identical. own_file: whether a system keeps each task's weights in a
    separate file. replayed: for each system trained on new tasks, its twin trained with replay.
    High susceptibility to interference: the whole interval of an old task's gain lies below 0. Requires data
    re-balancing: old tasks fell, and fewer fell in the twin.
    """
    fell = {s: sorted(g.loc[g["high"] < 0, "task"]) for s, g in gains.groupby("system")}
    rows = []
    for system, same in unchanged.items():
        lost, twin = fell.get(system, []), replayed.get(system)
        helped = bool(lost) and twin is not None and len(fell.get(twin, [])) < len(lost)
        why = "old logits are bit-identical" if same else f"fell: {', '.join(lost) or 'no task'}"
        rows += [
            {"property": "Incremental Task Integration", "system": system, "found": "yes" if same else "no", "because": why},
            {"property": "Susceptibility to Interference", "system": system, "found": "High" if lost else "Low", "because": why},
            {"property": "Requires Data Re-balancing", "system": system, "found": "yes" if helped else "no",
             "because": f"{twin} lost {len(fell.get(twin, []))} of {len(lost)}" if twin else why},
            {"property": "Architectural Modularity", "system": system, "found": "yes" if own_file[system] else "no",
             "because": "a task is one adapter file" if own_file[system] else "all tasks share one adapter file"},
        ]  # fmt: skip
    return pd.DataFrame(rows)
