"""What does reading an answer's attention cost? Our kernel against eager attention that keeps all maps.

    python benchmarks/grounding.py [--lengths 512 1024 2048] [--rounds 9]

Model: a language model of Qwen2.5-VL's architecture, 8 layers, random weights (speed does not depend on them). Input:
batch 2, half of the tokens from an image, 64 answer tokens. Three methods run in turn, `rounds` times: eager attention
with `output_attentions`, as the documentation shows; our kernel; and a plain forward that reads no attention. Times are
medians over rounds. Extra memory is the peak of the first forward in a new process, minus the memory before it: in an
old process, freed memory would hide the peak. There, every larger tensor is a mapping of its own (MALLOC_MMAP_THRESHOLD_),
so that a freed one does not stay in the heap: with the heap the same forward's peak differs by a third from call to call.
"""

import argparse
import json
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from mtive_nb.evaluate.grounding.attention import reading_attention

BATCH, ANSWER = 2, 64


def build() -> Qwen2_5_VLForConditionalGeneration:
    text = {"vocab_size": 2048, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8,
            "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]}}  # fmt: skip
    vision = {"depth": 1, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": 512}
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)).eval()


def tokens(length: int) -> torch.Tensor:
    return torch.randint(10, 2000, (BATCH, length), generator=torch.Generator().manual_seed(length))


@torch.inference_mode()
def image_attention(model: torch.nn.Module, way: str, ids: torch.Tensor) -> torch.Tensor | None:
    """Return the attention on the image by layer, sample and answer token; None for the plain forward."""
    length = ids.shape[1]
    columns = torch.zeros(BATCH, 1, length)
    columns[..., 8 : 8 + length // 2] = 1
    rows = torch.arange(length - ANSWER, length).expand(BATCH, -1)
    given = {"input_ids": ids, "use_cache": False, "logits_to_keep": 1}
    if way == "eager":
        maps = model(**given, output_attentions=True).attentions
        return torch.stack([(m[:, :, rows[0]] @ columns[:, 0, :, None].unsqueeze(1)).mean((1, 3)) for m in maps])
    if way == "ours":
        with reading_attention(model, rows, columns, torch.ones_like(ids, dtype=torch.bool)) as reading:
            model(**given)
        return torch.stack(reading.layers)[..., 0]
    model(**given)
    return None


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def extra_memory(way: str, length: int) -> int:
    """Return the additional bytes that one forward needs in this process."""
    model = build()
    model.set_attn_implementation({"text_config": "eager" if way == "eager" else "sdpa"})
    image_attention(model, way, tokens(80))
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = _status("VmRSS")
    image_attention(model, way, tokens(length))
    return _status("VmHWM") - before


def alone(way: str, length: int) -> int:
    """Return `extra_memory`, measured in a new process."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**16)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(extra_memory, way, length).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    model, ways, apart = build(), ("eager", "ours", "plain"), 0.0
    for length in given.lengths:
        ids, seconds = tokens(length), {way: [] for way in ways}
        image_attention(model, "plain", ids)  # the first forward of a length is slower
        for k in range(given.rounds):
            found = {}
            for way in ways[k % 3 :] + ways[: k % 3]:
                model.set_attn_implementation({"text_config": "eager" if way == "eager" else "sdpa"})
                started = time.perf_counter()
                found[way] = image_attention(model, way, ids)
                seconds[way].append(time.perf_counter() - started)
            apart = max(apart, float((found["eager"] - found["ours"]).abs().max()))
        compared = (
            (f"speedup_{length}", seconds["eager"], seconds["ours"], "times as fast as eager", "higher"),
            (f"overhead_{length}", seconds["ours"], seconds["plain"], "times a plain forward", "lower"),
        )
        for metric, one, other, unit, better in compared:
            rounds = [round(a / b, 3) for a, b in zip(one, other, strict=True)]
            row = {"metric": metric, "value": statistics.median(rounds), "unit": unit, "better": better}
            print(json.dumps(row | {"rounds": rounds}), flush=True)
        held = {way: alone(way, length) for way in ways}
        row = {"metric": f"extra_memory_ratio_{length}", "value": round(held["eager"] / held["ours"], 2)}
        row |= {"unit": "times less extra memory than eager", "better": "higher"}
        print(json.dumps(row | {"MiB": {way: round(n / 2**20) for way, n in held.items()}}), flush=True)
        row = {"metric": f"peak_memory_{length}", "value": round(held["ours"] / held["plain"], 3)}
        print(json.dumps(row | {"unit": "times a plain forward's", "better": "lower"}), flush=True)
    row = {"metric": "max_difference", "value": apart, "unit": "share of attention on the image", "better": "lower"}
    print(json.dumps(row))


if __name__ == "__main__":
    main()
