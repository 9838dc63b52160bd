"""Computes where a package lies in a photo, and which parts of its label are legible. Boxes are XYXY."""

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from mtive_nb.data.mart.backdrop import SIDE
from mtive_nb.data.mart.draw import Package
from mtive_nb.data.mart.label import Box
from mtive_nb.data.mart.shapes import CANVAS_W, FLOOR_Y

_MIN_SIZE_PX = 12  # the printed size is unreadable below this cap height in the photo
_MIN_BRAND_PX = 22
# the share of a label's part that may change while it stays legible; thin or bending damage hides less than a hole
_BEARABLE: dict[str, dict[str | None, float]] = {
    "brand": {None: 0.08, "crack": 0.2, "scratch": 0.2, "dent": 0.3, "crush": 0.9},
    "icon": {None: 0.3, "crack": 0.4, "scratch": 0.5, "dent": 0.6, "crush": 0.9},
    "size": {None: 0.06, "crush": 0.15},
}


class Placing:
    """The map from a package's canvas to the photo: rotate about the package's middle, scale, move."""

    def __init__(self, pack: Package, *, angle_deg: float, scale: float, middle: tuple[float, float]) -> None:
        top = pack.image.getbbox()[1]
        self.origin = np.array((CANVAS_W / 2, (top + FLOOR_Y) / 2))
        turn = np.deg2rad(angle_deg)
        self.matrix = np.array(((np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn)))) * scale / 2
        self.middle, self.scale = np.array(middle), scale

    def corners(self, box: Box) -> np.ndarray:
        """The box's four corners in the photo, (4, 2)."""
        x0, y0, x1, y1 = box
        points = np.array(((x0, y0), (x1, y0), (x1, y1), (x0, y1))) - self.origin
        return points @ self.matrix.T + self.middle

    def hull(self, box: Box) -> Box:
        corners = self.corners(box)
        return (*corners.min(0), *corners.max(0))

    def lay(self, canvas: Image.Image) -> Image.Image:
        """The canvas as it stands in the photo, RGBA, SIDE x SIDE."""
        inverse = np.linalg.inv(self.matrix)
        offset = self.origin - inverse @ self.middle
        data = (inverse[0, 0], inverse[0, 1], offset[0], inverse[1, 0], inverse[1, 1], offset[1])
        return canvas.transform((SIDE, SIDE), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)


def share_clear(corners: np.ndarray, blocked: np.ndarray) -> float:
    """Share of a quadrilateral that is inside the photo and not blocked; blocked is bool, at half the photo's size."""
    margin, half = 20, SIDE // 2
    field = Image.new("L", (half + 2 * margin, half + 2 * margin))
    ImageDraw.Draw(field).polygon([tuple(p) for p in corners / 2 + margin], fill=1)
    cover = np.asarray(field).astype(bool)
    inside = cover[margin:-margin, margin:-margin]
    return float((inside & ~blocked).sum() / max(1, cover.sum()))


def legible(
    pack: Package,
    canvas: Image.Image,
    placing: Placing,
    blocked: np.ndarray,
    *,
    light: float,
    blur_px: float,
    damage: str | None,
) -> frozenset[str]:
    """The attributes that a careful person could read in a photo of `pack`; `canvas` includes its mark and damage."""
    dim, scale = light < 0.5, placing.scale
    found = {"colour", "packaging"}
    worst = {"brand": 0.93, "icon": 0.72, "size": 0.93}
    for name, share in worst.items():
        box = getattr(pack.label, name)
        high = (box[3] - box[1]) * scale / 2
        if name == "brand" and (high < _MIN_BRAND_PX or blur_px > 1.75):
            continue
        if name == "size" and (min(high, 18 * scale) < _MIN_SIZE_PX or blur_px > 1.0 or dim):
            continue
        if share_clear(placing.corners(box), blocked) < share:
            continue
        if _changed(box, pack.image, canvas) > _BEARABLE[name].get(damage, _BEARABLE[name][None]):
            continue
        found.add("category" if name == "icon" else name)
    return frozenset(found)


def _changed(box: Box, before: Image.Image, after: Image.Image) -> float:
    """The share of pixels in a box of the canvas that a mark or damage changed strongly."""
    if before is after:
        return 0.0
    difference = ImageChops.difference(before.crop(box).convert("L"), after.crop(box).convert("L"))
    return float((np.asarray(difference) > 40).mean())
