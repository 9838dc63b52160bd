"""Keep what a frozen vision tower makes of each photo, so that it is computed once and not in every step.

On a CPU the tower takes a third of a training step on the pocket base. Only for Qwen2.5-VL, whose tower and connector
can be called apart, and only on a CPU: on a GPU the features would take the memory of activations.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.vision_utils import get_vision_window_index


class KeptPhotos:
    """The tower's last hidden state of each photo seen, found again by the photo's own patches in any batch.

    Nothing is kept beyond `limit` bytes; photos that come after are computed each time. A copy of it, for another model
    or process, begins empty.
    """

    def __init__(self, limit: int = 2**30) -> None:
        self.limit, self.states, self.bytes = limit, {}, 0

    def __reduce__(self) -> tuple:
        return KeptPhotos, (self.limit,)

    def forget(self) -> None:
        """Keep no photo any longer."""
        self.states.clear()
        self.bytes = 0

    def of(self, tower: nn.Module, patches: torch.Tensor, grids: torch.Tensor) -> torch.Tensor:
        """Return the tower's last hidden state (P, D), before the connector, for patches (P, values) of grids (N, 3)."""
        photos = patches.split(grids.prod(1).tolist())
        keys = [
            (*grid, sha256(photo.contiguous().view(torch.uint8).numpy()).digest())
            for grid, photo in zip(grids.tolist(), photos, strict=True)
        ]
        states = {key: self.states.get(key) for key in keys}
        new = [keys.index(key) for key, state in states.items() if state is None]
        if new:
            with torch.inference_mode(False), torch.no_grad():  # a tensor of inference mode could not be trained on
                pixels = torch.cat([photos[i] for i in new]).clone()
                made = type(tower).forward(tower, pixels, grid_thw=grids[new].clone()).last_hidden_state
            for i, state in zip(new, made.split([len(photos[i]) for i in new]), strict=True):
                states[keys[i]] = state
                if self.bytes < self.limit:
                    self.states[keys[i]] = state
                    self.bytes += state.numel() * state.element_size()
        return torch.cat([states[key] for key in keys])

    def forward(
        self, tower: nn.Module, hidden_states: torch.Tensor, grid_thw: torch.Tensor, **_: object
    ) -> BaseModelOutputWithPooling:
        """Compute as the tower's own forward pass, with kept states: (patches, values) to (patches / 4, D)."""
        states = self.of(tower, hidden_states, grid_thw)
        order, _lengths = get_vision_window_index(
            grid_thw,
            spatial_merge_size=tower.spatial_merge_size,
            window_size=tower.window_size,
            patch_size=tower.patch_size,
        )
        merged = tower.merger(states)[torch.argsort(order)]
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=merged)

    @contextmanager
    def used_by(self, model: nn.Module) -> Iterator[None]:
        """Let `model`, whose tower must not change meanwhile, take photos from here, where that is possible."""
        if model.config.model_type != "qwen2_5_vl" or model.device.type != "cpu":
            yield
            return
        tower = model.model.visual
        before = vars(tower).get("forward")
        tower.forward = partial(self.forward, tower)
        try:
            yield
        finally:
            if before:
                tower.forward = before
            else:
                del tower.forward
