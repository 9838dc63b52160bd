"""Is training several experts in one pass, each on its own rows, faster than training them one after another?

    python benchmarks/joint_training.py [--experts 4] [--rows 8] [--steps 20] [--rounds 5] [--tower]

The pocket base has a trunk, and experts in connector and language model, as the notebooks train them; with `--tower` in
the attention of the vision tower, too. In a step, every expert gets
`rows` records with a photo. Measured in turn: all experts in one batch (`mixed_experts`, the sum of the experts'
losses); and one expert after another, with the trunk folded into the base's weights, as in `train_adapter`. Both make
the same AdamW steps and compute the logits of all tokens. The result is the median over rounds of the time ratio within a
round. The gradients of all experts must agree, else status 1.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from made_up import noise_records, randomise

from mtive_nb.evaluate.latency import times_in_turn
from mtive_nb.model.batches import batch_of
from mtive_nb.model.load import load_vlm
from mtive_nb.model.mixed import loss_of_experts, mixed_experts
from mtive_nb.model.stack import AdapterSpec, LoraStack

PLACEMENT, SIDE_PX = ("connector", "language"), 140


def make_batches(home: Path, stack: LoraStack, rows: int, experts: int) -> list[dict[str, torch.Tensor]]:
    """Return a processor batch of all experts' questions with answers, then each expert's own, all of one length."""
    turn = "Which product is shown and is it damaged?", "a blue bottle of shampoo with a crack"
    records = noise_records(home, [turn] * (rows * experts), side_px=SIDE_PX)
    parts = [records, *(records[k * rows : (k + 1) * rows] for k in range(experts))]
    return [batch_of(stack.vlm, part, answers=True) for part in parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--rows", type=int, default=8, help="records of each expert in a step")
    parser.add_argument("--steps", type=int, default=20, help="steps per time measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tower", action="store_true", help="experts in the vision tower's attention, too")
    given = parser.parse_args()
    spec = AdapterSpec(16, 16.0, ("vision.attention", *PLACEMENT) if given.tower else PLACEMENT)
    torch.manual_seed(0)
    stack, names = LoraStack(load_vlm("pocket", max_px=SIDE_PX)), [f"E{k}" for k in range(given.experts)]
    stack.add("IT", spec)
    for name in names:
        stack.add(name, spec, parent="IT")
    for name in stack.specs:
        randomise(stack, name, spread=0.05)
    with tempfile.TemporaryDirectory() as home:
        inputs, *ones = make_batches(Path(home), stack, given.rows, given.experts)
    labels, own = inputs.pop("labels"), {name: (one.pop("labels"), one) for name, one in zip(names, ones, strict=True)}
    experts = [name for name in names for _ in range(given.rows)]
    shown = {"trunk": "IT", "images": [1] * len(experts), "grid_thw": inputs["image_grid_thw"]}
    weights = {n: [p for w, p in stack.model.named_parameters() if f".{n}." in w and "lora_" in w] for n in names}
    learners = {n: torch.optim.AdamW(weights[n], lr=1e-4) for n in names}
    stack.model.train()

    def learn(name: str) -> None:
        learners[name].step()
        learners[name].zero_grad()

    def together(*, steps: int = given.steps, update: bool = True) -> None:
        with mixed_experts(stack, experts, **shown) as model:
            for p in stack.model.parameters():
                p.requires_grad_(False)
            for p in (p for some in weights.values() for p in some):
                p.requires_grad_(True)
            for _ in range(steps):
                sum(loss_of_experts(model(**inputs, use_cache=False).logits, labels, experts).values()).backward()
                for name in names if update else ():
                    learn(name)

    def one_by_one(*, steps: int = given.steps, update: bool = True) -> None:
        for name in names:
            stack.activate(name, trainable=True)
            with stack.folded(keep=name):
                for _ in range(steps):
                    logits = stack.model(**own[name][1], use_cache=False).logits
                    loss_of_experts(logits, own[name][0], [name] * given.rows)[name].backward()
                    if update:
                        learn(name)

    def gradient(way: object) -> torch.Tensor:
        """Return the gradients of all experts, one after another."""
        way(steps=1, update=False)
        found = torch.cat([p.grad.flatten() for name in names for p in weights[name] if p.grad is not None])
        stack.model.zero_grad()
        return found

    ours, plain = gradient(together), gradient(one_by_one)
    apart = ((ours - plain).abs().max() / plain.abs().max()).item()
    times = times_in_turn({"together": together, "one by one": one_by_one}, rounds=given.rounds)
    ratios = times["one by one"] / times["together"]
    found = {"metric": "vs_one_by_one", "value": round(ratios.median(), 3), "unit": "times as fast", "better": "higher"}
    print(json.dumps(found | {"rounds": ratios.round(3).tolist()}))
    print(
        json.dumps({"metric": "gradient_difference", "value": apart, "unit": "share of the largest", "better": "lower"})
    )
    sys.exit(apart > 1e-3)


if __name__ == "__main__":
    main()
