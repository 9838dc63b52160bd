"""One adapter's weights by themselves: those on a stack, or read from its folder while no model is touched."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from mtive_nb.model.lineage import AdapterSpec
from mtive_nb.model.load import WRAPPER, part_of


@dataclass(frozen=True, eq=False)
class Adapter:
    """What adds scale * B A x behind some linear layers of the base.

    weights: {path of the layer in the base: (A (R, in), B (out, R))}. parent: the adapter it stands on, None the base.
    """

    name: str
    spec: AdapterSpec
    parent: str | None
    weights: Mapping[str, tuple[torch.Tensor, torch.Tensor]]

    @property
    def scale(self) -> float:
        return self.spec.alpha / self.spec.rank

    @property
    def size(self) -> int:
        """Bytes of its weights."""
        return sum(w.numel() * w.element_size() for pair in self.weights.values() for w in pair)

    @torch.no_grad()
    def norms(self, *, family: str) -> dict[str, float]:
        """Root mean square of the change to the weights, part by part: 0 where it changes nothing."""
        squares: dict[str, list[torch.Tensor]] = {}
        for path, (a, b) in self.weights.items():
            a, b = a.float(), b.float()
            total = ((b.T @ b) * (a @ a.T)).sum().clamp(min=0)  # of the squares of B A, which is never formed
            squares.setdefault(part_of(path, family=family), []).append(self.scale**2 * total / (len(b) * a.shape[1]))
        return {part: torch.stack(v).mean().sqrt().item() for part, v in squares.items()}

    def assert_alive(self, *, family: str) -> None:
        """Raise RuntimeError where it changes nothing in a part that its placement names."""
        dead = [part for part, norm in self.norms(family=family).items() if norm == 0.0]
        if dead:
            raise RuntimeError(
                f"adapter {self.name!r} loads but changes nothing in {dead}: it was not trained, or its weights did not arrive"
            )


def read_weights(file: Path, device: torch.device) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The weights of PEFT's file of a LoRA adapter, as Adapter has them."""
    found = load_file(file, device=str(device))
    paths = [name.removesuffix(".lora_A.weight") for name in found if name.endswith(".lora_A.weight")]
    return {
        path.removeprefix(WRAPPER): (found[f"{path}.lora_A.weight"], found[f"{path}.lora_B.weight"]) for path in paths
    }
