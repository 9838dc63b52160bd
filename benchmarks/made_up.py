"""Inputs of the speed benchmarks: noise photos and adapters with random weights; speed does not depend on either."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mtive_nb.data.records import make_record
from mtive_nb.model.load import Vlm, load_vlm
from mtive_nb.model.stack import LoraStack
from mtive_nb.pocket.base import build_config, build_model


def noise_records(home: Path, turns: list[tuple[str, str]], *, side_px: int) -> list[dict]:
    """Return one record per turn (question, answer), each with its own square photo, written to `home`."""
    rng, records = np.random.default_rng(0), []
    for k, (question, answer) in enumerate(turns):
        path = home / f"{k}.png"
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        small.resize((side_px, side_px), Image.Resampling.BICUBIC).save(path)
        given = {"product_id": f"p{k}", "task": "AE", "variant": "gen", "source": "bench", "split": "test"}
        records.append(make_record(f"r{k}", images=[path], question=question, answer=answer, **given))
    return records


def tiny_vlm() -> Vlm:
    """Return the pocket base's architecture with two layers of width 64, random weights and photos of 56 x 56 pixels."""
    base = load_vlm("pocket", max_px=56)
    torch.manual_seed(0)
    model = build_model(build_config(base.processor.tokenizer, vision=(2, 64), language=(2, 64)))
    with torch.no_grad():
        for weight in model.parameters():  # wide enough that logits differ clearly
            if weight.ndim > 1:
                weight.normal_(0, 0.06)
    return Vlm(model.eval(), base.processor, "tiny", base.min_px, base.max_px)


def randomise(stack: LoraStack, name: str, *, spread: float) -> None:
    """Give an adapter an effect: fill its B matrices, initially zero, with normal noise of deviation `spread`."""
    with torch.no_grad():
        for parameter, weight in stack.adapter_weights(name).items():
            if "lora_B" in parameter:
                weight.normal_(0, spread)
