"""Ablate parts of a trained adapter by zeroing its B matrices: what does a part contribute when others rely on it?"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from peft.tuners.lora import LoraLayer

from mtive_nb.model.load import PARTS, part_of
from mtive_nb.model.stack import LoraStack


@contextmanager
def ablated(stack: LoraStack, name: str, parts: Sequence[str]) -> Iterator[None]:
    """Set B of adapter `name` to 0 in `parts` (of vision, connector, language), and restore B afterwards.

    Errors: ValueError for an unknown part, or for a part without layers of this adapter.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise ValueError(f"parts: found {unknown[0]!r}, expected some of {PARTS}")
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    seen = set()
    try:
        for path, layer in stack.peft.named_modules():
            if isinstance(layer, LoraLayer) and name in layer.lora_B:
                part = part_of(path, family=stack.vlm.family)
                seen.add(part)
                if part in parts:
                    weight = layer.lora_B[name].weight.data
                    kept.append((weight, weight.clone()))
                    weight.zero_()
        if missing := sorted(set(parts) - seen):
            raise ValueError(f"parts: found {missing[0]!r}, but adapter {name!r} has layers only in {sorted(seen)}")
        yield
    finally:
        for weight, before in kept:
            weight.copy_(before)
