"""One batch, many experts: every row answers with its own adapter over a shared trunk, in all parts of the model.

The trunk runs once for the whole batch. After each layer with experts, each expert's low-rank product is added to that
expert's rows. Rows are divided into equal groups of one expert each, so two batched matrix products serve all experts
of a layer.

PEFT's `adapter_names` does the same for layers whose first dimension is the batch. In the vision tower and the
connector a row is a patch, and the patches of all images in a batch are concatenated; this module separates them by
the images' grids. Experts may differ in rank, alpha and placement. Weights read from a folder also work, without an
adapter on the stack. Every step is differentiable, so one pass can train several experts.

Shapes: B rows of the batch, I images, P patches and M merged patches of the whole batch, T tokens; G groups of S rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mtive_nb.model.adapter import Adapter
from mtive_nb.model.lineage import LineageError
from mtive_nb.model.load import part_of
from mtive_nb.model.losses import noise_robust_loss
from mtive_nb.model.stack import LoraStack


def rows_of_patches(images: Sequence[int], grid_thw: torch.Tensor | None) -> torch.Tensor:
    """Return the batch row of each of the tower's rows: of every patch (P,) with grids (I, 3), else of every image (I,).

    Qwen's tower reads the patches of all images as one row each, other families' towers an image a row. Errors:
    ValueError where `images` and the grids disagree on the number of images.
    """
    row_of_image = torch.repeat_interleave(torch.arange(len(images)), torch.tensor(images))
    if grid_thw is None:
        return row_of_image
    if sum(images) != len(grid_thw):
        raise ValueError(f"images: found {sum(images)} in the rows, but grids of {len(grid_thw)}")
    return torch.repeat_interleave(row_of_image, grid_thw.prod(1).cpu())


@dataclass(frozen=True)
class Dealt:
    """Rows in groups of one expert each: `index` (G * S,) of the rows, `experts` (G) of the groups.

    real (G, S): which slots contain a row; padding slots repeat row 0 and are masked. None: no padding.
    straight: whether the groups, in order, are the batch itself.
    """

    index: torch.Tensor
    experts: list[Adapter]
    real: torch.Tensor | None
    straight: bool


def deal(rows: dict[Adapter, torch.Tensor], *, of: int) -> Dealt:
    """Divide rows into equal groups of one expert each; an expert with many rows gets several groups.

    rows: {expert: its row indices, at least one}. of: number of rows in the batch.
    """
    size = -(-sum(map(len, rows.values())) // len(rows))
    parts = [(expert, part) for expert, own in rows.items() for part in own.split(size)]
    size = max(len(part) for _, part in parts)
    index = torch.stack([F.pad(part, (0, size - len(part))) for _, part in parts])
    lengths = torch.tensor([len(part) for _, part in parts], device=index.device)
    real = torch.arange(size, device=index.device) < lengths[:, None]
    index, full = index.flatten(), bool(real.all())
    straight = full and len(index) == of and torch.equal(index, torch.arange(of, device=index.device))
    return Dealt(index, [expert for expert, _ in parts], None if full else real, straight)


def low_rank_weights(path: str, experts: Sequence[Adapter]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A (G, in, R) and scaled B (G, R, out) of these experts at one layer, zero-padded to the largest rank R."""
    rank = max(expert.spec.rank for expert in experts)
    down, up = [], []
    for expert in experts:
        a, b = expert.weights[path]  # (r, in), (out, r)
        missing = rank - len(a)
        down.append(F.pad(a, (0, 0, 0, missing)) if missing else a)
        up.append((F.pad(b, (0, missing)) if missing else b) * expert.scale)
    return torch.stack(down).transpose(1, 2), torch.stack(up).transpose(1, 2)


def add_low_rank(
    x: torch.Tensor, out: torch.Tensor, dealt: Dealt, down: torch.Tensor, up: torch.Tensor
) -> torch.Tensor:
    """Add each dealt row's low-rank product of x (N, ..., in) to out (N, ..., out), and return the sum."""
    groups, (features, rank) = len(down), down.shape[1:]
    rows = x if dealt.straight else x.index_select(0, dealt.index)  # (G * S, ..., in)
    low = torch.bmm(rows.reshape(groups, -1, features).to(down.dtype), down)  # (G, S * ..., R)
    if dealt.real is not None:
        low = (low.view(*dealt.real.shape, -1, rank) * dealt.real[..., None, None]).view(low.shape)
    added = torch.bmm(low, up).view(*rows.shape[:-1], -1).to(out.dtype)
    # In place: nothing else uses the layer's output, and no linear layer needs its output for its gradient.
    return out.add_(added) if dealt.straight else out.index_add_(0, dealt.index, added)


