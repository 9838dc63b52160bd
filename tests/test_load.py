import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    Gemma3Config,
    Gemma3ImageProcessor,
    Idefics3Config,
    Idefics3ImageProcessor,
    Qwen2VLImageProcessor,
)

from mtive_nb.model.load import _bound_images, load_vlm, max_px_of, part_of, target_modules
from mtive_nb.model.stack import AdapterSpec


def test_placements_hit_what_they_name_and_nothing_else(tiny):
    def hits(*entries, layers=None):
        return target_modules(tiny.model, list(entries), family="qwen2_5_vl", layers=layers)

    assert set(hits("vision.attention")) == {
        f"model.visual.blocks.{i}.attn.{p}" for i in (0, 1) for p in ("qkv", "proj")
    }
    assert set(hits("connector")) == {"model.visual.merger.mlp.0", "model.visual.merger.mlp.2"}
    assert len(hits("language.mlp", layers={"language": [1]})) == 3
    everything = {n for n, m in tiny.model.named_modules() if isinstance(m, nn.Linear)} - {"lm_head"}
    assert set(hits("vision", "connector", "language")) == everything


@pytest.mark.parametrize("entry", ["visoin", "vision.fnn"])
def test_a_misspelled_placement_is_named(tiny, entry):
    with pytest.raises(ValueError, match=entry.split(".")[-1]):
        target_modules(tiny.model, [entry], family="qwen2_5_vl")


def test_a_placement_that_hits_nothing_is_refused(tiny):
    with pytest.raises(ValueError, match="hits no linear layer"):
        target_modules(tiny.model, ["language"], family="qwen2_5_vl", layers={"language": [99]})


@pytest.mark.parametrize("config", [Idefics3Config(), Gemma3Config()], ids=["idefics3", "gemma3"])
def test_component_maps_of_other_families_on_the_meta_device(config):
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    for placement in ("vision.attention", "vision.mlp", "language.attention", "language.mlp"):
        found = target_modules(model, [placement], family=config.model_type)
        part = placement.split(".")[0]
        assert found and all(part_of(n, family=config.model_type) == part for n in found)
        attention = "attn" in found[0]
        assert attention == placement.endswith("attention")


def test_errors_of_loading_say_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder; expected 'pocket', a folder or a hub id"):
        load_vlm(str(tmp_path / "nothing"))


def test_unknown_dtype_is_refused(tiny_folder):
    with pytest.raises(ValueError, match="dtype: found 'bf61'"):
        load_vlm(str(tiny_folder), dtype="bf61")


def test_pixel_bounds_set_the_number_of_image_tokens(tiny_folder, photo_folder):
    from PIL import Image

    image = Image.open(photo_folder / "0.png").resize((600, 600))
    for side, tokens in ((56, 4), (112, 16)):
        vlm = load_vlm(str(tiny_folder), max_px=side, min_px=28, device="cpu")
        assert (
            vlm.processor.image_processor(images=[image], return_tensors="pt")["image_grid_thw"].prod() // 4 == tokens
        )


def test_a_bound_that_a_family_lacks_is_named_and_the_others_hold():
    def bound(images, **asked):
        processor = SimpleNamespace(image_processor=images)
        return _bound_images(processor, **{"min_px": None, "max_px": None} | asked), dict(images.size)

    with pytest.warns(UserWarning, match=r"gemma3: min_px=28, max_px=112: no such bound; its processor uses \{'height"):
        assert bound(Gemma3ImageProcessor(), family="gemma3", min_px=28, max_px=112)[0] == (None, 224)
    with pytest.warns(UserWarning, match="idefics3: min_px=28: no such bound"):
        found, size = bound(Idefics3ImageProcessor(), family="idefics3", min_px=28, max_px=112)
    assert found == (None, 112) and size == {"longest_edge": 112}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bound(Gemma3ImageProcessor(), family="gemma3", max_px=224)[0] == (None, 224)
        found, size = bound(Qwen2VLImageProcessor(), family="qwen2_5_vl", min_px=28, max_px=112)
        assert found == (28, 112) and size == {"shortest_edge": 28**2, "longest_edge": 114**2}
    assert max_px_of(size, family="qwen2_5_vl") == 112 and max_px_of({}, family="qwen2_5_vl") is None


def test_specs_are_hashable_by_value():
    assert AdapterSpec(8, 16, ("connector",)) == AdapterSpec(8, 16, ("connector",))
