"""MTIVE's noise-robust loss (s3.1).

Shapes: B batch, T tokens, V vocabulary.
"""

import torch
from torch.nn.functional import log_softmax

IGNORE = -100  # label of a token outside the answer


def noise_robust_loss(logits: torch.Tensor, labels: torch.Tensor, *, beta: float = 0.0,
                      num_items: torch.Tensor | int | None = None) -> torch.Tensor:  # fmt: skip
    """Return L = (1 - beta) L_CE + beta L_uniform over the answers' tokens, (B, T, V) and (B, T) -> scalar.

    The paper defines L_uniform = -log|V|, a constant without gradient. Its citations (Szegedy 2015, Pereyra 2017) use
    the cross-entropy to the uniform distribution, -1/|V| sum_v log p_v, and so does this code. Token t's logits predict
    label t + 1; labels of IGNORE do not count. At beta = 0 this is the model's own loss. `num_items` replaces this
    batch's number of answer tokens by the number in a whole accumulation step.
    Errors: ValueError for beta outside [0, 1].
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta: found {beta}, expected a share between 0 and 1")
    targets = labels[:, 1:]
    keep = targets != IGNORE
    log_p = log_softmax(logits[:, :-1][keep].float(), dim=-1)  # (N, V), N answer tokens
    loss = -(1 - beta) * log_p.gather(1, targets[keep].unsqueeze(1)).squeeze(1)
    if beta:
        loss = loss - beta * log_p.mean(-1)
    return loss.sum() / (num_items if num_items is not None else keep.sum().clamp(min=1))
