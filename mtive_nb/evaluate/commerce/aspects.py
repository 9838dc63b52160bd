"""Scores of eBay's benchmarks (T1; data/commerce/ebay_benches.py).

Aspect prediction: the share of answers equal to the value, raw (without surrounding space) and normalised by the rule
of data/commerce/values.py; T1's column is the normalised one. Deep fashion: the share with the right class among those
of the prompt; an answer without a class is wrong. Dynamic attribute extraction: the paper names no score. Ours is F1
over pairs of key and value, and beside it the share of invented values: stated ones that nothing known of the photo has,
under any key. Values in points from 0 to 100 where T1 has the column, else fractions. Intervals resample products.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mtive_nb.data.commerce.ebay_benches import BENCHES, CLOTHING_TASK
from mtive_nb.data.commerce.values import normal_value, same_value
from mtive_nb.data.instructions.ebay_rules import read_pairs
from mtive_nb.evaluate.intervals import Interval, bootstrap_interval, bootstrap_sums, paired_difference
from mtive_nb.evaluate.metrics import UNPARSED, accepted_values, classify, majority_share
from mtive_nb.evaluate.reading import canonical_key, is_abstention, parse_pairs

OWN_TABLE = "eBay benchmarks"
SCORE_FIELDS = ("paper", "table", "row", "column", "value", "low", "high", "n", "unit", "better")
Answered = tuple[Mapping[str, Any], str]


def benchmark_scores(
    records: Sequence[Mapping[str, Any]], answers_by_system: Mapping[str, Sequence[str]], *, seed: int = 0
) -> pd.DataFrame:
    """Score every benchmark of every system: SCORE_FIELDS, a row per system and column, ready for `run.metrics`.

    Columns of ebay T1, and our own below `own`: raw match, unparsed answers, the commonest value of each aspect, precision,
    recall and invented values of extraction. Errors: ValueError for a wrong number of answers.
    """
    rows: list[tuple] = []
    for system, answers in answers_by_system.items():
        by_task: dict[str, list[Answered]] = {}
        for record, answer in zip(records, answers, strict=True):
            by_task.setdefault(record["task"], []).append((record, answer))
        for column, task in (*BENCHES.items(), ("DeepFashion/clothing-dataset-small", CLOTHING_TASK)):
            if task not in by_task:
                continue
            scorer = _aspect if "aspects" in task else _class if "classes" in task else _extraction
            first, *others = scorer(by_task[task], seed)
            rows.append(_headline(system, column, first[1]) if column in BENCHES else _own(system, column, *first[1:]))
            rows += [_own(system, f"{column} {name}", interval, better) for name, interval, better in others]
    return pd.DataFrame(rows, columns=SCORE_FIELDS)


def _headline(system: str, column: str, interval: Interval) -> tuple:
    return "ebay", "T1", system, column, *interval.times(100).row().values(), "points 0-100", "higher"


def _own(system: str, column: str, interval: Interval, better: str) -> tuple:
    return "own", OWN_TABLE, system, column, *interval.row().values(), "fraction", better


def _aspect(items: Sequence[Answered], seed: int) -> list[tuple]:
    normalised = [_matches(record, answer) for record, answer in items]
    raw = [answer.strip() in accepted_values(*record["facts"]["asked"].values()) for record, answer in items]
    values = [normal_value(accepted_values(*record["facts"]["asked"].values())[0]) for record, _ in items]
    return [
        ("", _mean(normalised, items, seed), "higher"),
        ("raw", _mean(raw, items, seed), "higher"),
        ("always the commonest", _commonest(items, values), "none"),
    ]


def _commonest(items: Sequence[Answered], values: Sequence[str]) -> Interval:
    """Return the share right by the commonest value of each aspect that is asked for; values: the truth, one an item."""
    of_aspect: dict[str, list[str]] = {}
    for (record, _), value in zip(items, values, strict=True):
        of_aspect.setdefault(" ".join(record["facts"]["asked"]), []).append(value)
    share = sum(len(own) * majority_share(own) for own in of_aspect.values()) / len(items)
    return Interval(share, share, share, len(items))


def _matches(record: Mapping[str, Any], answer: str) -> bool:
    return any(same_value(answer, value) for value in accepted_values(*record["facts"]["asked"].values()))


def _class(items: Sequence[Answered], seed: int) -> list[tuple]:
    read: list[tuple[bool, bool]] = []
    for record, answer in items:  # each aspect has its own classes
        found = classify([answer], [record["label"]], classes=record["facts"]["classes"])
        read.append((bool(found.hits[0]), found.predicted[0] == UNPARSED))
    return [
        ("", _mean([hit for hit, _ in read], items, seed), "higher"),
        ("unparsed", _mean([lost for _, lost in read], items, seed), "lower"),
        ("always the commonest", _commonest(items, [record["label"] for record, _ in items]), "none"),
    ]


def _extraction(items: Sequence[Answered], seed: int) -> list[tuple]:
    counts = np.array([pair_counts(answer, **_facts(record)) for record, answer in items], dtype=float)
    groups = [record["product_id"] for record, _ in items]

    def share(top: float, column: int, *bottom: int) -> Interval:
        def ratio(sums: np.ndarray) -> np.ndarray:
            return top * sums[:, column] / np.maximum(sums[:, list(bottom)].sum(1), 1)  # stating nothing scores 0

        return bootstrap_sums(counts, ratio, groups=groups, seed=seed)

    return [
        ("", share(2, 0, 1, 2), "higher"),  # F1 = 2 right / (stated + asked)
        ("precision", share(1, 0, 1), "higher"),
        ("recall", share(1, 0, 2), "higher"),
        ("invented values", share(1, 3, 1), "lower"),
        ("unparsed", _mean(counts[:, 1] == 0, items, seed), "lower"),
    ]


def _facts(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {"asked": record["facts"]["asked"], "known": record["facts"]["known"]}


def pair_counts(answer: str, *, asked: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Count an extraction's pairs: right, stated, asked, invented.

    Pairs are read from JSON, even cut off, or from lines `name: value`; a repeated key counts once, and an abstention
    (`n/a`) states nothing. A pair that is true of the photo and was not asked for counts neither as right nor stated.
    """
    pairs = parse_pairs(answer) or {canonical_key(name): value for name, value in reversed(read_pairs(answer)[1])}
    pairs = {name: value for name, value in pairs.items() if normal_value(value) and not is_abstention(value)}
    wanted, true = ({canonical_key(name): accepted_values(v) for name, v in part.items()} for part in (asked, known))
    right = [name for name, value in pairs.items() if _among(value, wanted.get(name, ()))]
    beyond = [name for name, value in pairs.items() if name not in wanted and _among(value, true.get(name, ()))]
    everything = [value for values in (*wanted.values(), *true.values()) for value in values]
    invented = sum(not _among(value, everything) for value in pairs.values())
    return len(right), len(pairs) - len(beyond), len(asked), invented


