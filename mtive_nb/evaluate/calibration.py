"""Does a model's confidence match its accuracy? Expected calibration error over answer tokens (Guo et al. 2017).

Shapes: n records, N answer tokens, V vocabulary, K bins of confidence, R resamples.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mtive_nb.evaluate.intervals import Interval, bootstrap_sums
from mtive_nb.model.stack import LoraStack
from mtive_nb.model.train import answer_predictions

BINS = 15


def token_confidences(stack: LoraStack, records: Sequence[dict], *, batch: int = 32) -> pd.DataFrame:
    """Return a row per token of the records' true answers, predicted from the true tokens before it.

    Columns: id, product_id, confidence (probability of the likeliest token), right (whether the likeliest token is the
    true token), nats (the true token's loss).
    """
    rows = []
    for places, log_p, true in answer_predictions(stack, records, batch=batch, what="confidence"):
        best, likeliest = log_p.max(-1)
        found = {"confidence": best.exp(), "right": (likeliest == true).float()}
        found["nats"] = -log_p.gather(1, true[:, None])[:, 0]
        rows.append(pd.DataFrame({"place": places} | {k: v.cpu().numpy() for k, v in found.items()}))
    tokens = pd.concat(rows).sort_values("place", kind="stable", ignore_index=True)
    for at, key in enumerate(("id", "product_id")):
        tokens.insert(at, key, [records[place][key] for place in tokens["place"]])
    return tokens.drop(columns="place")


def calibration(tokens: pd.DataFrame, *, seed: int = 0, resamples: int = 2000) -> dict[str, Interval]:
    """Return "ECE", the expected calibration error in [0, 1], and "overconfidence" in [-1, 1].

    Overconfidence is mean confidence minus accuracy.
    """
    sums, products = _sums(tokens)
    how = {"groups": products, "seed": seed, "resamples": resamples, "n": len(tokens)}
    return {"ECE": bootstrap_sums(sums, _error, **how), "overconfidence": bootstrap_sums(sums, _excess, **how)}


def calibration_gain(left: pd.DataFrame, right: pd.DataFrame, *, seed: int = 0, resamples: int = 2000) -> Interval:
    """Return the expected calibration error of `left` minus that of `right` on the same tokens.

    Resampling draws a product for both sides at once. Errors: ValueError where the tokens differ.
    """
    if list(left["id"]) != list(right["id"]):
        raise ValueError(
            f"calibration_gain: found {len(left)} and {len(right)} tokens; expected the same tokens in both"
        )
    (one, products), (other, _) = _sums(left), _sums(right)
    cut = one.shape[1]
    return bootstrap_sums(
        np.hstack([one, other]), lambda s: _error(s[:, :cut]) - _error(s[:, cut:]), groups=products, seed=seed,
        resamples=resamples, n=len(left),
    )  # fmt: skip


def _sums(tokens: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Return one row per record, (n, 2 K + 1), and each record's product.

    A row sums its tokens' confidence by bin and hits by bin, then counts the tokens.
    """
    codes, ids = pd.factorize(tokens["id"])
    bins = np.minimum((tokens["confidence"] * BINS).astype(int), BINS - 1)
    sums = np.zeros((len(ids), 2 * BINS + 1))
    np.add.at(sums, (codes, bins), tokens["confidence"])
    np.add.at(sums, (codes, BINS + bins), tokens["right"])
    np.add.at(sums, (codes, 2 * BINS), 1)
    return sums, list(tokens.groupby("id", sort=False)["product_id"].first())


def _error(sums: np.ndarray) -> np.ndarray:
    """Expected calibration error, (R, 2 K + 1) -> (R,)."""
    return np.abs(sums[:, :BINS] - sums[:, BINS : 2 * BINS]).sum(axis=1) / sums[:, -1]


def _excess(sums: np.ndarray) -> np.ndarray:
    """Mean confidence minus accuracy, (R, 2 K + 1) -> (R,)."""
    return (sums[:, :BINS] - sums[:, BINS : 2 * BINS]).sum(axis=1) / sums[:, -1]
