"""Experts by preferences and rewards, over a stack with a trunk that is not a no-op."""

import json

import pandas as pd
import pytest
import torch

from mtive_nb.model.load import load_vlm
from mtive_nb.model.preferences import train_by_preference, train_by_reward
from mtive_nb.model.stack import AdapterSpec, LoraStack, load_stack
from mtive_nb.model.train import Training

SPEC = AdapterSpec(4, 4.0, ("language", "connector"))


@pytest.fixture
def stack(tiny_folder) -> LoraStack:
    torch.manual_seed(0)
    stack = LoraStack(load_vlm(str(tiny_folder), dtype="float32", device="cpu"))
    stack.add("IT", SPEC)
    for weight in stack.adapter_weights("IT").values():
        weight.normal_(0, 0.05)
    stack.activate("IT")
    return stack


@pytest.fixture
def pairs(records) -> list[dict]:
    return [r | {"chosen": r["answer"], "rejected": "what is the large shape"} for r in records]


def margin(stack, pairs, folder) -> float:
    """Mean log-likelihood of the chosen answers less that of the rejected ones."""
    from torch.utils.data import DataLoader

    from mtive_nb.data.records import assistant_turn
    from mtive_nb.model.batches import Collator, RecordDataset

    stack.model.eval()
    sums = []
    for field in ("chosen", "rejected"):
        rows = [p | {"messages": [*p["messages"][:-1], assistant_turn(p[field])]} for p in pairs]
        batch = next(iter(DataLoader(RecordDataset(rows), 12, collate_fn=Collator(stack.vlm.processor))))
        labels = batch.pop("labels")[:, 1:]
        with torch.inference_mode():
            logs = stack.model(**batch).logits[:, :-1].log_softmax(-1)
        own = logs.gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2)
        sums.append((own * (labels != -100)).sum(1).mean().item())
    return sums[0] - sums[1]


@pytest.mark.parametrize("strategy", ["DPO", "MPO"])
def test_preferences_move_the_expert_and_leave_the_trunk(strategy, stack, pairs, photo_folder, tmp_path):
    trunk = {n: w.clone() for n, w in stack.adapter_weights("IT").items()}
    before = margin(stack, pairs, photo_folder)
    options = {"parent": "IT", "strategy": strategy, "checkpoints": tmp_path}
    log = train_by_preference(stack, "DD", SPEC, pairs, Training(12, 5e-3, 4), **options)
    assert stack.active == ("IT", "DD") and stack.parents["DD"] == "IT"
    stack.assert_alive("DD")
    assert margin(stack, pairs, photo_folder) > before + 1
    assert all(torch.equal(trunk[n], w) for n, w in stack.adapter_weights("IT").items())
    assert log["step"].iloc[-1] == 12 and log["loss"].iloc[-1] < log["loss"].iloc[0]


def test_the_reference_is_the_stack_without_the_expert(stack, pairs, photo_folder, tmp_path):
    """At the first step policy and reference agree: DPO's loss is ln 2, and MPO's has the trunk's own likelihood in it."""
    one = Training(1, batch=4)
    dpo = train_by_preference(stack, "DPO", SPEC, pairs, one, parent="IT", checkpoints=tmp_path / "dpo")
    assert dpo["loss"].iloc[0] == pytest.approx(0.6931, abs=1e-3)
    mpo = {"strategy": "MPO", "checkpoints": tmp_path}
    live = train_by_preference(stack, "MPO", SPEC, pairs, one, parent="IT", **mpo)
    merged, bare = LoraStack(stack.merged_trunk("IT")), LoraStack(stack.merged_trunk(None))
    same = train_by_preference(merged, "merged", SPEC, pairs, one, parent=None, **mpo)
    other = train_by_preference(bare, "bare", SPEC, pairs, one, parent=None, **mpo)
    assert live["loss"].iloc[0] == pytest.approx(same["loss"].iloc[0], abs=1e-3)
    assert abs(live["loss"].iloc[0] - other["loss"].iloc[0]) > 0.01


def test_a_training_that_has_ended_is_taken_up_with_its_log(stack, pairs, photo_folder, tmp_path):
    options = {"training": Training(2, batch=4), "checkpoints": tmp_path, "parent": "IT"}
    log = train_by_preference(stack, "DD", SPEC, pairs, **options)
    weights = {n: w.clone() for n, w in stack.adapter_weights("DD").items()}
    stack.unload("DD")
    pd.testing.assert_frame_equal(train_by_preference(stack, "DD", SPEC, pairs, **options), log)
    assert all(torch.equal(weights[n], w) for n, w in stack.adapter_weights("DD").items())


def test_an_expert_by_preference_is_saved_and_loaded_like_any_other(stack, pairs, tiny_folder, photo_folder, tmp_path):
    stack.save(tmp_path / "stack", "IT")
    two = Training(2, batch=4)
    train_by_preference(stack, "DD", SPEC, pairs, two, parent="IT", checkpoints=tmp_path)
    stack.save(tmp_path / "stack", "DD")
    row = json.loads((tmp_path / "stack" / "stack.json").read_text())["adapters"]["DD"]
    assert row["parent"] == "IT"
    again = load_stack(
        load_vlm(str(tiny_folder), dtype="float32", device="cpu"),
        (tmp_path / "stack", "IT"),
        (tmp_path / "stack", "DD"),
    )
    assert margin(again, pairs, photo_folder) == pytest.approx(margin(stack, pairs, photo_folder), abs=1e-4)


def test_rewards_raise_what_they_reward(stack, records, photo_folder, tmp_path):
    def short(_record: dict, answer: str) -> float:
        return 1.0 / (1 + len(answer))

    options = {"parent": "IT", "checkpoints": tmp_path, "max_new_tokens": 8, "answers_each": 4}
    log = train_by_reward(stack, "DD", SPEC, records, Training(20, 2e-2, 16), short, **options)
    assert stack.active == ("IT", "DD")
    stack.assert_alive("DD")
    assert log["reward"].iloc[-3:].mean() > log["reward"].iloc[:3].mean()


def test_an_expert_on_the_bare_base(tiny_folder, pairs, photo_folder, tmp_path):
    bare = LoraStack(load_vlm(str(tiny_folder), dtype="float32", device="cpu"))
    two = Training(2, batch=4)
    train_by_preference(bare, "DD", SPEC, pairs, two, parent=None, checkpoints=tmp_path)
    assert bare.parents["DD"] is None


def test_what_cannot_be_trained_is_said(stack, pairs, photo_folder, tmp_path):
    options, two = {"parent": "IT", "checkpoints": tmp_path}, Training(2)
    with pytest.raises(ValueError, match="strategy: found 'PPO', expected one of"):
        train_by_preference(stack, "DD", SPEC, pairs, two, strategy="PPO", **options)
    with pytest.raises(ValueError, match="no pair of answers"):
        train_by_preference(stack, "DD", SPEC, [], two, **options)
    with pytest.raises(ValueError, match="found 3 records, a batch needs 4"):
        train_by_reward(stack, "DD", SPEC, pairs[:3], two, lambda *_: 0.0, **options)
    with pytest.raises(ValueError, match="batch: found 6, expected a multiple of answers_each, 4"):
        train_by_reward(stack, "DD", SPEC, pairs, Training(2, batch=6), lambda *_: 0.0, **options)
