"""Questions on unlabelled photos, answered by an ImageNet classifier: the base learns to name what real photos show.

Nobody labelled these photos. The teacher (pocket/distill.py) names a photo where it is confident, so names are those of
ImageNet's classes in plain words, and some are wrong. It stands in for the captions that a large model has read.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from mtive_nb.model.imagenet import load_tower, open_photo, pooled_features
from mtive_nb.pocket.distill import random_view
from mtive_nb.pocket.plain_grammar import with_articles
from mtive_nb.pocket.pretrain import IGNORE
from mtive_nb.pocket.scene_kinds import dense_labels
from mtive_nb.pocket.scene_questions import Sample
from mtive_nb.pocket.scenes import SIZES_PX, Scene

CONFIDENT = 0.4  # least probability of a name
FEWEST = 3  # photos of a name
PLAIN = {  # ImageNet's first word -> a plain word; "" is no thing, or a thing that photos of this kind do not show
    "jersey": "t-shirt", "jean": "jeans", "Granny Smith": "apple", "Loafer": "shoe", "clog": "shoe", "running shoe": "shoe",
    "swimming trunks": "shorts", "head cabbage": "cabbage", "hip": "berry", "overskirt": "skirt", "hoopskirt": "skirt",
    "miniskirt": "skirt", "sarong": "skirt", "trench coat": "coat", "cloak": "coat", "fur coat": "coat", "lab coat": "coat",
    "gown": "dress", "kimono": "dress", "abaya": "dress", "cowboy boot": "boot", "cowboy hat": "hat", "academic gown": "dress", "maillot": "", "prayer rug": "", "doormat": "",
    "christmas stocking": "", "comic book": "", "ear": "sweetcorn", "dough": "", "ski mask": "", "quilt": "", "hen-of-the-woods": "mushroom",
    "spaghetti squash": "melon", "acorn squash": "squash", "butternut squash": "squash", "custard apple": "fruit",
    "pajama": "pyjamas", "stole": "scarf", "bonnet": "hat", "vestment": "", "velvet": "", "wool": "",
    "bulletproof vest": "", "chain mail": "", "grocery store": "", "vending machine": "", "tobacco shop": "", "bakery": "",
    "confectionery": "", "sleeping bag": "", "Band Aid": "", "apron": "", "ping-pong ball": "", "buckeye": "", "jackfruit": "",
    "shopping basket": "", "photocopier": "", "knee pad": "", "hand-held computer": "", "shower cap": "", "croquet ball": "",
    "butcher shop": "", "hamper": "", "sunscreen": "tube", "lotion": "bottle", "refrigerator": "", "crate": "", "hotdog": "",
}  # fmt: skip
NAMING = ("What do you see?", "Name it.", "What is it?", "What kind of thing is it?", "Which kind is it?", "Name the thing.",
          "What does the photo show?", "What is in the image?", "kind of thing?")  # fmt: skip
ASKING = ("Is it {}?", "Is this {}?", "Do you see {}?", "Would you call it {}?", "Does the photo show {}?")
SAME = ("Do both images show the same kind of thing?", "Is it the same kind of thing twice?", "Are these two of one kind?",
        "Same kind of thing?", "Does image 2 show what image 1 shows?")  # fmt: skip


@dataclass(frozen=True)
class NamedPhoto:
    """A photo, the teacher's name for it, and its other guesses, most probable first."""

    path: Path
    name: str
    guesses: tuple[str, ...]


def plain_name(description: str) -> str:
    """Return the plain word for an ImageNet description ("jersey, T-shirt, tee shirt" -> "t-shirt"), or ""."""
    first = description.split(",")[0]
    return PLAIN.get(first, first.lower())


