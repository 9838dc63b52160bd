"""Draws damage onto real photos; damage that changes the shape moves the photo's own pixels.

Images are RGB, HWC float32 in [0, 255] here, boxes XYXY in pixels. Sizes scale with the photo's shorter side:
damage covers a third to a half of it and stays obvious when the photo is shown 140 pixels wide.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Box = tuple[int, int, int, int]
VISIBLE_CHANGE = 10  # of 255: smaller changes are invisible
PLAIN_CHANGE, PLAIN_SHARE = 40, 0.02  # this change (of 255), on this share of the photo, is obvious at 140 pixels
TRIES = 6


def draw_damage(image: Image.Image, kind: str, rng: np.random.Generator) -> tuple[Image.Image, Box]:
    """Draw damage of one of DRAWN_DAMAGES near the middle of a photo.

    Returns the new photo and the XYXY box in pixels around all changes; outside the box no pixel changes.
    """
    if kind not in DRAWN_DAMAGES:
        raise ValueError(f"draw_damage: found the kind {kind!r}, expected one of {', '.join(DRAWN_DAMAGES)}")
    before = np.asarray(image.convert("RGB"))
    after = _plainest(before, kind, rng)
    rows, columns = np.nonzero(_change(before, after) > VISIBLE_CHANGE)
    if not len(rows):  # a photo of one flat colour has nothing to dent; a stain shows on anything
        return draw_damage(image, "stain", rng)
    x0, y0, x1, y1 = int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
    result = before.copy()
    result[y0:y1, x0:x1] = after[y0:y1, x0:x1]
    return Image.fromarray(result), (x0, y0, x1, y1)


def _plainest(before: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Draw until the damage is obvious, or keep the most obvious of TRIES: a dent in the dark does not show."""
    height, width = before.shape[:2]
    best, best_share = before, -1.0
    for _ in range(TRIES):
        centre = np.array([width, height]) * rng.uniform(0.38, 0.62, 2)
        size_px = min(width, height) * rng.uniform(0.17, 0.25)  # half of the damage's extent
        drawn = _DRAW[kind](before.astype(np.float32), centre, size_px, rng)
        after = np.clip(drawn, 0, 255).astype(np.uint8)
        share = float((_change(before, after) > PLAIN_CHANGE).mean())
        if share > best_share:
            best, best_share = after, share
        if share >= PLAIN_SHARE:
            break
    return best


def _change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Largest change of a pixel's three channels, (H, W, 3) -> (H, W)."""
    return np.abs(after.astype(np.int16) - before).max(axis=2)


def _dent(pixels: np.ndarray, centre: np.ndarray, size_px: float, rng: np.random.Generator) -> np.ndarray:
    """A hollow: the picture is pulled to its middle; the side facing away from the light is dark, the other bright."""
    dx, dy, radius = _polar(pixels, centre, size_px, stretch=rng.uniform(0.7, 1.3), angle=rng.uniform(0, np.pi))
    depth = np.clip(1 - radius**2, 0, 1) ** 2
    warped = _sample(pixels, dx * depth * 0.75, dy * depth * 0.75)
    light = rng.uniform(0, 2 * np.pi)
    slope = (dx * np.cos(light) + dy * np.sin(light)) / size_px * depth  # the bowl's slope along the light
    shade = np.clip(1 + 2.1 * slope - 0.1 * depth, 0.42, 1.6)
    return warped * shade[..., None] + 150 * np.clip(slope - 0.08, 0, 1)[..., None]  # a sheen on the far side


def _crush(pixels: np.ndarray, centre: np.ndarray, size_px: float, rng: np.random.Generator) -> np.ndarray:
    """Crumpled facets: each piece between the creases is shifted and lit separately."""
    dx, dy, radius = _polar(pixels, centre, size_px * 1.25, stretch=rng.uniform(0.8, 1.25), angle=rng.uniform(0, np.pi))
    corners = rng.uniform(-1.1, 1.1, (9, 2)) * size_px
    distance = np.stack([np.hypot(dx - x, dy - y) for x, y in corners])  # (facets, height, width)
    order = np.argsort(distance, axis=0)
    facet = order[0]
    gap = np.take_along_axis(distance, order[1:2], 0)[0] - np.take_along_axis(distance, order[:1], 0)[0]
    shift = rng.uniform(-0.32, 0.32, (9, 2)) * size_px
    tilt = rng.uniform(0.6, 1.45, 9)
    inside = _smooth(1 - radius, 0.0, 0.3)
    warped = _sample(pixels, shift[facet, 0] * inside, shift[facet, 1] * inside)
    crease = np.exp(-((gap / (0.05 * size_px)) ** 2))
    shade = tilt[facet] * (1 - 0.55 * crease)
    ridge = np.exp(-(((gap - 0.12 * size_px) / (0.05 * size_px)) ** 2)) * 75
    return _blend(pixels, warped * shade[..., None] + ridge[..., None], inside)


