"""Phase `compare` of the pocket base: the language model learns to compare two images with fixed features.

Scenes are rendered and encoded once, so a step costs only the language model, and any two scenes can form a pair.
The answers "yes" and "no" are equally frequent. The respects of pocket/scene_pairs.py are taught one after another,
each in several question forms. The last, mixed part combines all respects and replays earlier skills.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from torch.utils.data import DataLoader, Dataset
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from mtive_nb.pocket.pretrain import Encoded, SceneDataset, encode
from mtive_nb.pocket.scene_pairs import RESPECTS, fields, pair_turns, respect_turn, scene_group, thing_turn
from mtive_nb.pocket.scene_questions import Sample
from mtive_nb.pocket.scene_wordings import reword
from mtive_nb.pocket.scenes import Scene

ORDER = ("colour", "shape", "text")  # order in which the respects are taught
ALONE = 0.15  # share of the samples on each single respect, before the mixed part
EARLIER = 0.25  # share of the single-respect samples that repeat an earlier respect
ONE_RESPECT = 0.6  # share of the mixed part's pairs whose first question is on one respect
KEPT = 0.35  # share of the mixed part's samples that replay earlier skills
KEPT_SHARES = {"objects": 0.15, "text": 0.3, "labelled": 0.3, "plain": 0.25}


@dataclass
class EncodedPool:
    """`looks`: (image, fields), four per group (a thing, the same again, two that differ); `kept`: replayed samples."""

    looks: list[tuple[Encoded, dict[str, str]]]
    kept: list[Sample]


class Groups(Dataset):
    """`n` groups of scenes, rendered on access."""

    def __init__(self, n: int, *, seed: int, photos: list[np.ndarray] | None) -> None:
        self.n, self.seed, self.photos = n, seed, photos

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> list[Scene]:
        return scene_group(np.random.default_rng([self.seed, index]), self.photos)


def encode_pool(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, *, groups: int, kept: int, seed: int,
    photos: list[np.ndarray] | None = None, words: list[str] | None = None, workers: int = 1,
) -> EncodedPool:  # fmt: skip
    """Render and encode the training data of the phase; `photos` and `words` as in make_sample."""
    pool, given = EncodedPool([], []), {"batch_size": 16, "num_workers": workers, "collate_fn": list}
    for batch in DataLoader(Groups(groups, seed=seed, photos=photos), **given):
        scenes = [scene for group in batch for scene in group]
        images = encode(model, processor, [scene.image for scene in scenes])
        pool.looks += zip(images, map(fields, scenes), strict=True)
    ordinary = SceneDataset(kept, seed=seed + 1, photos=photos, words=words, shares=KEPT_SHARES)
    for batch in DataLoader(ordinary, **given):
        images = iter(encode(model, processor, [image for sample in batch for image in sample.images]))
        pool.kept += [Sample([next(images) for _ in s.images], s.turns, []) for s in batch]
    return pool


class Comparisons(Dataset):
    """`n` conversations over a pool, in training order."""

    def __init__(self, pool: EncodedPool, *, n: int, seed: int) -> None:
        self.pool, self.n, self.seed = pool, n, seed
        self.alike = {respect: defaultdict(list) for respect in ORDER}
        for k, (_, shown) in enumerate(pool.looks):
            for respect, places in self.alike.items():
                places[shown[respect]].append(k)

    def __len__(self) -> int:
        return self.n

    def pair(self, respect: str, rng: np.random.Generator) -> list[tuple[Encoded, dict[str, str]]]:
        """Return two looks, equal half of the time: in `respect`, or in all RESPECTS if `respect` is empty."""
        looks, group = self.pool.looks, 4 * int(rng.integers(len(self.pool.looks) // 4))
        first = group + int(rng.integers(2))
        second = 2 * group + 1 - first  # the same thing seen again
        shown, respects = looks[first][1], [respect] if respect else RESPECTS
        if rng.random() < 0.5:
            if respect:
                second = int(rng.choice([k for k in self.alike[respect][shown[respect]] if k != first]))
        else:
            others = [group + 2, group + 3, *rng.integers(len(looks), size=2)]
            differ = [k for k in others if any(looks[k][1][r] != shown[r] for r in respects)]
            second = int(rng.choice(differ)) if differ else second
        return [looks[k] for k in rng.permutation([first, second])]

    def __getitem__(self, index: int) -> Sample:
        rng, part = np.random.default_rng([self.seed, index]), int(index / self.n / ALONE)
        if part >= len(ORDER):
            return self.everything(rng)
        respect = str(rng.choice(ORDER[:part])) if part and rng.random() < EARLIER else ORDER[part]
        (image, a), (other, b) = self.pair(respect, rng)
        return Sample([image, other], [respect_turn(a, b, respect, rng)], [])

    def everything(self, rng: np.random.Generator) -> Sample:
        """Return a pair with one or two questions in varied wordings, or a replayed sample."""
        if rng.random() < KEPT:
            return self.pool.kept[int(rng.integers(len(self.pool.kept)))]
        respect = str(rng.choice(ORDER)) if rng.random() < ONE_RESPECT else ""
        (image, a), (other, b) = self.pair(respect, rng)
        turns = [respect_turn(a, b, respect, rng) if respect else thing_turn(a, b, rng)]
        turns += pair_turns(a, b, rng)[: int(rng.integers(2))]
        return Sample([image, other], [(*reword(q, answer, rng), skill) for q, answer, skill in turns], [])
