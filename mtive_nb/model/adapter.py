"""One adapter's weights on their own, taken from a stack or read from a folder without touching a model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mtive_nb.model.lineage import AdapterSpec, NotFiniteError
from mtive_nb.model.load import WRAPPER, part_of


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter that adds scale * B A x to the output of some linear layers of the base.

    weights: {path of the layer in the base: (A (R, in), B (out, R))}. parent: the parent adapter's name, None the base.
    sha256: of its lineage; empty for an adapter that was not read from a folder.
    """

    name: str
    spec: AdapterSpec
    parent: str | None
    weights: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    sha256: str = ""

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
        """Raise RuntimeError if the adapter changes nothing in a part where it has layers, NotFiniteError for NaN."""
        norms = self.norms(family=family)
        if wild := [part for part, norm in norms.items() if not math.isfinite(norm)]:
            raise NotFiniteError(f"adapter {self.name!r}: its change is not a finite number in {wild}; train it again")
        dead = [part for part, norm in norms.items() if norm == 0.0]
        if dead:
            raise RuntimeError(
                f"adapter {self.name!r} loads but changes nothing in {dead}: it was not trained, or weights were not loaded"
            )


def paired(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return the tensors of PEFT's file of a LoRA adapter in the form of `Adapter.weights`."""
    paths = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
    return {
        path.removeprefix(WRAPPER): (tensors[f"{path}.lora_A.weight"], tensors[f"{path}.lora_B.weight"])
        for path in paths
    }
