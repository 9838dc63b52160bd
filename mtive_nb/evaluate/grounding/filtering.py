"""The funnel of VIT-Pro's data: successive filters select records by their scores (section 3.2)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mtive_nb.evaluate.grounding.attention import threshold_of_share


def funnel(scores: pd.DataFrame, drop: Mapping[str, float]) -> tuple[np.ndarray, pd.DataFrame]:
    """Drop the lowest share by each column of `scores` in turn; return which rows stay and a table of the steps.

    `drop` maps a column to a share of all rows ({"CLIPScore": 0.2, ...}), so a filter's threshold does not depend on
    the order. A row below several thresholds counts for the first filter.
    """
    kept = np.ones(len(scores), bool)
    steps = [{"filter": "all", "threshold": np.nan, "dropped": 0, "left": len(scores)}]
    for column, share in drop.items():
        cut = threshold_of_share(scores[column], share)
        low = scores[column].to_numpy() < cut
        steps.append({"filter": column, "threshold": cut, "dropped": int((low & kept).sum())})
        kept &= ~low
        steps[-1]["left"] = int(kept.sum())
    return kept, pd.DataFrame(steps)
