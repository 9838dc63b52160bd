"""Leaves out photos of an item that look like an earlier one, by perceptual hash (eBay, A.5).

The paper prints neither the hash's size nor the threshold; here the hash has 64 bits, and `images_an_item` compares
thresholds. Drawn photos of one layout share hashes, so that a threshold for Pocket Mart holds for Pocket Mart alone.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from mtive_nb.data.items.crops import views
from mtive_nb.data.items.items import Item
from mtive_nb.data.splits import Photo, image_hashes

DISTANCES = tuple(range(13))  # bits of 64


def distinct(photos: Sequence[Photo], *, distance_bits: int = 4) -> list[int]:
    """Return the numbers of the photos to keep: each differs from all earlier kept ones in more than `distance_bits`.

    Errors: ValueError for a distance outside 0..64, PhotoError for an unusable photo.
    """
    if not 0 <= distance_bits <= 64:
        raise ValueError(f"distance_bits: found {distance_bits}, expected 0 to 64")
    return _kept(image_hashes(photos)["phash"].to_numpy(), distance_bits)


def _kept(hashes: np.ndarray, distance_bits: int) -> list[int]:
    kept: list[int] = []
    for k, one in enumerate(hashes):
        if not kept or np.bitwise_count(hashes[kept] ^ one).min() > distance_bits:
            kept.append(k)
    return kept


def kept_photos(items: Iterable[Item], *, distances: Sequence[int] = DISTANCES) -> dict[int, list[list[int]]]:
    """Return for each distance the numbers of the photos that each item keeps; -1, the first, stands for all of them.

    Each photo is decoded once. Errors: PhotoError for an unusable photo.
    """
    return _kept_of([item.photos for item in items], distances)


def images_an_item(items: Sequence[Item], *, distances: Sequence[int] = DISTANCES) -> pd.DataFrame:
    """Return the median and maximum of images an item by what they are: images, distance_bits, median, maximum, n.

    photos: whole. photos and crops: each region beside them, as the paper counts before. main photo and squares: one
    square around each photo's merged regions (`views`), as it counts after. A distance of -1 stands for no deduplication.
    """
    crops = [len(item.photos) + len(item.regions) for item in items]
    rows = [("photos and crops", -1, float(np.median(crops)), max(crops), len(crops))]
    for images, of in (
        ("photos", lambda item: item.photos),
        ("main photo and squares", lambda item: views(item, "squares")),
    ):
        for bits, kept in _kept_of(map(of, items), distances).items():
            sizes = list(map(len, kept))
            rows.append((images, bits, float(np.median(sizes)), max(sizes), len(sizes)))
    return pd.DataFrame(rows, columns=["images", "distance_bits", "median", "maximum", "n"])


def _kept_of(images: Iterable[Sequence[Photo]], distances: Sequence[int]) -> dict[int, list[list[int]]]:
    hashes = [image_hashes(of_item)["phash"].to_numpy() for of_item in images]
    return {
        bits: [list(range(len(of_item))) if bits < 0 else _kept(of_item, bits) for of_item in hashes]
        for bits in (-1, *distances)
    }
