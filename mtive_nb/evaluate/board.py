"""The claims board: does a claim of the paper hold here? Decided by rule from measurements, never by hand.

A claim compares two systems (`claims.yaml`; its head explains the fields). Rule of decision, on the 95% interval of
left less right, paired by seed and test item, products drawn together: `greater` holds if its lower end is above 0,
fails if its upper end is below 0, and is open else; `less` is mirrored; `about_equal` holds if the whole interval lies
within the tolerance and fails if it lies wholly outside. `each` needs every task; `mean` is about the mean over tasks.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from mtive_nb.evaluate.intervals import mean_of_sums, resampled_sums

HOLDS, FAILS, OPEN = "holds", "does not hold", "open"
# Names of claims.yaml -> rows of our tables.
SYSTEMS = {
    "base_zs": "zero-shot",
    "base_sl": "Base_SL",
    "base_moe": "Base_MoE",
    "base_mtl": "Base_MTL",
    "mtive_pt": "MTIVE_PT",
    "mtive_it": "MTIVE_IT",
    "mtive_sl": "MTIVE_SL",
    "mtive_mtl": "MTIVE_MTL",
}
METRICS = {"judge_accuracy": "accuracy", "hallucination_rate": "hallucination"}


@cache
def load_claims() -> tuple[dict, ...]:
    """Every claim of the four papers."""
    return tuple(yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text()))


def verdict(low: float, high: float, *, relation: str, tolerance: float | None = None) -> str:
    """Holds, does not hold or open, for the interval of left less right.

    Errors: ValueError for a relation that is not decided on a difference.
    """
    if relation == "about_equal":
        inside, outside = -tolerance <= low and high <= tolerance, high < -tolerance or low > tolerance
        return HOLDS if inside else FAILS if outside else OPEN
    if relation not in ("greater", "less"):
        raise ValueError(f"relation: found {relation!r}, expected 'greater', 'less' or 'about_equal'")
    if relation == "less":
        low, high = -high, -low
    return HOLDS if low > 0 else FAILS if high < 0 else OPEN


def decide(claim: Mapping, judged: pd.DataFrame, *, resamples: int = 2000, seed: int = 0) -> dict | None:
    """One claim on answers judged item by item; None where its systems, metric or tasks are not among them.

    judged: rows of seed, id, product_id, task, system, accuracy, hallucination (points, 0 to 100).
    Result: verdict, gain, low, high (points, left less right, mean over tasks), by_task, n, seeds.
    """
    test = claim["test"]
    pair = [SYSTEMS.get(str(test[side])) for side in ("left", "right")]
    column, known = METRICS.get(test["metric"]), set(judged["system"])
    if column is None or not set(pair) <= known or not test["tasks"] or not set(test["tasks"]) <= set(judged["task"]):
        return None
    wide = judged.pivot_table(index=["task", "product_id", "seed", "id"], columns="system", values=column)
    apart, draws = (wide[pair[0]] - wide[pair[1]]).dropna(), {}
    for task in test["tasks"]:
        part = apart.loc[task]
        features = np.stack([part, np.ones(len(part))], axis=1)
        products = list(part.index.get_level_values("product_id"))
        draws[task] = mean_of_sums(resampled_sums(features, resamples=resamples, seed=seed, groups=products))
    ends = {task: np.quantile(d, (0.025, 0.975)) for task, d in draws.items()}
    rule = {"relation": test["relation"], "tolerance": test.get("tolerance")}
    by_task = {task: verdict(*end, **rule) for task, end in ends.items()}
    low, high = np.quantile(np.mean(list(draws.values()), axis=0), (0.025, 0.975))
    if test["over_tasks"] == "mean":
        found = verdict(low, high, **rule)
    else:
        found = FAILS if FAILS in by_task.values() else HOLDS if set(by_task.values()) == {HOLDS} else OPEN
    here = apart[apart.index.get_level_values("task").isin(test["tasks"])]
    return {
        "verdict": found,
        "gain": float(np.mean([apart.loc[t].mean() for t in test["tasks"]])),
        "low": float(low),
        "high": float(high),
        "by_task": ", ".join(f"{t} {v}" for t, v in by_task.items()),
        "n": len(here),
        "seeds": here.index.get_level_values("seed").nunique(),
    }


def board(claims: Sequence[Mapping], judged: pd.DataFrame, *, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Every claim with its verdict, a row each; what cannot be decided here says why.

    Columns: claim, statement, priority, verdict, gain, low, high, by_task, n, seeds, published (its margin in print).
    """
    rows = []
    for claim in claims:
        found = decide(claim, judged, resamples=resamples, seed=seed)
        if found is None:
            no = claim["testable_small_scale"] == "no"
            found = {"verdict": f"not testable here: {claim['testable_why']}" if no else "not measured in this run"}
        margin = (claim["test"].get("margin_published") or {}).get("value")
        rows.append(
            {"claim": claim["id"], "statement": " ".join(claim["statement"].split()), "priority": claim["priority"]}
            | found
            | {"published": margin}
        )
    return pd.DataFrame(rows)
