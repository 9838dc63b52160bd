"""One batch, many experts: every row answers with its own adapter over a shared trunk, in all parts of the model.

The trunk runs once for the whole batch; behind each layer on which an expert stands, the expert's low-rank product is
added to its own rows. PEFT's `adapter_names` does the same for layers whose first dimension is the batch; in the vision
tower and the connector a row is a patch, and patches of all images of a batch follow one another: here they are told
apart by their images' grids. Experts may differ in rank, alpha and placement. All of it is differentiable, so that
several experts can be trained in one pass.

Shapes: B rows of the batch, I images, P patches and M merged patches of the whole batch, T tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

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


def check_experts(stack: LoraStack, trunk: str | None, experts: Sequence[str | None]) -> list[str]:
    """The distinct experts of a batch, in order. Errors: LineageError for one that does not stand on the trunk itself."""
    names = list(dict.fromkeys(name for name in experts if name is not None))
    for name in names:
        if name not in stack.specs:
            raise KeyError(f"no adapter {name!r} on the stack; it holds {sorted(stack.specs)}")
        if stack.parents[name] != trunk:
            raise LineageError(f"expert {name!r} stands on {stack.parents[name]!r}, the batch's trunk is {trunk!r}")
        if stack.specs[name].dora:
            raise ValueError(f"expert {name!r} is DoRA: it rescales the trunk's weights, which rows of a batch share")
    return names


@contextmanager
def mixed_experts(
    stack: LoraStack,
    experts: Sequence[str | None],
    *,
    trunk: str | None,
    images: Sequence[int],
    grid_thw: torch.Tensor | None,
) -> Iterator[nn.Module]:
    """Inside, row b of every forward (and `generate`) of the yielded model uses expert b over `trunk`, None the trunk alone.

    `images` is the number of images of each row, `grid_thw` (I, 3) the processor's `image_grid_thw`. What was active
    before is active again afterwards.
    """
    names, before = check_experts(stack, trunk, experts), stack.active
    patches, merge = rows_of_patches(images, grid_thw), stack.vlm.processor.image_processor.merge_size
    device = stack.vlm.device
    chosen = torch.tensor([names.index(e) if e is not None else -1 for e in experts])
    of_patch = chosen[patches].to(device)
    of_row = {"language": chosen.to(device), "vision": of_patch, "connector": of_patch[:: merge**2]}
    where = {part: [torch.where(rows == k)[0] for k in range(len(names))] for part, rows in of_row.items()}
    whole = {part: len(rows) for part, rows in of_row.items()}

    def behind(layer: LoraLayer, part: str) -> object:
        here = [(k, name) for k, name in enumerate(names) if name in layer.lora_A]

        def add(_layer: nn.Module, given: tuple, out: torch.Tensor) -> torch.Tensor:
            x = given[0]
            if x.shape[0] != whole[part]:
                raise ValueError(f"{part}: found {x.shape[0]} rows, expected {whole[part]} as the batch was announced")
            for k, name in here:
                rows = where[part][k]
                if len(rows):
                    low = layer.lora_A[name](x[rows].to(layer.lora_A[name].weight.dtype))
                    out = out.index_add(0, rows, (layer.scaling[name] * layer.lora_B[name](low)).to(out.dtype))
            return out

        return layer.register_forward_hook(add) if here else None

    if before != (stack.branch(trunk) if trunk else ()):
        stack.activate(trunk)
    hooks = []
    try:
        with stack.folded():
            for path, layer in stack.model.named_modules():
                if isinstance(layer, LoraLayer) and (hook := behind(layer, part_of(path, family=stack.vlm.family))):
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
