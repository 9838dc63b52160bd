"""Pilot study of the grounding filter: how well does a score separate phrases that a photo shows from other phrases?

In VIT-Pro, people judged 200 samples (section 3.2); here the truth of each phrase is known.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from mtive_nb.data.phrases import Phrase
from mtive_nb.evaluate.grounding.attention import (
    AnswerAttention,
    read_attention,
    threshold_from_shuffled,
    with_other_images,
)
from mtive_nb.evaluate.grounding.clip import Clip, clip_scores
from mtive_nb.evaluate.intervals import Interval, bootstrap_interval, bootstrap_sums, shares, unpaired_difference
from mtive_nb.model.load import Vlm
from mtive_nb.run import progress

SCORES = ("VisAttnScore", "attention mass", "by layer", "less another photo", "CLIPScore")
ONE_HEAD = "one head, chosen on val"  # an extra row, registered as `further` in design.yaml; it decides no claim


def read_all(vlm: Vlm, records: Sequence[dict], *, batch: int = 16, **options: str | bool) -> list[AnswerAttention]:
    """Run `read_attention` with its options on any number of records, in batches."""
    found = []
    for start in progress(range(0, len(records), batch), what="attention"):
        found += read_attention(vlm, records[start : start + batch], **options)
    return found


def phrase_scores(
    vlm: Vlm,
    clip: Clip,
    records: Sequence[dict],
    phrases: Sequence[Phrase],
    *,
    others: Sequence[dict],
    batch: int = 16,
    query: str = "own",
    seed: int = 0,
) -> tuple[list[AnswerAttention], pd.DataFrame]:
    """Return each record's attention, and a row per phrase: every score of SCORES, visible, about, product.

    `by layer` divides each layer's mass by its mean over all records. `less another photo` subtracts the mass that the
    same words have with another product's photo, from `others`. `query` as in read_attention.
    """
    found = read_all(vlm, records, batch=batch, query=query, maps=True, by_head=True)
    beside = read_all(vlm, with_other_images(records, pool=others, seed=seed), batch=batch, query=query)
    means = np.mean([one.mass.sum(2).mean(1) for one in found], axis=0)
    rows = []
    for phrase in phrases:
        one, mass = found[phrase.record], found[phrase.record].score(phrase.span, per="answer")
        rows.append({
            "VisAttnScore": one.score(phrase.span),
            "attention mass": mass,
            "by layer": one.score(phrase.span, per="answer", layer_means=means),
            "less another photo": mass - beside[phrase.record].score(phrase.span, per="answer"),
            "visible": phrase.visible,
            "about": phrase.about,
            "product": records[phrase.record]["product_id"],
        })  # fmt: skip
    table = pd.DataFrame(rows)
    table["CLIPScore"] = clip_scores(clip, [(records[p.record]["images"][0], p.text) for p in phrases])
    return found, table


def pilot_table(
    test: pd.DataFrame, val: pd.DataFrame, *, scores: Sequence[str] = SCORES, seed: int = 0
) -> pd.DataFrame:
    """Return AUROC and balanced accuracy of `scores` on `test`: system, column, value, low, high, n.

    Thresholds come from `val`. Balanced accuracy is the mean over shown and not shown phrases.
    """
    groups, rows = list(test["product"]), []
    for name in scores:
        pair = test[["visible", name]].to_numpy(float)
        right = _right(test, val, name)
        auroc = bootstrap_interval(pair, statistic=_auroc, resamples=500, seed=seed, groups=groups)
        balanced = _balanced(right, test["visible"], groups=groups, seed=seed)
        for column, found in (("AUROC", auroc), ("balanced accuracy", balanced)):
            rows.append({"system": name, "column": column} | found.row())
    return pd.DataFrame(rows)


def _right(test: pd.DataFrame, val: pd.DataFrame, name: str) -> np.ndarray:
    """Mark each phrase of `test` that a score classifies correctly, (n,) of 0 and 1, with the best threshold on `val`.

    The best threshold maximises Youden's J, that is, balanced accuracy. Plain accuracy would favour a threshold that
    accepts all phrases, because most phrases are shown.
    """
    cut = threshold_from_shuffled(val.loc[val["visible"], name], val.loc[~val["visible"], name])
    return ((test[name] >= cut) == test["visible"]).to_numpy(float)


def _balanced(values: np.ndarray, visible: pd.Series, *, groups: list, seed: int = 0) -> Interval:
    """Average the means of `values` (n,) over shown and over not shown phrases; the bootstrap draws whole groups."""
    shown = visible.to_numpy(float)
    features = np.stack([values * shown, shown, values * (1 - shown), 1 - shown], axis=1)

    def statistic(sums: np.ndarray) -> np.ndarray:
        return (shares(sums[:, 0], sums[:, 1]) + shares(sums[:, 2], sums[:, 3])) / 2

    return bootstrap_sums(features, statistic, seed=seed, groups=groups)


def pilot_claims(
    test: pd.DataFrame,
    val: pd.DataFrame,
    said: tuple[Sequence[dict], Sequence[Phrase]],
    clip_of_text: np.ndarray,
    *,
    seed: int = 0,
) -> dict[str, dict[str, Interval]]:
    """Return measurements for VIT-Pro's claims (its T2 and section 3.2): by claim, left minus right in points.

    The paper's score, VisAttnScore, decides: points of attention on one image token. said: the records and phrases of
    `test`; clip_of_text: CLIPScore of each record's whole text, in [-1, 1].
    """
    records, phrases = said
    borne_out = np.ones(len(records), bool)
    for phrase in phrases:
        borne_out[phrase.record] &= phrase.visible
    products, of_texts = list(test["product"]), [r["product_id"] for r in records]
    flat = unpaired_difference(100 * clip_of_text, borne_out, groups=of_texts, seed=seed)
    better = 100 * (_right(test, val, "VisAttnScore") - _right(test, val, "CLIPScore"))
    return {
        "vitpro-attention-higher-when-grounded": {"phrases": shown_less_not(test, "VisAttnScore", seed=seed)},
        "vitpro-clipscore-flat-when-ungrounded": {"texts": flat},
        "vitpro-attention-finds-grounded-text-better": {
            "phrases": _balanced(better, test["visible"], groups=products, seed=seed)
        },
    }


def shown_less_not(test: pd.DataFrame, score: str, *, seed: int = 0) -> Interval:
    """Return a score's mean over phrases that the photo shows less its mean over the others, times 100."""
    return unpaired_difference(100 * test[score], test["visible"], groups=list(test["product"]), seed=seed)


