"""The tables of notebook 07: T1 (judge), T2 (F1-weighted) and exact matches, each with a bootstrap interval.

Columns are spelled as in published.csv. T1 in the paper shows differences to a row that the paper omits; our T1 shows
levels in [0, 100]. T2 is a fraction, as in the paper; our own shares are fractions too. Intervals resample products.
Records pooled from several runs have a `run` field; products are drawn within runs, and the interval then widens to the
spread of the runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mtive_nb.data.records import question_of
from mtive_nb.evaluate.intervals import (
    Interval,
    bootstrap_interval,
    bootstrap_sums,
    paired_difference,
    weighted_f1_of_sums,
)
from mtive_nb.evaluate.judge.rule import Judge, RuleJudge, judge_all
from mtive_nb.evaluate.metrics import (
    DATE_ATTRIBUTES,
    UNPARSED,
    Classified,
    asked_date,
    attribute_matches,
    classify,
    date_match,
    facts_of,
)
from mtive_nb.evaluate.reading import is_abstention
from mtive_nb.evaluate.statements import Vocabulary, vocabulary_of

T1_TASKS = ("AE", "DD", "PM", "EX")  # the columns of the paper's T1; all other tasks are scored in our own table
OWN_TABLE = "EMDIV"
_T1 = (("Acc", "accuracy", "higher"), ("Rel", "relevancy", "higher"), ("Hal", "hallucination", "lower"))
SCORE_FIELDS = ("paper", "table", "system", "task", "metric", "value", "low", "high", "n", "unit", "better")

Answered = tuple[Mapping[str, Any], str]  # a record and one system's answer


def score_table(
    records: Iterable[Mapping[str, Any]],
    answers_by_system: Mapping[str, Sequence[str]],
    vocabulary: Vocabulary | None = None,
    *,
    seed: int = 0,
    resamples: int = 2000,
    judge: Judge | None = None,
) -> pd.DataFrame:
    """Return every score of every system, one row each, with fields `SCORE_FIELDS`; `metric` is the paper's column.

    T1: `AE/Acc`, `AE/Rel`, `AE/Hal` ... over generative and augmented records. T2: `DD/F1w`, `PM/F1w` over binary
    records. Our own metrics: `<task>/Acc binary`, `F1w binary` (where T2 has none) and `Unparsed binary`; `AE/EM` over
    asked attributes and `AE/EM record` over whole answers; `EX/EM` (as printed), `EX/EM date` and `EX/EM present` (as
    printed, where there is a date), over records that ask for a date. A task that T1 does not have (PT, PP, a
    catalogue's own) is scored by its records, in fractions: `<task>/Acc`, `F1w` and `Unparsed` over answers that are
    classes; the judge's `Acc`, `Rel`, `Hal`, and `EM`, over open answers. A metric without records has no row.
    Errors: ValueError where a system's number of answers differs from the number of records.
    """
    records = list(records)
    judge = judge or RuleJudge(vocabulary_of(records) if vocabulary is None else vocabulary)
    rows: list[dict[str, Any]] = []
    for system, answers in answers_by_system.items():
        if len(answers) != len(records):
            raise ValueError(f"score_table: {system} has {len(answers)} answers for {len(records)} records")
        by_task: dict[str, list[Answered]] = {}
        for record, answer in zip(records, answers, strict=True):
            by_task.setdefault(record["task"], []).append((record, answer))
        for task, items in by_task.items():
            options = {"seed": seed, "resamples": resamples}
            answered = [(r, a) for r, a in items if r["variant"] in ("gen", "aug") and facts_of(r) and not _is_class(r)]
            found = [*_judged(task, answered, judge, options), *_classified(task, items, options)]
            found += _exact(task, answered, options)
            rows += [{"system": system, "task": task} | row for row in found]
    return pd.DataFrame(rows, columns=list(SCORE_FIELDS))


def accuracy_rows(scores: pd.DataFrame) -> pd.DataFrame:
    """Return a score_table's accuracy of each system and task, in points from 0 to 100.

    The judge's in T1's tasks, that of classes or open answers in others; of yes/no where a task has nothing else.
    """
    first = scores[scores["metric"].str.endswith("/Acc")]
    rest = scores[scores["metric"].str.endswith("/Acc binary") & ~scores["task"].isin(first["task"])]
    rows = pd.concat([first, rest])
    shares = rows["unit"] == "fraction"
    ends = ["value", "low", "high"]
    rows.loc[shares, ends] *= 100
    return rows.assign(unit="points 0-100")


def majority_answers(records: Iterable[Mapping[str, Any]], train: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return answers of a baseline that sees neither the photo nor the truth: always the commonest.

    All yes/no questions of a task get one answer. Any other question gets the commonest class (`label`) of the training
    questions in the same words, in the commonest answer with that class; words that training lacks fall back to task
    and variant. A record's truth is read only to recognise a yes/no question, which its words say too.
    """
    train, yes_no = list(train), ("yes", "no")
    open_ended = {question_of(record) for record in train if record["answer"] not in yes_no}

    def keys(record: Mapping[str, Any]) -> tuple[tuple, ...]:
        words, form = question_of(record), (record["task"], record["variant"])
        polar = record["answer"] in yes_no and words not in open_ended
        return ((record["task"],),) if polar else ((*form, words), form)

    counts: dict[tuple, dict[str, Counter[str]]] = {}
    for record in train:
        for key in keys(record):
            of_class = counts.setdefault(key, {}).setdefault(record.get("label") or record["answer"], Counter())
            of_class[record["answer"]] += 1
    commonest = {key: max(found.values(), key=Counter.total).most_common(1)[0][0] for key, found in counts.items()}
    return [next((commonest[key] for key in keys(record) if key in commonest), "") for record in records]


def attribute_scores(
    records: Iterable[Mapping[str, Any]], answers_by_system: Mapping[str, Sequence[str]], *, seed: int = 0
) -> pd.DataFrame:
    """Return the exact match of AE's generative and augmented answers by attribute.

    Columns: system, attribute, value, low, high, n.
    """
    kept = [
        (i, r) for i, r in enumerate(records) if r["task"] == "AE" and r["variant"] in ("gen", "aug") and facts_of(r)
    ]
    rows = []
    for system, answers in answers_by_system.items():
        hits: dict[str, list[tuple[float, str]]] = {}
        for i, record in kept:
            for attribute, hit in attribute_matches(answers[i], facts_of(record)[0]).items():
                hits.setdefault(attribute, []).append((hit, _owner(record)))
        for attribute, pairs in hits.items():
            values, products = zip(*pairs, strict=True)
            interval = bootstrap_interval(values, groups=products, seed=seed)
            rows.append({"system": system, "attribute": attribute} | interval.row())
    return pd.DataFrame(rows, columns=["system", "attribute", "value", "low", "high", "n"])


def paired_gains(
    records: Iterable[Mapping[str, Any]],
    answers_by_system: Mapping[str, Sequence[str]],
    vocabulary: Vocabulary | None = None,
    *,
    system: str,
    over: Sequence[str],
    judge: Judge | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the gain of `system` over each system in `over`, in points of the judge's accuracy, a row per task.

    Columns: task, over, gain, low, high, n. Both systems have the same records and products are drawn together, so the
    interval is narrower than the systems' own intervals. Errors: KeyError when a system has no answers.
    """
    records = list(records)
    judged = {name: judge_all(records, answers_by_system[name], vocabulary, judge=judge) for name in (system, *over)}
    owners = list(map(_owner, records))
    rows = []
    for task in dict.fromkeys(judged[system]["task"]):
        here = (judged[system]["task"] == task) & judged[system]["variant"].isin(["gen", "aug"])
        if not here.any():
            continue
        for other in over:
            a, b = (judged[name].loc[here, "accuracy"].to_numpy() for name in (system, other))
            gain = paired_difference(a, b, groups=[o for o, kept in zip(owners, here, strict=True) if kept], seed=seed)
            rows.append({"task": task, "over": other} | gain.row("gain"))
    return pd.DataFrame(rows, columns=["task", "over", "gain", "low", "high", "n"])


def wide_table(scores: pd.DataFrame, *, paper: str, table: str) -> pd.DataFrame:
    """Return a paper's table to display: systems as rows, metrics ("AE/Acc") as columns, cells "value [low, high]".

    scores: from `score_table`; shares have three decimals, points one.
    """
    part = scores[(scores["paper"] == paper) & (scores["table"] == table)]
    digits = np.where(part["unit"] == "fraction", 3, 1)
    cells = [
        f"{row.value:.{d}f} [{row.low:.{d}f}, {row.high:.{d}f}]"
        for row, d in zip(part.itertuples(), digits, strict=True)
    ]
    shown = part.assign(cell=cells).pivot(index="system", columns="metric", values="cell")
    order = dict.fromkeys(part["metric"])
    return shown.reindex(index=list(dict.fromkeys(part["system"])), columns=list(order)).fillna("")


def _owner(record: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the bootstrap group of a record: its run (None for a single run) and product."""
    return record.get("run"), record["product_id"]


def _is_class(record: Mapping[str, Any]) -> bool:
    """Whether an open question has a class as its answer; in the paper's T1 such answers are judged."""
    return record["task"] not in T1_TASKS and record["variant"] in ("gen", "aug") and bool(record.get("label"))


def _judged(task: str, items: list[Answered], judge: Judge, options: dict[str, int]) -> list[dict[str, Any]]:
    if not items:
        return []
    judged = [judge.judge(record, answer) for record, answer in items]
    groups = [_owner(record) for record, _ in items]
    rows = []
    in_t1 = task in T1_TASKS
    place, unit, whole = (("mtive", "T1"), "points 0-100", 1) if in_t1 else (("own", OWN_TABLE), "fraction", 100)
    for short, field, better in _T1:
        values = [getattr(one, field) / whole for one in judged]
        interval = bootstrap_interval(values, groups=groups, **options)
        rows.append(_row(*place, f"{task}/{short}", interval, unit=unit, better=better))
    return rows


def _classified(task: str, items: list[Answered], options: dict[str, int]) -> list[dict[str, Any]]:
    """Score the yes/no variant of any task, and other answers that are classes, in separate confusion matrices."""
    items = [(r, a) for r, a in items if r.get("label")]
    binary = [(r, a) for r, a in items if r["variant"] == "bin"]
    classes = [(r, a) for r, a in items if _is_class(r)]
    return [*_class_rows(task, binary, options, form=" binary"), *_class_rows(task, classes, options, form="")]


def _class_rows(task: str, items: list[Answered], options: dict[str, int], *, form: str) -> list[dict[str, Any]]:
    if not items:
        return []
    groups = [_owner(record) for record, _ in items]
    read = classify([answer for _, answer in items], [str(record["label"]) for record, _ in items])
    accuracy = bootstrap_interval(read.hits, groups=groups, **options)
    f1 = bootstrap_sums(confusion_features(read), weighted_f1_of_sums, groups=groups, limits=(0, 1), **options)
    unparsed = bootstrap_interval([p == UNPARSED for p in read.predicted], groups=groups, **options)
    in_t2 = form and task in ("DD", "PM")
    return [
        _row("own", OWN_TABLE, f"{task}/Acc{form}", accuracy),
        _row("mtive", "T2", f"{task}/F1w", f1) if in_t2 else _row("own", OWN_TABLE, f"{task}/F1w{form}", f1),
        _row("own", OWN_TABLE, f"{task}/Unparsed{form}", unparsed, better="lower"),
    ]


def confusion_features(read: Classified) -> np.ndarray:
    """Encode each item as one cell of the confusion matrix, (n, K * K); summing items gives the confusion counts."""
    codes = {name: code for code, name in enumerate(dict.fromkeys((*read.labels, *read.predicted)))}
    cells = [codes[t] * len(codes) + codes[p] for t, p in zip(read.labels, read.predicted, strict=True)]
    features = np.zeros((len(cells), len(codes) ** 2))
    features[np.arange(len(cells)), cells] = 1
    return features


def _exact(task: str, items: list[Answered], options: dict[str, int]) -> list[dict[str, Any]]:
    if task == "EX":  # other records ask only whether a date is present
        items = [(r, a) for r, a in items if set(DATE_ATTRIBUTES) & set((facts_of(r) or ({}, {}))[0])]
    if task in ("DD", "PM") or not items:
        return []
    products = [_owner(record) for record, _ in items]
    facts = [facts_of(record) or ({}, {}) for record, _ in items]
    if task == "EX":
        pairs = [
            date_match(answer, asked, known=known) for (_, answer), (asked, known) in zip(items, facts, strict=True)
        ]
        columns = {"EX/EM": ([p for p, _ in pairs], products), "EX/EM date": ([d for _, d in pairs], products)}
        there = [k for k, (asked, _) in enumerate(facts) if not is_abstention(asked_date(asked)[1][0])]
        if there:  # a model that always says `Unanswerable` scores in EX/EM but not here
            columns["EX/EM present"] = [pairs[k][0] for k in there], [products[k] for k in there]
    else:
        matches = [attribute_matches(answer, asked) for (_, answer), (asked, _) in zip(items, facts, strict=True)]
        single = [hit for match in matches for hit in match.values()]
        columns = {f"{task}/EM": (single, [p for p, match in zip(products, matches, strict=True) for _ in match])}
        if task == "AE":  # only AE asks for several attributes at once
            columns["AE/EM record"] = [min(m.values()) for m in matches], products
    return [
        _row("own", OWN_TABLE, name, bootstrap_interval(values, groups=groups, **options))
        for name, (values, groups) in columns.items()
    ]


def _row(
    paper: str, table: str, metric: str, interval: Interval, *, unit: str = "fraction", better: str = "higher"
) -> dict[str, Any]:
    return {"paper": paper, "table": table, "metric": metric, "unit": unit, "better": better} | interval.row()
