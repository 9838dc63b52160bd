"""Adapters over a base whose weights are kept in four bits (bitsandbytes on the CPU)."""

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

from mtive_nb.evaluate.latency import ratios_to, times_in_turn
from mtive_nb.evaluate.predict import next_token_logits
from mtive_nb.model.load import load_vlm
from mtive_nb.model.stack import AdapterSpec, LoraStack, load_stack, open_stack
from mtive_nb.model.train import Training, train_adapter

SPEC = AdapterSpec(4, 4.0, ("vision", "connector", "language"))


@pytest.fixture
def four_bits(tiny_folder):
    return load_vlm(str(tiny_folder), dtype="float32", device="cpu", quantize="nf4")


@pytest.mark.parametrize("shape", [(160, 96), (64, 160), (128, 128), (3, 10)])
def test_a_row_of_any_length_gets_its_own_scales(four_bits, shape):
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    packed, state = quantize_4bit(weights, quant_type="nf4")
    blocks = torch.nn.functional.pad(weights.flatten(), (0, -weights.numel() % 64)).view(-1, 64)
    scales = blocks.abs().amax(dim=1, keepdim=True)
    nearest = (blocks[..., None] / scales[..., None] - state.code).abs().argmin(dim=-1)  # (blocks, 64)
    by_hand = (state.code[nearest] * scales).flatten()[: weights.numel()].view(shape)
    torch.testing.assert_close(dequantize_4bit(packed, state), by_hand, atol=1e-6, rtol=0)


@pytest.fixture
def saved(tiny, tmp_path):
    torch.manual_seed(0)
    stack = LoraStack(tiny)
    stack.add("DD", SPEC)
    for weight in stack.adapter_weights("DD").values():
        weight.normal_(0, 0.1)
    stack.activate("DD")
    stack.save(tmp_path / "stack", "DD")
    return stack, (tmp_path / "stack", "DD")


def test_an_adapter_trained_over_whole_weights_stands_on_four_bits(saved, four_bits, records, photo_folder):
    whole, folder = saved
    four = load_stack(four_bits, folder)
    assert four.base_fingerprint == whole.base_fingerprint
    assert four.model.get_memory_footprint() < 0.8 * whole.model.get_memory_footprint()
    exact, rounded = (next_token_logits(s, records[:4]) for s in (whole, four))
    assert not torch.equal(exact, rounded)
    assert torch.nn.functional.cosine_similarity(exact, rounded).min() > 0.9
    four.activate(None)
    assert not torch.allclose(next_token_logits(four, records[:4]), rounded, atol=1e-3)


def test_four_bits_are_trained_over_and_never_folded_or_merged_into(saved, four_bits, records, photo_folder, tmp_path):
    four = load_stack(four_bits, saved[1])
    four.add("EX", SPEC, parent="DD")
    before = {n: w.clone() for n, w in four.vlm.model.named_parameters() if "lora_" not in n}
    log = train_adapter(four, "EX", records, Training(6, 5e-3, 4))
    four.assert_alive("EX")
    assert log["loss"].iloc[-1] < log["loss"].iloc[0]
    after = dict(four.vlm.model.named_parameters())
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    with pytest.raises(ValueError, match="nf4"):
        four.merged_trunk("DD")


def test_a_stack_over_four_bits_is_opened_in_four_bits(four_bits, records, tmp_path):
    stack = LoraStack(four_bits)
    stack.add("PT", SPEC)
    for weight in stack.adapter_weights("PT").values():
        weight.normal_(0, 0.1)
    stack.save(tmp_path, "PT")
    again = open_stack((tmp_path, "PT"))
    assert again.vlm.quantized == "nf4" and open_stack((tmp_path, "PT"), quantize="").vlm.quantized == ""
    stack.activate("PT")
    torch.testing.assert_close(next_token_logits(again, records[:2]), next_token_logits(stack, records[:2]))


def test_an_unknown_format_is_named(tiny_folder):
    with pytest.raises(ValueError, match="quantize: found 'int3', expected '' or 'nf4'"):
        load_vlm(str(tiny_folder), quantize="int3")


def test_times_are_taken_in_turn():
    calls = []
    ways = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = times_in_turn(ways, rounds=3)
    assert calls == ["a", "b", "a", "b", "b", "a", "a", "b"] and times.shape == (3, 2)
    times["a"], times["b"] = [1.0, 2.0, 1.0], [2.0, 2.0, 3.0]
    assert ratios_to(times, "a").to_dict("records") == [
        {"system": "a", "value": 1.0, "low": 1.0, "high": 1.0},
        {"system": "b", "value": 2.0, "low": 1.0, "high": 3.0},
    ]
