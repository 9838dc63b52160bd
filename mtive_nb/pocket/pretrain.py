"""Train the pocket base from random weights, in three phases of one Trainer (notebook 00).

- `dense` trains vision tower and connector on labels of every merged patch: its characters, shape, colour and state.
  Without this phase, the model does not learn to read in a practical time on a CPU (LOG.md).
- `language` trains the whole model to answer, with the dense labels as a second loss.
- `compare` (pocket/compare.py) trains the language model alone, on images that are encoded once.

Shapes: B samples, I images of a batch, P patches, M = P / 4 merged patches of the whole batch, D language width,
W vision width; V views of real photos, CELLS, K and F as in distill.py.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy, mse_loss
from torch.utils.data import Dataset
from transformers import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    TrainingArguments,
    get_scheduler,
)
from transformers.vision_utils import get_vision_window_index

from mtive_nb.data.records import assistant_turn, user_turn
from mtive_nb.model.resume import go_on, trainable_weights, weights_sha256
from mtive_nb.model.train import TrainableCheckpoints, Watch
from mtive_nb.pocket.base import MERGE
from mtive_nb.pocket.muon import Muon, split_parameters
from mtive_nb.pocket.scene_questions import Sample, make_sample
from mtive_nb.pocket.scene_shapes import SHAPES
from mtive_nb.pocket.scenes import CHARACTERS, COLOURS, GLYPHS, SLOTS, STATES

CLASSES = {
    "character": len(CHARACTERS) + 1,
    "glyph": len(CHARACTERS) + 1,
    "shape": len(SHAPES) + 1,
    "colour": len(COLOURS) + 1,
    "state": len(STATES) + 1,
}
OF_ONE_FEATURE = {"character": SLOTS, "glyph": GLYPHS}  # labels per feature row; default: 1
IGNORE = -100
LAST_BLOCK = 0.5  # weight of the last block in the teacher's loss
PHASES = ("dense", "language", "compare")


class SceneDataset(Dataset):
    """`n` samples of the stream `seed`, rendered on access."""

    def __init__(
        self,
        n: int,
        *,
        seed: int,
        photos: list[np.ndarray] | None = None,
        words: list[str] | None = None,
        shares: dict[str, float] | None = None,
    ) -> None:
        """photos, words and shares as in make_sample."""
        self.n, self.seed, self.photos, self.words, self.shares = n, seed, photos, words, shares

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Sample:
        return make_sample(index, seed=self.seed, photos=self.photos, words=self.words, shares=self.shares)


@dataclass(frozen=True)
class Encoded:
    """An encoded image: features (m, D) in float16 of its m merged patches, for the language model; grid (t, h, w)."""

    features: np.ndarray
    grid: tuple[int, int, int]


def encode(model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, images: list[np.ndarray]) -> list[Encoded]:  # fmt: skip
    """Encode HWC uint8 images with vision tower and connector, in one batch."""
    given = processor.image_processor(images=images, return_tensors="pt").to(model.device)
    grids = [tuple(grid) for grid in given["image_grid_thw"].tolist()]
    with torch.inference_mode():
        out = model.model.visual(given["pixel_values"].to(model.dtype), grid_thw=given["image_grid_thw"])
    rows = out.pooler_output.half().cpu().split([math.prod(grid) // MERGE**2 for grid in grids])
    return [Encoded(features.numpy().copy(), grid) for features, grid in zip(rows, grids, strict=True)]


class DenseHeads(nn.Module):
    """One linear head per kind of label, on the connector's output (M, D); `glyph` is on the tower's output (P, W)."""

    def __init__(self, width: int, tower_width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {
                k: nn.Linear(tower_width if k == "glyph" else width, c * OF_ONE_FEATURE.get(k, 1))
                for k, c in CLASSES.items()
            }
        )

    def loss(self, features: torch.Tensor, patches: torch.Tensor, labels: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean cross-entropy over heads; weights: empty 0.2, since most are empty, and state "whole" 0.5."""
        total = features.new_zeros(())
        for name, head in self.heads.items():
            weight = torch.full((CLASSES[name],), 1.0, device=features.device)
            weight[0] = 0.2
            if name == "state":
                weight[1 + STATES.index("whole")] = 0.5
            target = labels[name].reshape(-1)  # (M,), (M * SLOTS,) or (P * GLYPHS,); IGNORE on real photos
            if not (target != IGNORE).any():
                continue
            rows = head(patches if name == "glyph" else features)
            total = total + cross_entropy(rows.reshape(len(target), -1), target, weight)
        return total / len(self.heads)


