"""Loading a vision-language model, wherever it lies, and knowing its parts.

A `Vlm` is a transformers model with its processor and the map of its three parts: vision tower, connector, language.
Placements name what of them an adapter goes to: "vision.attention", "connector", "language.mlp", ...
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedModel,
    ProcessorMixin,
)

POCKET_BASE = Path(__file__).parent / "pocket_base"  # shipped; notebook 00 makes it
PARTS = ("vision", "connector", "language")
WRAPPER = "base_model.model."  # PEFT's prefix before the paths of the base's own modules
_LLAMA = {"attention": r"self_attn\.(q|k|v|o)_proj", "mlp": r"mlp\.(gate|up|down)_proj"}
# part -> (path of the part, path of one layer, linear layers by kind); regular expressions over full module paths
FAMILIES: dict[str, dict[str, tuple[str, str, dict[str, str]]]] = {
    "qwen2_5_vl": {
        "vision": (r"model\.visual\.(?!merger)", r"blocks\.{layer}\.", {"attention": r"attn\.(qkv|proj)", "mlp": r"mlp\.(gate|up|down)_proj"}),
        "connector": (r"model\.visual\.merger\.", "", {"all": r"mlp\.(0|2)"}),
        "language": (r"model\.language_model\.", r"layers\.{layer}\.", _LLAMA),
    },
    "idefics3": {
        "vision": (r"model\.vision_model\.", r"encoder\.layers\.{layer}\.", {"attention": r"self_attn\.(q_proj|k_proj|v_proj|out_proj)", "mlp": r"mlp\.fc(1|2)"}),
        "connector": (r"model\.connector\.", "", {"all": r"modality_projection\.proj"}),
        "language": (r"model\.text_model\.", r"layers\.{layer}\.", _LLAMA),
    },
    "gemma3": {
        "vision": (r"model\.vision_tower\.", r"(vision_model\.)?encoder\.layers\.{layer}\.", {"attention": r"self_attn\.(q_proj|k_proj|v_proj|out_proj)", "mlp": r"mlp\.fc(1|2)"}),
        "connector": (r"model\.multi_modal_projector\.", "", {}),  # a bare parameter: LoRA has no layer to go to
        "language": (r"model\.language_model\.", r"layers\.{layer}\.", _LLAMA),
    },
}  # fmt: skip


@dataclass
class Vlm:
    """A model and its processor; `name` is what it was loaded by.

    `min_px` and `max_px` bound a photo's area, as load_vlm explains; None keeps the processor's own bound. `quantized` names the format of its linear layers' weights ("nf4") where that is not the checkpoint's own; `base` is
    then the fingerprint of the checkpoint, over which its adapters were trained.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    name: str
    min_px: int | None = None
    max_px: int | None = None
    quantized: str = ""
    base: str = ""

    @property
    def family(self) -> str:
        return self.model.config.model_type

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def settings(self) -> dict[str, str | int | None]:
        """What load_vlm needs to load the same model again: its name, pixel bounds and attention kernel."""
        kernel = self.model.config._attn_implementation
        return {"name": self.name, "min_px": self.min_px, "max_px": self.max_px, "attention": kernel}


def load_vlm(name: str = "pocket", *, attention: str = "sdpa", dtype: str = "auto", max_px: int | None = None,
             min_px: int | None = None, device: str | None = None, quantize: str = "") -> Vlm:  # fmt: skip
    """Load "pocket", a local folder or a hub id.

    `dtype` "auto" means bfloat16 where the device computes in it and float32 on a CPU (which emulates it);
    `min_px` and `max_px` bound an image's area: pixels a side of the square of that area, 0 or None for the
    processor's own bound (Idefics3: `max_px` is the
    longest side before it splits; Gemma3 has one size of its own). `quantize` "nf4" keeps linear
    layers in 4 bits (bitsandbytes), all but the head; the whole checkpoint is read once more to know whose weights they are.
    """
    source = str(POCKET_BASE) if name == "pocket" else os.path.expanduser(name)
    if name == "pocket" and not (POCKET_BASE / "config.json").is_file():
        raise FileNotFoundError(f"the pocket base is not in {POCKET_BASE}; notebook 00 makes it")
    if source.startswith((".", "/")) and not Path(source).is_dir():
        raise FileNotFoundError(f"model: found {name!r}, which is no folder; expected 'pocket', a folder or a hub id")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind = {"auto": torch.float32 if device == "cpu" else torch.bfloat16}.get(dtype) or getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise ValueError(f"dtype: found {dtype!r}, expected 'auto', 'bfloat16', 'float16' or 'float32'")
    if quantize not in ("", "nf4"):
        raise ValueError(f"quantize: found {quantize!r}, expected '' or 'nf4'")
    family = AutoConfig.from_pretrained(source).model_type
    if family not in FAMILIES:
        raise ValueError(f"{name}: model type {family!r} has no component map; known: {sorted(FAMILIES)}")
    processor = AutoProcessor.from_pretrained(source)
    min_px, max_px = min_px or None, max_px or None
    _bound_images(processor, family=family, min_px=min_px, max_px=max_px)
    processor.tokenizer.padding_side = "left"
    how = {"dtype": kind, "attn_implementation": attention} | (_four_bits(kind, device) if quantize else {})
    model = AutoModelForImageTextToText.from_pretrained(source, **how)
    if not quantize:
        return Vlm(model.to(device).eval().requires_grad_(False), processor, name, min_px, max_px)
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):  # its repacked weights would cut a later training's gradients
            layer.support_avx512bf16_for_cpu = False
    base = base_fingerprint(AutoModelForImageTextToText.from_pretrained(source, dtype=kind))
    return Vlm(model.eval().requires_grad_(False), processor, name, min_px, max_px, quantize, base)