def check_expert(expert: Adapter, trunk: str | None) -> None:
    """Check that an expert can run in a mixed batch.

    Errors: LineageError for an expert whose parent is not the trunk, ValueError for DoRA.
    """
    if expert.parent != trunk:
        raise LineageError(f"expert {expert.name!r} stands on {expert.parent!r}, the trunk is {trunk!r}")
    if expert.spec.dora:
        raise ValueError(
            f"expert {expert.name!r} is DoRA: DoRA rescales the trunk's weights, which all rows of a batch share"
        )


def images_of_rows(records: Sequence[dict], inputs: Mapping[str, torch.Tensor]) -> dict:
    """Return the arguments `images` and `grid_thw` of mixed_experts for a batch of these records."""
    pixels, images = inputs.get("pixel_values"), [len(r["images"]) for r in records]
    if pixels is not None and pixels.dim() == 5:  # Idefics3: (rows, images and their parts, C, H, W), zeros as padding
        images = (pixels.flatten(2) != 0).any(2).sum(1).tolist()
    return {"images": images, "grid_thw": inputs.get("image_grid_thw")}


@contextmanager
def mixed_experts(
    stack: LoraStack,
    experts: Sequence[Adapter | str | None],
    *,
    trunk: str | None,
    images: Sequence[int],
    grid_thw: torch.Tensor | None,
) -> Iterator[nn.Module]:
    """Run row b of every forward (and `generate`) of the yielded model with expert b over `trunk`.

    An expert is an adapter, the name of an adapter on the stack, or None for the trunk alone. `images` is the number of
    images that the vision tower reads for each row, `grid_thw` (I, 3) the processor's `image_grid_thw` (None: the
    family has none); images_of_rows gives both. The previous branch is active again
    afterwards. Errors: those of check_expert; ValueError where a batch has other rows than announced.
    """
    given, before = list(dict.fromkeys(e for e in experts if e is not None)), stack.active
    adapters = [stack.adapter(e) if isinstance(e, str) else e for e in given]
    for adapter in adapters:
        check_expert(adapter, trunk)
    patches = rows_of_patches(images, grid_thw)
    merge = getattr(stack.vlm.processor.image_processor, "merge_size", 1)  # a text model has neither
    device = stack.vlm.device
    chosen = torch.tensor([given.index(e) if e is not None else -1 for e in experts])
    of_patch = chosen[patches].to(device)
    of_row = {"language": chosen.to(device), "vision": of_patch, "connector": of_patch[:: merge**2]}
    where = {part: {a: torch.where(rows == k)[0] for k, a in enumerate(adapters)} for part, rows in of_row.items()}
    whole, dealt_to = {part: len(rows) for part, rows in of_row.items()}, {}

    def behind(path: str) -> object:
        part = part_of(path, family=stack.vlm.family)
        here = tuple(a for a in adapters if path in a.weights and len(where[part][a]))
        if not here:
            return None
        if (part, here) not in dealt_to:
            dealt_to[part, here] = deal({a: where[part][a] for a in here}, of=whole[part])
        dealt, kept = dealt_to[part, here], []

        def add(_layer: nn.Module, given: tuple, out: torch.Tensor) -> torch.Tensor:
            x = given[0]
            if x.shape[0] != whole[part]:
                raise ValueError(f"{part}: found {x.shape[0]} rows, expected {whole[part]} for the announced batch")
            if torch.is_grad_enabled():
                return add_low_rank(x, out, dealt, *low_rank_weights(path, dealt.experts))
            if not kept:  # weights do not change during generation
                kept.extend(low_rank_weights(path, dealt.experts))
            return add_low_rank(x, out, dealt, *kept)

        return stack.vlm.model.get_submodule(path).register_forward_hook(add)

    if before != (stack.branch(trunk) if trunk else ()):
        stack.activate(trunk)
    hooks = []
    try:
        with stack.folded():
            for path in dict.fromkeys(path for adapter in adapters for path in adapter.weights):
                if hook := behind(path):
                    hooks.append(hook)
            yield stack.model
    finally:
        for hook in hooks:
            hook.remove()
        if stack.active != before:
            stack.activate(before[-1] if before else None)


def loss_of_experts(
    logits: torch.Tensor, labels: torch.Tensor, experts: Sequence[str | None], *, beta: float = 0.0
) -> dict[str, torch.Tensor]:
    """Return each expert's loss over its own rows, {expert: scalar}.

    The gradient of the sum equals the gradients of the separate losses.
    """
    names = [e for e in dict.fromkeys(experts) if e is not None]
    rows = {name: [b for b, e in enumerate(experts) if e == name] for name in names}
    return {name: noise_robust_loss(logits[some], labels[some], beta=beta) for name, some in rows.items()}
