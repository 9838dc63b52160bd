"""Muon for the matrices of a small transformer, AdamW for the rest, as one optimizer.

`torch.optim.Muon` orthogonalises in bfloat16, which a CPU without bf16 units emulates some 25 times slower than
float32; this implementation stays in float32. Update of a matrix (Jordan et al. 2024, scaled as by Liu et al. 2025,
s2.2): momentum, five Newton-Schulz steps towards the nearest orthogonal matrix, times 0.2 sqrt(max(rows, columns)).
With this scale, one learning rate suits both Muon and AdamW.
"""

from collections.abc import Iterable

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrix: torch.Tensor, *, steps: int = 5) -> torch.Tensor:
    """Return a matrix of the same shape (rows, columns) with all singular values near 1."""
    a, b, c = COEFFICIENTS
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.AdamW):
    """AdamW whose groups marked `muon=True` (matrices only) are updated by Muon instead."""

    def __init__(self, matrices: Iterable[torch.Tensor], others: Iterable[torch.Tensor], *, lr: float,
                 weight_decay: float = 0.02, betas: tuple[float, float] = (0.9, 0.98), momentum: float = 0.95) -> None:  # fmt: skip
        groups = [{"params": list(matrices), "muon": True}, {"params": list(others), "muon": False}]
        super().__init__(groups, lr=lr, betas=betas, weight_decay=weight_decay)
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure=None):  # noqa: ANN001, ANN201 - torch's own signature
        hidden = [g for g in self.param_groups if g["muon"]]
        for group in hidden:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                state.setdefault("step", torch.tensor(0.0))  # AdamW expects this key when a checkpoint is loaded
                buffer = state.setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - self.momentum)
                update = orthogonalise(p.grad.lerp(buffer, self.momentum))  # Nesterov
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-0.2 * max(p.shape) ** 0.5 * group["lr"])
        groups = self.param_groups
        self.param_groups = [g for g in groups if not g["muon"]]
        try:
            return super().step(closure)
        finally:
            self.param_groups = groups


def split_parameters(model: torch.nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return (matrices inside blocks, the rest): AdamW keeps embeddings, heads, norms, biases and the patch filter."""
    matrices, others = [], []
    for name, p in model.named_parameters():
        if p.requires_grad:
            inner = p.ndim == 2 and (".layers." in name or ".blocks." in name or ".merger.mlp" in name)
            (matrices if inner else others).append(p)
    return matrices, others