def _auroc(pairs: np.ndarray) -> float:
    """Return the AUROC of rows (truth, score); 0.5 where a resample contains only one class."""
    return roc_auc_score(pairs[:, 0], pairs[:, 1]) if 0 < pairs[:, 0].mean() < 1 else 0.5


def layer_auroc(found: Sequence[AnswerAttention], phrases: Sequence[Phrase]) -> pd.Series:
    """Return the AUROC of each layer's mass alone."""
    asked = [(found[phrase.record], phrase.span) for phrase in phrases]
    rows = [one.mass.sum(2)[:, one.inside(span)].mean(1) for one, span in asked]  # (L,) each
    visible = [phrase.visible for phrase in phrases]
    by_layer = {f"layer {k + 1}": roc_auc_score(visible, mass) for k, mass in enumerate(np.transpose(rows))}
    return pd.Series(by_layer, name="AUROC").rename_axis("layer")


def head_masses(found: Sequence[AnswerAttention], phrases: Sequence[Phrase]) -> np.ndarray:
    """Return the mass of each layer's heads, averaged over each phrase's tokens, (phrases, L, H)."""
    asked = [(found[phrase.record], phrase.span) for phrase in phrases]
    return np.array([one.heads.sum(3)[:, :, one.inside(span)].mean(2) for one, span in asked])


def head_auroc(masses: np.ndarray, visible: Sequence[bool]) -> pd.DataFrame:
    """Return the AUROC of each head's mass (phrases, L, H) alone: a row per layer, a column per head, from 1."""
    pairs = [[np.stack([np.asarray(visible, float), one], 1) for one in layer] for layer in np.moveaxis(masses, 0, 2)]
    table = pd.DataFrame([[_auroc(pair) for pair in layer] for layer in pairs])
    table.index, table.columns = table.index + 1, table.columns + 1
    return table.rename_axis("layer").rename_axis("head", axis=1)
