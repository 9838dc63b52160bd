"""A base of random weights loads, answers and takes adapters as any folder of the hub's format does."""

import pytest
import torch
from transformers import AutoConfig, Idefics3Config

from mtive_nb.evaluate.predict import generate_answers
from mtive_nb.model.bases.random_base import write_random_base
from mtive_nb.model.load import load_vlm
from mtive_nb.model.stack import AdapterSpec, LoraStack


def test_it_is_a_folder_like_any_other(tiny_folder, records, photo_folder, tmp_path):
    config = AutoConfig.from_pretrained(tiny_folder)
    config.get_text_config().vocab_size = 2048  # a large model's vocabulary holds the small one's
    config.image_token_id = 2047
    stack = LoraStack(load_vlm(str(write_random_base(config, tmp_path)), dtype="bfloat16", device="cpu"))
    assert {p.dtype for p in stack.model.parameters()} == {torch.bfloat16}
    stack.add("PT", AdapterSpec(4, 8, ("vision.attention", "connector", "language.attention")))
    stack.activate("PT")
    answers = generate_answers(stack, records[:3], batch=3, max_new_tokens=3)
    assert len(answers) == 3


def test_another_family_is_refused(tmp_path):
    with pytest.raises(ValueError, match="found idefics3 .* expected qwen2_5_vl with patches of 14 px"):
        write_random_base(Idefics3Config(), tmp_path)
