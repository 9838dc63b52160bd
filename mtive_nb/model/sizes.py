"""Sizes of a model and its adapters, counted on the meta device before any weight is read.

Letters: B batch, D width, F width of the MLP, R rank, T tokens, P patches.
"""

import json
from functools import lru_cache
from math import ceil
from pathlib import Path

import httpx
import torch
from huggingface_hub import constants, try_to_load_from_cache
from torch import nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from mtive_nb.model.load import FAMILIES, PARTS, POCKET_TEXT, SHIPPED, model_class, part_of, target_modules
from mtive_nb.model.text import text_config_of

KNOWN_CONFIGS = Path(__file__).parent / "known_configs.json"  # sizes as published in each hub id's config.json
PHOTO_PX = (3000, 4000)  # height and width of a phone's photo
IMAGES, TEXT_TOK, ANSWER_TOK = 2, 256, 64  # assumed record: PM has two photos; the text includes the answer
SERVE_TOK, SERVE_BATCH, SERVE_BYTES = 2048, 16, 0.9 * 24e9  # assumed server: a 24 GB card, a tenth kept free


@lru_cache
def hub_answers() -> bool:
    """Return whether the hub responds, after one try of five seconds; the hub's client retries for half a minute."""
    try:
        return not constants.HF_HUB_OFFLINE and bool(httpx.head(constants.ENDPOINT, timeout=5))
    except httpx.HTTPError:
        return False


def _cached(name: str, file: str) -> str | None:
    path = try_to_load_from_cache(name, file)
    return path if isinstance(path, str) else None  # else a marker that the hub has no such file


def find_config(name: str, *, home: Path = Path()) -> tuple[PreTrainedConfig, str, bool]:
    """Return a model's configuration, where it came from, and whether the weights are on this machine.

    `name`: "pocket", "pocket-text", "pocket-reader", a folder (below `home`) or a hub id. Errors: FileNotFoundError where no
    configuration is found; OSError and ValueError as transformers raises them.
    """
    if name == POCKET_TEXT:
        config, source, here = find_config("pocket")
        return text_config_of(config), f"{source}, its language part", here
    folder = SHIPPED.get(name, home / Path(name).expanduser())
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
            f"hub id (without the hub, sizes are known of {', '.join(known)})"
        )
    return AutoConfig.for_model(**known[name]), f"the package's {KNOWN_CONFIGS.name}; the hub does not answer", here


def meta_model(config: PreTrainedConfig) -> nn.Module:
    """Return the whole model without weight storage. Errors: ValueError for a family without a component map."""
    if config.model_type not in FAMILIES:
        raise ValueError(f"found model type {config.model_type!r}, expected one of {', '.join(FAMILIES)}")
    with torch.device("meta"):
        return model_class(config.model_type).from_config(config)


def part_parameters(model: nn.Module) -> dict[str, int]:
    """Count the weights of vision, connector and language; tied weights count once, embeddings and head as language."""
    counts = dict.fromkeys(PARTS, 0)
    for name, weight in model.named_parameters():
        counts[part_of(name, family=model.config.model_type)] += weight.numel()
    return counts


def placement_modules(model: nn.Module, placement: list[str]) -> dict[str, list[str]]:
    """Return the linear layers of each placement entry.

    Errors: ValueError for an entry that matches no layer, or a layer of another part.
    """
    family = model.config.model_type
    if not placement:
        raise ValueError(f"placement: found none, expected one or more of {', '.join(PARTS)}")
    found = {entry: target_modules(model, [entry], family=family) for entry in placement}
    for entry, names in found.items():
        for name in names:
            if (part := part_of(name, family=family)) != entry.partition(".")[0]:
                raise ValueError(f"placement: found {entry!r}, which matches {name}, a layer of {part}")
    return found


def adapter_parameters(model: nn.Module, placement: list[str], *, rank: int) -> int:
    """Count the weights of a LoRA adapter, R (in + out) per layer: A is (R, in), B is (out, R).

    `model` may be loaded or on the meta device. Errors: ValueError for a placement that matches no layer, or a rank
    below 1.
    """
    if rank < 1:
        raise ValueError(f"rank: found {rank}, expected 1 or more")
    names = target_modules(model, placement, family=model.config.model_type)
    layers = [model.get_submodule(name) for name in names]
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers)


def image_tokens(config: PreTrainedConfig, *, min_px: int = 0, max_px: int = 0) -> int:
    """Count the tokens of a 12-megapixel photo under load_vlm's pixel bounds; 0 for a model of text alone.

    A bound of 0 means the hub's bound. Gemma 3 has 256 for any photo. Errors: ValueError for contradictory bounds of
    Qwen, or `max_px` below a token's side.
    """
    if not hasattr(config, "vision_config"):
        return 0
    if config.model_type == "idefics3":
        return _tiled_tokens(config, max_px=max_px)
    if config.model_type != "qwen2_5_vl":
        return config.mm_tokens_per_image
    side = config.vision_config.patch_size * config.vision_config.spatial_merge_size
    if 0 < max_px < (least := max(min_px, side)):
        raise ValueError(
            f"found {max_px}; expected {least} (MIN_PX, or the side of a token) or more, or 0 for no bound"
        )
    low, high = min_px or 56, max_px + 2 if max_px else 3584  # load_vlm's 2 px margin for rounding
    height, width = smart_resize(*PHOTO_PX, factor=side, min_pixels=low**2, max_pixels=high**2)  # Qwen2-VL's own
    return height * width // side**2


