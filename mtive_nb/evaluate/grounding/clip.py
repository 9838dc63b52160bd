"""CLIPScore, the baseline for grounding: the cosine between an image and a text, by any CLIP of transformers.

The real path is a CLIP from the hub (`load_clip("openai/clip-vit-base-patch32")`). Without a hub, `build_dual_encoder`
builds the same architecture at pocket size. `train_dual_encoder` trains it as CLIP was trained, on the shop's photos
and their texts: a STAND-IN that knows only one shop.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from mtive_nb.data.photos import file_sha256
from mtive_nb.data.records import plain
from mtive_nb.model.batches import cached_image, control_tokens
from mtive_nb.model.resume import go_on, trainable_weights, weights_sha256
from mtive_nb.model.train import Watch, training_log
from mtive_nb.run import progress
from mtive_nb.run.content import digest

ImageText = tuple[str, str]  # path of an image, text


@dataclass(frozen=True)
class Clip:
    """A CLIP with its processor; `text_end` is an end mark that the tokenizer does not add itself."""

    model: CLIPModel
    processor: CLIPProcessor
    text_end: str = ""

    def inputs(self, images: list, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        return self.text_inputs(texts) | self.image_inputs(images)

    def text_inputs(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        longest = self.model.config.text_config.max_position_embeddings
        end, control = self.text_end, control_tokens(self.processor)
        texts = [plain(text, control) for text in texts]
        if end:  # cut a long text before the end mark, where the model pools the text
            ids = self.processor.tokenizer(texts, truncation=True, max_length=longest - 1)["input_ids"]
            texts = [self.processor.tokenizer.decode(row) + end for row in ids]
        batch = self.processor(text=texts, return_tensors="pt", padding=True, truncation=True, max_length=longest)
        return {k: batch[k].to(self.model.device) for k in ("input_ids", "attention_mask")}

    def image_inputs(self, images: list) -> dict[str, torch.Tensor]:
        batch = self.processor(images=images, return_tensors="pt")
        return {"pixel_values": batch["pixel_values"].to(self.model.device)}


def load_clip(name: str) -> Clip:
    """Load a CLIP from the hub or a local folder, onto a GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Clip(CLIPModel.from_pretrained(name).eval().to(device), CLIPProcessor.from_pretrained(name))


def build_dual_encoder(tokenizer: PreTrainedTokenizerBase, *, image_px: int = 112, patch_px: int = 14, width: int = 128,
                       layers: int = 3, longest: int = 48) -> Clip:  # fmt: skip
    """Build CLIP's architecture at pocket size with random weights, for `tokenizer`."""
    end, size = tokenizer.eos_token, {"height": image_px, "width": image_px}
    shape = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
    }
    text = shape | {"vocab_size": len(tokenizer), "max_position_embeddings": longest, "eos_token_id": tokenizer.eos_token_id,
                    "bos_token_id": None, "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    config = CLIPConfig(
        text_config=text, vision_config=shape | {"image_size": image_px, "patch_size": patch_px}, projection_dim=width
    )
    tokenizer = copy.deepcopy(tokenizer)  # the caller's tokenizer stays unchanged
    tokenizer.padding_side = "right"  # positions count from the left
    images = CLIPImageProcessor(size={"shortest_edge": image_px}, crop_size=size)
    return Clip(CLIPModel(config), CLIPProcessor(image_processor=images, tokenizer=tokenizer), text_end=end)


class _Pairs(Dataset):
    def __init__(self, pairs: Sequence[ImageText], image_px: int) -> None:
        self.pairs, self.image_px = pairs, image_px

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[object, str]:
        path, text = self.pairs[index]
        return cached_image(path, self.image_px), text


def train_dual_encoder(
    clip: Clip,
    pairs: Sequence[ImageText],
    *,
    folder: Path,
    steps: int,
    batch: int = 64,
    rate: float = 1e-3,
    seed: int = 0,
) -> pd.DataFrame:
    """Train with CLIP's contrastive loss on matching pairs and return the log (step, loss).

    Training resumes from the last whole checkpoint in `folder` if that is of the same run. Errors: NotFiniteError.
    """

    def collate(rows: list) -> dict[str, torch.Tensor | bool]:
        return clip.inputs([image for image, _ in rows], [text for _, text in rows]) | {"return_loss": True}

    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=batch, learning_rate=rate, weight_decay=0.05,
        lr_scheduler_type="cosine", warmup_steps=max(1, steps // 20), logging_steps=max(1, steps // 20), seed=seed,
        save_steps=200, save_total_limit=1, report_to=[], remove_unused_columns=False, disable_tqdm=True, dataloader_drop_last=True,
        use_cpu=not torch.cuda.is_available(), log_level="error", logging_nan_inf_filter=False,
        dataloader_pin_memory=False,  # `collate` puts batches where the model is
    )  # fmt: skip
    image_px = clip.model.config.vision_config.image_size
    data, watch = _Pairs(pairs, image_px), Watch("dual encoder")
    trainer = Trainer(clip.model, arguments, train_dataset=data, data_collator=collate, callbacks=[watch])
    about = {
        "model": "dual encoder", "pairs": digest([[file_sha256(path), text] for path, text in pairs]), "steps": steps,
        "batch": batch, "rate": rate, "seed": seed, "initial weights": weights_sha256(trainable_weights(clip.model)),
    }  # fmt: skip
    go_on(trainer, about)
    clip.model.eval()
    return training_log(trainer)[["step", "loss"]]


@torch.inference_mode()
def clip_scores(clip: Clip, pairs: Sequence[ImageText], *, batch: int = 64) -> np.ndarray:
    """Return each pair's cosine of image and text, (n,), in [-1, 1].

    CLIPScore in the paper is 100 times the cosine, cut at 0.
    """
    clip.model.eval()
    image_px, found = clip.model.config.vision_config.image_size, []
    for start in progress(range(0, len(pairs), batch), what="CLIPScore"):
        some = pairs[start : start + batch]
        out = clip.model(**clip.inputs([cached_image(path, image_px) for path, _ in some], [text for _, text in some]))
        found.append((out.image_embeds * out.text_embeds).sum(1))  # both embeddings have length 1
    return torch.cat(found).cpu().numpy()


@torch.inference_mode()
def embeddings(clip: Clip, *, texts: Sequence[str] = (), photos: Sequence[str] = (), batch: int = 64) -> dict[str, np.ndarray]:  # fmt: skip
    """Return the unit-length embedding (D,) of each text and of each photo's path, in CLIP's shared space."""
    clip.model.eval()
    image_px, found = clip.model.config.vision_config.image_size, {}
    for kind, items in (("texts", list(dict.fromkeys(texts))), ("photos", list(dict.fromkeys(photos)))):
        for start in progress(range(0, len(items), batch), what=f"CLIP of {kind}"):
            some = items[start : start + batch]
            if kind == "texts":
                out = clip.model.get_text_features(**clip.text_inputs(some))
            else:
                out = clip.model.get_image_features(
                    **clip.image_inputs([cached_image(path, image_px) for path in some])
                )
            unit = torch.nn.functional.normalize(out.pooler_output, dim=1).float().cpu().numpy()
            found |= dict(zip(some, unit, strict=True))
    return found