def _tear(pixels: np.ndarray, centre: np.ndarray, size_px: float, rng: np.random.Generator) -> np.ndarray:
    """A ragged gap: white torn fibres at its lip, the grey-brown inner layer, a shadow under the upper edge."""
    angle = rng.uniform(0, np.pi)
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    steps = np.linspace(-1, 1, 17)
    half_width = (1 - np.abs(steps) ** 1.6) * size_px * rng.uniform(0.35, 0.5)

    def edge(side: int, scale: float) -> list[tuple[float, float]]:
        jitter = rng.normal(0, 0.07, steps.size) * size_px * (np.abs(steps) < 0.95)
        offset = side * half_width * scale + jitter
        points = centre + steps[:, None] * along * size_px * 1.35 + offset[:, None] * across
        return [tuple(point) for point in points]

    lip = _polygon_mask(pixels, edge(1, 1.0) + edge(-1, 1.0)[::-1], blur_px=0.7)
    gap = _polygon_mask(pixels, edge(1, 0.62) + edge(-1, 0.62)[::-1], blur_px=0.7)
    fibres = 236 + rng.normal(0, 9, pixels.shape[:2])[..., None] * np.ones(3)
    tone = np.array([150.0, 122.0, 92.0]) * rng.uniform(0.55, 1.05)
    inner = tone + rng.normal(0, 8, pixels.shape[:2])[..., None]
    dx, dy = _offsets(pixels, centre)
    depth = np.clip(0.5 + (dx * across[0] + dy * across[1]) / (size_px * 0.7), 0.15, 1)  # dark below one edge
    return _blend(_blend(pixels, fibres, lip), inner * depth[..., None], np.minimum(gap, lip))


def _stain(pixels: np.ndarray, centre: np.ndarray, size_px: float, rng: np.random.Generator) -> np.ndarray:
    """A dried spill: dark throughout, darkest at its rim, with a few drops beside it."""
    tint = np.array([(0.52, 0.36, 0.2), (0.3, 0.24, 0.2), (0.55, 0.2, 0.2)])[rng.integers(3)]
    drops = [(centre, size_px * 1.05)]
    for _ in range(int(rng.integers(2, 5))):
        angle = rng.uniform(0, 2 * np.pi)
        drops.append(
            (centre + size_px * 1.45 * np.array([np.cos(angle), np.sin(angle)]), size_px * rng.uniform(0.1, 0.22))
        )
    result = pixels
    for middle, radius_px in drops:
        dx, dy = _offsets(pixels, middle)
        theta = np.arctan2(dy, dx)
        wobble = sum(rng.uniform(0, 0.3) / k * np.sin(k * theta + rng.uniform(0, 6.3)) for k in (1, 2, 3, 5, 8))
        radius = np.hypot(dx, dy) / (radius_px * (1 + wobble))
        inside = _smooth(1 - radius, 0.0, 0.1)
        rim = np.exp(-(((radius - 0.93) / 0.06) ** 2)) * inside
        strength = inside * 0.86 + 0.1 * rim
        stained = (result * 0.75 + 40) * tint * (1 - 0.2 * rim[..., None])
        result = _blend(result, stained, strength)
    return result


def _scratch(pixels: np.ndarray, centre: np.ndarray, size_px: float, rng: np.random.Generator) -> np.ndarray:
    """Several grooves in nearly one direction: the pale layer beneath shows, with a dark edge on one side."""
    angle = rng.uniform(0, np.pi)
    result = pixels
    for _ in range(int(rng.integers(4, 7))):
        tilt = angle + rng.normal(0, 0.1)
        along, across = np.array([np.cos(tilt), np.sin(tilt)]), np.array([-np.sin(tilt), np.cos(tilt)])
        start = centre + across * rng.uniform(-0.7, 0.7) * size_px - along * rng.uniform(0.9, 1.4) * size_px
        reach = np.linspace(0, rng.uniform(1.9, 2.7) * size_px, 14)
        bow = rng.uniform(-0.12, 0.12) * size_px * np.sin(np.linspace(0, np.pi, 14))
        points = start + reach[:, None] * along + (bow + rng.normal(0, 0.008, 14) * size_px)[:, None] * across
        width_px = size_px * rng.uniform(0.03, 0.06)
        result = _blend(result, result * 0.3, 0.85 * _lines_mask(pixels, [(points + width_px * 0.8, width_px)]))
        result = _blend(result, result * 0.25 + 165, 0.9 * _lines_mask(pixels, [(points, width_px)]))
    return result


