"""Parity of the live stack and a server: compares greedy answers and their tokens' log-probabilities in nats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mtive_nb.model.batches import batch_of
from mtive_nb.model.stack import LoraStack


@dataclass(frozen=True)
class Reply:
    """An answer's text, the log-probability of each of its tokens in nats, and the version that answered.

    tokens: the answer's token ids, and likeliest {token id: log-probability} at each of them, where they were asked for.
    """

    text: str
    logprobs: tuple[float, ...]
    version: str = ""
    tokens: tuple[int, ...] = ()
    likeliest: tuple[Mapping[int, float], ...] = ()


@dataclass(frozen=True)
class Parity:
    """Comparison of `n` answers: the share of equal texts, and the largest difference of log-probabilities in nats.

    Log-probabilities are compared only for equal texts, since tokens of other texts follow different prefixes.
    """

    n: int
    same: float
    largest_nats: float


@torch.inference_mode()
def live_replies(stack: LoraStack, records: list[dict], *, max_new_tokens: int = 64) -> list[Reply]:
    """Return greedy answers of the active adapters, one record at a time, with each token's log-probability."""
    stack.model.eval()
    replies = []
    for record in records:
        inputs = batch_of(stack.vlm, [record])
        made = stack.model.generate(
            **inputs, max_new_tokens=max_new_tokens, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        said = made.sequences[0, inputs["input_ids"].shape[1] :]
        spread = torch.stack(made.logits)[:, 0].float().log_softmax(-1)  # (tokens, V)
        logprobs = spread.gather(1, said[:, None])[:, 0].tolist()
        text = stack.vlm.processor.decode(said, skip_special_tokens=True)
        replies.append(Reply(text.rstrip("\ufffd").strip(), tuple(logprobs)))  # a server sends no incomplete character
    return replies


def compare(one: Sequence[Reply], other: Sequence[Reply]) -> Parity:
    """Compare two servers' answers to the same questions. Errors: ValueError for unequal numbers of answers."""
    same, largest = [], 0.0
    for a, b in zip(one, other, strict=True):
        same.append(a.text == b.text)
        if a.text == b.text:
            pairs = zip(a.logprobs, b.logprobs, strict=False)  # only one of them may count an end mark
            largest = max([largest, *(abs(x - y) for x, y in pairs)])
    return Parity(len(same), sum(same) / len(same), largest)
