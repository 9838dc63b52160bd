"""Do the live stack and a server say the same? Greedy answers, and the log-probabilities of their tokens in nats."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mtive_nb.model.batches import batch_of
from mtive_nb.model.stack import LoraStack


@dataclass(frozen=True)
class Reply:
    """An answer's text, for each of its tokens the log-probability in nats, and which version gave it."""

    text: str
    logprobs: tuple[float, ...]
    version: str = ""


@dataclass(frozen=True)
class Parity:
    """How `n` answers compare: the share that is the same text, and the largest difference of log-probabilities.

    Log-probabilities are compared where the texts are the same: elsewhere their tokens follow different beginnings.
    """

    n: int
    same: float
    largest_nats: float


@torch.inference_mode()
def live_replies(stack: LoraStack, records: list[dict], *, max_new_tokens: int = 64) -> list[Reply]:
    """Greedy answers of the adapters in force, one record at a time, with what the model thought of each token."""
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
        replies.append(Reply(text.rstrip("\ufffd").strip(), tuple(logprobs)))  # a server sends no half character
    return replies


def compare(one: Sequence[Reply], other: Sequence[Reply]) -> Parity:
    """Answers to the same questions by two ways of serving. Errors: ValueError for unequal numbers of answers."""
    same, largest = [], 0.0
    for a, b in zip(one, other, strict=True):
        same.append(a.text == b.text)
        if a.text == b.text:
            pairs = zip(a.logprobs, b.logprobs, strict=False)  # an end mark may be counted by one alone
            largest = max([largest, *(abs(x - y) for x, y in pairs)])
    return Parity(len(same), sum(same) / len(same), largest)
