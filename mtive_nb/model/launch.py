"""Train one adapter on several GPUs: `accelerate launch -m mtive_nb.model.launch RECORDS OUT --name DD ...`.

Under plain `python -m` it trains on one. The adapters below it (`--over`) come with the model that their stack.json
names, or `--model` names a bare one. `OUT` becomes a stack folder, as chapters 04 to 06 leave them.
"""

import argparse
import shutil
from pathlib import Path

from accelerate import PartialState

from mtive_nb.data.records import load_records
from mtive_nb.model.experts import AdapterPlan, train_adapters
from mtive_nb.model.lineage import AdapterSpec
from mtive_nb.model.load import load_vlm
from mtive_nb.model.losses import BALANCES
from mtive_nb.model.stack import LoraStack, open_stack
from mtive_nb.model.train import Training


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    top = argparse.ArgumentParser(prog="accelerate launch -m mtive_nb.model.launch", description=__doc__.split(":")[0])
    top.add_argument("records", type=Path, help="training records, JSON lines; those of the split train are used")
    top.add_argument("out", type=Path, help="folder of the stack that is written")
    top.add_argument("--name", required=True, help="name of the new adapter")
    top.add_argument("--over", nargs="*", default=[], metavar="FOLDER:NAME", help="adapters below it, parents first")
    top.add_argument("--model", default="pocket", help="without --over: pocket, a folder or a hub id")
    top.add_argument("--max-px", type=int, default=0, help="without --over: largest side of a photo, as MAX_PX of 04")
    top.add_argument("--rank", type=int, default=16)
    top.add_argument("--alpha", type=float, default=16.0)
    top.add_argument("--placement", nargs="+", default=["vision.attention", "connector", "language.attention"])
    top.add_argument("--steps", type=int, required=True, help="optimizer steps")
    top.add_argument("--rate", type=float, required=True, help="peak learning rate")
    top.add_argument("--batch", type=int, default=1, help="records a batch and process")
    top.add_argument("--accumulate", type=int, default=1, help="batches a step and process")
    top.add_argument("--beta", type=float, default=0.0, help="weight of the uniform loss (stage 1)")
    top.add_argument("--balance", choices=BALANCES, default="token", help="what counts equally in the loss")
    top.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    top.add_argument("--seed", type=int, default=0)
    return top


def main(words: list[str] | None = None) -> None:
    """Train, and save from the first process."""
    asked, process = parser().parse_args(words), PartialState()  # which gives each process its own GPU
    records = [record for record in load_records(asked.records) if record["split"] == "train"]
    over = [(Path(folder), name) for folder, _, name in (text.rpartition(":") for text in asked.over)]
    stack = open_stack(*over) if over else LoraStack(load_vlm(asked.model, max_px=asked.max_px))
    spec = AdapterSpec(asked.rank, asked.alpha, tuple(asked.placement))
    named = "steps", "rate", "batch", "accumulate", "beta", "balance", "checkpointing", "seed"
    training = Training(**{name: getattr(asked, name) for name in named})
    plan = AdapterPlan(asked.name, spec, over[-1][1] if over else None, records, training)
    train_adapters(stack, [plan], checkpoints=asked.out / "checkpoints")
    stack.assert_alive(asked.name)
    if process.is_main_process:
        stack.save(asked.out, asked.name)
        shutil.rmtree(asked.out / "checkpoints")  # a later training run into this folder is another one


if __name__ == "__main__":
    main()
