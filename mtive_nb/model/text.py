"""Text models in the stack: a tokenizer as a processor, and the language part of a VLM as a model of its own.

CASLIE's uniM3 (section 5.3) reads photos as captions, so a model that reads text alone answers its records. Such a model
passes through the same code as a VLM: its processor accepts chats without photos and refuses all others.
"""

from collections.abc import Sequence

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from mtive_nb.data.records import parts_of

_ATTENTION, _MLP = r"self_attn\.(q|k|v|o)_proj", r"mlp\.(gate|up|down)_proj"
_PLACES = r"model\.", r"layers\.{layer}\."
# As load.FAMILIES; phi3 fuses the projections of queries, keys and values, and those of gate and up.
TEXT_FAMILIES = {
    **{name: {"language": (*_PLACES, {"attention": _ATTENTION, "mlp": _MLP})} for name in ("llama", "mistral", "qwen2")},
    "phi3": {"language": (*_PLACES, {"attention": r"self_attn\.(qkv|o)_proj", "mlp": r"mlp\.(gate_up|down)_proj"})},
}  # fmt: skip
# The chat of a base model that has none: one text after another, each answer with its end.
PLAIN_CHAT = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
DAY = "26 Jul 2024"  # Llama 3's chat names the day; a fixed day keeps a question the same


class TextProcessor:
    """A tokenizer with a VLM processor's interface. Errors: ValueError for a chat or a batch with photos."""

    image_processor = None

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        tokenizer.chat_template = tokenizer.chat_template or PLAIN_CHAT
        self.tokenizer, self.chat_template = tokenizer, tokenizer.chat_template
        self.decode, self.batch_decode = tokenizer.decode, tokenizer.batch_decode
        self.save_pretrained = tokenizer.save_pretrained

    def apply_chat_template(self, chat: Sequence[dict], *, add_generation_prompt: bool = False) -> str:
        """Return the chat as the model's text; a message's parts are joined, as VLMs join them."""
        turns = []
        for message in chat:
            parts = parts_of(message)
            if any(part["type"] != "text" for part in parts):
                raise ValueError("this model reads text alone, but a record has photos: give their captions instead")
            turns.append({"role": message["role"], "content": "".join(part["text"] for part in parts)})
        options = {"add_generation_prompt": add_generation_prompt, "date_string": DAY}
        return self.tokenizer.apply_chat_template(turns, tokenize=False, **options)

    def __call__(self, *, text: list[str], images: None = None, return_tensors: str = "pt", padding: bool = True) -> BatchFeature:  # fmt: skip
        """Return input_ids and attention_mask, (B, T) each; the chat's own text begins and ends the sequence."""
        if images is not None:
            raise ValueError(f"this model reads text alone: found photos in a batch of {len(text)}, expected none")
        options = {"return_tensors": return_tensors, "padding": padding, "return_token_type_ids": False}
        return self.tokenizer(text, add_special_tokens=False, **options)


def load_text_processor(source: str) -> TextProcessor:
    """Load the tokenizer of a folder or hub id as a processor."""
    return TextProcessor(AutoTokenizer.from_pretrained(source))


def text_config_of(config: PreTrainedConfig) -> Qwen2Config:
    """Return the configuration of a Qwen2.5-VL's language part on its own. Errors: ValueError for another family."""
    if config.model_type != "qwen2_5_vl":
        raise ValueError(f"found a {config.model_type}; expected a qwen2_5_vl, whose language part is a Qwen2")
    text, known = config.get_text_config().to_dict(), Qwen2Config().to_dict()
    # Without photos the three sections of a position (time, height, width) are one number: plain rotary positions.
    rope = {name: value for name, value in text["rope_parameters"].items() if name != "mrope_section"}
    kept = {
        name: value for name, value in text.items() if name in known and name not in ("model_type", "architectures")
    }
    return Qwen2Config(**kept | {"rope_parameters": rope, "tie_word_embeddings": config.tie_word_embeddings})


@torch.no_grad()
def language_part(model: PreTrainedModel) -> Qwen2ForCausalLM:
    """Return a Qwen2.5-VL's language part with a copy of its weights: the same logits for texts without photos.

    Errors: ValueError for another family, or for adapters in the model (merge them first: LoraStack.merged_trunk).
    """
    config, inside = text_config_of(model.config), "model.language_model."
    weights = model.state_dict()
    if any("lora_" in name for name in weights):
        raise ValueError("found adapters in the model; expected a bare model: merge them first (merged_trunk)")
    kernel = model.config._attn_implementation
    twin = AutoModelForCausalLM.from_config(config, dtype=model.dtype, attn_implementation=kernel)
    own = {n.replace(inside, "model."): w for n, w in weights.items() if n.startswith((inside, "lm_head."))}
    twin.load_state_dict(own)
    twin.generation_config = model.generation_config
    return twin.to(model.device).eval().requires_grad_(False)
