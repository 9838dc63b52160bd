"""CASLIE's claims on answers of its arms, and accuracy by what a photo adds to the text.

A claim compares two arms on the tasks' main metrics, in points: each task's difference, or the mean of these. The arms of
a claim, named as in chapters 15 and 29, are registered in `evaluate/design.yaml`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mtive_nb.data.commerce.rows import CommerceRow
from mtive_nb.evaluate.claims import BOARD_FIELDS, find_claim, measured
from mtive_nb.evaluate.commerce.scores import DOMAINS, commerce_gains, main_scores, option_of
from mtive_nb.evaluate.design import load_design
from mtive_nb.evaluate.intervals import bootstrap_interval

# Arms that stand for T4's baselines: a VLM tuned on photos, frozen embeddings, a model tuned on text alone, constants.
BASELINES = ("VLM, photos", "CLIP head", "uniM3", "commonest class", "always yes")


def commerce_claims(records: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return a row of the claims board for each registered claim of CASLIE whose two arms have answers.

    A claim that names tasks which `records` lack is decided on the others, and its remark says so. The remark also has
    the relative gain of the mean over tasks, since the paper prints relative gains, and that without SR where it says so.
    """
    if BASELINES[0] in answers:
        answers = {**answers, "best of baselines": best_of_baselines(records, answers)}
    scores = {
        name: {_claimed(*place): value for place, value in main_scores(records, said).items()}
        for name, said in answers.items()
    }
    there, rows = {_claimed(DOMAINS[record["variant"]], record["task"]) for record in records}, []
    for claim_id, registered in load_design().claims.items():
        (left, right), test = registered.arms, find_claim(claim_id)["test"]
        tasks = [task for task in test["tasks"] if task in there]
        if not (claim_id.startswith("caslie-") and {left, right} <= answers.keys() and tasks):
            continue
        gains = commerce_gains(records, answers[left], answers[right], tasks=tasks)
        values = {"mean": gains.mean} if test["over_tasks"] == "mean" else gains.by_task
        missing = [task for task in test["tasks"] if task not in there]
        remarks = [f"not asked on {', '.join(missing)}"] * bool(missing)
        remarks += [f"baselines: {'; '.join(b for b in BASELINES if b in answers)}"] * (right == "best of baselines")
        printed = test["margin_published"]
        beside = f", {printed['value']:+}% in print" if printed["unit"] == "percent_relative" else ""
        remarks += [f"{_relative(scores[left], scores[right], tasks)} in relation{beside}"]
        rest = [task for task in tasks if not task.startswith("SR")]
        if left == "CASLIE" and right in BASELINES and rest != tasks:
            remarks += [f"{_relative(scores[left], scores[right], rest)} without SR"]
        rows.append(measured(claim_id, values, unit="points", remark="; ".join(remarks)))
    return pd.DataFrame(rows, columns=list(BOARD_FIELDS))


def _relative(left: Mapping[str, float], right: Mapping[str, float], tasks: Sequence[str]) -> str:
    """Return by how many percent the mean main metric of `left` over tasks is above that of `right`: "+4.9%"."""
    above, below = (sum(of[task] for task in tasks) for of in (left, right))
    return f"{100 * (above / below - 1):+.1f}%" if below else "no relative gain over 0"


def _claimed(domain: str, task: str) -> str:
    """Return a task's name in the claims: "AP_ood" out of domain."""
    return f"{task}_ood" if domain == "OOD" else task


def best_of_baselines(records: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[str]]) -> list[str]:
    """Return each record's answer by the baseline with the best main metric on its task and domain, as T4 compares.

    The best one is chosen on these very records, in the baselines' favour. Errors: ValueError without any of BASELINES.
    """
    scores = {name: main_scores(records, answers[name]) for name in BASELINES if name in answers}
    if not scores:
        raise ValueError(f"best of baselines: found answers of {', '.join(answers)}, expected one of {BASELINES}")
    best = {place: max(scores, key=lambda name: scores[name][place]) for place in next(iter(scores.values()))}
    return [answers[best[DOMAINS[r["variant"]], r["task"]]][k] for k, r in enumerate(records)]


def by_stratum(rows: Sequence[CommerceRow], answers: Mapping[str, Sequence[str]], *, seed: int = 0) -> pd.DataFrame:
    """Return the accuracy of each system by domain and stratum, in points from 0 to 100, products drawn.

    answers: one a row, in the rows' order; rows without a stratum are left out. Columns: system, domain, column (the
    stratum), value, low, high, n, unit, better.
    """
    places: dict[tuple[str, str], list[int]] = {}
    for k, row in enumerate(rows):
        if row.stratum:
            places.setdefault(("OOD" if row.split == "ood" else "IND", row.stratum), []).append(k)
    table = []
    for system, said in answers.items():
        for (domain, stratum), own in places.items():
            right = [100.0 * (option_of(said[k]) == rows[k].output) for k in own]
            one = bootstrap_interval(right, groups=[rows[k].product_id for k in own], seed=seed)
            table.append({"system": system, "domain": domain, "column": stratum} | one.row())
    return pd.DataFrame(table).assign(unit="points 0-100", better="higher")
