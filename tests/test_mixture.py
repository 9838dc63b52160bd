import math
from dataclasses import replace

import pytest
import torch

from mtive_nb.evaluate.predict import generate_answers
from mtive_nb.model.batches import Collator, RecordDataset
from mtive_nb.model.lineage import LineageError, sha256_of
from mtive_nb.model.load import answering_fingerprint, load_vlm
from mtive_nb.model.mixture import LoraMixture, MixtureSpec, balance_loss, matching_rank, router_statistics
from mtive_nb.model.stack import AdapterSpec, LoraStack
from mtive_nb.model.train import Training, train_adapter

PLACEMENT = ("vision.attention", "connector", "language")
SPEC = MixtureSpec(rank=2, alpha=4, placement=PLACEMENT, experts=3, top_k=2)
TRUNK = AdapterSpec(4, 8, ("vision.attention", "connector", "language.attention"))


def trunk(tiny_folder) -> LoraStack:
    """PT and IT on a fresh base, saying something."""
    torch.manual_seed(0)
    stack = LoraStack(load_vlm(str(tiny_folder), dtype="float32", device="cpu"))
    stack.add("PT", TRUNK)
    stack.add("IT", TRUNK, parent="PT")
    for name, weight in stack.model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.05)
    stack.activate("IT")
    return stack


def randomise(mixture: LoraMixture) -> LoraMixture:
    """B starts at 0 and routers near it; give the experts something to say and the routers something to choose."""
    torch.manual_seed(1)
    for name, weight in mixture.weights.named_parameters():
        weight.data.normal_(0, 0.3 if name.endswith("router") else 0.05)
    return mixture


@pytest.fixture
def stack(tiny_folder):
    return trunk(tiny_folder)


@torch.inference_mode()
def logits(network, batch):
    return network(**batch).logits


def token_by_token(routed, x: torch.Tensor, top_k: int) -> torch.Tensor:
    """What the experts add, written out: one token, one chosen expert at a time."""
    added = torch.zeros(len(x), routed.B.shape[-1])
    for t, token in enumerate(x):
        scores = [math.exp(float(row @ token)) for row in routed.router]
        chosen = sorted(range(len(scores)), key=lambda e: -scores[e])[:top_k]
        for e in chosen:
            gate = scores[e] / sum(scores)
            added[t] += SPEC.alpha / SPEC.rank * gate * (routed.B[e].T @ (routed.A[e] @ token))
    return added


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_every_layer_equals_a_loop_over_tokens_and_experts(stack, top_k):
    mixture = randomise(LoraMixture(stack, "MoE", replace(SPEC, top_k=top_k)))
    mixture.activate(None)
    xs = {path: torch.randn(7, routed.A.shape[-1]) for path, routed in mixture.layers.items()}
    with torch.inference_mode():
        below = {path: stack.vlm.model.get_submodule(path)(x) for path, x in xs.items()}
        mixture.activate("MoE")
        for path, x in xs.items():
            wanted = below[path] + token_by_token(mixture.layers[path], x, top_k)
            assert torch.allclose(stack.vlm.model.get_submodule(path)(x), wanted, atol=1e-5), path
            assert not torch.allclose(below[path], wanted, atol=1e-2), path


def test_it_stands_in_every_part_over_bare_and_adapted_layers_and_changes_nothing_at_first(stack, tiny, batch):
    for over in (stack, LoraStack(tiny)):
        before = logits(over.model, batch)
        mixture = LoraMixture(over, "MoE", SPEC)
        assert torch.equal(logits(over.model, batch), before)
        assert {path.split(".")[1] for path in mixture.layers} == {"visual", "language_model"}
        assert any("merger" in path for path in mixture.layers)
        randomise(mixture)
        assert not torch.allclose(logits(over.model, batch), before, atol=1e-2)


def test_switched_off_it_leaves_no_trace(stack, batch):
    before, names = logits(stack.model, batch), [n for n, _ in stack.model.named_modules()]
    mixture = randomise(LoraMixture(stack, "MoE", SPEC))
    on = logits(stack.model, batch)
    mixture.assert_trainable("MoE")
    for elsewhere in (SPEC, replace(SPEC, placement=("language.mlp", "vision.mlp"))):
        with pytest.raises(ValueError, match="another mixture is on"):
            LoraMixture(stack, "MoE2", elsewhere)
    assert torch.equal(logits(stack.model, batch), on)
    mixture.assert_trainable("MoE")
    mixture.activate(None)
    assert torch.equal(logits(stack.model, batch), before)
    assert [n for n, _ in stack.model.named_modules()] == names
    assert not any(m._forward_hooks for m in stack.model.modules())
    mixture.activate("MoE")
    assert torch.equal(logits(stack.model, batch), on)
    with pytest.raises(KeyError, match="found 'AE', expected 'MoE'"):
        mixture.activate("AE")