class TeacherHeads(nn.Module):
    """Linear heads from merged tokens (width D) and patches (width W) to the teacher's features."""

    def __init__(self, width: int, tower_width: int, *, components: int = 256, features: int = 1280) -> None:
        super().__init__()
        self.cells = nn.Linear(width, components)
        self.pooled = nn.Linear(width, features)
        self.last = nn.Linear(tower_width, features)

    def loss(
        self, tokens: torch.Tensor, patches: torch.Tensor, cells: torch.Tensor, pooled: torch.Tensor
    ) -> torch.Tensor:
        """Return the distance of tokens (V, CELLS, D) and patches (V, P, W) from cells (V, CELLS, K) and pooled (V, F)."""

        def apart(found: torch.Tensor) -> torch.Tensor:
            return mse_loss(found, pooled) + 1 - cosine_similarity(found, pooled).mean()

        whole, last = self.pooled(tokens.mean(1)), self.last(patches.mean(1))
        return mse_loss(self.cells(tokens), cells) + apart(whole) + LAST_BLOCK * apart(last)


def conversation(sample: Sample) -> list[dict]:
    """Return the sample's turns as chat messages; the images precede the first question."""
    messages = []
    for k, (question, answer, _) in enumerate(sample.turns):
        messages += [user_turn(question, images=0 if k else len(sample.images)), assistant_turn(answer)]
    return messages


def merged_order(grid: np.ndarray) -> np.ndarray:
    """Flatten the labels (gh, gw, ...) of an image's merged patches to rows (gh * gw, ...) in processor order."""
    return grid.reshape(-1, *grid.shape[2:])


def _patches_in_order(tower: nn.Module, states: torch.Tensor, grid_thw: torch.Tensor) -> torch.Tensor:
    """Return the connector's normalised input (P, W), reordered from the tower's window order to the processor's."""
    windows, _lengths = get_vision_window_index(
        grid_thw,
        spatial_merge_size=tower.spatial_merge_size,
        window_size=tower.window_size,
        patch_size=tower.patch_size,
    )
    groups = tower.merger.ln_q(states).view(len(windows), -1, states.shape[-1])
    return groups[torch.argsort(windows)].flatten(0, 1)


