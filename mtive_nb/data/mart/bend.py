"""Damage that bends a package of Pocket Mart: dents and crushes move the print with the surface and relight it."""

import numpy as np
from PIL import Image

from mtive_nb.data.mart.draw import Package
from mtive_nb.data.mart.label import Box
from mtive_nb.data.mart.shapes import CANVAS_H, CANVAS_W


def _window(box: Box) -> tuple[slice, slice, np.ndarray, np.ndarray]:
    """The part of the canvas inside a box: row and column slices, and the y and x of its pixels, (h, w) each."""
    rows = slice(max(0, int(box[1])), min(CANVAS_H, int(box[3])))
    columns = slice(max(0, int(box[0])), min(CANVAS_W, int(box[2])))
    y, x = np.mgrid[rows, columns].astype(np.float32)
    return rows, columns, y, x


def _bend(
    image: Image.Image, rows: slice, columns: slice, xs: np.ndarray, ys: np.ndarray, factor: np.ndarray
) -> Image.Image:
    """Redraws a window: each pixel comes from (xs, ys) of the canvas and is relit (factor above 1: towards white)."""
    pixels = np.asarray(image)
    xs, ys = np.clip(xs, 0, CANVAS_W - 1).astype(np.int32), np.clip(ys, 0, CANVAS_H - 1).astype(np.int32)
    part = pixels[ys, xs].astype(np.float32)
    rgb, factor = part[..., :3], factor[..., None]
    lit = rgb * np.clip(factor, 0, 1) + (255 - rgb) * np.clip(factor - 1, 0, 1)
    part[..., :3] = lit * (part[..., 3:] > 0)  # transparent pixels stay transparent
    out = pixels.copy()
    out[rows, columns] = np.clip(part, 0, 255).astype(np.uint8)
    return Image.fromarray(out)


def dent(
    image: Image.Image, spot: tuple[float, float], size: float, rng: np.random.Generator, pack: Package
) -> Image.Image:
    """A hollow: the print is pulled inwards, one flank in deep shade, the other catching light."""
    rx, ry, tilt = size * 0.66, size * rng.uniform(0.48, 0.64), rng.uniform(-0.7, 0.7)
    reach = 1.5 * size * 0.62
    rows, columns, y, x = _window((spot[0] - reach, spot[1] - reach, spot[0] + reach, spot[1] + reach))
    dx, dy = x - spot[0], y - spot[1]
    cos, sin = float(np.cos(tilt)), float(np.sin(tilt))  # plain floats keep the arrays in float32
    u, v = (dx * cos + dy * sin) / rx, (dy * cos - dx * sin) / ry
    r2 = u * u + v * v
    bump = np.exp(-1.3 * r2 * r2)
    lean = u * 0.75 + v * 0.66  # light comes from the upper left: the near flank is in shade
    slope = lean * bump * 1.9
    rim = 0.4 * np.exp(-(((np.sqrt(r2) - 1.1) / 0.1) ** 2)) * np.clip(-lean, -0.3, 1)
    factor = 1 + np.where(slope < 0, np.maximum(slope * 0.8, -0.62), slope * 0.8) - 0.2 * bump + rim
    return _bend(image, rows, columns, x + dx * 0.3 * bump, y + dy * 0.3 * bump, factor)


def crush(
    image: Image.Image, spot: tuple[float, float], size: float, rng: np.random.Generator, pack: Package
) -> Image.Image:
    """The package is pushed in: the top sinks on one side, the flank buckles, folds run across."""
    x0, y0, x1, _ = pack.body
    side = 1 if spot[0] > (x0 + x1) / 2 else -1
    deep = size * rng.uniform(0.85, 1.1)
    reach = y0 + 2.1 * deep
    rows, columns, y, x = _window((x0 - 40, 0, x1 + 60, reach))
    across = np.clip((x - x0) / (x1 - x0) if side > 0 else (x1 - x) / (x1 - x0), 0, 1.1)
    fade = np.clip(1 - (y - y0) / (reach - y0), 0, 1)
    sink = deep * across**1.6 * fade
    flank = (
        deep
        * 0.55
        * np.exp(-(((y - y0 - 0.9 * deep) / (0.5 * size)) ** 2))
        * np.clip(across * 1.6 - 0.7, 0, 1)
        * np.sqrt(fade)
    )
    buckle = 12 * np.sin((y + x * side * 0.5) / 17.0) * fade * across
    strength = np.clip(sink / deep * 1.3 + flank / deep, 0, 1)
    factor = 1 + strength * (0.42 * np.sin((y + x * side * 0.62) / 15.0) - 0.14)
    return _bend(image, rows, columns, x + side * flank + buckle, y - sink, factor)
