"""Damaged and undamaged cut-outs of the same real photos, where whole photos would give the answer away.

The broken and the whole cookies were photographed differently: the border of a whole photo, which shows the tray alone,
separates them. Here both classes come from the photos of broken cookies. For each cut-out around damage there is one of
the same size away from it, whose border looks most like its own.

Shapes: H, W of a photo in pixels; h, w of it in blocks of BLOCK_PX; N windows of SIDE x SIDE blocks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from sklearn.metrics import euclidean_distances

from mtive_nb.data.catalogue import Catalogue, Feedback, Product
from mtive_nb.data.photos import load_image

BLOCK_PX, SIDE = 8, 20  # a cut-out begins at a block and has SIDE x SIDE of them
SIDE_PX = SIDE * BLOCK_PX
BORDER = 2  # blocks, width of the border that is matched
DAMAGE = 0.06  # least share of damage inside the border of a damaged cut-out
PRODUCT = 0.4  # least share of product in any cut-out
BRIGHT = 110  # red channel: the product is above it, the dark tray below
APART = SIDE // 3  # blocks, least distance of two cut-outs of one photo and class, along either axis
MASK_GREEN = 164  # the green channel of the masks' only colour


def crop_damage(catalogue: Catalogue, folder: str | Path, *, pairs: int = 3) -> Catalogue:
    """Build a catalogue of at most `pairs` damaged and as many undamaged cut-outs of each photo with a damage mask.

    Photos without facts["damage_mask"] are left out. A cut-out stays in its photo's split. Boxes are XYXY in pixels of
    the cut-out. Cut-outs, SIDE_PX a side, go to `folder`/images.
    """
    root = Path(folder)
    (root / "images").mkdir(parents=True, exist_ok=True)
    products = [Product(**vars(product) | {"images": ()}) for product in catalogue.products]
    made = Catalogue(f"{catalogue.name}-crops", root, products, [], splits={}, quarantine=list(catalogue.quarantine))
    for source in catalogue.feedback:
        facts = source.facts or {}
        if not facts.get("damage_mask"):
            continue
        image, mask = load_image(catalogue.root / source.images[0]), read_mask(catalogue.root / facts["damage_mask"])
        for number, pair in enumerate(_matched_windows(np.asarray(image), mask, pairs=pairs)):
            for damaged, (x, y) in zip((True, False), pair, strict=True):
                name = f"{source.feedback_id}-{'damaged' if damaged else 'whole'}-{number}"
                path = f"images/{name}.jpg"
                image.crop((x, y, x + SIDE_PX, y + SIDE_PX)).save(root / path, quality=92)
                box = box_of(mask[y : y + SIDE_PX, x : x + SIDE_PX]) if damaged else None
                own = {"damaged": damaged, "damage": facts["damage"] if damaged else None, "damage_box": box}
                own |= {"attributes": facts.get("attributes")}
                made.feedback.append(Feedback(name, source.product_id, "", (path,), own))
                made.splits[name] = catalogue.splits[source.feedback_id]
    return made


def read_mask(path: str | Path) -> np.ndarray:
    """Read a mask of damage, black with the damage in green, as (H, W) of bool."""
    with Image.open(path) as image:  # not load_image, which would turn transparent black into white
        return np.asarray(image.convert("RGBA").convert("RGB"))[..., 1] > MASK_GREEN // 2


def box_of(mask: np.ndarray) -> list[int] | None:
    """Return the XYXY box in pixels around all of a mask, (H, W) of bool; None for an empty mask."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return None
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


Place = tuple[int, int]  # x, y of a cut-out's upper left corner, in pixels


def _matched_windows(pixels: np.ndarray, mask: np.ndarray, *, pairs: int) -> list[tuple[Place, Place]]:
    """Pairs of a damaged and an undamaged window, those first whose borders are most alike."""
    product, damage = _windows(pixels[..., 0] > BRIGHT), _windows(mask)  # (N, SIDE, SIDE), share of each block
    across = pixels.shape[1] // BLOCK_PX - SIDE + 1
    shown = product.mean((1, 2)) >= PRODUCT
    inside = damage[:, BORDER:-BORDER, BORDER:-BORDER].mean((1, 2))
    damaged, whole = np.flatnonzero(shown & (inside >= DAMAGE)), np.flatnonzero(shown & ~damage.any((1, 2)))
    outside = np.ones((SIDE, SIDE), dtype=bool)
    outside[BORDER:-BORDER, BORDER:-BORDER] = False
    border = np.concatenate([_windows(pixels[..., k])[:, outside] for k in range(3)], axis=1)  # (N, values)
    distance = euclidean_distances(border[damaged], border[whole]) if len(damaged) and len(whole) else np.empty((0, 0))
    chosen: list[tuple[int, int]] = []
    while len(chosen) < pairs and distance.size and np.isfinite(distance.min()):
        a, b = np.unravel_index(distance.argmin(), distance.shape)
        chosen.append((int(damaged[a]), int(whole[b])))
        distance[_near(damaged, damaged[a], across)] = np.inf
        distance[:, _near(whole, whole[b], across)] = np.inf
    return [tuple((n % across * BLOCK_PX, n // across * BLOCK_PX) for n in pair) for pair in chosen]


def _windows(values: np.ndarray) -> np.ndarray:
    """The mean of each block in all windows of a photo, row by row, (H, W) -> (N, SIDE, SIDE)."""
    h, w = (size // BLOCK_PX for size in values.shape)
    blocks = values[: h * BLOCK_PX, : w * BLOCK_PX].reshape(h, BLOCK_PX, w, BLOCK_PX).mean((1, 3), dtype=np.float32)
    return sliding_window_view(blocks, (SIDE, SIDE)).reshape(-1, SIDE, SIDE)


def _near(windows: np.ndarray, one: int, across: int) -> np.ndarray:
    """Which windows, numbers of (N,), lie less than APART from one of them."""
    columns, rows = np.abs(windows % across - one % across), np.abs(windows // across - one // across)
    return np.maximum(columns, rows) < APART
