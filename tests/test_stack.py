import json
import warnings

import pytest
import torch
from conftest import randomise
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from mtive_nb.model.lineage import WEIGHTS
from mtive_nb.model.load import load_vlm, part_of
from mtive_nb.model.stack import AdapterSpec, LineageError, LoraStack, load_stack

SPECS = {
    "PT": AdapterSpec(8, 16, ("vision.attention", "connector", "language.attention")),
    "IT": AdapterSpec(4, 8, ("vision.attention", "connector", "language.attention")),
    "AE": AdapterSpec(4, 4, ("language.mlp", "connector")),
    "DD": AdapterSpec(2, 4, ("vision.mlp", "language.attention"), {"vision": [1]}),
}


@pytest.fixture
def stack(tiny):
    stack = LoraStack(tiny)
    stack.add("PT", SPECS["PT"])
    stack.add("IT", SPECS["IT"], parent="PT")
    stack.add("AE", SPECS["AE"], parent="IT")
    stack.add("DD", SPECS["DD"], parent="IT")
    randomise(stack)
    return stack


@torch.inference_mode()
def logits(network, batch):
    return network(**batch).logits


def test_new_adapters_change_nothing(tiny, batch):
    before = logits(tiny.model, batch)
    stack = LoraStack(tiny)
    stack.add("PT", SPECS["PT"])
    stack.add("IT", SPECS["IT"], parent="PT")
    assert torch.equal(before, logits(stack.model, batch))


def test_every_layer_is_the_sum_of_the_papers_formula(stack):
    stack.activate("AE")
    layer = stack.peft.base_model.model.model.visual.merger.mlp[0]  # PT, IT and AE all stand here
    x = torch.randn(3, layer.base_layer.in_features)
    wanted = layer.base_layer(x)
    for name in ("PT", "IT", "AE"):
        spec = SPECS[name]
        wanted = wanted + spec.alpha / spec.rank * x @ layer.lora_A[name].weight.T @ layer.lora_B[name].weight.T
    assert torch.allclose(layer(x), wanted, atol=1e-5)


def test_a_name_that_peft_saves_in_no_folder_is_refused(stack):
    with pytest.raises(ValueError, match="'default': PEFT saves"):
        stack.add("default", SPECS["AE"], parent="IT")


def test_only_the_newest_adapter_trains(stack):
    stack.activate("AE", trainable=True)
    assert stack.active == ("PT", "IT", "AE")
    trainable = {n for n, p in stack.model.named_parameters() if p.requires_grad}
    assert trainable and all(".AE." in n for n in trainable)


def test_bare_base_is_one_call_away(stack, tiny_folder, batch):
    stack.activate(None)
    fresh = load_vlm(str(tiny_folder), dtype="float32", device="cpu")
    assert torch.allclose(logits(stack.model, batch), logits(fresh.model, batch), atol=1e-6)


def test_saved_and_reloaded_equals_live(stack, tiny_folder, batch, tmp_path):
    for name in ("PT", "IT", "AE", "DD"):
        stack.save(tmp_path, name)
    again = load_stack(
        load_vlm(str(tiny_folder), dtype="float32", device="cpu"), *((tmp_path, n) for n in ("PT", "IT", "AE", "DD"))
    )
    for name in ("AE", "DD", "IT"):
        stack.activate(name)
        again.activate(name)
        assert torch.allclose(logits(stack.model, batch), logits(again.model, batch), atol=1e-6)


def test_merged_trunk_with_an_expert_equals_the_live_stack(stack, batch, tmp_path):
    for name in ("PT", "IT", "AE"):
        stack.save(tmp_path, name)
    stack.activate("AE")
    trunk = stack.merged_trunk("IT")
    served = PeftModel.from_pretrained(trunk.model, tmp_path / "AE").eval()  # PEFT alone, as vLLM would serve it
    assert torch.allclose(logits(stack.model, batch), logits(served, batch), atol=1e-4)
    assert stack.active == ("PT", "IT", "AE")  # the live stack is untouched


def test_orphans_other_bases_and_changed_files_are_refused(stack, tiny_folder, tmp_path):
    for name in ("PT", "IT", "AE"):
        stack.save(tmp_path, name)
    fresh = lambda: load_vlm(str(tiny_folder), dtype="float32", device="cpu")  # noqa: E731
    with pytest.raises(LineageError, match="trained over 'IT'.*Load its parents first"):
        load_stack(fresh(), (tmp_path, "AE"))
    with pytest.raises(LineageError, match=r"no adapter 'XX'.*\['AE', 'IT', 'PT'\]"):
        load_stack(fresh(), (tmp_path, "XX"))
    other = fresh()
    other.model.lm_head.weight.data += 0.1
    with pytest.raises(LineageError, match="trained over base"):
        load_stack(other, (tmp_path, "PT"))
    weights = tmp_path / "PT" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(LineageError, match="missing or changed"):
        load_stack(fresh(), (tmp_path, "PT"))
    with pytest.raises(LineageError, match="is no folder of a stack"):
        load_stack(fresh(), (tmp_path / "nowhere", "PT"))


def test_manifest_is_plain_json_with_the_parents_hash(stack, tmp_path):
    stack.save(tmp_path, "PT")
    stack.save(tmp_path, "IT")
    rows = json.loads((tmp_path / "stack.json").read_text())["adapters"]
    assert rows["IT"]["parent_sha256"] == rows["PT"]["sha256"]
    assert rows["PT"]["parent"] is None and rows["PT"]["spec"]["rank"] == 8


