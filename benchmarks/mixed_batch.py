"""What does a batch that mixes experts cost, compared with the alternatives of a user?

    python benchmarks/mixed_batch.py [--batch 32] [--experts 8] [--tokens 16] [--rounds 5] [--uneven]

The pocket base has a trunk and experts with random weights (speed does not depend on them). They adapt the language
model only, the limit of PEFT's `adapter_names`. One batch of questions, with a photo each, is answered with a fixed
number of tokens; its rows are dealt to the experts in turn, or, with `--uneven`, half as many to the second expert as to
the first and so on, with questions of four lengths. Measured in turn:
- ours: `mixed_experts` over a trunk that is folded into the base's weights, as in the engine;
- PEFT's `adapter_names` over the merged trunk;
- one expert after another: PEFT's `set_adapter` over the merged trunk, each with its own rows;
- one expert for all rows, live and merged into the weights.
Switching to the one expert is not timed; switching from expert to expert is. Results are medians over rounds of the time
ratio within a round. Ours and `adapter_names` must give the same answers, and experts different ones: else status 1.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from made_up import noise_records, randomise
from peft import PeftModel

from mtive_nb.evaluate.latency import times_in_turn
from mtive_nb.model.batches import batch_of
from mtive_nb.model.load import load_vlm
from mtive_nb.model.mixed import mixed_experts
from mtive_nb.model.stack import AdapterSpec, LoraStack

SPEC, SIDE_PX = AdapterSpec(16, 16.0, ("language",)), 140
QUESTIONS = (
    "Which colour is it?",
    "Is it damaged?",
    "Which brand, category, colour and packaging does the product have?",
    "Compare the two: do brand, kind, colour and number of pieces agree with what the customer ordered, yes or no?",
)


def make_stack(experts: int) -> LoraStack:
    """Return the pocket base with a trunk IT and experts E0, E1, ... on it, all with an effect."""
    torch.manual_seed(0)
    stack = LoraStack(load_vlm("pocket", max_px=SIDE_PX))
    stack.add("IT", SPEC)
    for k in range(experts):
        stack.add(f"E{k}", SPEC, parent="IT")
    for name in stack.specs:
        randomise(stack, name, spread=0.2)
    return stack


def dealt(batch: int, experts: int, *, uneven: bool) -> list[str]:
    """Return the expert of each row: in turn, or half as many rows to each as to the one before."""
    if not uneven:
        return [f"E{k % experts}" for k in range(batch)]
    shares = np.array([0.5**k for k in range(experts)])
    return [f"E{k}" for k in np.random.default_rng(0).choice(experts, batch, p=shares / shares.sum())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--uneven", action="store_true", help="experts and questions as in a shop: few of most rows")
    given = parser.parse_args()
    stack = make_stack(given.experts)
    experts = dealt(given.batch, given.experts, uneven=given.uneven)
    own = {adapter: [k for k, e in enumerate(experts) if e == adapter] for adapter in dict.fromkeys(experts)}
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        asked = [QUESTIONS[k % len(QUESTIONS) if given.uneven else 0] for k in range(given.batch)]
        records = noise_records(home, [(question, "x") for question in asked], side_px=SIDE_PX)
        inputs = batch_of(stack.vlm, records)
        parts = {adapter: batch_of(stack.vlm, [records[k] for k in rows]) for adapter, rows in own.items()}
        first = experts[0]
        for adapter in ("IT", *own):
            stack.save(home / "stack", adapter)
        plain = PeftModel.from_pretrained(
            stack.merged_trunk("IT").model, home / "stack" / first, adapter_name=first
        ).eval()
        for adapter in list(own)[1:]:
            plain.load_adapter(home / "stack" / adapter, adapter_name=adapter)
        merged = stack.merged_trunk(first).model.eval()
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

    ways = {"ours": ours, "adapter_names": by_names, "sequential": one_after_another}
    ways |= {"one": lambda: plain.generate(**inputs, **length), "merged": lambda: merged.generate(**inputs, **length)}
    stack.model.eval()
    with torch.inference_mode(), stack.serving("IT"):
        said = ours()[:, inputs["input_ids"].shape[1] :]
        same = (said == by_names()[:, -given.tokens :]).all(dim=1).float().mean().item()
        plain.set_adapter(first)
        differ = (said != plain.generate(**inputs, **length)[:, -given.tokens :]).any(dim=1)
        others = [k for k, expert in enumerate(experts) if expert != first]
        times = times_in_turn(ways, rounds=given.rounds, before={"one": lambda: plain.set_adapter(first)})
    rows = [
        ("vs_peft_adapter_names", times["adapter_names"] / times["ours"], "times as fast", "higher"),
        ("vs_sequential", times["sequential"] / times["ours"], "times as fast", "higher"),
        ("vs_one_expert", times["ours"] / times["one"], "times as long", "lower"),
        ("vs_one_expert_merged", times["ours"] / times["merged"], "times as long", "lower"),
    ]
    for metric, ratios, unit, better in rows:
        found = {"metric": metric, "value": round(ratios.median(), 3), "unit": unit, "better": better}
        print(json.dumps(found | {"rounds": ratios.round(3).tolist()}))
    print(json.dumps({"metric": "same_answers", "value": same, "unit": "share of rows", "better": "higher"}))
    told = differ[others].float().mean().item() if others else 1.0  # rows of others that the first answers otherwise
    sys.exit(same < 0.9 or told < 0.5)  # an answer may turn where two tokens are as likely


if __name__ == "__main__":
    main()
