"""eBay's claims on adaptation, from benchmark answers of arms and their retention (chapter 16)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mtive_nb.data.commerce.ebay_benches import BENCHES
from mtive_nb.evaluate.claims import measured
from mtive_nb.evaluate.commerce.aspects import answer_points, context_gain
from mtive_nb.evaluate.intervals import Interval, paired_difference

# The claims' names of benchmarks -> those of T1.
ASPECTS = {
    "asp_general": "AspectPrediction/General",
    "asp_fashion": "AspectPrediction/Fashion",
    "asp_fashion_tc": "AspectPrediction/Fashion+T&C",
}
FREE_FORM = {"dae": "DynamicAttributeExtraction/DAE"}


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
    verified = _gains(records, answers, adapted, raw, ASPECTS)
    if verified:
        rows.append(measured("ebay-verified-aspects-train-better", {"mean": _mean(list(verified.values()))}))
    context = context_gain(records, {adapted: answers[adapted]})
    title = context[context["stratum"] == "all"]
    if len(title):
        one = title.iloc[0]
        gain = Interval(float(one["gain"]), float(one["low"]), float(one["high"]), int(one["n"]))
        rows.append(measured("ebay-title-and-category-help", {"asp_fashion": gain}))
    own = retention[retention["arm"] == mixed]
    if len(own):
        one = own.iloc[0]  # base / adapted; an interval of the change gives that of the ratio, the base being fixed
        ends = [one["before"] / max(one["before"] + one[name], 1e-9) for name in ("change", "high", "low")]
        rows.append(measured("ebay-adaptation-keeps-general-skill", {"exam": Interval(*ends, int(one["n"]))}))
    return pd.DataFrame(rows)


def _gains(
    records: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[str]], left: str, right: str, names: Mapping[str, str]
) -> dict[str, Interval]:  # fmt: skip
    """Return left minus right in points by benchmark, paired by question; benchmarks without questions are left out."""
    found = {}
    for claim_name, column in names.items():
        places = [k for k, record in enumerate(records) if record["task"] == BENCHES[column]]
        if places:
            both = [np.array([answer_points(records[k], answers[arm][k]) for k in places]) for arm in (left, right)]
            found[claim_name] = paired_difference(*both, groups=[records[k]["product_id"] for k in places])
    return found


def _mean(intervals: Sequence[Interval]) -> Interval:
    """Return the mean of independent gains, with the half-widths added in squares."""
    value = float(np.mean([one.value for one in intervals]))
    half = [
        np.sqrt(sum(getattr(one, end) ** 2 for one in _apart(intervals))) / len(intervals) for end in ("low", "high")
    ]
    return Interval(value, value - float(half[0]), value + float(half[1]), sum(one.n for one in intervals))


def _apart(intervals: Sequence[Interval]) -> list[Interval]:
    return [Interval(0.0, one.value - one.low, one.high - one.value, one.n) for one in intervals]
