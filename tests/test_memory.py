"""The peak of memory of a piece of work, counted on tensors of known size."""

import pytest
import torch

from mtive_nb.evaluate.costs import costs_in_turn
from mtive_nb.evaluate.memory import peak_memory, peaks_of

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's allocator counts in blocks of its own")
MIB = 2**20


def floats(mib: int) -> torch.Tensor:
    return torch.ones(mib * MIB // 4)


def test_what_is_freed_counts_no_longer():
    def one_after_the_other():
        first = floats(3)
        del first
        return floats(2)

    assert peak_memory(one_after_the_other) == 3 * MIB
    assert peak_memory(lambda: (floats(3), floats(2))) == 5 * MIB
    found = peaks_of({"one": one_after_the_other, "both": lambda: (floats(3), floats(2))})
    assert found.to_dict("list") == {"system": ["one", "both"], "value": [3 * MIB / 1e6, 5 * MIB / 1e6]}


def test_costs_put_time_and_memory_of_each_system_in_one_table():
    table = costs_in_turn({"one": lambda: floats(3), "two": lambda: floats(6)}, what="an answer", rounds=3)
    time, memory = table[table["column"] == "time of an answer"], table[table["column"] == "memory of an answer"]
    assert len(table) == 4 and time["system"].tolist() == memory["system"].tolist() == ["one", "two"]
    assert time[["value", "low", "high", "n"]].iloc[0].tolist() == [1.0, 1.0, 1.0, 3]  # relative to the first system
    assert set(time["unit"]) == {"times the first row's"} and set(memory["unit"]) == {"MB"}
    assert memory["value"].tolist() == [3 * MIB / 1e6, 6 * MIB / 1e6] and set(memory["n"]) == {1}


def test_views_and_what_stood_before_do_not_count():
    before = floats(4)

    def look():
        before.add_(1.0)
        return before.view(2, -1).T, before[:8].clone()

    assert peak_memory(look) == 8 * 4


def test_a_training_step_holds_what_its_backward_pass_needs():
    layer = torch.nn.Linear(64, 256, bias=False)
    rows = torch.ones(1024, 64)

    @torch.inference_mode()
    def answer():
        return layer(layer(rows) @ layer.weight)

    def learn():
        layer(layer(rows) @ layer.weight).square().sum().backward()

    wide, narrow = 1024 * 256 * 4, 1024 * 64 * 4
    assert peak_memory(answer) == wide + narrow
    assert peak_memory(learn) > 2 * wide + narrow  # both products and their squares are kept for the way back
