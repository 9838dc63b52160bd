"""What photos allow: linear probes on the frozen features of a vision tower, beside what the experts answer.

A probe learns from the experts' own training records and is scored on the same test questions. A probe that beats an
expert shows that the photos hold more than the expert reads.

Shapes: N photos, F features.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from mtive_nb.evaluate.intervals import bootstrap_interval
from mtive_nb.evaluate.metrics import facts_of

Features = Callable[[list[Path]], np.ndarray]  # photos -> (N, F)
STRENGTH = 0.01  # C of the logistic regression


def linear_probe() -> Pipeline:
    """Return an untrained probe: standardised features, then a logistic regression."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=2000))


def pair_features(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return products and distances of the features of two photos: (N, F), (N, F) -> (N, 2 F)."""
    return np.concatenate([left * right, np.abs(left - right)], axis=1)


def probe_scores(
    train: Sequence[Mapping[str, Any]], test: Sequence[Mapping[str, Any]], features: Features, *, system: str
) -> pd.DataFrame:
    """Score probes on EMDIV records: the attribute category (AE) and matching, yes or no (PM).

    Columns: system, column, value, low, high (fractions), n, with 95% bootstrap intervals over products. A column is
    missing where either split has no such questions.
    """

    def of_attributes(record: Mapping[str, Any]) -> str | None:
        asked = (facts_of(record) or ({},))[0] if record["task"] == "AE" and record["variant"] != "bin" else {}
        return asked.get("category")

    def of_matching(record: Mapping[str, Any]) -> str | None:
        return record["label"] if record["task"] == "PM" and record["variant"] == "bin" else None

    asked = [r for r in (*train, *test) if of_attributes(r) or of_matching(r)]
    photos = sorted({image for r in asked for image in r["images"]})
    place = {image: k for k, image in enumerate(photos)}
    rows = features([Path(photo) for photo in photos]) if photos else np.empty((0, 0))

    def seen(records: Sequence[Mapping[str, Any]]) -> np.ndarray:
        first, last = (rows[[place[r["images"][k]] for r in records]] for k in (0, -1))
        return last if len(records[0]["images"]) == 1 else pair_features(first, last)

    found = []
    for column, label in (("AE/category", of_attributes), ("PM/Acc binary", of_matching)):
        known, held_out = ([r for r in split if label(r)] for split in (train, test))
        if len({label(r) for r in known}) < 2 or not held_out:
            continue
        probe = linear_probe().fit(seen(known), [label(r) for r in known])
        hits = probe.predict(seen(held_out)) == np.array([label(r) for r in held_out])
        interval = bootstrap_interval(hits.astype(float), groups=[r["product_id"] for r in held_out])
        found.append({"system": system, "column": column} | interval.row())
    return pd.DataFrame(found, columns=["system", "column", "value", "low", "high", "n"])
