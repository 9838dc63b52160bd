"""Stable splits, and the check that no photo is in two of them.

A split is drawn from a hash of the id, so adding a product moves no other product. The leak check compares photos by a
hash of their upright RGB pixels and, on request, by a perceptual hash of 64 bits, which also finds photos saved again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
from PIL import Image

from mtive_nb.data.photos import load_image

SPLITS = ("train", "val", "test")
LEAK_COLUMNS = ["split_a", "photo_a", "split_b", "photo_b", "same_pixels", "distance_bits"]
Photo = str | Path | Image.Image


def split_of(key: str, *, shares: tuple[float, ...] = (0.7, 0.1, 0.2), seed: int = 0) -> str:
    """The split of one id, which depends on id and seed alone; `shares` are those of train, val, test and sum to 1."""
    if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"shares: found {shares}, expected numbers of 0 or more for {SPLITS} that sum to 1")
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64  # in [0, 1)
    chosen = int(np.searchsorted(np.cumsum(shares), place, side="right"))
    return SPLITS[min(chosen, len(SPLITS) - 1)]


def split_products(
    product_ids: Iterable[str], *, shares: tuple[float, ...] = (0.7, 0.1, 0.2), seed: int = 0
) -> dict[str, str]:
    """Assign every product its split; the shares hold on average, as products are drawn independently."""
    return {product_id: split_of(product_id, shares=shares, seed=seed) for product_id in product_ids}


def pixels_sha256(image: Image.Image) -> str:
    """Return the hash of an image's size and pixels."""
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()


def image_hashes(photos: Iterable[Photo], *, perceptual: bool = True) -> pd.DataFrame:
    """One row per photo: `photo` (its path), `pixels` (sha256 of upright RGB), `phash` (uint64; 0 if not asked)."""
    rows = []
    for number, photo in enumerate(photos):
        image = photo.convert("RGB") if isinstance(photo, Image.Image) else load_image(photo)
        pixels = pixels_sha256(image)
        bits = int(str(imagehash.phash(image)), 16) if perceptual else 0
        rows.append((f"<image {number}>" if isinstance(photo, Image.Image) else str(photo), pixels, bits))
    frame = pd.DataFrame(rows, columns=["photo", "pixels", "phash"])
    return frame.astype({"phash": np.uint64})


def find_leaks(records: Iterable[Mapping | tuple[str, Photo]], *, max_distance: int | None = None) -> pd.DataFrame:
    """Pairs of photos in different splits that are the same photo.

    `records` are `(split, photo)` pairs or records with `split` and `images`. By default only equal pixels count. With
    `max_distance`, photos count too whose perceptual hashes differ in at most that many of 64 bits: 0 to 4 finds photos
    saved or scaled again, 6 and more also finds consecutive shots of one shelf. Between train.txt and val.txt of
    GroceryStoreDataset no pair of photos is closer than 12 bits. Equal pixels are the default because different drawn
    photos of one layout may share a perceptual hash.
    """
    splits, photos = _pairs(records)
    hashes = image_hashes(photos, perceptual=max_distance is not None)
    pixels, phash = hashes["pixels"].to_numpy(), hashes["phash"].to_numpy()
    leaks = []
    for i in range(len(hashes)):
        same = pixels[i + 1 :] == pixels[i]
        distance = np.bitwise_count(phash[i + 1 :] ^ phash[i]).astype(int)
        close = same if max_distance is None else same | (distance <= max_distance)
        other = splits[i + 1 :] != splits[i]
        for j in np.flatnonzero(close & other) + i + 1:
            bits = None if max_distance is None else int(distance[j - i - 1])
            names = splits[i], hashes["photo"][i], splits[j], hashes["photo"][j]
            leaks.append((*names, bool(same[j - i - 1]), bits))
    return pd.DataFrame(leaks, columns=LEAK_COLUMNS)


def assert_no_leaks(records: Iterable[Mapping | tuple[str, Photo]], *, max_distance: int | None = None) -> None:
    """Raise ValueError naming both files when a photo is in two splits; see find_leaks."""
    leaks = find_leaks(records, max_distance=max_distance)
    if len(leaks):
        shown = [f"{row.photo_a} ({row.split_a}) = {row.photo_b} ({row.split_b})" for row in leaks.head(5).itertuples()]
        raise ValueError(
            f"{len(leaks)} pair(s) of photos stand in two splits, expected none: {'; '.join(shown)}. "
            "Put both photos into one split, or remove one."
        )


def _pairs(records: Iterable[Mapping | tuple[str, Photo]]) -> tuple[np.ndarray, list[Photo]]:
    splits, photos = [], []
    for record in records:
        split, images = (record["split"], record["images"]) if isinstance(record, Mapping) else (record[0], record[1:])
        splits += [split] * len(images)
        photos += images
    return np.array(splits, dtype=object), photos