def test_dead_adapters_are_found_part_by_part(stack):
    stack.assert_alive("AE")
    for name, weight in stack.model.named_parameters():
        if "lora_B.AE" in name and "merger" in name:
            weight.data.zero_()
    with pytest.raises(RuntimeError, match=r"'AE' loads but changes nothing in \['connector'\]"):
        stack.assert_alive("AE")


def test_an_adapter_that_carries_another_stays(stack):
    with pytest.raises(LineageError, match=r"\['AE', 'DD'\] stand on it"):
        stack.unload("IT")
    stack.unload("DD")
    assert stack.active == ("PT", "IT") and "DD" not in stack.specs
    stack.add("alone", AdapterSpec(4, 4, ("language",)))
    stack.activate("alone")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PEFT warns where it deletes the active adapter
        stack.unload("alone")
    assert stack.active == ()


def test_dora_alone_and_on_a_merged_trunk_but_not_over_a_live_stack(stack, batch):
    dora = AdapterSpec(4, 4, ("language.attention",), dora=True)
    with pytest.raises(ValueError, match="merge the trunk first"):
        stack.add("EX", dora, parent="IT")
    stack.activate("IT")
    expected = logits(stack.model, batch)
    over = LoraStack(stack.merged_trunk("IT"))
    over.add("EX", dora)
    assert torch.allclose(logits(over.model, batch), expected, atol=1e-4)  # a new DoRA adapter is a no-op


def test_layer_subsets_reach_those_layers_alone(stack):
    stack.activate("DD", trainable=True)
    vision = {n for n, p in stack.model.named_parameters() if p.requires_grad and "visual" in n}
    assert vision and all("blocks.1." in n for n in vision)


def test_folding_is_the_same_function_and_leaves_no_trace(stack, batch):
    stack.activate("AE", trainable=True)
    live = logits(stack.model, batch)
    weights = {n: p.detach().clone() for n, p in stack.model.named_parameters()}
    with stack.folded(keep="AE"):
        assert stack.peft.base_model.active_adapters == ["AE"]
        assert torch.allclose(logits(stack.model, batch), live, atol=1e-4)
        stack.assert_trainable("AE")
    stack.assert_trainable("AE")
    with stack.folded():
        assert torch.allclose(logits(stack.model, batch), live, atol=1e-4)
    assert stack.active == ("PT", "IT", "AE")
    assert torch.equal(logits(stack.model, batch), live)
    assert all(torch.equal(p, weights[n]) for n, p in stack.model.named_parameters())


def test_folding_restores_the_weights_when_training_is_cut_short(stack, batch):
    stack.activate("AE", trainable=True)
    live = logits(stack.model, batch)
    with pytest.raises(KeyboardInterrupt), stack.folded(keep="AE"):
        raise KeyboardInterrupt
    assert torch.equal(logits(stack.model, batch), live) and stack.active == ("PT", "IT", "AE")


def test_while_the_trunk_is_held_by_the_base_experts_answer_as_live_and_others_are_refused(stack, batch):
    live = {}
    for name in ("IT", "AE", "DD"):
        stack.activate(name)
        live[name] = logits(stack.model, batch)
    before = {n: p.detach().clone() for n, p in stack.model.named_parameters() if "lora_" not in n}
    with stack.serving("IT"):
        for name in ("AE", "IT", "DD"):
            stack.activate(name)
            assert torch.allclose(logits(stack.model, batch), live[name], atol=1e-4), name
        with stack.folded():
            assert torch.allclose(logits(stack.model, batch), live["DD"], atol=1e-4)
        for name in (None, "PT"):
            with pytest.raises(RuntimeError, match="hold"):
                stack.activate(name)
        with pytest.raises(RuntimeError, match="merge when nothing is served"):
            stack.merged_trunk("DD")
    assert stack.active == ("PT", "IT") and stack.held == ()
    assert torch.equal(logits(stack.model, batch), live["IT"])
    assert all(torch.equal(p, before[n]) for n, p in stack.model.named_parameters() if n in before)


def test_an_adapter_read_from_its_folder_is_the_one_on_the_stack(stack, tmp_path):
    stack.activate("DD")
    for name in ("PT", "IT", "DD"):
        stack.save(tmp_path, name)
    before = set(n for n, _ in stack.model.named_parameters())
    read, own = stack.read(tmp_path, "DD"), stack.adapter("DD")
    assert read.parent == own.parent == "IT" and read.spec == own.spec and read.weights.keys() == own.weights.keys()
    for path, pair in read.weights.items():
        assert all(torch.equal(a, b) for a, b in zip(pair, own.weights[path], strict=True))
    assert read.size == 4 * stack.trainable_parameters("DD") and before == set(
        n for n, _ in stack.model.named_parameters()
    )
    (tmp_path / "DD" / WEIGHTS).write_bytes(b"?")
    with pytest.raises(LineageError, match="changed since it was saved"):
        stack.read(tmp_path, "DD")


def test_norms_are_those_of_the_change_written_out(stack):
    squares = {}
    for path, layer in stack.peft.named_modules():
        if isinstance(layer, LoraLayer) and "DD" in layer.lora_A:
            squares.setdefault(part_of(path, family=stack.vlm.family), []).append(
                layer.get_delta_weight("DD").square().mean()
            )
    wanted = {part: torch.stack(v).mean().sqrt().item() for part, v in squares.items()}
    assert stack.delta_norms("DD") == pytest.approx(wanted, rel=1e-4) and min(wanted.values()) > 0
