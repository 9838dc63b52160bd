"""CASLIE's claims on answers of its arms, and accuracy by what a photo adds to the text.

A claim compares two arms on the tasks' main metrics, as the paper averages them: the relative gain of each task, or the
mean of these gains. Names of arms are those of chapters 15 and 29.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mtive_nb.data.commerce.rows import CommerceRow
from mtive_nb.evaluate.claims import find_claim, measured
from mtive_nb.evaluate.commerce.scores import DOMAINS, commerce_gains, main_scores, option_of
from mtive_nb.evaluate.intervals import bootstrap_interval

# claim -> the arms left and right
PAIRS = {
    "caslie-captions-beat-text-only": ("CASLIE", "uniM3"),
    "caslie-choosing-beats-always-using": ("CASLIE", "UIA"),
    "caslie-always-using-can-hurt": ("UIA", "uniM3"),
    "caslie-context-captions-beat-context-free": ("CASLIE", "context-free"),
    "caslie-context-free-captions-beat-none": ("context-free", "uniM3"),
    "caslie-beats-tuned-vlm-ind": ("CASLIE", "VLM, photos"),
    "caslie-beats-tuned-vlm-ood": ("CASLIE", "VLM, photos"),
    "caslie-captions-into-vlm-fall-behind": ("VLM, captions", "CASLIE"),
    "caslie-beats-clip-fusion": ("CASLIE", "CLIP head"),
    "caslie-generalist-beats-specialist": ("CASLIE", "specialists"),
    "caslie-specialist-collapses-when-unbalanced": ("CASLIE", "specialists"),
    "caslie-single-judge-beats-always-using": ("1 judge", "UIA"),
    "caslie-majority-vote-beats-single-judge": ("5 judges", "1 judge"),
    "caslie-five-judges-beat-three": ("5 judges", "3 judges"),
    "caslie-seven-judges-add-nothing": ("7 judges", "5 judges"),
    "caslie-beats-best-baseline-ind": ("CASLIE", "best of baselines"),
    "caslie-beats-best-baseline-ood": ("CASLIE", "best of baselines"),
}
# What claims lack here that no chapter decides.
NEEDS = {
    "caslie-captioner-choice-hardly-matters": "needs several captioners from the hub (CAPTIONER of 15)",
    "caslie-beats-clip-fusion": "needs a CLIP (CLIP of 29)",
    "caslie-beats-text-only-commerce-llm": "needs eCeLLM; text alone, tuned here, is the claim on captions against text only",
}
# Arms that stand for T4's baselines: a VLM tuned on photos, frozen embeddings, a model tuned on text alone, constants.
BASELINES = ("VLM, photos", "CLIP head", "uniM3", "commonest class", "always yes")


def commerce_claims(records: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return a row of the claims board for each claim of PAIRS whose two arms have answers.

    A claim that names tasks which `records` lack is decided on the others, and its remark says so.
    """
    if BASELINES[0] in answers:
        answers = {**answers, "best of baselines": best_of_baselines(records, answers)}
    there = {record["task"] + ("_ood" if record["variant"] == "ood" else "") for record in records}
    rows = []
    for claim_id, (left, right) in PAIRS.items():
        test = find_claim(claim_id)["test"]
        tasks = [task for task in test["tasks"] if task in there]
        if not ({left, right} <= answers.keys() and tasks):
            continue
        gains = commerce_gains(records, answers[left], answers[right], domain=None, tasks=tasks)
        values = {"mean": gains.mean} if test["over_tasks"] == "mean" else gains.by_task
        unit = None if gains.unit == test["margin_published"]["unit"] else gains.unit
        row = measured(claim_id, values, unit=unit)
        missing = [task for task in test["tasks"] if task not in there]
        remarks = [f"not asked on {', '.join(missing)}"] * bool(missing)
        remarks += [f"baselines: {'; '.join(b for b in BASELINES if b in answers)}"] * (right == "best of baselines")
        rows.append(row | ({"remark": "; ".join(filter(None, (*remarks, row["remark"])))} if remarks else {}))
    return pd.DataFrame(rows)


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
            ends = {"value": one.value, "low": one.low, "high": one.high, "n": one.n}
            table.append({"system": system, "domain": domain, "column": stratum} | ends)
    return pd.DataFrame(table).assign(unit="points 0-100", better="higher")
