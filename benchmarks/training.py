"""Does the package train stage 1 faster than a plain Trainer + PEFT script, to the same loss?

    python benchmarks/training.py [--steps 60] [--batch 16] [--accumulate 2] [--rounds 5] [--tower frozen] [--photos 4]

Both use the same model, records, number of steps and records per step. They run in turn, `rounds` times, each in a
process of its own after a few steps on other records, so that nothing is decoded, kept or compiled from a run before.
Seconds count from the making of the trainer to its end. Results are medians over rounds. The plain script follows the
documentation of transformers and PEFT: it opens each photo once, in the collator, pads rows in the order in which they
come, and takes the model's own loss over all logits, in the fastest of 1, 2 and 4 batches a step. With `--tower frozen`
the adapter stands in connector and language part, as in the notebooks. How often a photo comes back decides what a
frozen tower saves: `--photos` of each of 48 products are in the run, and the last line says how often each came.
`--profile` runs the package alone and prints which share of the processor's time goes into PRODUCTS, which both ways need.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
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
    "trained": ("vision.attention", "connector", "language"),
    "frozen": ("connector", "language"),
}
TARGETS = {
    "vision.attention": r"visual\.blocks\.\d+\.attn\.(qkv|proj)",
    "connector": r"visual\.merger\.mlp\.(0|2)",
    "language": r"layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)",
}
RANK = 32
RATE, MAX_PX = 2e-3, 140
PRODUCTS = (
    "mm",
    "addmm",
    "bmm",
    "convolution",
    "scaled_dot_product",
)  # matrix products, attention, the patches' convolution
WARM_STEPS, SHAPES = 2, (1, 2, 4)  # batches a step that the plain script tries


def plain(
    records: list[dict], *, steps: int, batch: int, folder: Path, placement: tuple[str, ...], accumulate: int = 1
) -> tuple[torch.nn.Module, float]:
    """Train as the documentation shows; returns the model and the seconds of training."""
    vlm = load_vlm("pocket", max_px=MAX_PX)
    processor = vlm.processor
    targets = f".*({'|'.join(TARGETS[part] for part in placement)})"
    model = get_peft_model(vlm.model, LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets))

    @cache
    def opened(path: str) -> Image.Image:
        return Image.open(path).convert("RGB")

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        texts = [processor.apply_chat_template(r["messages"]) for r in rows]
        prompts = [processor.apply_chat_template(r["messages"][:-1], add_generation_prompt=True) for r in rows]
        images = [[opened(p) for p in r["images"]] for r in rows]
        inputs = processor(text=texts, images=images, return_tensors="pt", padding=True)
        labels = inputs["input_ids"].clone()
        for row, text, prompt in zip(labels, texts, prompts, strict=True):  # padded on the left, the answer comes last
            answer = processor.tokenizer(text.removeprefix(prompt), add_special_tokens=False)["input_ids"]
            row[: -len(answer)] = -100
        inputs["labels"] = labels.masked_fill(inputs["attention_mask"] == 0, -100)
        return inputs

    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=batch // accumulate, learning_rate=RATE,
        gradient_accumulation_steps=accumulate, report_to=[], lr_scheduler_type="cosine", warmup_steps=max(1, steps // 20),
        save_strategy="no", remove_unused_columns=False,
        disable_tqdm=True, logging_strategy="no", use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    started = time.perf_counter()
    trainer = Trainer(model, arguments, train_dataset=records, data_collator=collate)
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


def measured(way: str, train: list[dict], test: list[dict], folder: Path, seed: int, given: argparse.Namespace) -> tuple[float, float]:  # fmt: skip
    """Train in this process, once warm; returns the seconds of training and the held-out loss."""
    common = {"batch": given.batch, "placement": PLACEMENTS[given.tower]}
    few = {"steps": WARM_STEPS, "folder": folder / "warm", **common}
    run = package if way == "package" else plain
    shapes = [given.accumulate] if way == "package" else [*SHAPES[:1], *SHAPES]  # the first run of all is slower
    warm = [(run(test[: WARM_STEPS * given.batch], accumulate=n, **few)[1], n) for n in shapes]
    run = partial(run, accumulate=min(warm[-len(SHAPES) :])[1])
    set_seed(seed)
    model, seconds = run(train, steps=given.steps, folder=folder / "timed", **common)
    return seconds, held_out_loss(model, test)


def share_of_products(records: list[dict], folder: Path, given: argparse.Namespace) -> float:
    """Return the share of a training run's processor time that goes into PRODUCTS, by torch's profiler."""
    common = {"batch": given.batch, "accumulate": given.accumulate, "placement": PLACEMENTS[given.tower]}
    package(records[: WARM_STEPS * given.batch], steps=WARM_STEPS, folder=folder / "warm", **common)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        package(records, steps=given.steps, folder=folder / "timed", **common)
    spent = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    products = [name for name in spent if any(f"::{p}" in name or f"_{p}" in name for p in PRODUCTS)]
    return sum(spent[name] for name in products) / sum(spent.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--accumulate", type=int, default=2, help="batches per step with the package")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tower", choices=PLACEMENTS, default="trained", help="frozen: no adapter in the vision tower")
    parser.add_argument("--photos", type=int, default=4, help="of each product")
    parser.add_argument("--profile", action="store_true", help="where the package's time goes, in place of rounds")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = render_mart(Path(name) / "mart", products=48, photos=given.photos, dates=1, seed=0)
        catalogue = load_catalogue(root)
        train = build_dialogues(catalogue, given.steps * given.batch, split="train", seed=0)
        test = build_dialogues(catalogue, 128, split="test", seed=0)
        if given.profile:
            share = round(share_of_products(train, Path(name), given), 3)
            row = {
                "metric": f"share_of_products, tower {given.tower}",
                "value": share,
                "unit": "share of processor time",
            }
            return print(json.dumps(row | {"better": "none"}))
        ratios, losses = [], []
        for k in range(given.rounds):
            found = {}
            for way in ("plain", "package") if k % 2 == 0 else ("package", "plain"):
                with ProcessPoolExecutor(1, get_context("spawn")) as alone:
                    work = alone.submit(measured, way, train, test, Path(name) / f"{way}{k}", k, given)
                    found[way] = work.result()
            ratios.append(found["plain"][0] / found["package"][0])
            losses.append(found["package"][1] - found["plain"][1])
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
    comes = Counter(photo for record in train for photo in record["images"])
    uses = round(statistics.mean(comes.values()), 2)
    rows.append({"metric": "uses_of_a_photo", "value": uses, "unit": "times", "better": "none"})
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
