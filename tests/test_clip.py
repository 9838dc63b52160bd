from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mtive_nb.evaluate.grounding.clip import build_dual_encoder, clip_scores, load_clip, train_dual_encoder
from mtive_nb.model.load import load_vlm

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (30, 60, 220), "yellow": (240, 220, 40)}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder, rng, made = tmp_path_factory.mktemp("clip"), np.random.default_rng(0), []
    for k in range(48):
        name = list(COLOURS)[k % 4]
        noise = rng.integers(-20, 20, (60, 50, 3))
        Image.fromarray(np.clip(noise + COLOURS[name], 0, 255).astype(np.uint8)).save(folder / f"{k}.png")
        made.append((str(folder / f"{k}.png"), f"a {name} thing"))
    return made


@pytest.fixture
def clip(tiny_folder):
    torch.manual_seed(0)
    tokenizer = load_vlm(str(tiny_folder)).processor.tokenizer
    return build_dual_encoder(tokenizer, image_px=28, width=32, layers=1, longest=16)


def test_training_on_pairs_puts_a_text_nearest_to_its_own_images(clip, pairs, tmp_path):
    log = train_dual_encoder(clip, pairs, folder=tmp_path, steps=60, batch=16, rate=3e-3)
    assert log["loss"].iloc[-1] < log["loss"].iloc[0]
    for path, text in pairs[:4]:
        scores = clip_scores(clip, [(path, f"a {name} thing") for name in COLOURS], batch=3)
        assert list(COLOURS)[int(scores.argmax())] in text


def test_scores_are_cosines_in_the_order_of_the_pairs(clip, pairs):
    scores = clip_scores(clip, pairs[:7], batch=3)
    assert scores.shape == (7,) and np.abs(scores).max() <= 1 + 1e-6
    assert np.allclose(scores, [clip_scores(clip, [p])[0] for p in pairs[:7]], atol=1e-5)


def test_a_saved_clip_is_loaded_like_one_of_the_hub(clip, pairs, tmp_path):
    clip.model.save_pretrained(tmp_path)
    clip.processor.save_pretrained(tmp_path)
    again = replace(load_clip(str(tmp_path)), text_end=clip.text_end)
    assert np.allclose(clip_scores(again, pairs[:4]), clip_scores(clip, pairs[:4]), atol=1e-6)


def test_an_end_mark_in_a_text_does_not_end_it(clip, pairs):
    inputs = clip.inputs([Image.open(pairs[0][0])], [f"a {clip.text_end} red thing"])
    ends = inputs["input_ids"][0] == clip.processor.tokenizer.eos_token_id
    assert ends.sum() == 1 and ends[-1]


def test_a_long_text_keeps_its_end(clip, pairs):
    long = "a red thing " * 40
    inputs = clip.inputs([Image.open(pairs[0][0])], [long])
    end = clip.processor.tokenizer.eos_token_id
    assert inputs["input_ids"].shape[1] <= 16 and inputs["input_ids"][0, -1] == end