def name_photos(teacher: str, paths: list[Path]) -> list[NamedPhoto]:
    """Name the photos that the teacher is confident of; needs the extra `base`."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    words, found = [plain_name(info.index_to_description(k)) for k in range(1000)], []
    with torch.inference_mode():
        logits = load_tower(teacher).classifier(torch.from_numpy(pooled_features(teacher, paths)))
    for path, row in zip(paths, logits.softmax(-1).numpy(), strict=True):
        chance = defaultdict(float)
        for k in np.argsort(row)[::-1][:20]:
            chance[words[int(k)]] += float(row[k])
        ranked = sorted(chance, key=chance.__getitem__, reverse=True)
        if ranked[0] and chance[ranked[0]] >= CONFIDENT:
            found.append(NamedPhoto(path, ranked[0], tuple(w for w in ranked[1:6] if w)))
    often = Counter(photo.name for photo in found)
    known = {name for name, n in often.items() if n >= FEWEST}
    return [replace(p, guesses=tuple(g for g in p.guesses if g in known)) for p in found if p.name in known]


class PhotoQuestions(Dataset):
    """`n` samples: one photo or two, with questions on what they show; rare names are drawn more often.

    Errors: ValueError for photos of fewer than two names.
    """

    def __init__(self, named: list[NamedPhoto], *, n: int, seed: int, pairs: float = 0.4) -> None:
        self.n, self.seed, self.pairs = n, seed, pairs
        self.of = defaultdict(list)
        for photo in named:
            self.of[photo.name].append(photo)
        self.names = sorted(self.of)
        if len(self.names) < 2:
            raise ValueError(f"named photos: found {len(self.names)} names, expected at least two to tell apart")
        shares = np.sqrt([len(self.of[name]) for name in self.names])
        self.shares = shares / shares.sum()

    def __len__(self) -> int:
        return self.n

    def _draw(self, rng: np.random.Generator, *, name: str = "") -> NamedPhoto:
        photos = self.of[name or str(rng.choice(self.names, p=self.shares))]
        return photos[int(rng.integers(len(photos)))]

    def _other(self, photo: NamedPhoto, rng: np.random.Generator) -> str:
        """Return another name, half of the time one that the teacher took into account."""
        near = [g for g in photo.guesses if g != photo.name]
        if near and rng.random() < 0.5:
            return near[int(rng.integers(len(near)))]
        return str(rng.choice([n for n in self.names if n != photo.name]))

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, index])
        photo = self._draw(rng)
        if rng.random() < self.pairs:
            same = bool(rng.random() < 0.5)
            other = self._draw(rng, name=photo.name if same else self._other(photo, rng))
            shown = [photo, other] if rng.random() < 0.5 else [other, photo]
            verdict = "yes" if same else "no"
            turns = [(_pick(SAME, rng), verdict, "two images")]
            if rng.random() < 0.5:
                turns.append(("Name both.", f"{shown[0].name} and {shown[1].name}", "two images"))
                turns = turns[:: 1 if rng.random() < 0.5 else -1]
        else:
            shown, same = [photo], bool(rng.random() < 0.5)
            asked = photo.name if same else self._other(photo, rng)
            turns = [
                (_pick(NAMING, rng), photo.name, "shape"),
                (
                    _pick(ASKING, rng).format(asked if asked.endswith("s") else with_articles(f"a {asked}")),
                    "yes" if same else "no",
                    "yes/no",
                ),
            ]
            turns = turns[:: 1 if rng.random() < 0.5 else -1]
        images = [_shown(p, rng) for p in shown]
        return Sample(images, turns, [_unlabelled(image) for image in images])


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _shown(photo: NamedPhoto, rng: np.random.Generator) -> np.ndarray:
    width, height = SIZES_PX[int(rng.integers(len(SIZES_PX)))]
    view = random_view(open_photo(photo.path), rng, least=0.5)
    return np.asarray(view.resize((width, height), Image.BICUBIC))


def _unlabelled(image: np.ndarray) -> dict[str, np.ndarray]:
    """Return dense labels that no loss counts: nobody knows what stands where."""
    return {kind: np.full_like(labels, IGNORE) for kind, labels in dense_labels(Scene(image)).items()}


class Mixed(Dataset):
    """The samples of `first`, and in a share of the places those of `second`."""

    def __init__(self, first: Dataset, second: Dataset, *, share: float, seed: int) -> None:
        self.first, self.second = first, second
        self.chosen = np.random.default_rng(seed).random(len(first)) < share

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, index: int) -> Sample:
        return self.second[index % len(self.second)] if self.chosen[index] else self.first[index]