def _bound_images(processor: ProcessorMixin, *, family: str, min_px: int | None, max_px: int | None) -> None:
    """Tell the image processor its bounds in the words of its family."""
    bounds = {}
    if family == "qwen2_5_vl":
        # two pixels of room: at the exact square, rounding errors of the resize would floor a side to 28 px less
        bounds |= {"longest_edge": (max_px + 2) ** 2} if max_px else {}
        bounds |= {"shortest_edge": min_px**2} if min_px else {}
    elif family == "idefics3" and max_px:
        bounds = {"longest_edge": max_px}
    size = processor.image_processor.size
    processor.image_processor.size = type(size)(**{**dict(size), **bounds}) if bounds else size


def _four_bits(compute: torch.dtype, device: str) -> dict:
    """What from_pretrained needs to keep linear layers in 4 bits and compute in `compute`."""
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
    return {"quantization_config": config, "device_map": {"": device}}


def target_modules(model: nn.Module, placement: list[str], *, family: str, layers: dict[str, list[int]] | None = None) -> list[str]:  # fmt: skip
    """Full paths of the linear layers that a placement names; every entry must hit at least one.

    An entry is "part" (all linear layers in it) or "part.kind" with kind attention or mlp. `layers` limits a part to
    some of its layers, counted from 0.
    """
    names = (n for n, m in model.named_modules() if isinstance(m, nn.Linear))
    linear = [n.removesuffix(".base_layer") for n in names if ".lora_" not in n]  # adapters may stand there already
    found: list[str] = []
    for entry in placement:
        part, _, kind = entry.partition(".")
        if part not in PARTS:
            raise ValueError(
                f"placement: found {entry!r}, expected one of {PARTS}, or with .attention or .mlp behind it"
            )
        start, layer, kinds = FAMILIES[family][part]
        if kind and kind not in kinds:
            raise ValueError(f"placement: {part} of {family} has no {kind!r}; it has {sorted(kinds)}")
        chosen = [kinds[kind]] if kind else list(kinds.values())
        wanted = (layers or {}).get(part)
        number = r"\d+" if wanted is None else "(" + "|".join(map(str, wanted)) + ")"
        pattern = re.compile(start + layer.replace("{layer}", number) + "(" + "|".join(chosen) + ")")
        hits = [n for n in linear if chosen and pattern.fullmatch(n)]
        if not hits:
            raise ValueError(f"placement: {entry!r} (layers {wanted}) hits no linear layer of this {family} model")
        found += hits
    return list(dict.fromkeys(found))


def part_of(module_path: str, *, family: str) -> str:
    """Which part a module or parameter belongs to; wrappers' prefixes are ignored."""
    for part, (start, _layer, _kinds) in FAMILIES[family].items():
        if re.search(start, module_path):
            return part
    return "language"  # lm_head and embeddings


def base_fingerprint(model: nn.Module, *, entries: int = 256) -> str:
    """Hash of the names, shapes and first `entries` values of every weight of the bare model: the base's identity."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        name = name.removeprefix(WRAPPER).replace(".base_layer", "")
        if "lora_" in name:
            continue
        values = weight.detach().flatten()[:entries].to("cpu", torch.float32)
        digest.update(f"{name}{tuple(weight.shape)}".encode() + values.numpy().tobytes())
    return digest.hexdigest()[:16]
