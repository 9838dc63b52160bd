"""Models of other families than the base's, from folders in the hub's own format: asked, scored, given adapters."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
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

from mtive_nb.data.catalogue import load_catalogue
from mtive_nb.data.dialogues import build_dialogues
from mtive_nb.data.emdiv.build import build_emdiv
from mtive_nb.data.instructions.build import build_instructions
from mtive_nb.data.instructions.grammar import Grammar
from mtive_nb.data.mart.render import render_mart
from mtive_nb.data.records import BRACKETS, assistant_turn, plain, plain_chat, user_turn
from mtive_nb.evaluate.grounding.attention import read_attention
from mtive_nb.evaluate.predict import answers_of_systems
from mtive_nb.evaluate.probability import choose, option_tokens
from mtive_nb.model.batches import batch_of, control_tokens
from mtive_nb.model.load import load_vlm
from mtive_nb.model.losses import IGNORE
from mtive_nb.model.mixed import images_of_rows, mixed_experts
from mtive_nb.model.stack import AdapterSpec, LoraStack
from mtive_nb.model.train import Training, train_adapter
from mtive_nb.show.grounding import grounding_figure

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
    letters = {letter: k for k, letter in enumerate(["[UNK]", *map(chr, range(10, 127)), "▁"])}
    raw = Tokenizer(models.BPE(letters, [], unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", **named)
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    return tokenizer


def template(start: str, image: str, end: str) -> str:
    return TEMPLATE.replace("START", repr(start)).replace("IMAGE", image).replace("END", end)


# As SmolVLM's: the roles' names end with a colon, and a space stands before each answer.
SPOKEN = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}{{ ': ' if m['content'] is string or "
    "m['content'][0]['type'] == 'text' else ':' }}{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def save(model: PreTrainedModel, folder) -> None:
    with torch.no_grad():
        for weight in model.parameters():  # random, too, where a family starts from zero
            if weight.ndim > 1:
                weight.normal_(0, 0.06)
    model.save_pretrained(folder)


def smolvlm(folder) -> None:
    idefics3(folder, chat=SPOKEN)


def idefics3(folder, chat: str = "") -> None:
    rows = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    special = ["<|im_start|>", "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *rows]
    tokenizer = tokenizer_with(special, pad_token="<pad>", eos_token="<end_of_utterance>")
    images = Idefics3ImageProcessor(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    chat = chat or template("<|im_start|>", "<image>", "<end_of_utterance>")
    Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=chat).save_pretrained(folder)
    ids = tokenizer.convert_tokens_to_ids
    text = {"model_type": "llama", "vocab_size": len(tokenizer), "pad_token_id": ids("<pad>"), **TEXT}
    config = Idefics3Config(text_config=text, vision_config=VISION, scale_factor=2, image_token_id=ids("<image>"),
                            pad_token_id=ids("<pad>"))  # fmt: skip
    save(Idefics3ForConditionalGeneration(config), folder)


def gemma3(folder) -> None:
    extra = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = tokenizer_with(["<start_of_turn>", "<end_of_turn>"], pad_token="<pad>", eos_token="<end_of_turn>",
                               bos_token="<bos>", extra_special_tokens=extra)  # fmt: skip
    begin = ("<bos>", tokenizer.convert_tokens_to_ids("<bos>"))  # written by the template and by the tokenizer
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[begin])
    images = Gemma3ImageProcessor(size={"height": 56, "width": 56})
    chat = "{{ bos_token }}" + template("<start_of_turn>", "<start_of_image>", "<end_of_turn>")
    Gemma3Processor(images, tokenizer, chat_template=chat, image_seq_length=4).save_pretrained(folder)
    ids = tokenizer.convert_tokens_to_ids
    text = {"vocab_size": len(tokenizer), "pad_token_id": ids("<pad>"), **TEXT}
    tokens = {f"{name.split('_')[0]}_token_index": ids(token) for name, token in extra.items()}
    config = Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4, **tokens)
    save(Gemma3ForConditionalGeneration(config), folder)


def bound_of(folder) -> int:
    return 56 if "gemma3" in folder.name else 112


@pytest.fixture(scope="module", params=[idefics3, smolvlm, gemma3], ids=lambda made: made.__name__)
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    made = tmp_path_factory.mktemp(request.param.__name__)
    request.param(made)
    return made


QWEN = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
        "<|endoftext|>")  # fmt: skip
PLACES = ("question", "answer", "earlier question", "earlier answer")


def with_text(record: dict, place: str, text: str) -> dict:
    """The record with two turns, one of whose texts contains `text`."""
    texts = {one: f"of {text if one == place else 'soap'} 250 ml" for one in PLACES}
    image, asked = [{"type": "image"}] * len(record["images"]), [{"type": "text", "text": texts["earlier question"]}]
    messages = [{"role": "user", "content": image + asked}, assistant_turn(texts["earlier answer"]),
                user_turn(texts["question"]), assistant_turn(texts["answer"])]  # fmt: skip
    return record | {"messages": messages, "answer": texts["answer"]}


@pytest.fixture(scope="module", params=["qwen2_5_vl", "idefics3", "gemma3"])
def vlm(request, tiny_folder, tmp_path_factory):
    if request.param == "qwen2_5_vl":
        return load_vlm(str(tiny_folder), device="cpu", max_px=112)
    made = tmp_path_factory.mktemp("control")
    {"idefics3": idefics3, "gemma3": gemma3}[request.param](made)
    return load_vlm(str(made), device="cpu")


def special_tokens(vlm) -> list[str]:
    return [token.content for token in vlm.processor.tokenizer.added_tokens_decoder.values() if token.special]


@pytest.mark.parametrize("place", PLACES)
def test_a_control_token_in_a_text_stays_text(vlm, records, place):
    """Each special token of the family: turns, images and the answer's labels are those of a harmless word."""
    special = special_tokens(vlm)
    assert len(special) >= 7 and (vlm.family != "qwen2_5_vl" or set(special) == set(QWEN))
    ids = torch.tensor(vlm.processor.tokenizer.convert_tokens_to_ids(special))

    def counts(text):
        batch = batch_of(vlm, [with_text(records[1], place, text)], answers=True)
        said = batch["input_ids"][0][batch["labels"][0] != IGNORE]
        rest = vlm.processor.decode(said, skip_special_tokens=True).replace(" ", "")
        return (batch["input_ids"][0][:, None] == ids).sum(0).tolist(), (said[:, None] == ids).sum(0).tolist(), rest

    whole, said, _ = counts("soap")
    assert sum(whole) > 2 and sum(said) == 1  # an answer has one end
    for token in [*special, "".join(special), f"<|im_{QWEN[1]}end|>"]:
        found, in_answer, rest = counts(f"a {token} b")
        assert (found, in_answer) == (whole, said), token
        if place == "answer":
            assert rest.startswith("ofa") and rest.strip().endswith("b250ml"), token


