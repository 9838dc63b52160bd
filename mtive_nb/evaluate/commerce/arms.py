"""What the arms of CASLIE's comparison take: weights, steps, seconds, tokens."""

from collections.abc import Mapping, Sequence

import pandas as pd

from mtive_nb.model.batches import batch_of
from mtive_nb.model.stack import LoraStack

COUNTED = 70  # training rows of which tokens are counted


def training_costs(
    stack: LoraStack, logs: Mapping[str, pd.DataFrame], records: Mapping[str, Sequence[dict]]
) -> pd.DataFrame:
    """Return a row an arm: arm, loss (the last), seconds, steps, weights, tokens a row.

    logs: those of `train_adapters`, by adapter of the stack; records: what each was trained on. Tokens are a chat's with
    its answer and its photos, on average over about COUNTED rows.
    """
    rows = []
    for name, log in logs.items():
        some = records[name][:: max(1, len(records[name]) // COUNTED)]
        tokens = [batch_of(stack.vlm, [record], answers=True)["input_ids"].shape[1] for record in some]
        last = {"loss": log["loss"].iloc[-1], "seconds": log["seconds"].iloc[-1], "steps": int(log["step"].iloc[-1])}
        weights = {"weights": stack.trainable_parameters(name), "tokens a row": sum(tokens) / len(tokens)}
        rows.append({"arm": name} | last | weights)
    return pd.DataFrame(rows)
