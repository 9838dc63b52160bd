"""Load a vision-language model (pocket base, folder or hub id) and map its parts.

A `Vlm` is a transformers model with its processor. The model has three parts: vision tower, connector, language; a text
model (text.py) has language alone. A placement names the layers that an adapter targets: "vision.attention", "connector",
"language.mlp", "language.head", ...
"""

import copy
import hashlib
import os
import re
import warnings
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from mtive_nb.model.four_bits import four_bit_options, restore_block_by_block
from mtive_nb.model.kept import KeptPhotos
from mtive_nb.model.text import TEXT_FAMILIES, TextProcessor, language_part, load_text_processor

POCKET_BASE = Path(__file__).parent / "pocket_base"  # shipped; notebook 00 makes it
POCKET_TEXT = "pocket-text"  # its language part alone
# Models that ship, by name. The reader is that language part after the exercises of pocket/reading.py.
SHIPPED = {"pocket": POCKET_BASE, "pocket-reader": Path(__file__).parent / "pocket_reader"}
MAKERS = {"pocket": "notebook 00", "pocket-reader": "python -m mtive_nb.pocket.reading FOLDER"}
# Of Qwen's upper bound: at the exact square, a rounding error in the resize would shorten a side by 28 px.
MARGIN_PX = 2
PARTS = ("vision", "connector", "language")
HEAD = "language.head"
MIXTURE = "lora_mixture"  # the model's child while a mixture is on; PEFT would save what lies inside its layers
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
        "connector": (r"model\.multi_modal_projector\.", "", {}),  # a bare parameter, not a linear layer: no LoRA
        "language": (r"model\.language_model\.", r"layers\.{layer}\.", _LLAMA),
    },
    **TEXT_FAMILIES,
}  # fmt: skip


@dataclass
class Vlm:
    """A model and its processor; `name` is the name passed to load_vlm.

    `min_px` and `max_px` bound a photo's area, as load_vlm explains; None keeps the processor's own bound. `quantized`
    names the format of the linear layers' weights ("nf4") where it differs from the checkpoint's format. `base` is then
    the fingerprint of the unquantized checkpoint, over which adapters were trained. `kept` holds what the frozen vision
    tower made of photos.
    """

    model: PreTrainedModel
    processor: ProcessorMixin | TextProcessor
    name: str
    min_px: int | None = None
    max_px: int | None = None
    quantized: str = ""
    base: str = ""
    kept: KeptPhotos = field(default_factory=KeptPhotos, compare=False, repr=False)

    @property
    def family(self) -> str:
        return self.model.config.model_type

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def settings(self) -> dict[str, str | int | None]:
        """Arguments with which load_vlm loads the same model again: name, pixel bounds, attention kernel, format."""
        kernel = self.model.config._attn_implementation
        found = {"name": self.name, "min_px": self.min_px, "max_px": self.max_px, "attention": kernel}
        return found | ({"quantize": self.quantized} if self.quantized else {})


def load_vlm(name: str = "pocket", *, attention: str = "sdpa", dtype: str = "auto", max_px: int | None = None,
             min_px: int | None = None, device: str | None = None, quantize: str = "") -> Vlm:  # fmt: skip
    """Load "pocket", "pocket-text", "pocket-reader", a local folder or a hub id as a frozen model in evaluation mode.

    `dtype` "auto" means float32 on a CPU, which only emulates bfloat16, and bfloat16 on other devices. `min_px` and
    `max_px` bound an image's area, as the side in pixels of a square of that area; 0 or None keeps the processor's
    bound. Idefics3: `max_px` is the longest side before splitting, and there is no `min_px`. Other families have a fixed
    size; a bound that is not there is named in a warning. `quantize` "nf4" keeps all linear layers except the head in 4
    bits (bitsandbytes) and reads the checkpoint a second time for its fingerprint.
    Errors: FileNotFoundError for a missing model, ValueError for an unknown dtype, quantization or model family.
    """
    if name == POCKET_TEXT:
        whole = load_vlm("pocket", attention=attention, dtype=dtype, device=device, quantize=quantize)
        text = text_model_of(whole, name=name)
        _bound_images(text.processor, family=text.family, min_px=min_px or None, max_px=max_px or None)
        return text
    source = str(SHIPPED.get(name, os.path.expanduser(name)))
    if name in SHIPPED and not (SHIPPED[name] / "config.json").is_file():
        raise FileNotFoundError(f"{name} is not in {SHIPPED[name]}; {MAKERS[name]} makes it")
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
    processor = (load_text_processor if family in TEXT_FAMILIES else AutoProcessor.from_pretrained)(source)
    min_px, max_px = _bound_images(processor, family=family, min_px=min_px or None, max_px=max_px or None)
    processor.tokenizer.padding_side = "left"
    how = {"dtype": kind, "attn_implementation": attention} | (four_bit_options(kind, device) if quantize else {})
    model = model_class(family).from_pretrained(source, **how)
    model.generation_config = _greedy(model.generation_config, pad=processor.tokenizer.pad_token_id)
    if not quantize:
        return Vlm(model.to(device).eval().requires_grad_(False), processor, name, min_px, max_px)
    restore_block_by_block()
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):  # repacked weights would cut the gradients of later training
            layer.support_avx512bf16_for_cpu = False
    base = base_fingerprint(model_class(family).from_pretrained(source, dtype=kind))
    return Vlm(model.eval().requires_grad_(False), processor, name, min_px, max_px, quantize, base)