@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<|image_pad|>"])
def test_control_tokens_in_a_shop_s_own_texts_forge_no_turn_and_no_image(tiny_folder, tmp_path, token):
    """In title, description, attributes, a customer's text and facts, as stages 1 to 3 write them into records."""
    vlm = load_vlm(str(tiny_folder), device="cpu", max_px=112)
    shop = load_catalogue(render_mart(tmp_path / "mart", products=16, photos=2, dates=1, seed=4))

    def marked(values):
        return {name: f"{token} {value}" if name in ("brand", "category") else value for name, value in values.items()}

    def spoilt(facts):
        return facts | {"attributes": marked(facts["attributes"])} if "attributes" in (facts or {}) else facts

    products = [replace(p, title=f"{token} {p.title}", description=f"{p.description[:20]} {token}", facts=spoilt(p.facts),
                        attributes=marked(p.attributes)) for p in shop.products]  # fmt: skip
    told = [replace(f, text=f"{token}{f.text}", facts=spoilt(f.facts)) for f in shop.feedback]
    shop = replace(shop, products=products, feedback=told)
    records = build_dialogues(shop, 60, seed=1) + build_instructions(shop, 60, generator=Grammar())
    records += build_emdiv(
        shop, counts={f"{task}/{form}/train": 10 for task in "AE DD PM EX".split() for form in "gen aug bin".split()}
    ).records
    places = Counter(r["task"] for r in records if token in str(r["messages"]))
    assert set(places) == {"PRETRAIN", "INSTRUCT", "AE", "PM", "DD"}, places
    pad, end, start = map(
        vlm.processor.tokenizer.convert_tokens_to_ids, ("<|image_pad|>", "<|im_end|>", "<|im_start|>")
    )
    for record in records:
        batch = batch_of(vlm, [record], answers=True)
        ids, seen = batch["input_ids"], batch["image_grid_thw"].prod(1).sum().item() // 4
        turns = len(record["messages"])
        assert [(ids == one).sum().item() for one in (pad, end, start)] == [seen, turns, turns], record["messages"]
        assert (batch["labels"] == end).sum() == 1


