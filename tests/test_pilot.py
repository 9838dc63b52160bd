import numpy as np
import pandas as pd
import pytest

from mtive_nb.data.phrases import Phrase
from mtive_nb.evaluate.design import load_design
from mtive_nb.evaluate.grounding.attention import AnswerAttention
from mtive_nb.evaluate.grounding.pilot import (
    ONE_HEAD,
    head_auroc,
    head_masses,
    pilot_claims,
    pilot_table,
    shown_less_not,
)


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


def test_each_head_is_scored_alone_and_the_one_that_sees_stands_out():
    rng, visible = np.random.default_rng(0), np.arange(60) % 2 == 0
    found = []
    for shown in visible:  # two tokens, of which the phrase is the second; head 3 of layer 2 looks where it is shown
        heads = rng.uniform(0, 1, (2, 4, 2, 1))
        heads[1, 2, 1], heads[1, 2, 0] = shown + 0.1, 1.1 - shown
        found.append(AnswerAttention(["a", "b"], [(0, 1), (1, 2)], heads.mean(1), (9,), heads=heads))
    phrases = [Phrase(k, (1, 2), "b", "colour", bool(shown)) for k, shown in enumerate(visible)]
    masses = head_masses(found, phrases)
    assert masses.shape == (60, 2, 4) and masses[0, 1, 2] == pytest.approx(1.1)
    table = head_auroc(masses, visible)
    assert table.stack().idxmax() == (2, 3) and table.loc[2, 3] == 1.0 and table.drop(columns=3).max(axis=None) < 0.8
    scored = pd.DataFrame({ONE_HEAD: masses[:, 1, 2], "visible": visible, "product": range(60)})
    extra = pilot_table(scored, scored, scores=[ONE_HEAD])
    assert list(extra["system"]) == [ONE_HEAD] * 2 and list(extra["value"]) == [1.0, 1.0]


def test_the_choice_of_one_head_is_registered():
    (entry,) = [e for e in load_design().further if e["chapter"] == "03"]
    assert ONE_HEAD in entry["arms"]
