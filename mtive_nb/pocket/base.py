"""The pocket base: Qwen2.5-VL's architecture and processor with 4.7 million parameters, built from scratch.

Notebook 00 builds, trains and saves the model. Everything else loads the saved model, which ships in
`mtive_nb/model/pocket_base` as a normal `save_pretrained` folder.
"""

from collections.abc import Iterable

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

PATCH_PX, MERGE = 14, 2
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
# Qwen2.5-VL's chat format without its default system prompt, which would cost 20 tokens a question here.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}<|im_start|>{{ message.role + '\n' }}"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}{%- endfor -%}{%- endif -%}{{ '<|im_end|>\n' }}{% endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{% endif -%}"
)


def build_tokenizer(texts: Iterable[str], *, vocab_size: int = 1536) -> PreTrainedTokenizerFast:
    """Build a byte-level BPE tokenizer: each capital, digit and mark is one token, so print is read by letters."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[A-Z0-9]|[./\-:|]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [AddedToken(t, normalized=False, special=True) for t in SPECIAL]
    roles = ["user", "assistant", "system"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(roles), special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    core.add_tokens(roles)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    )  # fmt: skip


def build_processor(tokenizer: PreTrainedTokenizerFast, *, max_px: int = 140) -> Qwen2_5_VLProcessor:
    """Build a processor for images of at most `max_px` squared pixels; sides become multiples of 28."""
    size = {"shortest_edge": 56 * 56, "longest_edge": (max_px + 2) ** 2}  # room for rounding, see load_vlm
    image = Qwen2VLImageProcessor(patch_size=PATCH_PX, merge_size=MERGE, temporal_patch_size=2, size=size)
    video = Qwen2VLVideoProcessor(patch_size=PATCH_PX, merge_size=MERGE, temporal_patch_size=2)
    return Qwen2_5_VLProcessor(image, tokenizer, video, chat_template=CHAT_TEMPLATE)


def build_config(tokenizer: PreTrainedTokenizerFast, *, vision: tuple[int, int] = (6, 160), language: tuple[int, int] = (4, 192)) -> Qwen2_5_VLConfig:  # fmt: skip
    """Build the configuration from (layers, width) of both towers; every vision layer sees the whole image."""
    ids = tokenizer.convert_tokens_to_ids
    (v_layers, v_width), (t_layers, t_width) = vision, language
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": t_width, "intermediate_size": t_width * 8 // 3, "num_hidden_layers": t_layers,
            "num_attention_heads": t_width // 32, "num_key_value_heads": t_width // 32, "tie_word_embeddings": True,
            "max_position_embeddings": 2048, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": None, "eos_token_id": ids("<|im_end|>"), "pad_token_id": ids("<|endoftext|>"),
        },
        vision_config={
            "depth": v_layers, "hidden_size": v_width, "intermediate_size": 432, "num_heads": v_width // 32,
            "out_hidden_size": t_width, "patch_size": PATCH_PX, "spatial_merge_size": MERGE, "temporal_patch_size": 2,
            "window_size": 112, "fullatt_block_indexes": list(range(v_layers)), "in_channels": 3,
        },
        tie_word_embeddings=True, image_token_id=ids("<|image_pad|>"), video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"), vision_end_token_id=ids("<|vision_end|>"),
    )  # fmt: skip


def look_at_neighbours(bias: torch.Tensor, *, heads: int) -> None:
    """Set an attention layer's q and k biases (3 x heads x 32) so that the heads look left, right, up and down.

    Under rotary positions, the product of a constant q and a constant k depends only on the offset between two patches.
    With q = a and k = a exp(-i w d) at the two highest frequencies w, attention peaks at offset d, 13 times (e^2.6)
    above the next patch. Heads beyond the first four get no preferred offset. Without these biases, a transformer
    spends most of its training on learning which patches are neighbours. Content adds to them, and training moves them.
    """
    q, k, _v = bias.view(3, heads, -1)  # (heads, 32); rotary pairs (j, j + 16): j < 8 for rows, j >= 8 for columns
    half = q.shape[1] // 2
    frequencies = 10000.0 ** (-torch.arange(0, half, 2) / half)  # (8,)
    for head, offset in enumerate([(0, -1), (0, 1), (-1, 0), (1, 0)][:heads]):
        for axis, step in enumerate(offset):
            for j, amplitude in ((0, 5.5), (1, 3.9)):
                at, angle = axis * half // 2 + j, frequencies[j] * step
                q[head, at] = amplitude
                k[head, at], k[head, at + half] = amplitude * torch.cos(angle), -amplitude * torch.sin(angle)


def build_model(config: Qwen2_5_VLConfig) -> Qwen2_5_VLForConditionalGeneration:
    """Build a model with random weights whose vision heads look at neighbours first; the caller seeds torch."""
    model = Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and (".blocks." in name or ".layers." in name or ".merger." in name):
                module.weight.normal_(0, 0.7 * module.in_features**-0.5)
        for block in model.model.visual.blocks:
            block.attn.qkv.weight[: 2 * config.vision_config.hidden_size] *= (
                0.4  # q and k: content has little influence at first
            )
            look_at_neighbours(block.attn.qkv.bias, heads=config.vision_config.num_heads)
    ends = config.text_config.eos_token_id, config.text_config.pad_token_id
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = ends
    model.generation_config.do_sample = False
    return model


def chat(question: str, *, images: int = 1) -> list[dict]:
    """Return one user turn: the images first, then the question."""
    return [{"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": question}]}]


def parameter_count(model: Qwen2_5_VLForConditionalGeneration) -> dict[str, int]:
    """Count the parameters of vision tower, connector, language model and whole model (tied weights once)."""
    visual = sum(p.numel() for n, p in model.named_parameters() if "visual." in n and ".merger." not in n)
    connector = sum(p.numel() for n, p in model.named_parameters() if ".merger." in n)
    total = sum(p.numel() for p in model.parameters())
    return {"vision": visual, "connector": connector, "language": total - visual - connector, "total": total}


def random_words(tokenizer: PreTrainedTokenizerFast, *, n: int = 4000, seed: int = 0) -> list[str]:
    """Return `n` words for the copying skill, 1 to 3 joined vocabulary pieces each, so that answers use every piece."""
    rng = np.random.default_rng(seed)
    pieces = [
        t
        for t in (tokenizer.decode([i]).strip() for i in range(len(SPECIAL), len(tokenizer)))
        if t.isalpha() and t.isascii()
    ]
    return ["".join(rng.choice(pieces, int(rng.integers(1, 4)))) for _ in range(n)]
