"""Angles between tasks' gradients: the same records agree, and the numbers are those of autograd by hand."""

import pytest
import torch

from mtive_nb.evaluate.conflict import gradient_cosines
from mtive_nb.model.batches import Collator, RecordDataset
from mtive_nb.model.load import load_vlm
from mtive_nb.model.stack import AdapterSpec, LoraStack


def test_cosines_are_those_of_the_models_own_gradients(tiny_folder, records, photo_folder):
    torch.manual_seed(0)
    stack = LoraStack(load_vlm(str(tiny_folder), dtype="float32", device="cpu"))
    stack.add("SL", AdapterSpec(4, 8, ("connector", "language.attention")))
    for weight in stack.adapter_weights("SL").values():
        torch.nn.init.normal_(weight, 0, 0.1)
    tasks = {"a": records[:2], "again": records[:2], "b": records[2:4]}
    found = gradient_cosines(stack, tasks, batch=2)
    assert found.loc["a", "again"] == pytest.approx(1.0, abs=1e-5) and found.loc["a", "b"] < 0.999
    gradients = {}
    for name in ("a", "b"):
        data = RecordDataset(tasks[name])
        stack.model.zero_grad()
        stack.model(**Collator(stack.vlm.processor)([data[0], data[1]])).loss.backward()
        gradients[name] = torch.cat([p.grad.flatten() for p in stack.model.parameters() if p.requires_grad])
    by_hand = torch.nn.functional.cosine_similarity(gradients["a"], gradients["b"], dim=0).item()
    assert found.loc["a", "b"] == pytest.approx(by_hand, abs=1e-4)
    stack.activate("SL")
    with pytest.raises(ValueError, match="trainable"):
        gradient_cosines(stack, tasks)
