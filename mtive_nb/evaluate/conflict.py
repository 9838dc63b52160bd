"""Do tasks pull shared weights in different directions? The angles between their gradients.

Yu et al. 2020 (PCGrad) call two gradients conflicting where their cosine is below zero.
"""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch

from mtive_nb.model.batches import batch_of
from mtive_nb.model.losses import noise_robust_loss
from mtive_nb.model.stack import LoraStack


def gradient_cosines(stack: LoraStack, records: Mapping[str, Sequence[dict]], *, batch: int = 8) -> pd.DataFrame:
    """Return the cosine between every two tasks' mean loss gradients on the trainable weights: (task, task).

    `records`: {task: its records}. Errors: ValueError where nothing is trainable.
    """
    weights = [p for p in stack.model.parameters() if p.requires_grad]
    if not weights:
        raise ValueError("gradient_cosines: found no trainable weight; activate an adapter with trainable=True first")
    found = {}
    stack.model.eval()
    for task, rows in records.items():
        total = [torch.zeros_like(w) for w in weights]
        for start in range(0, len(rows), batch):
            here = rows[start : start + batch]
            inputs = batch_of(stack.vlm, here, answers=True)
            labels = inputs.pop("labels")
            loss = noise_robust_loss(stack.model(**inputs, use_cache=False).logits, labels, beta=0.0)
            loss = loss * (len(here) / len(rows))
            for kept, gradient in zip(total, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
                if gradient is not None:
                    kept += gradient
        found[task] = torch.nn.functional.normalize(torch.cat([t.flatten() for t in total]).float(), dim=0)
    return pd.DataFrame({a: {b: float(found[a] @ found[b]) for b in found} for a in found})
