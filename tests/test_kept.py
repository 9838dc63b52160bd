"""The tower's features are kept: the same answers and the same training, with the tower called once for each photo."""

import copy
import pickle

import pytest
import torch
from conftest import randomise

from mtive_nb.model.kept import KeptPhotos
from mtive_nb.model.stack import AdapterSpec, LoraStack
from mtive_nb.model.train import Training, train_adapter


@pytest.fixture
def stack(tiny):
    stack = LoraStack(tiny)
    stack.add("LM", AdapterSpec(4, 4, ("connector", "language")))
    stack.add("VM", AdapterSpec(4, 4, ("vision", "connector")))
    randomise(stack)
    stack.activate("LM")
    return stack


@pytest.fixture
def calls(tiny, monkeypatch):
    """Photos that the tower's first block saw, call by call."""
    seen = []
    tower = tiny.model.model.visual
    hook = tower.patch_embed.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    yield seen
    hook.remove()


@torch.inference_mode()
def logits(stack, batch):
    return stack.model(**batch).logits


def test_kept_photos_give_the_same_logits_and_the_tower_runs_once(stack, batch, calls):
    live = logits(stack, batch)
    patches = len(batch["pixel_values"])
    assert calls == [patches]
    with stack.lean():
        first, again = logits(stack, batch), logits(stack, batch)
    assert torch.allclose(live, first, atol=1e-4) and torch.equal(first, again)
    assert sum(calls[1:]) <= patches and len(calls) == 2
    with stack.lean():
        logits(stack, batch)
    assert len(calls) == 2  # kept from one context to the next
    logits(stack, batch)
    assert len(calls) == 3  # outside, the tower is as it was


def test_photos_are_found_one_by_one_in_another_batch(stack, batch, calls):
    with stack.lean():
        logits(stack, batch)
        tower, grids = stack.vlm.model.model.visual, batch["image_grid_thw"]
        photos = batch["pixel_values"].split(grids.prod(1).tolist())
        assert len(photos) > 1
        turned = {"pixel_values": torch.cat(photos[::-1]), "image_grid_thw": grids.flip(0)}
        before = len(calls)
        kept = tower(turned["pixel_values"], grid_thw=turned["image_grid_thw"]).pooler_output
        assert len(calls) == before
    plain = tower(turned["pixel_values"], grid_thw=turned["image_grid_thw"]).pooler_output
    assert torch.allclose(kept, plain, atol=1e-5)


def test_an_adapter_in_the_tower_turns_it_off(stack, batch, calls):
    stack.activate("VM")
    live = logits(stack, batch)
    with stack.lean():
        assert torch.allclose(logits(stack, batch), live, atol=1e-4)
        logits(stack, batch)
    assert len(calls) == 3 and not stack.vlm.kept.states


def test_an_error_inside_gives_the_tower_back(stack, batch):
    with pytest.raises(KeyboardInterrupt), stack.lean():
        raise KeyboardInterrupt
    assert "forward" not in vars(stack.vlm.model.model.visual)


def test_photos_kept_while_answering_can_be_trained_on(stack, batch, records, monkeypatch):
    own = [r for r in records if r["images"]][:4]
    weights = {}
    for kept in (True, False):
        other = copy.deepcopy(stack)
        if not kept:
            monkeypatch.setattr(LoraStack, "lean", LoraStack.folded)
        else:
            with other.lean():
                logits(other, batch)
        train_adapter(other, "LM", own, Training(3, 1e-3, 2, seed=0))
        weights[kept] = other.adapter_weights("LM")
    assert all(torch.allclose(weights[True][n], weights[False][n], atol=1e-5) for n in weights[True])


def test_nothing_is_kept_beyond_the_limit_and_copies_begin_empty(stack, batch, calls):
    stack.vlm.kept.limit = 0
    with stack.lean():
        first, again = logits(stack, batch), logits(stack, batch)
    assert torch.equal(first, again) and len(calls) == 2 and not stack.vlm.kept.states
    full = KeptPhotos(10)
    full.states["photo"] = torch.zeros(1)
    for other in (copy.deepcopy(full), pickle.loads(pickle.dumps(full))):
        assert other.limit == 10 and not other.states