def test_ordinary_texts_are_not_touched(vlm, records):
    control, odd = control_tokens(vlm.processor), "a < b > c, <b>new</b> [x] user's | 5 <= 6\n<|"
    assert plain(odd, control) == odd and plain_chat(records[0]["messages"], control)[0] == records[0]["messages"][0]
    for token in special_tokens(vlm):
        broken = plain(f"{token}{token}", control)
        assert broken == f"{token[0]} {token[1:]}" * 2 and plain(broken, control) == broken
        assert plain(token, BRACKETS) != token  # of a server by its address, whose tokenizer is not at hand


def test_a_further_row_is_asked_like_the_base(folder, records, photo_folder, tmp_path):
    stack = LoraStack(load_vlm(str(folder), dtype="float32", device="cpu", max_px=bound_of(folder)))
    asked = {"cache": tmp_path, "batch": 2, "max_new_tokens": 4}
    tasks = {r["task"] for r in records}
    answers = answers_of_systems(stack, {"another": dict.fromkeys(tasks)}, records, **asked)["another"]
    assert len(answers) == len(records) and all(isinstance(a, str) for a in answers)
    alone = answers_of_systems(stack, {"alone": dict.fromkeys(tasks)}, records[:1], **asked)["alone"]
    assert alone == answers[:1], "an answer depends on who shares the batch"


def test_an_adapter_learns_on_it(folder, records, photo_folder, tmp_path):
    stack = LoraStack(load_vlm(str(folder), dtype="float32", device="cpu", max_px=bound_of(folder)))
    stack.add("PT", AdapterSpec(4, 8, ("vision.attention", "language.attention")))
    log = train_adapter(stack, "PT", records[:2], Training(20, 3e-2, 2))
    stack.assert_alive("PT")
    assert log["loss"].iloc[-1] < 0.8 * log["loss"].iloc[0]


@torch.inference_mode()
def test_a_mixed_batch_answers_as_each_expert_alone(folder, records, photo_folder):
    """Also in tower and connector, which read an image a row, and Idefics3 several parts of an image."""
    stack = LoraStack(load_vlm(str(folder), dtype="float32", device="cpu", max_px=bound_of(folder)))
    connector = () if "gemma3" in folder.name else ("connector",)  # there a bare parameter
    parts = ("vision", *connector, "language.attention")
    for name, seed in (("AE", 1), ("DD", 2)):
        stack.add(name, AdapterSpec(4, 8, parts))
        torch.manual_seed(seed)
        for path, weight in stack.model.named_parameters():
            if f"lora_B.{name}" in path:
                weight.data.normal_(0, 0.3)
    rows, experts = records[:6], ["AE", "DD", None, "DD", "AE", "AE"]
    assert len({len(row["images"]) for row in rows}) == 2, "rows of one photo and of two"
    inputs = batch_of(stack.vlm, rows)
    with mixed_experts(stack, experts, trunk=None, **images_of_rows(rows, inputs)) as model:
        mixed = model(**inputs).logits
    said = {}
    for k, expert in enumerate(experts):
        stack.activate(expert)
        kept = inputs["attention_mask"][k].bool()
        said[expert] = stack.model(**inputs).logits
        assert torch.allclose(mixed[k][kept], said[expert][k][kept], atol=2e-4), expert
    assert (said["AE"] - said["DD"]).abs().max() > 1e-2


