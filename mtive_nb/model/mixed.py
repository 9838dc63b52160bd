"""One batch, many experts: every row answers with its own adapter over a shared trunk, in all parts of the model.

The trunk runs once for the whole batch; behind each layer on which experts stand, their low-rank products are added to
their own rows: rows are dealt to groups of one expert and one size, so that two batched matrix products serve all
experts of a layer. PEFT's `adapter_names` does the same for layers whose first dimension is the batch; in the vision
tower and the connector a row is a patch, and patches of all images of a batch follow one another: here they are told
apart by their images' grids. Experts may differ in rank, alpha and placement, and need not be on the stack: weights
that were read from a folder serve as well. All of it is differentiable, so that several experts can be trained in one
pass.

Shapes: B rows of the batch, I images, P patches and M merged patches of the whole batch, T tokens; G groups of S rows.
"""

from collections.abc import Iterator, Sequence
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
    """The batch row of every patch, (P,), from the number of images of each row and the images' grids (I, 3)."""
    if grid_thw is None:
        return torch.empty(0, dtype=torch.long)
    if sum(images) != len(grid_thw):
        raise ValueError(f"images: found {sum(images)} in the rows, but grids of {len(grid_thw)}")
    row_of_image = torch.repeat_interleave(torch.arange(len(images)), torch.tensor(images))
    return torch.repeat_interleave(row_of_image, grid_thw.prod(1).cpu())


@dataclass(frozen=True)
class Dealt:
    """Rows in groups of one expert each: `index` (G * S,) of the rows, `experts` (G) of the groups.

    real (G, S): which places hold a row; the others repeat row 0 and are silenced. None: all do. straight: whether the
    groups are the batch as it stands.
    """

    index: torch.Tensor
    experts: list[Adapter]
    real: torch.Tensor | None
    straight: bool


def deal(rows: dict[Adapter, torch.Tensor], *, of: int) -> Dealt:
    """The rows of each expert (at least one each) in equal groups, out of `of` rows; a large share takes several."""
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
    """A (G, in, R) and scaled B (G, R, out) of these experts at one layer, filled up with zeros to the largest rank R."""
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
    """out (N, ..., out) with every dealt row's own product of x (N, ..., in) added."""
    groups, (features, rank) = len(down), down.shape[1:]
    rows = x if dealt.straight else x.index_select(0, dealt.index)  # (G * S, ..., in)
    low = torch.bmm(rows.reshape(groups, -1, features).to(down.dtype), down)  # (G, S * ..., R)
    if dealt.real is not None:
        low = (low.view(*dealt.real.shape, -1, rank) * dealt.real[..., None, None]).view(low.shape)
    added = torch.bmm(low, up).view(*rows.shape[:-1], -1).to(out.dtype)
    # In place: what the layer gave is nobody else's, and no linear layer needs it for its gradient.
    return out.add_(added) if dealt.straight else out.index_add_(0, dealt.index, added)


def check_expert(expert: Adapter, trunk: str | None) -> None:
    """Errors: LineageError for an expert that does not stand on the trunk itself, ValueError for DoRA."""
    if expert.parent != trunk:
        raise LineageError(f"expert {expert.name!r} stands on {expert.parent!r}, the trunk is {trunk!r}")
    if expert.spec.dora:
        raise ValueError(
            f"expert {expert.name!r} is DoRA: it rescales the trunk's weights, which rows of a batch share"
        )


@contextmanager
def mixed_experts(
    stack: LoraStack,
    experts: Sequence[Adapter | str | None],
    *,
    trunk: str | None,
    images: Sequence[int],
    grid_thw: torch.Tensor | None,
) -> Iterator[nn.Module]:
    """Inside, row b of every forward (and `generate`) of the yielded model uses expert b over `trunk`, None the trunk alone.

    Experts are adapters, or the names of adapters on the stack. `images` is the number of images of each row,
    `grid_thw` (I, 3) the processor's `image_grid_thw`. What was active before is active again afterwards.
    """
    given, before = list(dict.fromkeys(e for e in experts if e is not None)), stack.active
    adapters = [stack.adapter(e) if isinstance(e, str) else e for e in given]
    for adapter in adapters:
        check_expert(adapter, trunk)
    patches, merge = rows_of_patches(images, grid_thw), stack.vlm.processor.image_processor.merge_size
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
                raise ValueError(f"{part}: found {x.shape[0]} rows, expected {whole[part]} as the batch was announced")
            if torch.is_grad_enabled():
                return add_low_rank(x, out, dealt, *low_rank_weights(path, dealt.experts))
            if not kept:  # the weights stay as they are while answers are written
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
    """Each expert's own loss over its own rows, {expert: scalar}: their sum's gradients are those of each alone."""
    names = [e for e in dict.fromkeys(experts) if e is not None]
    rows = {name: [b for b, e in enumerate(experts) if e == name] for name in names}
    return {name: noise_robust_loss(logits[some], labels[some], beta=beta) for name, some in rows.items()}
