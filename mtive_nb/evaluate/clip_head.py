"""The CLIP arm of CASLIE's comparison: linear heads on a CLIP's embeddings of a row's texts and photos, one for each task.

The paper fine-tunes FashionCLIP for each task (appendix D) and does not describe the head. Here the CLIP stays frozen. A
task whose options are the same in all rows gets a head over its labels; a task with options of its own in each row (CC,
SR) gets a head that scores each option, and the best one is the answer.
Shapes: D width of an embedding, m texts and places of photos of a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.dummy import DummyClassifier

from mtive_nb.data.commerce.rows import CommerceRow
from mtive_nb.evaluate.frozen_probe import linear_probe
from mtive_nb.evaluate.grounding.clip import Clip, embeddings

Vectors = Mapping[str, np.ndarray]  # a text or a photo's path -> its embedding (D,)


@dataclass(frozen=True)
class TaskHead:
    """One task's head. parts: the m names of texts and of places of photos; ranks: it scores each option on its own."""

    parts: tuple[tuple[str, str], ...]  # (kind, name), kind "text" or "photo"
    ranks: bool
    model: ClassifierMixin

    def answer(self, row: CommerceRow, vectors: Vectors) -> str:
        """Return the label of the likeliest option."""
        found = features(row, self.parts, vectors, ranks=self.ranks)
        if not self.ranks:
            return str(self.model.predict(found)[0])
        return row.labels[int(self.model.predict_proba(found)[:, -1].argmax())]


@dataclass(frozen=True)
class ClipHead:
    """A CLIP and its trained heads by task."""

    clip: Clip
    heads: Mapping[str, TaskHead]

    def answers(self, rows: Sequence[CommerceRow]) -> list[str]:
        """Return one label a row, in the rows' order. Errors: ValueError for a task without a head."""
        if missing := {row.task for row in rows} - self.heads.keys():
            raise ValueError(f"CLIP head: found rows of {sorted(missing)}, expected one of {sorted(self.heads)}")
        vectors = _embedded(self.clip, rows)
        return [self.heads[row.task].answer(row, vectors) for row in rows]


def fit_clip_head(clip: Clip, train: Sequence[CommerceRow]) -> ClipHead:
    """Train a head for each task of `train`. Errors: ValueError for no row, or a label that a row's options lack."""
    if not train:
        raise ValueError("CLIP head: found no row to train on")
    if wrong := [row for row in train if row.options and row.output not in row.labels]:
        raise ValueError(f"row {wrong[0].row_id}: output: found {wrong[0].output!r}, expected one of {wrong[0].labels}")
    vectors = _embedded(clip, train)
    tasks = dict.fromkeys(row.task for row in train)
    return ClipHead(clip, {task: _fitted([row for row in train if row.task == task], vectors) for task in tasks})


def _fitted(rows: Sequence[CommerceRow], vectors: Vectors) -> TaskHead:
    parts = tuple(dict.fromkeys(part for row in rows for part in _parts(row)))
    ranks = len({row.options for row in rows}) > 1
    x = np.concatenate([features(row, parts, vectors, ranks=ranks) for row in rows])
    y = [label == row.output for row in rows for label in row.labels] if ranks else [row.output for row in rows]
    model = linear_probe() if len(set(y)) > 1 else DummyClassifier(strategy="most_frequent")
    return TaskHead(parts, ranks, model.fit(x, y))


def features(row: CommerceRow, parts: Sequence[tuple[str, str]], vectors: Vectors, *, ranks: bool) -> np.ndarray:
    """Return a row's features: (1, D (m + m (m - 1) / 2)), its parts and their products; or, if the head `ranks`, one
    line an option, (options, D (1 + m)), the option and its products with the parts. A part that a row lacks is 0."""
    own, width = _parts(row), len(next(iter(vectors.values())))
    means = [
        np.mean([vectors[one] for one in own[part]], axis=0) if own.get(part) else np.zeros(width) for part in parts
    ]
    if not ranks:
        return np.concatenate([*means, *(a * b for a, b in combinations(means, 2))])[None]
    options = [vectors[text] for text in _option_texts(row)]
    return np.stack([np.concatenate([option, *(option * mean for mean in means)]) for option in options])


def _parts(row: CommerceRow) -> dict[tuple[str, str], list[str]]:
    """Return the texts and photos of a row by (kind, name)."""
    found = {("text", name): _texts(value) for name, value in row.input.items()}
    for photo, place in zip(row.photos, row.places or [""] * len(row.photos), strict=True):
        found.setdefault(("photo", place), []).append(photo)
    return found


def _texts(value: Any) -> list[str]:
    """Return the texts in a value of a row's input: itself, or those of a list or mapping."""
    if isinstance(value, Mapping):
        value = list(value.values())
    return [text for one in value for text in _texts(one)] if isinstance(value, list | tuple) else [str(value)]


def _option_texts(row: CommerceRow) -> list[str]:
    """Return the options without their labels: "exact match" of "A: exact match"."""
    return [text.strip() or label for label, _, text in (option.partition(":") for option in row.options)]


def _embedded(clip: Clip, rows: Sequence[CommerceRow]) -> Vectors:
    texts = [text for row in rows for (kind, _), own in _parts(row).items() if kind == "text" for text in own]
    options = [text for row in rows for text in _option_texts(row)]
    return embeddings(clip, texts=[*texts, *options], photos=[photo for row in rows for photo in row.photos])
