"""How large a model and its adapters will be, counted before a weight is read: on the meta device.

Bytes are bytes. Letters: B batch, D width, F width of the MLP, R rank, T tokens, P patches (four make an image token).
"""

import json
from functools import lru_cache
from pathlib import Path

import httpx
import torch
from huggingface_hub import constants, try_to_load_from_cache
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from mtive_nb.model.load import FAMILIES, PARTS, POCKET_BASE, part_of, target_modules

KNOWN_CONFIGS = Path(__file__).parent / "known_configs.json"  # sizes as published in each hub id's config.json
PHOTO_PX = (3000, 4000)  # height and width of a phone's photo
IMAGES, TEXT_TOK, ANSWER_TOK = 2, 256, 64  # assumed of a record: PM has two photos; the answer is part of the text
SERVE_TOK, SERVE_BATCH, SERVE_BYTES = 2048, 16, 0.9 * 24e9  # assumed of a server: a 24 GB card, a tenth kept free


@lru_cache
def hub_answers() -> bool:
    """Whether the hub can be reached: one try of five seconds, where its own client retries for half a minute."""
    try:
        return not constants.HF_HUB_OFFLINE and bool(httpx.head(constants.ENDPOINT, timeout=5))
    except httpx.HTTPError:
        return False


def _cached(name: str, file: str) -> str | None:
    path = try_to_load_from_cache(name, file)
    return path if isinstance(path, str) else None  # else a mark that the hub has no such file


def find_config(name: str, *, home: Path = Path()) -> tuple[PreTrainedConfig, str, bool]:
    """Configuration of "pocket", a folder (below `home`) or a hub id; where it came from; whether the weights are here.

    Errors: FileNotFoundError where there is none; OSError and ValueError as transformers raises them.
    """
    folder = POCKET_BASE if name == "pocket" else home / Path(name).expanduser()
    if folder.is_dir() or name.startswith((".", "/", "~")):
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"found {name!r}, no config.json in {folder}; expected 'pocket', a folder of save_pretrained or a hub id"
            )
        return AutoConfig.from_pretrained(folder), str(folder), any(folder.glob("*.safetensors"))
    index = _cached(name, "model.safetensors.index.json")
    files = json.loads(Path(index).read_text())["weight_map"].values() if index else ["model.safetensors"]
    here = all(_cached(name, file) for file in set(files))
    if _cached(name, "config.json"):
        return AutoConfig.from_pretrained(name, local_files_only=True), "the hub's local cache", here
    if hub_answers():
        return AutoConfig.from_pretrained(name), "the hub", here
    known = json.loads(KNOWN_CONFIGS.read_text())
    if name not in known:
        raise FileNotFoundError(
            f"found {name!r}: not in the local cache, and the hub does not answer; expected 'pocket', a folder or a "
            f"hub id (without the hub, sizes are known of {' and '.join(known)})"
        )
    return AutoConfig.for_model(**known[name]), f"the package's {KNOWN_CONFIGS.name}; the hub does not answer", here


def meta_model(config: PreTrainedConfig) -> nn.Module:
    """The whole model without storage. Errors: ValueError for a family without a component map."""
    if config.model_type not in FAMILIES:
        raise ValueError(f"found model type {config.model_type!r}, expected one of {', '.join(FAMILIES)}")
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def part_parameters(model: nn.Module) -> dict[str, int]:
    """Weights of vision, connector and language, tied ones once; embeddings and head count as language."""
    counts = dict.fromkeys(PARTS, 0)
    for name, weight in model.named_parameters():
        counts[part_of(name, family=model.config.model_type)] += weight.numel()
    return counts


def placement_modules(model: nn.Module, placement: list[str]) -> dict[str, list[str]]:
    """Linear layers by entry of a placement. Errors: ValueError for an entry that hits none, or another part's."""
    family = model.config.model_type
    if not placement:
        raise ValueError(f"placement: found none, expected one or more of {', '.join(PARTS)}")
    found = {entry: target_modules(model, [entry], family=family) for entry in placement}
    for entry, names in found.items():
        for name in names:
            if (part := part_of(name, family=family)) != entry.partition(".")[0]:
                raise ValueError(f"placement: found {entry!r} hitting {name}, which belongs to {part}")
    return found


