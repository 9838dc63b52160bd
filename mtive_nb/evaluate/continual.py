"""Adding tasks to a trained system: what is replayed, what is forgotten, and what a configuration can therefore do.

MTIVE s4.2 (continual learning) and T4; T8's properties are decided here from measurements.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd


def replay_records(old: Sequence[dict], new: Sequence[dict], *, share: float, seed: int = 0) -> list[dict]:
    """All of `new` and a `share` in [0, 1] of `old`, shuffled.

    Errors: ValueError for a share outside of [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: found {share}, expected a number from 0 to 1")
    rng = np.random.default_rng(seed)
    kept = [old[i] for i in rng.permutation(len(old))[: round(share * len(old))]]
    rows = [*new, *kept]
    return [rows[i] for i in rng.permutation(len(rows))]


def replay_name(share: float) -> str:
    """T4's name of a row: Base_SL+Replay(1%)."""
    return f"Base_SL+Replay({share:.0%})"


def t4_rows(scores: pd.DataFrame, *, old: Sequence[str], new: Sequence[str]) -> pd.DataFrame:
    """The rows of score_table that T4 prints, under its columns and in points: accuracy, of EX the exact match."""
    metrics = {f"{t}/{'EM' if t == 'EX' else 'Acc'}": f"Existing/{t}" for t in old} | {
        f"{t}/Acc": f"New/{t}" for t in new
    }
    rows = scores[scores["metric"].isin(metrics)].copy()
    rows["metric"] = rows["metric"].map(metrics)
    fractions = rows["unit"] == "fraction"
    rows.loc[fractions, ["value", "low", "high"]] *= 100
    return rows.assign(paper="mtive", table="T4", unit="points")


def properties(gains: pd.DataFrame, *, unchanged: Mapping[str, bool], own_file: Mapping[str, bool],
               replayed: Mapping[str, str]) -> pd.DataFrame:  # fmt: skip
    """T8 but for latency, from measurements: property, system, found, because.

    gains: `after` less `before` on the old tasks, rows of system, task, gain, low, high in points; `unchanged` says of
    which systems the old tasks' logits stayed bit-identical, `own_file` which keep a task's weights in a file of its
    own; `replayed` names, of each system that was trained on, the twin that saw old data again.
    Susceptible to interference: an old task fell beyond its interval. Must be re-balanced: it fell, and its twin did not.
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