def _greedy(own: GenerationConfig, *, pad: int) -> GenerationConfig:
    """Return a checkpoint's ends without its sampling: a hub model's repetition penalty would change greedy answers."""
    ids = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if ids["pad_token_id"] is None:  # else `generate` warns at each batch
        ids["pad_token_id"] = pad
    return GenerationConfig(do_sample=False, **ids)


def model_class(family: str) -> type:
    """Return transformers' class that loads a model of this family."""
    return AutoModelForCausalLM if family in TEXT_FAMILIES else AutoModelForImageTextToText


def text_model_of(vlm: Vlm, *, name: str = "") -> Vlm:
    """Return a Qwen2.5-VL's language part as a text model (Qwen2ForCausalLM) with a copy of its weights.

    For texts without photos, its logits equal those of `vlm`. Errors: ValueError as in text.language_part, and for 4-bit
    weights.
    """
    if vlm.quantized:
        raise ValueError(f"{vlm.name} is in {vlm.quantized}: to take its language part, load it without quantize")
    tokenizer = copy.deepcopy(vlm.processor.tokenizer)
    tokenizer.chat_template = vlm.processor.chat_template
    return Vlm(language_part(vlm.model), TextProcessor(tokenizer), name or f"{vlm.name} without photos")


def _bound_images(processor: ProcessorMixin, *, family: str, min_px: int | None, max_px: int | None) -> tuple[int | None, int | None]:  # fmt: skip
    """Set the pixel bounds in the image processor's size, whose keys differ by model family; return those in force.

    A bound that the family's processor does not have is left out with a warning.
    """
    images, bounds, asked = processor.image_processor, {}, (min_px, max_px)
    if family == "qwen2_5_vl":
        bounds |= {"longest_edge": (max_px + MARGIN_PX) ** 2} if max_px else {}
        bounds |= {"shortest_edge": min_px**2} if min_px else {}
    elif family == "idefics3":
        min_px, bounds = None, {"longest_edge": max_px} if max_px else {}
    elif family in TEXT_FAMILIES:
        min_px = max_px = None
    else:
        min_px, max_px = None, max_px_of(images.size, family=family)
    named = zip(("min_px", "max_px"), asked, (min_px, max_px), strict=True)
    if lost := [f"{name}={found}" for name, found, used in named if found not in (None, used)]:
        uses = f"its processor uses {dict(images.size)}" if images else "it reads text alone"
        warnings.warn(f"{family}: {', '.join(lost)}: no such bound; {uses}", stacklevel=3)
    if bounds:
        images.size = type(images.size)(**{**dict(images.size), **bounds})
    return min_px, max_px


def max_px_of(size: Mapping[str, int], *, family: str) -> int | None:
    """Return load_vlm's `max_px` from the `size` of an image processor; None if it has no upper bound."""
    longest = size.get("longest_edge") or max(size.get("height") or 0, size.get("width") or 0)
    if not longest:
        return None
    return int(longest**0.5) - MARGIN_PX if family == "qwen2_5_vl" else longest


