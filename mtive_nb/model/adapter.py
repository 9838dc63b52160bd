"""One adapter's weights on their own, taken from a stack or read from a folder without touching a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from mtive_nb.model.lineage import AdapterSpec
from mtive_nb.model.load import WRAPPER, part_of


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter that adds scale * B A x to the output of some linear layers of the base.

    weights: {path of the layer in the base: (A (R, in), B (out, R))}. parent: the parent adapter's name, None the base.
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
        """Size of the weights in bytes."""
        return sum(w.numel() * w.element_size() for pair in self.weights.values() for w in pair)

    @torch.no_grad()
    def norms(self, *, family: str) -> dict[str, float]:
        """Return the root mean square of the weight change by part; 0 where the adapter changes nothing."""
        squares: dict[str, list[torch.Tensor]] = {}
        for path, (a, b) in self.weights.items():
            a, b = a.float(), b.float()
            total = ((b.T @ b) * (a @ a.T)).sum().clamp(min=0)  # sum of squares of B A, without forming B A
            squares.setdefault(part_of(path, family=family), []).append(self.scale**2 * total / (len(b) * a.shape[1]))
        return {part: torch.stack(v).mean().sqrt().item() for part, v in squares.items()}

    def assert_alive(self, *, family: str) -> None:
        """Raise RuntimeError if the adapter changes nothing in a part where it has layers."""
        dead = [part for part, norm in self.norms(family=family).items() if norm == 0.0]
        if dead:
            raise RuntimeError(
                f"adapter {self.name!r} loads but changes nothing in {dead}: it was not trained, or weights were not loaded"
            )


def read_weights(file: Path, device: torch.device) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Read the weights in PEFT's file of a LoRA adapter, in the form of `Adapter.weights`."""
    found = load_file(file, device=str(device))
    paths = [name.removesuffix(".lora_A.weight") for name in found if name.endswith(".lora_A.weight")]
    return {
        path.removeprefix(WRAPPER): (found[f"{path}.lora_A.weight"], found[f"{path}.lora_B.weight"]) for path in paths
    }
