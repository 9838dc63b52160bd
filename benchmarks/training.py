"""Does the package train stage 1 faster than a plain Trainer + PEFT script, to the same loss?

    python benchmarks/training.py [--steps 60] [--batch 16] [--accumulate 4] [--rounds 3] [--tower frozen]

Both use the same model, records, number of steps and records per step. They run in turn, `rounds` times; results are
medians over rounds. The plain script follows the documentation of transformers and PEFT: it opens photos in the
collator, pads rows in the order in which they come, and takes the model's own loss over all logits. With `--tower
frozen` no adapter is in the vision tower, as in the notebooks; each photo comes about five times in the run.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments, set_seed

from mtive_nb.data.catalogue import load_catalogue
from mtive_nb.data.dialogues import build_dialogues
from mtive_nb.data.mart.render import render_mart
from mtive_nb.model.batches import Collator, RecordDataset
from mtive_nb.model.load import load_vlm
from mtive_nb.model.stack import AdapterSpec, LoraStack
from mtive_nb.model.train import Training, train_adapter

PLACEMENTS = {
    "trained": ("vision.attention", "connector", "language.attention"),
    "frozen": ("connector", "language.attention"),
}
TARGETS = {
    "vision.attention": r"visual\.blocks\.\d+\.attn\.(qkv|proj)",
    "connector": r"visual\.merger\.mlp\.(0|2)",
    "language.attention": r"layers\.\d+\.self_attn\.(q|k|v|o)_proj",
}
RANK = 32
RATE, MAX_PX = 2e-3, 140


def plain(
    records: list[dict], *, steps: int, batch: int, folder: Path, placement: tuple[str, ...]
) -> tuple[torch.nn.Module, float]:
    """Train as the documentation shows; returns the model and the seconds of training."""
    vlm = load_vlm("pocket", max_px=MAX_PX)
    processor = vlm.processor
    targets = f".*({'|'.join(TARGETS[part] for part in placement)})"
    model = get_peft_model(vlm.model, LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets))

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        texts = [processor.apply_chat_template(r["messages"]) for r in rows]
        prompts = [processor.apply_chat_template(r["messages"][:-1], add_generation_prompt=True) for r in rows]
        images = [[Image.open(p).convert("RGB") for p in r["images"]] for r in rows]
        inputs = processor(text=texts, images=images, return_tensors="pt", padding=True)
        labels = inputs["input_ids"].clone()
        for k, (row, prompt, photos) in enumerate(zip(labels, prompts, images, strict=True)):
            asked = processor(text=[prompt], images=photos, return_tensors="pt")["input_ids"].shape[1]
            padding = int((inputs["attention_mask"][k] == 0).sum())
            row[: padding + asked] = -100
        inputs["labels"] = labels.masked_fill(inputs["attention_mask"] == 0, -100)
        return inputs

    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=batch, learning_rate=RATE, report_to=[],
        lr_scheduler_type="cosine", warmup_steps=max(1, steps // 20), save_strategy="no", remove_unused_columns=False,
        disable_tqdm=True, logging_strategy="no", use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=records, data_collator=collate)
    started = time.perf_counter()
    trainer.train()
    return model, time.perf_counter() - started


def package(
    records: list[dict], *, steps: int, batch: int, folder: Path, placement: tuple[str, ...], accumulate: int
) -> tuple[torch.nn.Module, float]:
    """Train with the package, a step's records in `accumulate` batches; returns the model and its training seconds."""
    stack = LoraStack(load_vlm("pocket", max_px=MAX_PX))
    stack.add("PT", AdapterSpec(RANK, float(RANK), placement))
    started = time.perf_counter()
    training = Training(steps, RATE, batch // accumulate, accumulate, save_steps=10**6)
    train_adapter(stack, "PT", records, training, checkpoints=folder)
    return stack.model, time.perf_counter() - started


@torch.inference_mode()
def held_out_loss(model: torch.nn.Module, records: list[dict]) -> float:
    """Return the model's own mean loss over held-out records, in nats per answer token."""
    processor = load_vlm("pocket", max_px=MAX_PX).processor
    loader = DataLoader(RecordDataset(records), batch_size=16, collate_fn=Collator(processor))
    sums = [(model.eval()(**b).loss.item() * n, n) for b in loader if (n := int((b["labels"] != -100).sum()))]
    return sum(s for s, _ in sums) / sum(n for _, n in sums)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--accumulate", type=int, default=4, help="batches per step with the package")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tower", choices=PLACEMENTS, default="trained", help="frozen: no adapter in the vision tower")
    given = parser.parse_args()
    common = {"steps": given.steps, "batch": given.batch, "placement": PLACEMENTS[given.tower]}
    with tempfile.TemporaryDirectory() as name:
        root = render_mart(Path(name) / "mart", products=48, photos=4, dates=1, seed=0)
        catalogue = load_catalogue(root)
        train = build_dialogues(catalogue, given.steps * given.batch, split="train", seed=0)
        test = build_dialogues(catalogue, 128, split="test", seed=0)
        ratios, losses = [], []
        for k in range(given.rounds):
            seconds, loss = {}, {}
            for way in (plain, package) if k % 2 == 0 else (package, plain):
                set_seed(k)
                own = {"accumulate": given.accumulate} if way is package else {}
                folder = Path(name) / f"{way.__name__}{k}"
                model, seconds[way] = way(train, **common, folder=folder, **own)
                loss[way] = held_out_loss(model, test)
            ratios.append(seconds[plain] / seconds[package])
            losses.append(loss[package] - loss[plain])
    rows = [
        {
            "metric": f"vs_plain_trainer, tower {given.tower}",
            "value": round(statistics.median(ratios), 3),
            "unit": "times as fast",
            "better": "higher",
            "rounds": ratios,
        },
        {
            "metric": "loss_difference",
            "value": round(statistics.median(losses), 4),
            "unit": "nats, package less plain, held out",
            "better": "lower",
            "rounds": losses,
        },
    ]
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