def adapter_parameters(model: nn.Module, placement: list[str], *, rank: int) -> int:
    """Weights of a LoRA adapter, R (in + out) a layer: A is (R, in), B is (out, R). Loaded or meta model alike.

    Errors: ValueError for a placement that hits nothing, or a rank below 1.
    """
    if rank < 1:
        raise ValueError(f"rank: found {rank}, expected 1 or more")
    names = target_modules(model, placement, family=model.config.model_type)
    layers = [model.get_submodule(name) for name in names]
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers)


def image_tokens(config: PreTrainedConfig, *, min_px: int, max_px: int) -> int:
    """Tokens of a 12-megapixel photo under load_vlm's bounds, by Qwen2-VL's own resizing; 0: the hub's bounds.

    Errors: ValueError for bounds that contradict each other, or that no token fits into.
    """
    side = config.vision_config.patch_size * config.vision_config.spatial_merge_size
    if 0 < max_px < (least := max(min_px, side)):
        raise ValueError(
            f"found {max_px}; expected {least} (MIN_PX, or the side of a token) or more, or 0 for no bound"
        )
    low, high = min_px or 56, max_px + 2 if max_px else 3584  # the room for rounding that load_vlm gives
    height, width = smart_resize(*PHOTO_PX, factor=side, min_pixels=low**2, max_pixels=high**2)
    return height * width // side**2


def layer_bytes(config: PreTrainedConfig) -> int:
    """Rough bytes that a transformer layer keeps a token for its backward pass, bfloat16 with sdpa: 28 D + 8 F.

    Counted with saved-tensor hooks on Qwen2.5-VL's layers with LoRA on every linear layer; a quarter less with LoRA on
    attention alone.
    """
    return 28 * config.hidden_size + 8 * config.intermediate_size


def activation_bytes(config: PreTrainedConfig, *, tokens: int, patches: int, checkpointing: bool = False) -> int:
    """Rough bytes kept for the backward pass of a batch with that many tokens (images' included) and patches.

    `layer_bytes` of every layer; with gradient checkpointing 2 D a token and layer, and one layer of each tower whole.
    """
    total = 0
    for tower, n in ((config.get_text_config(), tokens), (config.vision_config, patches)):
        kept = 2 * tower.hidden_size if checkpointing else layer_bytes(tower)
        total += n * (tower.num_hidden_layers * kept + checkpointing * layer_bytes(tower))
    return total


def kv_cache_bytes(config: PreTrainedConfig, *, tokens: int, batch: int = 1) -> int:
    """Bytes of keys and values: 2 x 2 bytes (16 bits) x layers x key-value heads x head width x T x B."""
    text = config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 4 * text.num_hidden_layers * text.num_key_value_heads * head_dim * tokens * batch


def training_memory(
    config: PreTrainedConfig, total: int, *, trained: int, resident: int, batch: int, image_tok: int
) -> dict[str, int]:
    """Bytes of training an adapter over a base of `total` weights, part by part; activations stand there both ways.

    The base in bfloat16; the `trained` weights in float32 with gradient and AdamW's two moments; the `resident` other
    adapters' weights in float32; of an answer's token 16 V of logits (bfloat16, float32, log-softmax, gradient).
    """
    load = {"tokens": batch * (IMAGES * image_tok + TEXT_TOK), "patches": 4 * batch * IMAGES * image_tok}
    logits = 16 * batch * ANSWER_TOK * config.get_text_config().vocab_size
    return {
        "weights": 2 * total,
        "adapters": 16 * trained + 4 * resident,
        "activations": logits + activation_bytes(config, **load),
        "checkpointed": logits + activation_bytes(config, **load, checkpointing=True),
    }


def serving_memory(config: PreTrainedConfig, total: int, *, expert: int) -> dict[str, float]:
    """Bytes in 16 bits that a server holds, and how many experts of `expert` weights fit beside trunk and cache."""
    cache = kv_cache_bytes(config, tokens=SERVE_TOK, batch=SERVE_BATCH)
    beside = max(0, int((SERVE_BYTES - 2 * total - cache) // (2 * expert)))
    return {"trunk": 2 * total, "cache": cache, "expert": 2 * expert, "experts beside": beside}
