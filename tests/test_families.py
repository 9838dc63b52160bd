"""Models of other families than the base's, from folders in the hub's own format: asked, scored, given adapters."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from mtive_nb.evaluate.predict import answers_of_systems
from mtive_nb.model.load import load_vlm
from mtive_nb.model.stack import AdapterSpec, LoraStack
from mtive_nb.model.train import Training, train_adapter

TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 16}  # fmt: skip
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56,
          "patch_size": 14}  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}{{ START + m['role'] }}\n{% for part in m['content'] %}{% if part['type'] == 'image' %}IMAGE"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}END\n{% endfor %}"
    "{% if add_generation_prompt %}{{ START + 'assistant' }}\n{% endif %}"
)


def tokenizer_with(special: list[str], **named: str) -> PreTrainedTokenizerFast:
    letters = {letter: k for k, letter in enumerate(["[UNK]", *map(chr, range(10, 127))])}
    raw = Tokenizer(models.BPE(letters, [], unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", **named)
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    return tokenizer


def template(start: str, image: str, end: str) -> str:
    return TEMPLATE.replace("START", repr(start)).replace("IMAGE", image).replace("END", end)


def save(model: PreTrainedModel, folder) -> None:
    with torch.no_grad():
        for weight in model.parameters():  # random, too, where a family starts from zero
            if weight.ndim > 1:
                weight.normal_(0, 0.06)
    model.save_pretrained(folder)


def idefics3(folder) -> None:
    rows = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    special = ["<|im_start|>", "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *rows]
    tokenizer = tokenizer_with(special, pad_token="<pad>", eos_token="<end_of_utterance>")
    images = Idefics3ImageProcessor(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    chat = template("<|im_start|>", "<image>", "<end_of_utterance>")
    Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=chat).save_pretrained(folder)
    ids = tokenizer.convert_tokens_to_ids
    text = {"model_type": "llama", "vocab_size": len(tokenizer), "pad_token_id": ids("<pad>"), **TEXT}
    config = Idefics3Config(text_config=text, vision_config=VISION, scale_factor=2, image_token_id=ids("<image>"),
                            pad_token_id=ids("<pad>"))  # fmt: skip
    save(Idefics3ForConditionalGeneration(config), folder)


def gemma3(folder) -> None:
    extra = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = tokenizer_with(["<start_of_turn>", "<end_of_turn>"], pad_token="<pad>", eos_token="<end_of_turn>",
                               extra_special_tokens=extra)  # fmt: skip
    images = Gemma3ImageProcessor(size={"height": 56, "width": 56})
    chat = template("<start_of_turn>", "<start_of_image>", "<end_of_turn>")
    Gemma3Processor(images, tokenizer, chat_template=chat, image_seq_length=4).save_pretrained(folder)
    ids = tokenizer.convert_tokens_to_ids
    text = {"vocab_size": len(tokenizer), "pad_token_id": ids("<pad>"), **TEXT}
    tokens = {f"{name.split('_')[0]}_token_index": ids(token) for name, token in extra.items()}
    config = Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4, **tokens)
    save(Gemma3ForConditionalGeneration(config), folder)


@pytest.fixture(scope="module", params=[idefics3, gemma3], ids=["idefics3", "gemma3"])
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    made = tmp_path_factory.mktemp(request.param.__name__)
    request.param(made)
    return made


def test_a_further_row_is_asked_like_the_base(folder, records, photo_folder, tmp_path):
    stack = LoraStack(load_vlm(str(folder), dtype="float32", device="cpu", max_px=112))
    asked = {"cache": tmp_path, "batch": 2, "max_new_tokens": 4}
    tasks = {r["task"] for r in records}
    answers = answers_of_systems(stack, {"another": dict.fromkeys(tasks)}, records, **asked)["another"]
    assert len(answers) == len(records) and all(isinstance(a, str) for a in answers)
    alone = answers_of_systems(stack, {"alone": dict.fromkeys(tasks)}, records[:1], **asked)["alone"]
    assert alone == answers[:1], "an answer depends on who shares the batch"


def test_an_adapter_learns_on_it(folder, records, photo_folder, tmp_path):
    stack = LoraStack(load_vlm(str(folder), dtype="float32", device="cpu", max_px=112))
    stack.add("PT", AdapterSpec(4, 8, ("vision.attention", "language.attention")))
    log = train_adapter(stack, "PT", records[:2], Training(20, 3e-2, 2))
    stack.assert_alive("PT")
    assert log["loss"].iloc[-1] < 0.8 * log["loss"].iloc[0]
