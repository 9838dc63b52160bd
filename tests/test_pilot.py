import numpy as np
import pandas as pd
import pytest

from mtive_nb.data.phrases import Phrase
from mtive_nb.evaluate.grounding.pilot import pilot_claims, shown_less_not


def test_claims_compare_what_is_shown_with_what_is_not():
    rng, visible = np.random.default_rng(0), np.arange(400) % 2 == 0
    records = [{"product_id": f"p{k}"} for k in range(200)]
    # Two phrases a text: of even texts both are shown, of odd ones the first alone.
    phrases = [Phrase(k // 2, (0, 1), "x", "colour", bool(k % 4 != 3)) for k in range(400)]
    table = pd.DataFrame({"visible": visible, "product": [f"p{k // 2}" for k in range(400)]})
    table["attention mass"] = 0.2 + 0.1 * visible + rng.normal(0, 0.01, 400)
    table["VisAttnScore"] = table["attention mass"] / 25  # image tokens
    table["CLIPScore"] = rng.normal(0.5, 0.1, 400)
    whole = np.where(np.arange(200) % 2 == 0, 0.54, 0.52)
    found = pilot_claims(table, table, (records, phrases), whole, seed=0)
    higher = found["vitpro-attention-higher-when-grounded"]["phrases"]
    assert 9 / 25 < higher.low < 10 / 25 < higher.high < 11 / 25 and higher.n == 400  # the paper's score decides
    mass = shown_less_not(table, "attention mass")
    assert (mass.value, mass.low) == pytest.approx((25 * higher.value, 25 * higher.low))
    flat = found["vitpro-clipscore-flat-when-ungrounded"]["texts"]
    assert abs(flat.value - 2) < 1e-9 and flat.n == 200
    better = found["vitpro-attention-finds-grounded-text-better"]["phrases"]
    assert 35 < better.low < better.value < 60  # all of one, half of the other
    lower = table.assign(
        VisAttnScore=table["VisAttnScore"] - 1
    )  # a threshold from these accepts every phrase of `table`
    by_val = pilot_claims(table, lower, (records, phrases), whole, seed=0)
    assert abs(by_val["vitpro-attention-finds-grounded-text-better"]["phrases"].value) < 15