def target_modules(model: nn.Module, placement: list[str], *, family: str, layers: dict[str, list[int]] | None = None) -> list[str]:  # fmt: skip
    """Return the full paths of the linear layers that a placement names.

    An entry is "part" (all its linear layers), "part.kind" with kind attention or mlp, or "language.head", the layer that
    predicts tokens, which "language" leaves out. `layers` limits a part to some layers, counted from 0.
    Errors: ValueError for an unknown part or kind, an entry that matches no layer, or a head tied to the embeddings.
    """
    names = (n for n, m in model.named_modules() if isinstance(m, nn.Linear))
    linear = [n.removesuffix(".base_layer") for n in names if ".lora_" not in n]  # PEFT may already wrap the layer
    found: list[str] = []
    for entry in placement:
        part, _, kind = entry.partition(".")
        if part not in PARTS:
            raise ValueError(
                f"placement: found {entry!r}, expected one of {PARTS}, optionally followed by .attention or .mlp"
            )
        if part not in FAMILIES[family]:
            raise ValueError(f"placement: found {entry!r}, but {family} reads text alone: it has no {part}")
        if entry == HEAD:
            found.append(_untied_head(model, family=family))
            continue
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


def _untied_head(model: nn.Module, *, family: str) -> str:
    """Return the path of the layer that predicts tokens. LoRA on tied weights would be merged into the embeddings, too.

    Errors: ValueError for tied weights.
    """
    head = model.get_output_embeddings()
    if getattr(head, "base_layer", head).weight is model.get_input_embeddings().weight:
        raise ValueError(f"placement: {HEAD!r}: this {family} model's head shares its weights with the embeddings")
    return next(name for name, module in model.named_modules() if module is head)


def part_of(module_path: str, *, family: str) -> str:
    """Return the part of a module or parameter: vision, connector or language; ignores wrappers' prefixes."""
    for part, (start, _layer, _kinds) in FAMILIES[family].items():
        if re.search(start, module_path):
            return part
    return "language"  # lm_head and embeddings


def base_fingerprint(model: nn.Module) -> str:
    """Hash the names, shapes and all values of the bare model's weights: the base's identity.

    It is taken from the weights in memory, so a change after loading counts as well as one in the file; a hash kept by
    the file's time and size would miss the first. Values that bfloat16 holds exactly are hashed as bfloat16: a checkpoint
    in it is the same base when it is loaded as float32.
    """

    def hashed(item: tuple[str, torch.Tensor]) -> bytes:
        values = item[1].detach()
        if values.is_floating_point() and values.dtype != torch.bfloat16:
            short, values = values.to(torch.bfloat16), values.to(torch.float32)
            values = short if torch.equal(short.to(torch.float32), values) else values
        content = hashlib.sha256(f"{item[0]}{tuple(values.shape)}".encode())
        content.update(values.cpu().contiguous().flatten().view(torch.uint8).numpy())
        return content.digest()

    weights = {
        n.removeprefix(WRAPPER).replace(".base_layer", ""): w for n, w in model.state_dict().items() if "lora_" not in n
    }
    with ThreadPoolExecutor(4) as pool:  # hashlib runs outside Python's lock
        digests = pool.map(hashed, sorted(weights.items()))
    return hashlib.sha256(b"".join(digests)).hexdigest()[:16]


def _bytes_of(weight: torch.Tensor) -> bytes:
    return weight.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()


def answering_fingerprint(vlm: Vlm, adapters: Collection[str] | None = None, *, base: str = "") -> str:
    """Hash all that decides a model's answers, for keys of caches.

    It covers the base (base_fingerprint), pixel bounds, number formats, attention kernel, and every weight of these
    adapters in the model (default: the active ones), saved or not, and of a mixture that is on. base: base_fingerprint(vlm.model), where it is known.
    """
    about = {k: v for k, v in vlm.settings.items() if k != "name"}
    about |= {"dtype": str(vlm.model.dtype), "quantized": vlm.quantized}
    about |= {"base": base or base_fingerprint(vlm.model)}
    digest = hashlib.sha256(repr(about).encode())
    for path, layer in sorted(vlm.model.named_modules()):
        if isinstance(layer, LoraLayer):
            live = () if layer.disable_adapters else layer.active_adapters
            for name in live if adapters is None else adapters:
                digest.update(f"{path} {name} {layer.scaling.get(name)}".encode())
                for part, weight in layer.named_parameters():
                    if part.startswith("lora_") and name in part.split("."):
                        digest.update(_bytes_of(weight))
        elif MIXTURE in path.split(".") and hasattr(layer, "top_k"):  # RoutedLora of mixture.py
            digest.update(f"{path} {layer.scale} {layer.top_k}".encode())
            for weight in layer.parameters():
                digest.update(_bytes_of(weight))
    return digest.hexdigest()[:16]
