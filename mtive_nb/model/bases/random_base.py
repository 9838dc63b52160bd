"""Write a checkpoint of a large model's shape with random weights: speed and memory do not depend on the weights.

For machines without a hub: `python -m mtive_nb.model.bases.random_base Qwen/Qwen2.5-VL-7B-Instruct outputs/base-7b` writes a
folder that loads like any other. Tokenizer, processor and chat format come from the pocket base, whose image patches
have the same size. A photo therefore has as many tokens as on the real model, but a question has different tokens.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig

from mtive_nb.model.load import POCKET_BASE
from mtive_nb.model.sizes import find_config


def write_random_base(config: PreTrainedConfig, folder: Path, *, seed: int = 0) -> Path:
    """Write a model of this configuration in bfloat16 with random weights, and the pocket base's processor.

    Errors: ValueError for a model family or patch size that the pocket base's processor does not support.
    """
    processor = AutoProcessor.from_pretrained(POCKET_BASE)
    own = (processor.image_processor.patch_size, processor.image_processor.merge_size)
    vision = getattr(config, "vision_config", None)
    patches = (getattr(vision, "patch_size", None), getattr(vision, "spatial_merge_size", None))
    if config.model_type != "qwen2_5_vl" or patches != own:
        found = f"{config.model_type} with patches of {patches[0]} px, merged by {patches[1]}"
        raise ValueError(f"config: found {found}; expected qwen2_5_vl with patches of {own[0]} px, merged by {own[1]}")
    ids = processor.tokenizer.convert_tokens_to_ids
    config.image_token_id, config.video_token_id = ids("<|image_pad|>"), ids("<|video_pad|>")
    config.vision_start_token_id, config.vision_end_token_id = ids("<|vision_start|>"), ids("<|vision_end|>")
    text = config.get_text_config()
    text.bos_token_id, text.eos_token_id, text.pad_token_id = None, ids("<|im_end|>"), ids("<|endoftext|>")
    torch.manual_seed(seed)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = text.eos_token_id, text.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("shape", help="hub id of the model whose configuration is used")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    config, source, _ = find_config(given.shape)
    print(f"{write_random_base(config, given.folder)}: {given.shape}, random weights; configuration from {source}")
