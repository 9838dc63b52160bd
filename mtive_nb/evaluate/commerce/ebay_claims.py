"""eBay's claims on adaptation, from benchmark answers of arms and their retention (chapters 16 and 30)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.linalg import block_diag

from mtive_nb.data.commerce.ebay_benches import BENCHES
from mtive_nb.evaluate.claims import measured
from mtive_nb.evaluate.commerce.aspects import answer_points, context_gain
from mtive_nb.evaluate.differences import mean_of
from mtive_nb.evaluate.intervals import Interval, bootstrap_interval, bootstrap_sums, mean_of_sums

# The claims' names of benchmarks -> those of T1.
ASPECTS = {
    "asp_general": "AspectPrediction/General",
    "asp_fashion": "AspectPrediction/Fashion",
    "asp_fashion_tc": "AspectPrediction/Fashion+T&C",
}
FREE_FORM = {"dae": "DynamicAttributeExtraction/DAE"}
CLASSES = {"fashion_apparel": "DeepFashion/Apparel", "fashion_sneakers_handbags": "DeepFashion/Sneakers&Handbags"}


def adaptation_claims(
    records: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[str]], retention: pd.DataFrame, *,
    adapted: str, mixed: str, base: str = "zero-shot", raw: str = "raw",
) -> pd.DataFrame:  # fmt: skip
    """Return a row of the claims board for each claim on adaptation.

    adapted: the arm whose instructions are verified; raw: the same with unverified ones; mixed: the arm with general
    instructions as well. retention: rows of `exam_retention` for all skills together, with a column `arm`; it decides whether
    general skill is kept. Gains are paired by question.
    """
    adapt = _gains(records, answers, adapted, base, ASPECTS)
    free = _gains(records, answers, adapted, base, FREE_FORM)
    rows = [
        measured("ebay-adaptation-beats-same-backbone", adapt),
        measured("ebay-free-form-extraction-not-helped", free),
    ]
    if verified := _mean_gain(records, answers, adapted, raw, ASPECTS):
        parts = _gains(records, answers, adapted, raw, ASPECTS)
        of_each = ", ".join(
            f"{name} {gain.value:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})" for name, gain in parts.items()
        )
        rows.append(measured("ebay-verified-aspects-train-better", {"mean": verified}, remark=of_each))
    context = context_gain(records, {adapted: answers[adapted]})
    title = context[context["stratum"] == "all"]
    if len(title):
        one = title.iloc[0]
        gain = Interval(*map(float, one[["gain", "low", "high"]]), int(one["n"]), groups=int(one["groups"]))
        rows.append(measured("ebay-title-and-category-help", {"asp_fashion": gain}))
    own = retention[retention["arm"] == mixed]
    if len(own):
        one = own.iloc[0]  # base / adapted; an interval of the change gives that of the ratio, the base being fixed
        ends = [one["before"] / max(one["before"] + one[name], 1e-9) for name in ("change", "high", "low")]
        rows.append(measured("ebay-adaptation-keeps-general-skill", {"exam": Interval(*ends, int(one["n"]))}))
    return pd.DataFrame(rows)


def choice_claims(
    records: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[str]], general: pd.DataFrame, *, native: str,
    square: str, taught: str, plain: str,
) -> pd.DataFrame:  # fmt: skip
    """Return a row of the claims board for each claim on resolution and decoder.

    native, square: arms with photos at their own ratio, or squeezed. taught, plain: arms whose decoder first learned
    listings, or not. general: rows of `exam_retention` of `taught` against `plain`, all skills together.
    """

    def gains(left: str, right: str, names: Mapping[str, str]) -> dict[str, Interval]:
        return _gains(records, answers, left, right, names)

    change = {r.skill: Interval(r.change, r.low, r.high, int(r.n)) for r in general.itertuples()}
    return pd.DataFrame([
        measured("ebay-native-res-encoder-leads-on-aspects", gains(native, square, ASPECTS | FREE_FORM)),
        measured("ebay-fixed-res-encoder-leads-on-fashion", gains(native, square, CLASSES)),
        measured("ebay-domain-text-decoder-helps", gains(taught, plain, ASPECTS | CLASSES | FREE_FORM)),
        measured("ebay-domain-text-decoder-neutral-general", change),
    ])  # fmt: skip


def _apart(
    records: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[str]], left: str, right: str, column: str
) -> tuple[np.ndarray, list[str]]:
    """Return left minus right in points (n,), question by question of one benchmark, and the questions' products."""
    places = [k for k, record in enumerate(records) if record["task"] == BENCHES[column]]
    points = [[answer_points(records[k], answers[arm][k]) for k in places] for arm in (left, right)]
    return np.subtract(*map(np.array, points)), [records[k]["product_id"] for k in places]


def _gains(
    records: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[str]], left: str, right: str, names: Mapping[str, str]
) -> dict[str, Interval]:  # fmt: skip
    """Return left minus right in points by benchmark; benchmarks without questions are left out."""
    apart = {name: _apart(records, answers, left, right, column) for name, column in names.items()}
    return {name: bootstrap_interval(gains, groups=products) for name, (gains, products) in apart.items() if products}


def _mean_gain(
    records: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[str]], left: str, right: str, names: Mapping[str, str]
) -> Interval | None:  # fmt: skip
    """Return the mean of the benchmarks' gains. A product is drawn with its questions of all benchmarks."""
    apart = [_apart(records, answers, left, right, column) for column in names.values()]
    apart = [(gains, products) for gains, products in apart if products]
    if not apart:
        return None
    parts = [(np.stack([gains, np.ones(len(gains))], axis=1), mean_of_sums) for gains, _ in apart]  # (n, 2) each
    features = block_diag(*(own for own, _ in parts))  # (n of all, 2 benchmarks)
    return bootstrap_sums(features, mean_of(parts), groups=[one for _, products in apart for one in products])