class SceneCollator:
    """Turns samples into a processor batch with `labels` (answers only) and `dense` labels of all merged patches."""

    def __init__(self, processor: Qwen2_5_VLProcessor) -> None:
        self.processor = processor
        ids = processor.tokenizer.convert_tokens_to_ids
        self.start, self.end, self.assistant = ids("<|im_start|>"), ids("<|im_end|>"), ids("assistant")

    def answers(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Map ids (B, T) to labels (B, T): tokens after "assistant\\n" up to and with the end mark, else IGNORE."""
        labels = torch.full_like(input_ids, IGNORE)
        for row, ids in enumerate(input_ids.tolist()):
            inside, t = False, 0
            while t < len(ids):
                if ids[t] == self.start and t + 1 < len(ids) and ids[t + 1] == self.assistant:
                    inside, t = True, t + 3
                    continue
                if inside:
                    labels[row, t] = ids[t]
                    inside = ids[t] != self.end
                t += 1
        return labels

    def encoded(self, text: list[str], images: list[Encoded]) -> dict:
        """Build the processor's batch from text and images that are already encoded."""
        pad, lengths = self.processor.image_token, iter([len(image.features) for image in images])
        text = [re.sub(re.escape(pad), lambda _: pad * next(lengths), t) for t in text]
        batch = dict(self.processor.tokenizer(text, return_tensors="pt", padding=True))
        batch["mm_token_type_ids"] = (batch["input_ids"] == self.processor.image_token_id).int()
        batch["image_grid_thw"] = torch.tensor([image.grid for image in images])
        batch["features"] = torch.from_numpy(np.concatenate([image.features for image in images])).float()
        return batch | {"labels": self.answers(batch["input_ids"])}

    def __call__(self, samples: list[Sample]) -> dict:
        text = [self.processor.apply_chat_template(conversation(s)) for s in samples]
        images = [image for s in samples for image in s.images] or None
        if images and isinstance(images[0], Encoded):
            return self.encoded(text, images)
        batch = dict(self.processor(text=text, images=images, return_tensors="pt", padding=True))
        batch["labels"] = self.answers(batch["input_ids"])
        if taught := [s.views for s in samples if s.views]:
            given = self.processor.image_processor(images=[v for t in taught for v in t.images], return_tensors="pt")
            targets = {
                k: torch.from_numpy(np.concatenate([getattr(t, k) for t in taught])) for k in ("cells", "pooled")
            }
            batch |= {f"view_{k}": v for k, v in {**given, **targets}.items()}
        if images:
            dense = [d for s in samples for d in s.dense]
            batch["dense"] = {k: torch.from_numpy(np.concatenate([merged_order(d[k]) for d in dense])) for k in CLASSES}
        return batch


class BaseTrainer(TrainableCheckpoints):
    """Trainer of all phases; notebook 00 deletes the heads `model.dense` and `model.teacher` before the final save.

    A sample with n answer tokens weighs sqrt(n): by tokens, long texts drown yes and no; by samples, print is hardly
    taught.
    """

    def __init__(
        self, *args: object, phase: str, dense_weight: float = 1.0, views_weight: float = 1.0, **kwargs: object
    ) -> None:
        super().__init__(*args, **kwargs)
        if phase not in PHASES:
            raise ValueError(f"phase: found {phase!r}, expected one of {', '.join(PHASES)}")
        self.phase, self.dense_weight, self.views_weight = phase, dense_weight, views_weight

    def compute_loss(self, model: nn.Module, inputs: dict, return_outputs: bool = False, **_: object):  # noqa: ANN201
        ids, grid_thw = inputs["input_ids"], inputs.get("image_grid_thw")
        embeds, loss = model.get_input_embeddings()(ids), torch.zeros((), device=ids.device)
        self.last = {}
        features = inputs.get("features")  # (M, D), if the images are already encoded
        if grid_thw is not None and features is None:
            visual = model.model.visual(inputs["pixel_values"].type(model.dtype), grid_thw=grid_thw)
            features = visual.pooler_output  # (M, D)
            patches = _patches_in_order(model.model.visual, visual.last_hidden_state, grid_thw)
            loss = model.dense.loss(features, patches, inputs["dense"])
            self.last |= {"dense_loss": loss.item()}
        if features is not None:
            where = (ids == model.config.image_token_id).unsqueeze(-1)
            embeds = embeds.masked_scatter(where.expand_as(embeds), features)
        if "view_cells" in inputs:
            views = self._views_loss(model, inputs)
            loss = loss + self.views_weight * views
            self.last |= {"views_loss": views.item()}
        if self.phase == "dense":
            return (loss, None) if return_outputs else loss
        positions, _deltas = model.model.get_rope_index(
            ids,
            inputs["mm_token_type_ids"],
            image_grid_thw=grid_thw,
            attention_mask=inputs["attention_mask"],
        )
        hidden = model.model.language_model(
            inputs_embeds=embeds, position_ids=positions, attention_mask=inputs["attention_mask"]
        )
        answers = inputs["labels"][:, 1:]
        counted = answers != IGNORE  # (B, T - 1)
        states = hidden.last_hidden_state[:, :-1][counted]  # only answer rows reach the large head
        losses = cross_entropy(model.lm_head(states), answers[counted], reduction="none")
        weight = counted.sum(1, keepdim=True).clamp(min=1).rsqrt().expand_as(counted)[counted]
        answer_loss = (losses * weight).sum() / weight.sum()
        self.last |= {"answer_loss": answer_loss.item()}
        total = answer_loss + self.dense_weight * loss
        return (total, None) if return_outputs else total

    def _views_loss(self, model: nn.Module, inputs: dict) -> torch.Tensor:
        """Return the teacher's loss on real views (pocket/distill.py), which all have the same size."""
        grid_thw, cells = inputs["view_image_grid_thw"], inputs["view_cells"]
        visual = model.model.visual(inputs["view_pixel_values"].type(model.dtype), grid_thw=grid_thw)
        tokens = visual.pooler_output.view(*cells.shape[:2], -1)  # (M, D) -> (V, CELLS, D)
        patches = model.model.visual.merger.ln_q(visual.last_hidden_state).view(
            len(cells), -1, visual.last_hidden_state.shape[-1]
        )
        return model.teacher.loss(tokens, patches, cells, inputs["view_pooled"])

    def log(self, logs: dict, *args: object, **kwargs: object) -> None:
        super().log(logs | getattr(self, "last", {}), *args, **kwargs)


def base_arguments(folder: Path, *, steps: int, batch: int, rate: float, seed: int, save_steps: int = 250, warmup: int = 100) -> TrainingArguments:  # fmt: skip
    """Return arguments: warm-up, constant rate, cosine decay over the last half; a checkpoint every `save_steps`."""
    return TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=batch, learning_rate=rate, weight_decay=0.02,
        lr_scheduler_type="warmup_stable_decay", lr_scheduler_kwargs={"num_decay_steps": steps // 2}, warmup_steps=min(warmup, steps // 4),
        adam_beta2=0.98, max_grad_norm=1.0, logging_steps=max(1, min(25, steps // 2)), save_steps=save_steps, save_total_limit=1, seed=seed, data_seed=seed,
        train_sampling_strategy="sequential", dataloader_num_workers=1, dataloader_prefetch_factor=4, remove_unused_columns=False, report_to=[], disable_tqdm=True,
        label_names=["labels"], use_cpu=not torch.cuda.is_available(), logging_nan_inf_filter=False,
    )  # fmt: skip


def prepare_base(model: Qwen2_5_VLForConditionalGeneration, *, phase: str) -> None:
    """Add the heads that the model lacks, and unfreeze only the weights that the phase trains."""
    width, tower_width = model.config.text_config.hidden_size, model.config.vision_config.hidden_size
    if not hasattr(model, "dense"):
        model.dense = DenseHeads(width, tower_width)
    if not hasattr(model, "teacher"):
        model.teacher = TeacherHeads(width, tower_width)
    model.requires_grad_(True)
    if phase == "dense":
        model.model.language_model.requires_grad_(False)
        model.lm_head.requires_grad_(False)
    if phase == "compare":
        model.model.visual.requires_grad_(False)
        model.dense.requires_grad_(False)


def train_base(
    model: Qwen2_5_VLForConditionalGeneration, data: Dataset, *, phase: str, arguments: TrainingArguments,
    processor: Qwen2_5_VLProcessor, callbacks: list | None = None,
) -> list[dict]:  # fmt: skip
    """Train one phase, resuming from its last whole checkpoint if that is of the same run; returns the log rows.

    Errors: NotFiniteError.
    """
    prepare_base(model, phase=phase)
    matrices, others = split_parameters(model)
    optimizer = Muon(matrices, others, lr=arguments.learning_rate, weight_decay=arguments.weight_decay)
    schedule = get_scheduler(
        arguments.lr_scheduler_type, optimizer, num_warmup_steps=arguments.warmup_steps,
        num_training_steps=arguments.max_steps, scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,
    )  # fmt: skip
    trainer = BaseTrainer(
        model, arguments, train_dataset=data, data_collator=SceneCollator(processor), phase=phase,
        callbacks=[Watch(phase), *(callbacks or [])], optimizers=(optimizer, schedule),
    )  # fmt: skip
    about = {
        "phase": phase, "scenes": joblib.hash(data), "steps": arguments.max_steps,
        "batch": arguments.per_device_train_batch_size, "rate": arguments.learning_rate, "seed": arguments.seed,
        "initial weights": weights_sha256(trainable_weights(model)),
    }  # fmt: skip
    go_on(trainer, about)
    return trainer.state.log_history
