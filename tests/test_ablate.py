import pytest
import torch
from conftest import randomise

from mtive_nb.model.ablate import ablated
from mtive_nb.model.stack import AdapterSpec, LoraStack


@pytest.fixture
def stack(tiny):
    stack = LoraStack(tiny)
    stack.add("A", AdapterSpec(2, 2, ("vision.attention", "connector", "language")))
    stack.add("B", AdapterSpec(2, 2, ("language",)))
    randomise(stack, scale=0.1, seed=0)
    stack.activate("A")
    return stack


@torch.inference_mode()
def test_a_silenced_part_is_as_if_it_had_not_been_trained(stack, batch):
    whole = stack.model(**batch).logits
    with ablated(stack, "A", ("vision", "language")):
        part = stack.model(**batch).logits
        assert set(k for k, v in stack.delta_norms("A").items() if v) == {"connector"}
    with ablated(stack, "A", ("vision", "connector", "language")):
        assert torch.equal(stack.model(**batch).logits, bare(stack, batch))
    assert torch.equal(stack.model(**batch).logits, whole) and not torch.allclose(part, whole, atol=1e-3)


def bare(stack, batch):
    stack.activate(None)
    logits = stack.model(**batch).logits
    stack.activate("A")
    return logits


def test_other_parts_and_parts_without_the_adapter_are_named(stack):
    with pytest.raises(ValueError, match="parts: found 'head', expected some of"), ablated(stack, "A", ("head",)):
        pass
    with (
        pytest.raises(ValueError, match="found 'vision', but adapter 'B' has layers only in"),
        ablated(stack, "B", ("vision",)),
    ):
        pass
