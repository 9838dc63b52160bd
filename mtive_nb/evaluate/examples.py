"""Examples for T3 and T10: photos with question, truth and all systems' answers, chosen where the systems differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mtive_nb.data.records import question_of
from mtive_nb.evaluate.judge.rule import Judge, RuleJudge
from mtive_nb.evaluate.metrics import classify, facts_of
from mtive_nb.evaluate.statements import Vocabulary, vocabulary_of


def example_rows(
    records: Iterable[Mapping[str, Any]],
    answers_by_system: Mapping[str, Sequence[str]],
    *,
    n: int = 2,
    seed: int = 0,
    vocabulary: Vocabulary | None = None,
    judge: Judge | None = None,
) -> pd.DataFrame:
    """Return the `n` records per task on which systems differ most.

    Columns: id, task, images, question, truth, then one column per system. The difference is the standard deviation of
    the systems' correctness. `seed` breaks ties, and no product appears twice in a task. The selection shows
    differences; do not estimate scores from it.
    Errors: ValueError where a system has a wrong number of answers.
    """
    records = list(records)
    for system, answers in answers_by_system.items():
        if len(answers) != len(records):
            raise ValueError(f"example_rows: {system} has {len(answers)} answers for {len(records)} records")
    judge = judge or RuleJudge(vocabulary_of(records) if vocabulary is None else vocabulary)
    rng = np.random.default_rng(seed)
    labels = _labels_by_form(records)
    order = rng.permutation(len(records))
    spread = {
        i: np.std([_goodness(records[i], answers[i], judge, labels) for answers in answers_by_system.values()])
        for i in order
    }
    taken: dict[str, set[str]] = {}
    chosen = []
    for i in sorted(order, key=lambda i: -spread[i]):  # a stable sort keeps ties in random order
        products = taken.setdefault(records[i]["task"], set())
        if len(products) < n and records[i]["product_id"] not in products:
            products.add(records[i]["product_id"])
            chosen.append(i)
    tasks = list(dict.fromkeys(record["task"] for record in records))
    chosen.sort(key=lambda i: tasks.index(records[i]["task"]))
    return pd.DataFrame([_row(records[i], {s: answers[i] for s, answers in answers_by_system.items()}) for i in chosen])


def _labels_by_form(records: list[Mapping[str, Any]]) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], set[str]] = {}
    for record in records:
        if record.get("label"):
            found.setdefault((record["task"], record["variant"]), set()).add(str(record["label"]))
    return {form: sorted(labels) for form, labels in found.items()}


def _goodness(record: Mapping[str, Any], answer: str, judge: Judge, labels: dict[tuple[str, str], list[str]]) -> float:
    """Score an answer's correctness in [0, 1]: by its class, else by the judge's accuracy."""
    form = (record["task"], record["variant"])
    if form in labels and record.get("label") and (record["variant"] == "bin" or facts_of(record) is None):
        return float(classify([answer], [str(record["label"])], classes=labels[form]).hits[0])
    return judge.judge(record, answer).accuracy / 100 if facts_of(record) else 0.0


def _row(record: Mapping[str, Any], answers: dict[str, str]) -> dict[str, Any]:
    row = {"id": record["id"], "task": record["task"], "images": list(record["images"])}
    return row | {"question": question_of(dict(record)), "truth": record["answer"]} | answers