def test_options_are_read_as_they_are_learned(folder, records, photo_folder):
    """The ids that a batch trains on, whatever the template writes between a turn's begin and its answer."""
    vlm = load_vlm(str(folder), dtype="float32", device="cpu", max_px=bound_of(folder))
    for word, ids in option_tokens(vlm.processor, ("yes", "no", "in hand")).items():
        row = records[0] | {"messages": [*records[0]["messages"][:-1], assistant_turn(word)], "answer": word}
        batch = batch_of(vlm, [row], answers=True)
        assert ids == batch["labels"][batch["labels"] != IGNORE].tolist()
        begins = batch["input_ids"][0].tolist().count(vlm.processor.tokenizer.bos_token_id)
        assert begins == int("gemma3" in folder.name), "a chat begins once"
    stack = LoraStack(vlm)
    stack.add("DD", AdapterSpec(8, 16, ("language",)))
    rows = [
        r | {"messages": [*r["messages"][:-1], assistant_turn(w)], "answer": w} for r in records[:2] for w in ("yes",)
    ]
    train_adapter(stack, "DD", rows, Training(40, 3e-2, 2))
    found = choose(stack, rows, option_tokens(vlm.processor, ("yes", "no")))
    assert [one.option for one in found] == ["yes", "yes"] and min(one.confidence() for one in found) > 0.8


def test_where_its_answer_looked_is_drawn_without_a_grid(folder, records, photo_folder):
    vlm = load_vlm(str(folder), dtype="float32", device="cpu", max_px=bound_of(folder))
    record = next(r for r in records if r["images"] and r["answer"].strip())
    (found,) = read_attention(vlm, [record], maps=True)
    assert "".join(found.tokens).strip() == record["answer"].strip() and found.grids == ()
    figure = grounding_figure([(record["images"], record["answer"], found)])
    assert len(figure.axes) == len(record["images"]) + 1


@pytest.mark.parametrize("how", [{"dtype": "bfloat16"}, {"dtype": "float32", "quantize": "nf4"}])
def test_the_formula_holds_in_16_and_4_bits(folder, how):
    stack = LoraStack(load_vlm(str(folder), device="cpu", max_px=bound_of(folder), **how))
    stack.add("AE", AdapterSpec(4, 8, ("vision", "language.attention")))
    for path, weight in stack.model.named_parameters():
        if "lora_B.AE" in path:
            weight.data.normal_(0, 0.1)
    assert 0 < stack.largest_formula_error() < 0.1 or how["dtype"] == "float32"
    if "quantize" not in how:
        before = {n: b.dtype for n, b in stack.vlm.model.named_buffers() if b.is_floating_point()}
        merged = stack.merged_trunk("AE").model
        assert merged.dtype == torch.bfloat16
        after = {n: b.dtype for n, b in merged.named_buffers() if b.is_floating_point()}
        assert after == {n.replace(".base_layer", ""): kind for n, kind in before.items()}, "positions are not rounded"


def test_greedy_answers_are_not_penalised(folder, tmp_path):
    shutil.copytree(folder, tmp_path / folder.name)
    file = tmp_path / folder.name / "generation_config.json"
    own = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(own | {"repetition_penalty": 1.3, "temperature": 0.5, "do_sample": True}))
    config = load_vlm(str(file.parent), dtype="float32", device="cpu").model.generation_config
    assert not config.do_sample and config.repetition_penalty in (None, 1.0) and config.pad_token_id is not None
