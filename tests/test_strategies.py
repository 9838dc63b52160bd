"""Experts by preferences and rewards, over a stack with a trunk that is not a no-op."""

import json

import pandas as pd
import pytest
import torch

from mtive_nb.model.load import load_vlm
from mtive_nb.model.preferences import train_by_preference, train_by_reward
from mtive_nb.model.stack import AdapterSpec, LoraStack, load_stack

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
        batch = next(iter(DataLoader(RecordDataset(rows, root=folder), 12, collate_fn=Collator(stack.vlm.processor))))
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
    given = {"root": photo_folder, "checkpoints": tmp_path, "steps": 12, "batch": 4, "rate": 5e-3}
    log = train_by_preference(stack, "DD", SPEC, pairs, parent="IT", strategy=strategy, **given)
    assert stack.active == ("IT", "DD") and stack.parents["DD"] == "IT"
    stack.assert_alive("DD")
    assert margin(stack, pairs, photo_folder) > before + 1
    assert all(torch.equal(trunk[n], w) for n, w in stack.adapter_weights("IT").items())
    assert log["step"].iloc[-1] == 12 and log["loss"].iloc[-1] < log["loss"].iloc[0]


def test_the_reference_is_the_stack_without_the_expert(stack, pairs, photo_folder, tmp_path):
    """At the first step policy and reference agree: DPO's loss is ln 2, and MPO's has the trunk's own likelihood in it."""
    given = {"root": photo_folder, "steps": 1, "batch": 4}
    dpo = train_by_preference(stack, "DPO", SPEC, pairs, parent="IT", checkpoints=tmp_path / "dpo", **given)
    assert dpo["loss"].iloc[0] == pytest.approx(0.6931, abs=1e-3)
    given["strategy"] = "MPO"
    live = train_by_preference(stack, "MPO", SPEC, pairs, parent="IT", checkpoints=tmp_path / "live", **given)
    merged, bare = LoraStack(stack.merged_trunk("IT")), LoraStack(stack.merged_trunk(None))
    same = train_by_preference(merged, "MPO", SPEC, pairs, parent=None, checkpoints=tmp_path / "merged", **given)
    other = train_by_preference(bare, "MPO", SPEC, pairs, parent=None, checkpoints=tmp_path / "bare", **given)
    assert live["loss"].iloc[0] == pytest.approx(same["loss"].iloc[0], abs=1e-3)
    assert abs(live["loss"].iloc[0] - other["loss"].iloc[0]) > 0.01


def test_a_training_that_has_ended_is_taken_up_with_its_log(stack, pairs, photo_folder, tmp_path):
    given = {"root": photo_folder, "checkpoints": tmp_path, "steps": 2, "batch": 4, "parent": "IT"}
    log = train_by_preference(stack, "DD", SPEC, pairs, **given)
    weights = {n: w.clone() for n, w in stack.adapter_weights("DD").items()}
    stack.unload("DD")
    pd.testing.assert_frame_equal(train_by_preference(stack, "DD", SPEC, pairs, **given), log)
    assert all(torch.equal(weights[n], w) for n, w in stack.adapter_weights("DD").items())


def test_an_expert_by_preference_is_saved_and_loaded_like_any_other(stack, pairs, tiny_folder, photo_folder, tmp_path):
    stack.save(tmp_path / "stack", "IT")
    given = {"root": photo_folder, "checkpoints": tmp_path, "steps": 2, "batch": 4}
    train_by_preference(stack, "DD", SPEC, pairs, parent="IT", **given)
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

    given = {"root": photo_folder, "checkpoints": tmp_path, "max_new_tokens": 8, "rate": 2e-2, "answers_each": 4}
    log = train_by_reward(stack, "DD", SPEC, records, short, parent="IT", steps=20, batch=16, **given)
    assert stack.active == ("IT", "DD")
    stack.assert_alive("DD")
    assert log["reward"].iloc[-3:].mean() > log["reward"].iloc[:3].mean()


def test_an_expert_on_the_bare_base(tiny_folder, pairs, photo_folder, tmp_path):
    bare = LoraStack(load_vlm(str(tiny_folder), dtype="float32", device="cpu"))
    given = {"root": photo_folder, "checkpoints": tmp_path, "steps": 2, "batch": 4}
    train_by_preference(bare, "DD", SPEC, pairs, parent=None, **given)
    assert bare.parents["DD"] is None


def test_what_cannot_be_trained_is_said(stack, pairs, photo_folder, tmp_path):
    given = {"parent": "IT", "root": photo_folder, "checkpoints": tmp_path, "steps": 2}
    with pytest.raises(ValueError, match="strategy: found 'PPO', expected one of"):
        train_by_preference(stack, "DD", SPEC, pairs, strategy="PPO", **given)
    with pytest.raises(ValueError, match="no pair of answers"):
        train_by_preference(stack, "DD", SPEC, [], **given)
    with pytest.raises(ValueError, match="found 3 records, a batch asks 4"):
        train_by_reward(stack, "DD", SPEC, pairs[:3], lambda *_: 0.0, **given)
    with pytest.raises(ValueError, match="batch: found 6, expected a multiple of answers_each, 4"):
        train_by_reward(stack, "DD", SPEC, pairs, lambda *_: 0.0, batch=6, **given)
