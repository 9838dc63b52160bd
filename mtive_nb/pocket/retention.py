"""Retention: what adaptation leaves of the base's own skills (eBay, T2's public benchmarks; here the pocket base's exam)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mtive_nb.evaluate.intervals import paired_difference
from mtive_nb.evaluate.predict import generate_answers
from mtive_nb.model.stack import LoraStack
from mtive_nb.pocket.exam import ALL_SKILLS, exam_records, has_exam, words_of
from mtive_nb.pocket.scene_questions import SKILLS

COLUMNS = ("adapter", "skill", "n", "before", "after", "change", "low", "high")


def exam_retention(stack: LoraStack, adapters: Sequence[str], *, folder: Path, n: int, against: str | None = None) -> pd.DataFrame:  # fmt: skip
    """Return what each adapter, with its parents, changes in the exam, by skill, in points from 0 to 100.

    As `exam_change` for several adapters on the same `n` scenes. Before is the adapter `against`, default the bare base. A
    row per adapter and skill, then ALL_SKILLS. No row for n = 0 or a model that is no pocket base. The last adapter is
    active afterwards.
    """
    if not n or not has_exam(stack.vlm):
        return pd.DataFrame(columns=COLUMNS)
    records, rows = exam_records(folder, n=n, words=words_of(stack.vlm)), []

    def hits(adapter: str | None) -> np.ndarray:
        stack.activate(adapter)
        answers = generate_answers(stack, records, max_new_tokens=48, what=f"exam {adapter or 'base'}")
        return np.array([100.0 * (a == r["answer"]) for a, r in zip(answers, records, strict=True)])

    before, skills = hits(against), np.array([r["task"] for r in records])
    for adapter in adapters:
        after = hits(adapter)
        for skill in (*[s for s in SKILLS if s in skills], ALL_SKILLS):
            kept = (skills == skill) | (skill == ALL_SKILLS)
            change = paired_difference(after[kept], before[kept])
            means = before[kept].mean(), after[kept].mean()
            rows.append((adapter, skill, change.n, *means, change.value, change.low, change.high))
    return pd.DataFrame(rows, columns=COLUMNS)
