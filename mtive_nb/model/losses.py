"""MTIVE's noise-robust loss (s3.1).

Shapes: B batch, T tokens, V vocabulary.
"""

import torch
from torch.nn.functional import log_softmax

IGNORE = -100  # label of a token outside the answer
BALANCES = ("token", "record")  # what counts equally in the loss


def noise_robust_loss(logits: torch.Tensor, labels: torch.Tensor, *, beta: float = 0.0, balance: str = "token",
                      num_items: torch.Tensor | int | None = None) -> torch.Tensor:  # fmt: skip
    """Return L = (1 - beta) L_CE + beta L_uniform over the answers' tokens, (B, T, V) and (B, T) -> scalar.

    The paper defines L_uniform = -log|V|, a constant without gradient. Its citations (Szegedy 2015, Pereyra 2017) use
    the cross-entropy to the uniform distribution, -1/|V| sum_v log p_v, and so does this code. Token t's logits predict
    label t + 1; labels of IGNORE do not count. At beta = 0 this is the model's own loss.

    balance: "token", the mean over all answer tokens, as in the paper; "record", the mean over records of each record's
    mean over its tokens, so that long answers do not outweigh short ones. `num_items` replaces this batch's number of
    answer tokens, or of records with an answer, by the number in a whole accumulation step.
    Errors: ValueError for beta outside [0, 1] or another balance.
    """
    if balance not in BALANCES:
        raise ValueError(f"balance: found {balance!r}, expected {' or '.join(BALANCES)}")
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta: found {beta}, expected a share between 0 and 1")
    targets = labels[:, 1:]
    keep = targets != IGNORE
    log_p = log_softmax(logits[:, :-1][keep].float(), dim=-1)  # (N, V), N answer tokens
    loss = -(1 - beta) * log_p.gather(1, targets[keep].unsqueeze(1)).squeeze(1)
    if beta:
        loss = loss - beta * log_p.mean(-1)
    of_record = keep.sum(1)  # (B,), answer tokens
    if balance == "record":
        loss = loss / of_record.repeat_interleave(of_record)
    items = keep.sum() if balance == "token" else (of_record > 0).sum()
    return loss.sum() / (num_items if num_items is not None else items.clamp(min=1))