def _tiled_tokens(config: PreTrainedConfig, *, max_px: int) -> int:
    """Count the tokens of a 12-megapixel photo in Idefics3: tiles of one size, and the whole beside several.

    max_px: the photo's longest side before it is cut; 0 is four tiles, as in the hub's processors.
    """
    tile_px, vision = config.vision_config.image_size, config.vision_config
    wide = ceil((max_px or 4 * tile_px) / tile_px)
    tiles = wide * ceil(wide * min(PHOTO_PX) / max(PHOTO_PX))  # the processor enlarges the width first
    return (tiles + (tiles > 1)) * (tile_px // vision.patch_size) ** 2 // config.scale_factor**2


def patches_a_token(config: PreTrainedConfig) -> int:
    """Count the patches behind an image token: four in Qwen, those of a whole image or tile over its tokens elsewhere."""
    if config.model_type == "idefics3":
        return config.scale_factor**2
    tokens = getattr(config, "mm_tokens_per_image", 0)
    return (config.vision_config.image_size // config.vision_config.patch_size) ** 2 // tokens if tokens else 4


def layer_bytes(config: PreTrainedConfig) -> int:
    """Estimate the bytes per token that a transformer layer keeps for its backward pass: 28 D + 8 F.

    Holds for bfloat16 with sdpa. Counted with saved-tensor hooks on Qwen2.5-VL's layers, with LoRA on every linear
    layer; LoRA on attention alone keeps a quarter less.
    """
    return 28 * config.hidden_size + 8 * config.intermediate_size


def activation_bytes(config: PreTrainedConfig, *, tokens: int, patches: int, checkpointing: bool = False) -> int:
    """Estimate the bytes kept for the backward pass of a batch; `tokens` includes image tokens.

    `layer_bytes` for every layer. With gradient checkpointing: 2 D per token and layer, plus one full layer per tower.
    """
    total = 0
    towers = [(config.get_text_config(), tokens)]
    if hasattr(config, "vision_config"):
        towers.append((config.vision_config, patches))
    for tower, n in towers:
        kept = 2 * tower.hidden_size if checkpointing else layer_bytes(tower)
        total += n * (tower.num_hidden_layers * kept + checkpointing * layer_bytes(tower))
    return total


def kv_cache_bytes(config: PreTrainedConfig, *, tokens: int, batch: int = 1) -> int:
    """Count the bytes of keys and values: 2 x 2 bytes (16 bits) x layers x key-value heads x head width x T x B."""
    text = config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 4 * text.num_hidden_layers * text.num_key_value_heads * head_dim * tokens * batch


def weight_bytes(model: nn.Module, *, quantize: str = "") -> float:
    """Return the bytes of a model's weights in bfloat16; "nf4" keeps all linear layers except the head in 4.5 bits."""
    total = sum(weight.numel() for weight in model.parameters())
    if not quantize:
        return 2 * total
    head = model.get_output_embeddings()
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear) and m is not head)
    return 2 * (total - linear) + 4.5 / 8 * linear  # 4 bits, and a float32 scale for 64 weights


def training_memory(
    config: PreTrainedConfig, weights: float, *, trained: int, resident: int, batch: int, image_tok: int
) -> dict[str, float]:
    """Return the bytes of each component when training an adapter over a base of `weights` bytes.

    The `trained` weights: float32 with gradient and AdamW's two moments. The `resident` weights of
    other adapters: float32. Logits: 16 V per answer token (bfloat16, float32, log-softmax, gradient). Activations are
    listed without checkpointing ("activations") and with it ("checkpointed").
    """
    load = {
        "tokens": batch * (IMAGES * image_tok + TEXT_TOK),
        "patches": patches_a_token(config) * batch * IMAGES * image_tok,
    }
    logits = 16 * batch * ANSWER_TOK * config.get_text_config().vocab_size
    return {
        "weights": weights,
        "adapters": 16 * trained + 4 * resident,
        "activations": logits + activation_bytes(config, **load),
        "checkpointed": logits + activation_bytes(config, **load, checkpointing=True),
    }


def serving_memory(config: PreTrainedConfig, total: int, *, expert: int) -> dict[str, float]:
    """Return a server's memory in bytes (16-bit weights), and how many experts fit beside trunk and cache.

    `expert`: number of weights of one expert.
    """
    cache = kv_cache_bytes(config, tokens=SERVE_TOK, batch=SERVE_BATCH)
    beside = max(0, int((SERVE_BYTES - 2 * total - cache) // (2 * expert)))
    return {"trunk": 2 * total, "cache": cache, "expert": 2 * expert, "experts beside": beside}
