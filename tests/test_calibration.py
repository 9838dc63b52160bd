"""Calibration: tokens' confidence against the model's own logits, the error against its definition."""

import numpy as np
import pandas as pd
import pytest
import torch

from mtive_nb.evaluate.calibration import BINS, calibration, calibration_gain, token_confidences
from mtive_nb.evaluate.predict import chosen_yes_no
from mtive_nb.model.batches import Collator, RecordDataset
from mtive_nb.model.load import load_vlm
from mtive_nb.model.stack import LoraStack


def tokens(*, overstated: float, n: int = 3000, seed: int = 0) -> pd.DataFrame:
    """Tokens whose confidence exceeds the chance that they are right by `overstated`; 10 a record, 5 records a product."""
    rng = np.random.default_rng(seed)
    chance = rng.uniform(0.2, 0.8, size=n)
    names = {"id": [f"r{k // 10}" for k in range(n)], "product_id": [f"P{k // 50}" for k in range(n)]}
    return pd.DataFrame(names | {"confidence": chance + overstated, "right": (rng.random(n) < chance).astype(float)})


def by_definition(table: pd.DataFrame) -> float:
    bins = np.minimum((table["confidence"] * BINS).astype(int), BINS - 1)
    parts = [part for _, part in table.groupby(bins)]
    return sum(len(p) * abs(p["confidence"].mean() - p["right"].mean()) for p in parts) / len(table)


def test_the_error_is_the_mean_gap_over_the_bins():
    sure, fair = tokens(overstated=0.15), tokens(overstated=0.0)
    found = calibration(sure, seed=0)
    assert found["ECE"].value == pytest.approx(by_definition(sure))
    assert found["overconfidence"].low < 0.15 < found["overconfidence"].high
    assert found["ECE"].low > calibration(fair, seed=0)["ECE"].value and found["ECE"].n == 3000
    gain = calibration_gain(fair, sure, seed=0)
    assert gain.high < 0 and gain.value == pytest.approx(by_definition(fair) - by_definition(sure))
    with pytest.raises(ValueError, match="3000 and 20 tokens"):
        calibration_gain(sure, tokens(overstated=0.0, n=20), seed=0)


def test_confidences_are_those_of_the_models_logits(tiny_folder, records, photo_folder):
    stack = LoraStack(load_vlm(str(tiny_folder), dtype="float32", device="cpu"))
    found = token_confidences(stack, records, batch=2)
    for record in records:
        inputs = Collator(stack.vlm.processor)([RecordDataset([record])[0]])
        with torch.inference_mode():
            own = stack.model(**inputs)
        mine = found[found["id"] == record["id"]]
        assert mine["nats"].mean() == pytest.approx(own.loss.item(), abs=1e-4)
        kept = inputs["labels"][0, 1:] != -100
        best = own.logits[0, :-1][kept].softmax(-1).amax(-1)
        assert mine["confidence"].to_numpy() == pytest.approx(best.numpy(), abs=1e-5)


def test_a_model_is_made_to_choose_between_yes_and_no(tiny_folder, records, photo_folder):
    stack = LoraStack(load_vlm(str(tiny_folder), dtype="float32", device="cpu"))
    said = chosen_yes_no(stack, records, batch=2)
    assert len(said) == len(records) and set(said) <= {"yes", "no"}
    first = {w: stack.vlm.processor.tokenizer.encode(w, add_special_tokens=False)[0] for w in ("yes", "no")}
    head = stack.model.get_output_embeddings().weight
    with torch.no_grad():
        head[first["yes"]], head[first["no"]] = head[first["no"]].clone(), head[first["yes"]].clone()
    turned = chosen_yes_no(stack, records, batch=2)
    tied = stack.model.get_input_embeddings().weight.data_ptr() == head.data_ptr()
    assert tied or all(a != b for a, b in zip(said, turned, strict=True))
