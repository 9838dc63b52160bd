"""TF-IDF hard negatives: products with similar texts that look different (MTIVE, section 3.1).

The text is title, description and category; similarity is the cosine of TF-IDF vectors (Sparck Jones, 1972). Two
products look different when two conditions hold: a visible attribute that is known for both differs (if there is any),
and their catalogue photos are at least `min_distance` apart. The distance is the larger of two numbers in [0, 1]: the
share of differing bits of the perceptual hashes, and the root mean square difference of 4 x 4 thumbnails.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import imagehash
import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import csr_matrix

from mtive_nb.data.catalogue import Catalogue, Product
from mtive_nb.data.photos import load_image

VISIBLE_ATTRIBUTES = ("category", "name", "brand", "colour", "packaging")  # what a photo shows; not size or price
NEGATIVES_CONSIDERED = 6  # draw among the hardest, so that a product does not always meet the same negative
HASH_BITS = 64
AT_ONCE = 64  # places that are sorted before the others
COLUMNS = ["product_id", "rank", "negative_id", "similarity", "visual_distance", "same_coarse", "differs"]


class HardNegatives:
    """Finds the products with the most similar texts among those that look different.

    `allowed` restricts the search to the products of one split, so that no catalogue photo is in two splits. Products
    of the same coarse group come first; if too few of them look different, the nearest of the other groups follow.
    Memory grows with the words of all texts, N products: similarities are computed for one product at a time.
    """

    def __init__(
        self, catalogue: Catalogue, *, allowed: Collection[str] | None = None, min_distance: float = 0.12
    ) -> None:
        products = [product for product in catalogue.products if product.images]
        self.products = {p.product_id: p for p in products if allowed is None or p.product_id in allowed}
        self.min_distance = min_distance
        self._ids = list(self.products)
        self._place = {product_id: index for index, product_id in enumerate(self._ids)}
        groups = [product.coarse for product in self.products.values()]
        self._coarse = np.unique(np.array(groups, dtype=str), return_inverse=True)[1]  # (N,) numbers of the groups
        self._vectors = _vectors(list(self.products.values()))  # (N, words), sparse
        self._groups: dict[int, tuple[np.ndarray, csr_matrix]] = {}  # a group's places and vectors, cut out once
        self._distances: dict[tuple[int, int], float] = {}
        self._prints: dict[int, tuple[int, np.ndarray]] = {}
        self._root = catalogue.root

    def nearest(self, product_id: str, k: int = 1) -> list[str]:
        """The `k` hardest negatives, hardest first; fewer when fewer products are visually distinct."""
        here = self._index(product_id)
        found: list[str] = []
        for other in self._by_similarity(here):
            if len(found) == k:
                break
            if other != here and self._distinct(here, other):
                found.append(self._ids[other])
        return found

    def similarities(self, product_id: str) -> np.ndarray:
        """Cosines (N,) of a product's text with those of all allowed products, in the order of `products`."""
        return self._similarities(self._index(product_id), self._vectors)

    def random(self, product_id: str, rng: np.random.Generator) -> str | None:
        """Draw uniformly another product that looks different; None when there is none."""
        here = self._index(product_id)
        for other in rng.permutation(len(self._ids)):
            if other != here and self._distinct(here, int(other)):
                return self._ids[other]
        return None

    def visual_distance(self, one: str, other: str) -> float:
        """How different the two catalogue photos look, from 0 (alike) to 1."""
        return self._distance(self._index(one), self._index(other))

    def table(self, k: int = 3) -> pd.DataFrame:
        """Each product's `k` hardest negatives with similarity, visual distance and what differs."""
        rows = []
        for product_id, product in self.products.items():
            near = self.similarities(product_id)
            for rank, other_id in enumerate(self.nearest(product_id, k), start=1):
                other = self.products[other_id]
                similarity = float(near[self._index(other_id)])
                distance = self.visual_distance(product_id, other_id)
                differs = ", ".join(differing(product.attributes, other.attributes))
                same = product.coarse == other.coarse
                rows.append((product_id, rank, other_id, similarity, distance, same, differs))
        return pd.DataFrame(rows, columns=COLUMNS)

    def _similarities(self, here: int, vectors: csr_matrix) -> np.ndarray:
        own = slice(*self._vectors.indptr[here : here + 2])  # a row by its place in memory: scipy's own index is slow
        text = np.zeros(self._vectors.shape[1])
        text[self._vectors.indices[own]] = self._vectors.data[own]
        return vectors @ text

    def _by_similarity(self, here: int) -> Iterator[int]:
        """All places, nearest texts first; those of the own group before the others, which few searches reach."""
        own = int(self._coarse[here])
        if own not in self._groups:
            places = np.flatnonzero(self._coarse == own)
            self._groups[own] = places, self._vectors[places]
        places, vectors = self._groups[own]
        yield from _descending(places, self._similarities(here, vectors))
        places = np.flatnonzero(self._coarse != own)
        yield from _descending(places, self._similarities(here, self._vectors)[places])

    def _index(self, product_id: str) -> int:
        if product_id not in self._place:
            raise KeyError(
                f"HardNegatives: found no product {product_id!r} among the {len(self._ids)} allowed products"
            )
        return self._place[product_id]

    def _distinct(self, one: int, other: int) -> bool:
        a, b = self.products[self._ids[one]].attributes, self.products[self._ids[other]].attributes
        comparable = any(name in a and name in b for name in VISIBLE_ATTRIBUTES)
        if comparable and not differing(a, b):
            return False
        return self._distance(one, other) >= self.min_distance

    def _distance(self, one: int, other: int) -> float:
        key = (min(one, other), max(one, other))
        if key not in self._distances:
            (bits_a, small_a), (bits_b, small_b) = self._print(key[0]), self._print(key[1])
            gaps = small_a - small_b
            pixels = math.sqrt(gaps @ gaps / len(gaps)) / 255
            self._distances[key] = max((bits_a ^ bits_b).bit_count() / HASH_BITS, pixels)
        return self._distances[key]

    def _print(self, index: int) -> tuple[int, np.ndarray]:
        """A photo's perceptual hash and its thumbnail, (4 * 4 * 3,); photos are opened when first compared."""
        if index not in self._prints:
            image = load_image(self._root / self.products[self._ids[index]].images[0])
            small = np.asarray(image.resize((4, 4), Image.Resampling.BOX), dtype=float).reshape(-1)
            self._prints[index] = int(str(imagehash.phash(image)), 16), small
        return self._prints[index]


def differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """The visible attributes that are known for both and differ, in the order of VISIBLE_ATTRIBUTES."""
    return [name for name in VISIBLE_ATTRIBUTES if name in one and name in other and one[name] != other[name]]


def _descending(places: np.ndarray, values: np.ndarray) -> Iterator[int]:
    """The places (N,) by falling values, equal ones in their order; a search mostly ends among the first."""
    if len(values) > 4 * AT_ONCE:
        first = values >= np.partition(values, -AT_ONCE)[-AT_ONCE]
        yield from places[first][np.argsort(-values[first], kind="stable")].tolist()
        places, values = places[~first], values[~first]
    yield from places[np.argsort(-values, kind="stable")].tolist()


def _vectors(products: list[Product]) -> csr_matrix:
    """(N, words) TF-IDF vectors of the products, which scikit-learn normalises to length 1; zeros where no word counts."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # takes 0.7 s, of which `ask` needs nothing

    texts = [f"{product.title} {product.description} {product.category}" for product in products]
    try:
        return TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
    except ValueError:  # no product, or no listing has a word of two letters
        return csr_matrix((len(products), 1))