def _crack(pixels: np.ndarray, centre: np.ndarray, size_px: float, rng: np.random.Generator) -> np.ndarray:
    """Dark jagged branches from one point, thinner outwards, each with a pale broken edge."""
    first, arms, lines = rng.uniform(0, 2 * np.pi), int(rng.integers(4, 7)), []  # lines: (points, width in pixels)
    for arm in range(arms):
        branches = [(centre, first + 2 * np.pi * arm / arms + rng.normal(0, 0.2), rng.uniform(0.8, 1.35), 0.085)]
        while branches:
            start, angle, length, width = branches.pop()
            steps = int(rng.integers(5, 8))
            angles = angle + rng.normal(0, 0.5, steps)
            moves = np.stack([np.cos(angles), np.sin(angles)], axis=1) * length * size_px / steps
            points = np.vstack([start, start + np.cumsum(moves, axis=0)])
            thinner = np.linspace(1, 0.4, steps) * width * size_px
            lines += [(points[k : k + 2], max(1.5, thinner[k])) for k in range(steps)]
            if width > 0.08 and rng.random() < 0.7:
                branches.append((points[steps // 2], angle + rng.choice([-0.9, 0.9]), length * 0.5, width * 0.6))
    pale = _lines_mask(pixels, [(points - 0.8 * width_px, width_px) for points, width_px in lines])
    broken = _blend(pixels, pixels * 0.4 + 140, 0.7 * pale)
    return _blend(broken, np.array([22.0, 16.0, 14.0]), 0.93 * _lines_mask(pixels, lines))


_DRAW: dict[str, Callable[..., np.ndarray]] = {
    "dent": _dent,
    "crack": _crack,
    "tear": _tear,
    "crush": _crush,
    "stain": _stain,
    "scratch": _scratch,
}
DRAWN_DAMAGES = tuple(_DRAW)


def _offsets(pixels: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]].astype(np.float32)
    return columns - centre[0], rows - centre[1]


def _polar(
    pixels: np.ndarray, centre: np.ndarray, size_px: float, *, stretch: float, angle: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets from the centre in pixels, and the radius relative to an ellipse: 1 on its outline."""
    dx, dy = _offsets(pixels, centre)
    along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    return dx, dy, np.hypot(along / stretch, across * stretch) / size_px


def _sample(pixels: np.ndarray, shift_x: np.ndarray, shift_y: np.ndarray) -> np.ndarray:
    """Resample each pixel from `shift` pixels away, bilinear, (H, W, 3) -> (H, W, 3)."""
    height, width = pixels.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    x, y = np.clip(columns + shift_x, 0, width - 1.001), np.clip(rows + shift_y, 0, height - 1.001)
    x0, y0 = x.astype(int), y.astype(int)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    top = pixels[y0, x0] * (1 - fx) + pixels[y0, x0 + 1] * fx
    return top * (1 - fy) + (pixels[y0 + 1, x0] * (1 - fx) + pixels[y0 + 1, x0 + 1] * fx) * fy


def _smooth(values: np.ndarray, low: float, high: float) -> np.ndarray:
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _blend(under: np.ndarray, over: np.ndarray, strength: np.ndarray) -> np.ndarray:
    return under + (over - under) * strength[..., None]


def _polygon_mask(pixels: np.ndarray, points: list, *, blur_px: float) -> np.ndarray:
    mask = Image.new("L", pixels.shape[1::-1])
    ImageDraw.Draw(mask).polygon([tuple(map(float, point)) for point in points], fill=255)
    return np.asarray(mask.filter(ImageFilter.GaussianBlur(blur_px)), dtype=np.float32) / 255


def _lines_mask(pixels: np.ndarray, lines: list[tuple[np.ndarray, float]]) -> np.ndarray:
    """Coverage in [0, 1] of polylines, each with its points (n, 2) and its width in pixels."""
    mask = Image.new("L", pixels.shape[1::-1])
    pen = ImageDraw.Draw(mask)
    for points, width_px in lines:
        pen.line([tuple(map(float, point)) for point in points], fill=255, width=max(1, round(width_px)), joint="curve")
    return np.asarray(mask.filter(ImageFilter.GaussianBlur(0.5)), dtype=np.float32) / 255