def test_the_bases_fingerprint_does_not_see_it(stack):
    LoraMixture(stack, "MoE", SPEC)
    assert LoraStack(stack.vlm).base_fingerprint == stack.base_fingerprint


def test_the_key_of_kept_answers_sees_it(stack):
    off, mixture = answering_fingerprint(stack.vlm, ()), randomise(LoraMixture(stack, "MoE", SPEC))
    on = answering_fingerprint(stack.vlm, ())
    next(mixture.weights.parameters()).data.add_(1)
    changed = answering_fingerprint(stack.vlm, ())
    next(iter(mixture.layers.values())).top_k += 1
    assert len({off, on, changed, answering_fingerprint(stack.vlm, ())}) == 4
    mixture.activate(None)
    assert answering_fingerprint(stack.vlm, ()) == off


def test_what_it_does_in_the_tower_is_not_kept_for_the_stack_without_it(stack, batch):
    with stack.lean():
        before = logits(stack.model, batch)
    stack.vlm.kept.states.clear()
    mixture = randomise(LoraMixture(stack, "MoE", SPEC))
    mixture.activate("MoE")
    with stack.lean():
        assert not torch.allclose(logits(stack.model, batch), before, atol=1e-3)
    mixture.activate(None)
    with stack.lean():
        assert torch.allclose(logits(stack.model, batch), before, atol=1e-5)


@pytest.mark.parametrize("top_k", [1, 3])
def test_gradient_reaches_routers_and_experts_and_nothing_else(stack, batch, top_k):
    mixture = randomise(LoraMixture(stack, "MoE", replace(SPEC, top_k=top_k)))
    mixture.assert_trainable("MoE")
    stack.model(**batch).logits.square().mean().backward()
    for name, weight in mixture.weights.named_parameters():
        assert weight.grad is not None and weight.grad.abs().max() > 0, name
    own = set(mixture.weights.parameters())
    assert all(p.grad is None for p in stack.model.parameters() if p not in own)
    next(p for p in stack.model.parameters() if p not in own).requires_grad_(True)
    with pytest.raises(RuntimeError, match="expected only mixture 'MoE' to be trainable; 1 differ"):
        mixture.assert_trainable("MoE")


def test_balance_loss_by_hand():
    assert balance_loss(torch.eye(4)).item() == pytest.approx(1)  # each expert takes one of four tokens
    assert balance_loss(torch.eye(4)[[2, 2, 2]]).item() == pytest.approx(4)
    shares = torch.tensor([[0.7, 0.3], [0.6, 0.4], [0.2, 0.8], [0.9, 0.1]], requires_grad=True)
    loss = balance_loss(shares)
    assert loss.item() == pytest.approx(2 * (0.75 * 0.6 + 0.25 * 0.4))  # f = (3/4, 1/4), P = (0.6, 0.4)
    loss.backward()
    assert torch.allclose(
        shares.grad, torch.tensor([[0.375, 0.125]] * 4)
    )  # E f_e / T: the fuller expert is pushed down


def two_tasks(records: list[dict]) -> list[dict]:
    return [r | {"task": "DD" if k < 5 else "AE"} for k, r in enumerate(records[:8])]


