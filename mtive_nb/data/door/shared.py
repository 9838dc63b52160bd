"""Photos that stand on several products: which are the same photo, which are placeholders, and what split they go to.

The same photo means equal pixels, or a copy saved or scaled again: perceptual hashes within `MAX_BITS` of 64, and
thumbnails that differ by no more than compression does. Flat pictures have no perceptual hash worth the name, so only
equal pixels count for them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from mtive_nb.data.photos import load_image
from mtive_nb.data.splits import pixels_sha256, split_of

MAX_BITS = 6
SIDE_PX = 16  # of the thumbnails that confirm a near hash
MAX_MEAN, MAX_ANY = 5.0, 25.0  # thumbnails' differences, root mean square and largest, in grey levels of 255
MIN_CONTRAST = 4.0  # standard deviation of a thumbnail, in grey levels; below it a picture is flat
MAX_STRETCH = 1.03  # between the two aspect ratios
PLACEHOLDER_TITLES = 5


@dataclass(frozen=True)
class Print:
    """What identifies a photo: hash of its pixels, perceptual hash, thumbnail (16, 16, 3) uint8, size (width, height)."""

    pixels: str
    phash: int
    thumbnail: np.ndarray
    size: tuple[int, int]


def print_of(path: str | Path) -> Print:
    """Decode a photo and take its print. Errors: PhotoError."""
    image = load_image(path)
    small = image.resize((4 * SIDE_PX, 4 * SIDE_PX), Image.Resampling.BOX)
    return Print(pixels_sha256(image), int(str(imagehash.phash(small)), 16), np.asarray(small.reduce(4)), image.size)


def same_photos(prints: Mapping[str, Print]) -> dict[str, str]:
    """Each photo's name -> the smallest name of the photos that are the same."""
    first: dict[str, str] = {}
    for name in sorted(prints):
        first.setdefault(prints[name].pixels, name)
    alike = connected(list(first.values()), _copies({name: prints[name] for name in first.values()}))
    return {name: alike[first[one.pixels]] for name, one in prints.items()}


def connected(names: Sequence[str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Each name -> the smallest name of its group, where pairs join groups."""
    place = {name: k for k, name in enumerate(names)}
    ends = np.array([(place[a], place[b]) for a, b in pairs], dtype=int).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(names), len(names)))
    labels = connected_components(graph, directed=False)[1]
    smallest: dict[int, str] = {}
    for name, label in zip(names, labels, strict=True):
        smallest[label] = min(name, smallest.get(label, name))
    return {name: smallest[label] for name, label in zip(names, labels, strict=True)}


def placeholders(owners: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Photo -> why it is a placeholder; `owners` are the titles of the products on which the photo stands.

    Variants of one product may share a photo: their titles have most words in common, those under a placeholder do not.
    """
    found = {}
    for photo, titles in owners.items():
        different = {title.casefold() for title in titles}
        if len(different) >= PLACEHOLDER_TITLES:
            words = [set(re.findall(r"\w+", title)) for title in different]
            common = len(set.intersection(*words)) / max(1.0, float(np.mean([len(one) for one in words])))
            if common < 0.5:
                found[photo] = f"a placeholder: the same photo stands on {len(words)} products with different titles"
    return found


def shop_splits(
    units: Mapping[str, Collection[str]], named: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str], list[tuple[str, str, str]]]:
    """The split of every id, the group of every id, and the ids whose named split gives way.

    units: id of a product, or of a feedback with a split of its own -> its photos, as `same_photos` names them. Ids that
    share a photo form a group, named after its smallest id. It has one split: the named split of its smallest named id,
    else a hash of its smallest id. A split that gives way is (id, the id it follows, that one's split).
    """
    holders: dict[str, list[str]] = defaultdict(list)
    for one, photos in units.items():
        for photo in photos:
            holders[photo].append(one)
    group = connected(list(units), ((own[0], other) for own in holders.values() for other in own[1:]))
    leaders: dict[str, str] = {}  # group -> its smallest named id
    for one in sorted(named.keys() & units.keys()):
        leaders.setdefault(group[one], one)
    splits = {one: named[leaders[g]] if g in leaders else split_of(g) for one, g in group.items()}
    moved = [(one, leaders[group[one]], splits[one]) for one in units if named.get(one, splits[one]) != splits[one]]
    return splits, group, moved


def _copies(prints: Mapping[str, Print]) -> list[tuple[str, str]]:
    """Pairs of photos of which one is the other saved or scaled again."""
    names = [name for name, one in prints.items() if one.thumbnail.std() >= MIN_CONTRAST]
    if not names:
        return []
    bits = np.array([prints[name].phash for name in names], dtype=np.uint64)
    thumbnails = np.stack([prints[name].thumbnail for name in names])  # (N, 16, 16, 3)
    ratios = np.divide(*np.array([prints[name].size for name in names]).T)
    pairs = []
    for k in range(len(names) - 1):
        near = np.flatnonzero(np.bitwise_count(bits[k + 1 :] ^ bits[k]) <= MAX_BITS) + k + 1
        near = near[np.abs(np.log(ratios[near] / ratios[k])) <= np.log(MAX_STRETCH)]
        apart = thumbnails[near].astype(np.float32) - thumbnails[k]
        mean, most = np.sqrt((apart**2).mean((1, 2, 3))), np.abs(apart).max((1, 2, 3), initial=0)
        pairs += [(names[k], names[int(j)]) for j in near[(mean <= MAX_MEAN) & (most <= MAX_ANY)]]
    return pairs
