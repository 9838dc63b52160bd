"""The CLIP arm of CASLIE's comparison: linear heads on a CLIP's embeddings of a row's texts and photos, one for each task.

The paper fine-tunes FashionCLIP for each task (appendix D) and does not describe the head. Here the CLIP stays frozen. A
task whose options are the same in all rows gets a head over its labels; a task with options of its own in each row (CC,
SR) gets a head that scores each option, and the best one is the answer. A photo whose place is an option's label belongs
to this option.
Shapes: D width of an embedding, m texts and places of photos of a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.dummy import DummyClassifier
from transformers import PreTrainedTokenizerBase

from mtive_nb.data.commerce.rows import CommerceRow
from mtive_nb.data.customer_photos import photos_by_split
from mtive_nb.data.shop import read_shop
from mtive_nb.evaluate.frozen_probe import linear_probe
from mtive_nb.evaluate.grounding.clip import Clip, build_dual_encoder, embeddings, train_dual_encoder

Vectors = Mapping[str, np.ndarray]  # a text or a photo's path -> its embedding (D,)


Part = tuple[str, str]  # "text" and an input's name, or "photo" and a place


@dataclass(frozen=True)
class TaskHead:
    """One task's head. parts: the m texts and photos that it reads; ranks: it scores each option on its own."""

    parts: tuple[Part, ...]
    ranks: bool
    model: ClassifierMixin

    def answer(self, row: CommerceRow, vectors: Vectors) -> str:
        """Return the label of the likeliest option, "" for a row without options among tasks that have them."""
        if not self.ranks:
            return str(self.model.predict(row_features(row, self.parts, vectors)[None])[0])
        if not row.options:
            return ""
        return row.labels[int(self.model.predict_proba(option_features(row, self.parts, vectors))[:, -1].argmax())]


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


def shop_clip(shop: Path, tokenizer: PreTrainedTokenizerBase, *, folder: Path, steps: int, seed: int = 0) -> Clip:
    """Return chapter 03's dual encoder, trained on a shop's photos with their texts: a STAND-IN for a CLIP of the hub.

    shop: 01's records/shop.json. folder: of checkpoints.
    """
    part = next(part for part in read_shop(shop) if "AE" in part.tasks)
    photos = photos_by_split(part.catalogue, part.splits)["train"]
    pairs = [(p.path, p.feedback.text) for p in photos if p.feedback.text] + [(p.path, p.product.title) for p in photos]
    clip = build_dual_encoder(tokenizer)
    train_dual_encoder(clip, pairs, folder=folder, steps=steps, seed=seed)
    return clip


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
    ranks = len({row.options for row in rows}) > 1
    rows = [row for row in rows if row.options or not ranks]  # a row without options shows nothing to rank
    parts = tuple(dict.fromkeys(part for row in rows for part in _parts(row, one_place=ranks)))
    if ranks:
        x = np.concatenate([option_features(row, parts, vectors) for row in rows])
        y = [label == row.output for row in rows for label in row.labels]
    else:
        x, y = np.stack([row_features(row, parts, vectors) for row in rows]), [row.output for row in rows]
    model = linear_probe() if len(set(y)) > 1 else DummyClassifier(strategy="most_frequent")
    return TaskHead(parts, ranks, model.fit(x, y))


def row_features(row: CommerceRow, parts: Sequence[Part], vectors: Vectors) -> np.ndarray:
    """Return the row's parts and the products of each two, (D (m + m (m - 1) / 2),); a part that the row lacks is 0."""
    own = _parts(row)
    means = [_mean(own.get(part, ()), vectors) for part in parts]
    return np.concatenate([*means, *(a * b for a, b in combinations(means, 2))])


def option_features(row: CommerceRow, parts: Sequence[Part], vectors: Vectors) -> np.ndarray:
    """Return each option's text and photo, and their products with the row's parts, (options, 2 D (1 + m)).

    The photos of the row that belong to no option are one part.
    """
    own = _parts(row, one_place=True)
    means = [_mean(own.get(part, ()), vectors) for part in parts]
    photos = {
        label: [p for p, place in zip(row.photos, row.places, strict=False) if place == label] for label in row.labels
    }
    of_option = [
        (vectors[text], _mean(photos[label], vectors))
        for text, label in zip(_option_texts(row), row.labels, strict=True)
    ]
    return np.stack([np.concatenate([one * mean for one in both for mean in (1, *means)]) for both in of_option])


def _mean(names: Sequence[str], vectors: Vectors) -> np.ndarray:
    """Return the mean embedding of these texts or photos, (D,); 0 without any."""
    return np.mean([vectors[name] for name in names], axis=0) if names else np.zeros_like(next(iter(vectors.values())))


def _parts(row: CommerceRow, *, one_place: bool = False) -> dict[Part, list[str]]:
    """Return the texts and photos of a row by part, without the options' own; `one_place` puts all photos together."""
    found = {("text", name): _texts(value) for name, value in row.input.items()}
    for photo, place in zip(row.photos, row.places or [""] * len(row.photos), strict=True):
        if place not in row.labels:
            found.setdefault(("photo", "" if one_place else place), []).append(photo)
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