def test_statistics_equal_those_counted_token_by_token(stack, records, photo_folder):
    """Padded batches of three against one record at a time, from what each layer really received."""
    mixture, some = randomise(LoraMixture(stack, "MoE", SPEC)), two_tasks(records)
    table = router_statistics(mixture, some, batch=3).set_index(["task", "layer"])
    assert len(table) == 2 * len(mixture.layers)
    data, collate = RecordDataset(some), Collator(stack.vlm.processor)
    for path in ("model.visual.blocks.1.attn.qkv", "model.visual.merger.mlp.0", "model.language_model.layers.1.mlp.up_proj"):  # fmt: skip
        received = []
        hook = stack.vlm.model.get_submodule(path).register_forward_pre_hook(lambda _m, x, to=received: to.append(x[0]))
        with torch.inference_mode():
            for k in range(5):
                inputs = collate([data[k]])
                stack.model(**{n: v for n, v in inputs.items() if n != "labels"})
        hook.remove()
        counted, entropies = torch.zeros(3), []
        tokens = torch.cat([x.flatten(0, -2) for x in received])
        for token in tokens:
            p = torch.softmax(mixture.layers[path].router.detach() @ token, 0)
            best = sorted(range(3), key=lambda e, p=p: -p[e])[:2]
            for e in best:
                counted[e] += p[e] / (p[best[0]] + p[best[1]])
            entropies.append(-sum(float(q) * math.log(float(q)) for q in p))
        row = table.loc[("DD", path)]
        assert row["rows"] == len(tokens)
        assert row[["expert_0", "expert_1", "expert_2"]].tolist() == pytest.approx(
            (counted / len(tokens)).tolist(), abs=1e-4
        )
        assert row["entropy_nat"] == pytest.approx(sum(entropies) / len(entropies), abs=1e-4)


def test_statistics_of_routers_that_know_nothing(stack, records, photo_folder):
    mixture = LoraMixture(stack, "MoE", replace(SPEC, top_k=3))
    for routed in mixture.layers.values():
        routed.router.data.zero_()
    table = router_statistics(mixture, two_tasks(records))
    assert table["entropy_nat"].tolist() == pytest.approx([math.log(3)] * len(table))
    assert table["expert_1"].tolist() == pytest.approx([1 / 3] * len(table))
    assert set(table["part"]) == {"vision", "connector", "language"} and set(table["task"]) == {"AE", "DD"}


def test_saved_and_reloaded_equals_live(stack, tiny_folder, batch, tmp_path):
    with pytest.raises(LineageError, match="save its parent 'IT' first"):
        LoraMixture(stack, "early", SPEC).save(tmp_path)
    stack = trunk(tiny_folder)
    for name in ("PT", "IT"):
        stack.save(tmp_path / "trunk", name)
    mixture = randomise(LoraMixture(stack, "MoE", SPEC))
    mixture.save(tmp_path)
    stack.save(tmp_path / "beside", "PT")  # PEFT's own files stay free of the mixture
    first, second = (sha256_of(tmp_path / f / "PT/adapter_model.safetensors") for f in ("trunk", "beside"))
    assert first == second
    again = LoraStack(load_vlm(str(tiny_folder), dtype="float32", device="cpu"))
    for name in ("PT", "IT"):
        again.load(tmp_path / "trunk", name)
    again.activate(None)  # loading switches the parent on
    loaded = LoraMixture.load(again, tmp_path, "MoE")
    loaded.assert_trainable(None)
    assert loaded.spec == SPEC and again.active == ("PT", "IT")
    assert torch.equal(logits(again.model, batch), logits(stack.model, batch))


def test_another_base_another_parent_and_changed_files_are_refused(stack, tiny_folder, tmp_path):
    for name in ("PT", "IT"):
        stack.save(tmp_path, name)
    folder = LoraMixture(stack, "MoE", SPEC).save(tmp_path)

    def fresh(*adapters: str) -> LoraStack:
        again = LoraStack(load_vlm(str(tiny_folder), dtype="float32", device="cpu"))
        for name in adapters:
            again.load(tmp_path, name)
        return again

    with pytest.raises(LineageError, match=r"trained over 'IT' \(sha256 .*it holds .*'PT'"):
        LoraMixture.load(fresh("PT"), tmp_path, "MoE")
    with pytest.raises(LineageError, match=r"no adapter 'XX'; its mixtures are \['MoE'\]"):
        LoraMixture.load(fresh(), tmp_path, "XX")
    other = load_vlm(str(tiny_folder), dtype="float32", device="cpu")
    other.model.lm_head.weight.data += 0.1
    elsewhere = LoraStack(other)
    with pytest.raises(LineageError, match=f"base {stack.base_fingerprint}, but .* is {elsewhere.base_fingerprint}"):
        LoraMixture.load(elsewhere, tmp_path, "MoE")
    weights = folder / "mixture.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(LineageError, match="missing or changed"):
        LoraMixture.load(fresh("PT", "IT"), tmp_path, "MoE")


