"""Inputs of the speed benchmarks: noise photos and adapters with random weights; speed does not depend on either."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mtive_nb.data.records import make_record
from mtive_nb.model.stack import LoraStack


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


def randomise(stack: LoraStack, name: str, *, spread: float) -> None:
    """Give an adapter an effect: fill its B matrices, initially zero, with normal noise of deviation `spread`."""
    with torch.no_grad():
        for parameter, weight in stack.adapter_weights(name).items():
            if "lora_B" in parameter:
                weight.normal_(0, spread)
