"""Answers of a model to records: greedy, in batches of one task and form, given back in the records' own order."""

from pathlib import Path

import torch

from mtive_nb.model.batches import Collator, RecordDataset
from mtive_nb.model.load import Vlm
from mtive_nb.model.stack import LoraStack
from mtive_nb.run import progress


@torch.inference_mode()
def generate_answers(model: LoraStack | Vlm, records: list[dict], *, root: Path, batch: int = 64, max_new_tokens: int = 64,
                     side_px: int | None = None, what: str = "answers") -> list[str]:  # fmt: skip
    """One answer a record by greedy decoding with whatever adapters are active; `root` is where image paths start."""
    vlm = model.vlm if isinstance(model, LoraStack) else model
    network = model.model.eval()
    data, collate = RecordDataset(records, root=root, side_px=side_px), Collator(vlm.processor, answers=False)
    order = sorted(
        range(len(records)), key=lambda i: (records[i]["task"], records[i]["variant"], len(records[i]["images"]))
    )
    answers: list[str] = [""] * len(records)
    for start in progress(range(0, len(order), batch), what=what):
        rows = order[start : start + batch]
        inputs = {k: v.to(vlm.device) for k, v in collate([data[i] for i in rows]).items()}
        tokens = network.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        texts = vlm.processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(rows, texts, strict=True):
            answers[i] = text.strip()
    return answers