def test_matching_rank_counts_routers(stack):
    for rank in (1, 5, 16):
        mixture = LoraMixture(stack, "MoE", replace(SPEC, rank=rank))
        mixture.activate(None)
        total = sum(w.numel() for r in mixture.layers.values() for w in (r.router, r.A, r.B))
        assert mixture.trainable_parameters() == total
        a_rank = sum(w.numel() for r in mixture.layers.values() for w in (r.A, r.B)) // rank
        for near in (total, total + int(0.49 * a_rank), total - int(0.49 * a_rank)):
            assert matching_rank(stack.vlm, near, placement=PLACEMENT, experts=3) == rank
    with pytest.raises(ValueError, match=r"found 1000; 3 experts of rank 1, routed, have \d+"):
        matching_rank(stack.vlm, 1000, placement=PLACEMENT, experts=3)


def test_more_experts_a_token_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="top_k: found 5, expected 1 to 4"):
        MixtureSpec(rank=2, alpha=2, placement=PLACEMENT, top_k=5)


def fresh_mixture(tiny_folder, spec: MixtureSpec = SPEC) -> LoraMixture:
    stack = trunk(tiny_folder)
    torch.manual_seed(5)
    return LoraMixture(stack, "MoE", spec)


def test_training_lowers_the_loss_and_touches_the_mixture_alone(tiny_folder, records, photo_folder, tmp_path):
    mixture = fresh_mixture(tiny_folder)
    own = set(mixture.weights.parameters())
    before = {n: p.detach().clone() for n, p in mixture.model.named_parameters() if p not in own}
    log = train_adapter(mixture, "MoE", records, Training(30, 2e-2, 4))
    assert log["loss"].iloc[-1] < 0.75 * log["loss"].iloc[0]
    assert all(torch.equal(p, before[n]) for n, p in mixture.model.named_parameters() if p not in own)
    mixture.assert_trainable(None)
    assert mixture.stack.active == ("PT", "IT")
    answers = generate_answers(mixture.stack, records[:3], max_new_tokens=4)
    mixture.activate(None)
    assert answers != generate_answers(mixture.stack, records[:3], max_new_tokens=4)


@pytest.mark.parametrize(("accumulate", "counts"), [(1, "token"), (2, "token"), (2, "record")])
def test_the_load_balance_loss_is_part_of_the_loss(tiny_folder, records, photo_folder, tmp_path, accumulate, counts):
    def first_loss(balance: float) -> float:
        mixture = fresh_mixture(tiny_folder, replace(SPEC, balance=balance))
        for routed in mixture.layers.values():
            routed.router.data.zero_()  # P = 1/3 everywhere, so that the load-balance loss is 1 whatever f is
        training = Training(1, batch=12 // accumulate, accumulate=accumulate, balance=counts)
        log = train_adapter(mixture, "MoE", records, training)
        return log["loss"].iloc[0]

    assert first_loss(10.0) - first_loss(0.0) == pytest.approx(10.0, abs=1e-3)


def test_checkpointed_activations_train_to_the_same_weights(tiny_folder, records, photo_folder, tmp_path):
    trained = []
    for checkpointing in (False, True):
        mixture = fresh_mixture(tiny_folder, replace(SPEC, balance=1.0))
        train_adapter(mixture, "MoE", records, Training(3, 1e-2, 4, checkpointing=checkpointing))
        trained.append(mixture.weights.state_dict())
    for name, weight in trained[0].items():
        assert torch.allclose(weight, trained[1][name], atol=1e-5), name


def test_a_training_killed_and_resumed_equals_an_uninterrupted_one(
    tiny_folder, records, photo_folder, tmp_path, interrupted
):
    training = Training(6, 1e-2, 4, save_steps=3)
    whole = fresh_mixture(tiny_folder)
    train_adapter(whole, "MoE", records, training, checkpoints=tmp_path / "whole")

    cut = fresh_mixture(tiny_folder)
    with interrupted(5):  # after the checkpoint of step 3
        train_adapter(cut, "MoE", records, training, checkpoints=tmp_path / "cut")
    cut.assert_trainable("MoE")  # folding is undone, and the mixture is as it was
    resumed = fresh_mixture(tiny_folder)
    train_adapter(resumed, "MoE", records, training, checkpoints=tmp_path / "cut")
    for name, weight in whole.weights.state_dict().items():
        assert torch.allclose(weight, resumed.weights.state_dict()[name], atol=1e-6), name
