"""What does a batch that mixes experts cost, compared with the alternatives of a user?

    python benchmarks/mixed_batch.py [--batch 32] [--experts 8] [--tokens 16] [--rounds 5]

The pocket base has a trunk and experts with random weights (speed does not depend on them). They adapt the language
model only, the limit of PEFT's `adapter_names`. One batch of questions, with a photo each, is answered with a fixed
number of tokens; its rows are distributed over the experts. Measured in turn:
- ours: `mixed_experts` over a trunk that is folded into the base's weights, as in the engine;
- PEFT's `adapter_names` over the merged trunk;
- one expert after another: PEFT's `set_adapter` over the merged trunk, each with its own rows;
- one expert for all rows, and none at all.
Results are medians over rounds of the time ratio within a round; ours and `adapter_names` must give the same answers.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from made_up import noise_records, randomise
from peft import PeftModel

from mtive_nb.evaluate.latency import times_in_turn
from mtive_nb.model.batches import batch_of
from mtive_nb.model.load import load_vlm
from mtive_nb.model.mixed import mixed_experts
from mtive_nb.model.stack import AdapterSpec, LoraStack

SPEC, SIDE_PX = AdapterSpec(16, 16.0, ("language",)), 140


def make_stack(experts: int) -> LoraStack:
    """Return the pocket base with a trunk IT and experts E0, E1, ... on it, all with an effect."""
    torch.manual_seed(0)
    stack = LoraStack(load_vlm("pocket", max_px=SIDE_PX))
    stack.add("IT", SPEC)
    for k in range(experts):
        stack.add(f"E{k}", SPEC, parent="IT")
    for name in stack.specs:
        randomise(stack, name, spread=0.05)
    return stack


def make_questions(home: Path, stack: LoraStack, batch: int) -> dict[str, torch.Tensor]:
    """Return a processor batch of questions, all of one length."""
    records = noise_records(home, [("Which colour is it?", "x")] * batch, side_px=SIDE_PX)
    return batch_of(stack.vlm, records)


def rows_of(inputs: dict[str, torch.Tensor], rows: list[int]) -> dict[str, torch.Tensor]:
    """Return some rows of a batch in which every row has one image, all of one size."""
    patches = len(inputs["pixel_values"]) // len(inputs["input_ids"])
    some = {name: value[rows] for name, value in inputs.items() if name != "pixel_values"}
    return some | {"pixel_values": inputs["pixel_values"].unflatten(0, (-1, patches))[rows].flatten(0, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    stack = make_stack(given.experts)
    experts = [f"E{k % given.experts}" for k in range(given.batch)]
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        inputs = make_questions(home, stack, given.batch)
        for adapter in ("IT", *dict.fromkeys(experts)):
            stack.save(home / "stack", adapter)
        plain = PeftModel.from_pretrained(
            stack.merged_trunk("IT").model, home / "stack" / "E0", adapter_name="E0"
        ).eval()
        for adapter in list(dict.fromkeys(experts))[1:]:
            plain.load_adapter(home / "stack" / adapter, adapter_name=adapter)
        alone = stack.merged_trunk("IT").model.eval()
    own = {adapter: [k for k, e in enumerate(experts) if e == adapter] for adapter in dict.fromkeys(experts)}
    parts = {adapter: rows_of(inputs, rows) for adapter, rows in own.items()}
    length = {"min_new_tokens": given.tokens, "max_new_tokens": given.tokens, "do_sample": False}
    shown = {"images": [1] * given.batch, "grid_thw": inputs["image_grid_thw"]}

    adapters = {adapter: stack.adapter(adapter) for adapter in own}

    def ours() -> torch.Tensor:
        with mixed_experts(stack, [adapters[e] for e in experts], trunk="IT", **shown) as model:
            return model.generate(**inputs, **length)

    def by_names() -> torch.Tensor:
        return plain.generate(**inputs, adapter_names=experts, **length)

    def one_after_another() -> None:
        for adapter, part in parts.items():
            plain.set_adapter(adapter)
            plain.generate(**part, **length)

    def one_expert() -> torch.Tensor:
        plain.set_adapter("E0")
        return plain.generate(**inputs, **length)

    ways = {"ours": ours, "adapter_names": by_names, "sequential": one_after_another, "one": one_expert}
    ways["none"] = lambda: alone.generate(**inputs, **length)
    stack.model.eval()
    with torch.inference_mode(), stack.serving("IT"):
        same = (ours() == by_names()).all(dim=1).float().mean().item()
        times = times_in_turn(ways, rounds=given.rounds)
    rows = [
        ("vs_peft_adapter_names", times["adapter_names"] / times["ours"], "times as fast", "higher"),
        ("vs_sequential", times["sequential"] / times["ours"], "times as fast", "higher"),
        ("vs_one_expert", times["ours"] / times["one"], "times as long", "lower"),
        ("vs_no_expert", times["ours"] / times["none"], "times as long", "lower"),
    ]
    for metric, ratios, unit, better in rows:
        found = {"metric": metric, "value": round(ratios.median(), 3), "unit": unit, "better": better}
        print(json.dumps(found | {"rounds": ratios.round(3).tolist()}))
    print(json.dumps({"metric": "same_answers", "value": same, "unit": "share of rows", "better": "higher"}))


if __name__ == "__main__":
    main()