def _among(value: str, values: Iterable[Any]) -> bool:
    return any(same_value(value, one) for one in values)


def _mean(values: Iterable[bool], items: Sequence[Answered], seed: int) -> Interval:
    return bootstrap_interval(list(map(float, values)), groups=[record["product_id"] for record, _ in items], seed=seed)


def answer_points(record: Mapping[str, Any], answer: str) -> float:
    """Return one answer's points, 0 to 100: a normalised match, the right class, or the F1 of an extraction's pairs."""
    if classes := record["facts"].get("classes"):
        return 100.0 * bool(classify([answer], [record["label"]], classes=classes).hits[0])
    if record["task"] != BENCHES["DynamicAttributeExtraction/DAE"]:
        return 100.0 * _matches(record, answer)
    right, stated, asked, _ = pair_counts(answer, **_facts(record))
    return 200.0 * right / max(stated + asked, 1)


def context_gain(
    records: Sequence[Mapping[str, Any]], answers_by_system: Mapping[str, Sequence[str]], *, seed: int = 0
) -> pd.DataFrame:
    """Return what title and category add to aspect prediction, in points: row, stratum, gain, low, high, n, groups.

    The same questions with and without them are compared. Strata: all, in title (the title names the answer), not in
    title. A stratum without questions has no row.
    """
    plain, context = BENCHES["AspectPrediction/Fashion"], BENCHES["AspectPrediction/Fashion+T&C"]
    place = {r["id"].removeprefix(r["task"]): k for k, r in enumerate(records) if r["task"] == plain}
    pairs = [(k, place[r["id"].removeprefix(context)]) for k, r in enumerate(records) if r["task"] == context and r["id"].removeprefix(context) in place]  # fmt: skip
    named = np.array([bool(records[k]["facts"]["in_title"]) for k, _ in pairs])
    groups, rows = np.array([records[k]["product_id"] for k, _ in pairs]), []
    for system, answers in answers_by_system.items():
        with_context, without = (np.array([100.0 * _matches(records[p[side]], answers[p[side]]) for p in pairs]) for side in (0, 1))  # fmt: skip
        for stratum, kept in (("all", named | True), ("in title", named), ("not in title", ~named)):
            if kept.any():
                gain = paired_difference(with_context[kept], without[kept], groups=groups[kept].tolist(), seed=seed)
                rows.append((system, stratum, gain.value, gain.low, gain.high, gain.n, gain.groups))
    return pd.DataFrame(rows, columns=["row", "stratum", "gain", "low", "high", "n", "groups"])
