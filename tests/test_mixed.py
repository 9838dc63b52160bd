import pytest
import torch
from conftest import randomise

from mtive_nb.evaluate.predict import generate_answers, generate_mixed_answers
from mtive_nb.model.batches import Collator, RecordDataset
from mtive_nb.model.lineage import LineageError
from mtive_nb.model.load import load_vlm
from mtive_nb.model.mixed import deal, loss_of_experts, mixed_experts
from mtive_nb.model.stack import AdapterSpec, LoraStack

SPECS = {
    "AE": AdapterSpec(4, 4, ("language.mlp", "connector")),
    "DD": AdapterSpec(2, 4, ("vision.mlp", "language.attention"), {"vision": [1]}),
    "PM": AdapterSpec(8, 8, ("vision", "connector", "language")),
}
EXPERTS = ["DD", None, "PM", "AE", "PM", "DD"]  # of the rows of a batch


@pytest.fixture
def stack(tiny_folder):
    stack = LoraStack(load_vlm(str(tiny_folder), dtype="float32"))
    stack.add("IT", AdapterSpec(4, 8, ("vision.attention", "connector", "language.attention")))
    for name, spec in SPECS.items():
        stack.add(name, spec, parent="IT")
    randomise(stack, scale=0.2)
    return stack


def batch_of(stack, records, root, *, answers=False):
    data = RecordDataset(records)
    inputs = Collator(stack.vlm.processor, answers=answers)([data[i] for i in range(len(data))])
    given = {"trunk": "IT", "images": [len(r["images"]) for r in records], "grid_thw": inputs["image_grid_thw"]}
    return inputs, given


def alone(stack, expert, inputs):
    stack.activate(expert or "IT")
    return stack.model(**inputs).logits


@torch.inference_mode()
def test_every_row_answers_as_with_its_expert_alone(stack, records, photo_folder):
    inputs, given = batch_of(stack, records[:6], photo_folder)
    assert len(set(given["images"])) == 2  # rows of one image and of two
    stack.activate("AE")
    with mixed_experts(stack, EXPERTS, **given) as model:
        mixed = model(**inputs).logits
    assert stack.active == ("IT", "AE")
    for b, expert in enumerate(EXPERTS):
        kept = inputs["attention_mask"][b].bool()
        assert torch.allclose(mixed[b][kept], alone(stack, expert, inputs)[b][kept], atol=2e-4)
        other = next(e for e in (*SPECS, None) if e != expert)
        assert (mixed[b][kept] - alone(stack, other, inputs)[b][kept]).abs().max() > 1e-2


def test_answers_are_those_of_each_expert_alone(stack, records, photo_folder):
    experts = [EXPERTS[k % 6] for k in range(len(records))]
    given = {"max_new_tokens": 6}
    mixed = generate_mixed_answers(stack, records, experts, trunk="IT", batch=5, **given)
    for expert in dict.fromkeys(experts):
        stack.activate(expert or "IT")
        rows = [i for i, e in enumerate(experts) if e == expert]
        assert generate_answers(stack, [records[i] for i in rows], **given) == [mixed[i] for i in rows]
    assert len(set(mixed)) > 3


def test_gradients_are_those_of_each_expert_trained_alone(stack, records, photo_folder):
    inputs, given = batch_of(stack, records[:6], photo_folder, answers=True)
    labels = inputs.pop("labels")

    def gradients(name):
        return {n: p.grad.clone() for n, p in stack.model.named_parameters() if f".{name}." in n and p.grad is not None}

    with mixed_experts(stack, EXPERTS, **given) as model:
        model.train()
        for n, p in stack.model.named_parameters():
            p.requires_grad_(any(f".{e}." in n for e in SPECS))
        losses = loss_of_experts(model(**inputs).logits, labels, EXPERTS)
        sum(losses.values()).backward()
    together = {e: gradients(e) for e in SPECS}
    for expert in SPECS:
        stack.model.zero_grad()
        stack.activate(expert, trainable=True)
        rows = [b for b, e in enumerate(EXPERTS) if e == expert]
        own, _ = batch_of(stack, [records[b] for b in rows], photo_folder, answers=True)
        own_labels = own.pop("labels")
        loss = loss_of_experts(stack.model(**own).logits, own_labels, [expert] * len(rows))[expert]
        assert losses[expert].item() == pytest.approx(loss.item(), abs=1e-4)
        loss.backward()
        by_itself = gradients(expert)
        assert together[expert].keys() == by_itself.keys() and by_itself
        for name, gradient in by_itself.items():
            assert torch.allclose(together[expert][name], gradient, atol=1e-4 + 1e-3 * gradient.abs().max())


def test_what_does_not_belong_together_is_refused(stack, records, photo_folder):
    inputs, given = batch_of(stack, records[:2], photo_folder)
    stack.add("loose", SPECS["AE"], parent=None)
    for experts, error, message in (
        (["AE", "loose"], LineageError, "'loose' stands on None, the trunk is 'IT'"),
        (["AE", "XX"], KeyError, "no adapter 'XX'"),
    ):
        with pytest.raises(error, match=message), mixed_experts(stack, experts, **given):
            pass
    with pytest.raises(ValueError, match="images: found 1 in the rows"), mixed_experts(stack, ["AE", "DD"], **given | {"images": [1, 0]}):  # fmt: skip
        pass
    with torch.inference_mode(), pytest.raises(ValueError, match="language: found 2 rows, expected 3"):
        with mixed_experts(stack, ["AE", "DD", "AE"], **given | {"images": [*given["images"], 0]}) as model:
            model(**inputs)
    stack.activate("AE")  # no hook is left behind
    assert not any(layer._forward_hooks for layer in stack._layers())


def test_rows_are_dealt_in_equal_groups_each_of_one_expert():
    even = deal({"A": torch.tensor([0, 1]), "B": torch.tensor([2, 3])}, of=4)
    assert even.straight and even.real is None and even.experts == ["A", "B"]
    crossed = deal({"A": torch.tensor([0, 2]), "B": torch.tensor([1, 3])}, of=4)
    assert not crossed.straight and crossed.index.tolist() == [0, 2, 1, 3]
    uneven = deal({"A": torch.tensor([0, 1, 2, 3, 4]), "B": torch.tensor([6])}, of=7)  # row 5 has no expert
    assert uneven.experts == ["A", "A", "B"] and uneven.index.tolist() == [0, 1, 2, 3, 4, 0, 6, 0, 0]
    assert uneven.real.tolist() == [[True] * 3, [True, True, False], [True, False, False]]
