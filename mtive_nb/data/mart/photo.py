"""A customer's photo of a package: its plan (`Shot`), its rendering, and what is visible in it.

A photo is SIDE x SIDE RGB. The package's canvas (twice photo size) is rotated, scaled and pasted into a scene. Then
occluders, lens blur, light and sensor noise follow. Boxes are XYXY in photo pixels.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from mtive_nb.data.mart.backdrop import SIDE, backdrop, fingers, occluder
from mtive_nb.data.mart.damage import damage_package, mark_package
from mtive_nb.data.mart.draw import Package
from mtive_nb.data.mart.label import Box
from mtive_nb.data.mart.legible import Placing, legible, share_clear
from mtive_nb.data.mart.shapes import FLOOR_Y
from mtive_nb.data.mart.vocabulary import DAMAGES, PLACEMENTS

MARKS = ("sticker", "tape", "shine")


@dataclass(frozen=True)
class Shot:
    """All decisions of one photo; `replace(shot, damage=None)` is the same photo of the undamaged package."""

    seed: tuple[int, ...]
    placement: str
    damage: str | None
    count: int
    angle_deg: float
    scale: float
    shift: tuple[float, float]
    mark: str | None
    blocker: str | None  # card, paper or finger
    blocker_side: str
    blocker_depth: float  # share of the product's width (or height) that is covered
    exposure: float
    warmth: float
    shade_deg: float
    shade: float  # light lost across the photo, as a share
    blur_px: float
    noise: float  # standard deviation, of 255
    skin: int
    item_seed: tuple[int, ...] | None = None  # seeds mark and damage if several photos show one item; None: `seed`


@dataclass
class Taken:
    """A taken photo: the image, the damage's box (None: no damage), and the names of the legible attributes."""

    image: Image.Image
    damage_box: Box | None
    visible: frozenset[str]


def plan_shot(rng: np.random.Generator, *, seed: tuple[int, ...], damaged: bool, placement: str | None = None) -> Shot:
    """Draws the decisions of one photo from `rng`; `seed` fixes what is drawn inside the scene."""
    placement = placement or PLACEMENTS[int(rng.integers(len(PLACEMENTS)))]
    standing = placement == "on shelf"
    count = int(rng.choice((1, 1, 1, 1, 1, 1, 2, 3)))
    if placement == "in hand":
        count = 1
    return Shot(
        seed=seed,
        placement=placement,
        damage=DAMAGES[int(rng.integers(len(DAMAGES)))] if damaged else None,
        count=count,
        angle_deg=float(rng.uniform(-4, 4) if standing else rng.uniform(-20, 20)),
        scale=float(rng.uniform(0.9, 1.04)) * {1: 1.0, 2: 0.86, 3: 0.8}[count],
        shift=(float(rng.uniform(-14, 14)), float(rng.uniform(-10, 10))),
        mark=MARKS[int(rng.integers(3))] if rng.random() < (0.35 if damaged else 0.6) else None,
        blocker=str(rng.choice(("card", "paper", "finger"))) if rng.random() < 0.28 else None,
        blocker_side=str(rng.choice(("left", "right", "bottom"))),
        blocker_depth=float(rng.uniform(0.08, 0.24)),
        exposure=float(rng.choice((rng.uniform(0.86, 1.1), rng.uniform(0.52, 0.75)), p=(0.75, 0.25))),
        warmth=float(rng.uniform(-0.03, 0.06)),
        shade_deg=float(rng.uniform(0, 360)),
        shade=float(rng.uniform(0.05, 0.4)),
        blur_px=float(rng.choice((0.0, rng.uniform(0.4, 1.0), rng.uniform(1.2, 1.9)), p=(0.45, 0.4, 0.15))),
        noise=float(rng.uniform(2, 9)),
        skin=int(rng.integers(5)),
    )


def _middle(pack: Package, shot: Shot, ground_y: int | None) -> tuple[float, float]:
    """The position of the package's middle: standing on the ground, or near the photo's middle."""
    x = SIDE / 2 + shot.shift[0] + (22 if shot.count == 2 else 0)
    if ground_y is not None:
        high = (FLOOR_Y - pack.image.getbbox()[1]) * shot.scale / 2
        return x, ground_y + 3 - high / 2
    return x, SIDE / 2 + shot.shift[1] + (-10 if shot.placement == "in hand" else 0)


def _shadow(photo: Image.Image, layer: Image.Image, *, ground_y: int | None) -> None:
    """A soft shadow: under the foot of a standing package, around a lying one."""
    alpha = layer.getchannel("A")
    if ground_y is None:
        soft = alpha.reduce(4).filter(ImageFilter.BoxBlur(2)).resize(photo.size, Image.Resampling.BILINEAR)
        photo.paste((18, 14, 12), (7, 9), soft.point(lambda a: a * 0.55))
        return
    box = alpha.getbbox()
    soft = Image.new("L", (SIDE // 4, SIDE // 4))
    ImageDraw.Draw(soft).ellipse((box[0] / 4 - 2, ground_y / 4 - 2, box[2] / 4 + 3, ground_y / 4 + 3), fill=170)
    soft = soft.filter(ImageFilter.BoxBlur(1.4)).resize(photo.size, Image.Resampling.BILINEAR)
    photo.paste((18, 14, 12), (0, 0), soft)


@lru_cache(maxsize=1)
def _noise_field() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((400, 400, 3), dtype=np.float32)


def grain(height_px: int, width_px: int, *, rng: np.random.Generator) -> np.ndarray:
    """Unit noise (height_px, width_px, 3), a random window of one fixed field, as drawing new noise is slow."""
    top, left = rng.integers(0, 400 - height_px), rng.integers(0, 400 - width_px)
    return _noise_field()[top : top + height_px, left : left + width_px]


def _finish(photo: Image.Image, shot: Shot, rng: np.random.Generator) -> Image.Image:
    """Applies lens blur, light and sensor noise, in this order."""
    if shot.blur_px:
        photo = photo.filter(ImageFilter.BoxBlur(shot.blur_px))
    ramp = np.linspace(-0.5, 0.5, SIDE, dtype=np.float32)
    turn = np.deg2rad(shot.shade_deg)
    fall = 0.5 + ramp[None, :] * float(np.cos(turn)) + ramp[:, None] * float(np.sin(turn))  # (SIDE, SIDE)
    light = shot.exposure * (1 - shot.shade / 1.2 * fall)
    tint = np.array((1 + shot.warmth, 1, 1 - shot.warmth), np.float32)
    pixels = np.asarray(photo) * (light[..., None] * tint)
    pixels += grain(SIDE, SIDE, rng=rng) * shot.noise
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _blocker(shot: Shot, where: Box, rng: np.random.Generator) -> Image.Image | None:
    if shot.blocker is None:
        return None
    x0, y0, x1, y1 = where
    across = shot.blocker_depth * (x1 - x0 if shot.blocker_side != "bottom" else y1 - y0)
    gap = {"left": x0, "right": SIDE - x1, "bottom": SIDE - y1}[shot.blocker_side]
    depth = float(np.clip(gap + across, 12, 130))
    return occluder(shot.blocker, rng=rng, side=shot.blocker_side, depth_px=depth)


def take_photo(pack: Package, shot: Shot) -> Taken:
    """Renders one photo of a package by its plan `shot`; the same arguments give the same pixels."""
    item = shot.item_seed or shot.seed
    seeds = (shot.seed, item, item, shot.seed)
    scene_rng, mark_rng, hurt_rng, grain_rng = (np.random.default_rng([*seed, k]) for k, seed in enumerate(seeds))
    scene = backdrop(shot.placement, rng=scene_rng, skin=shot.skin)
    photo = scene.image
    canvas, hurt = pack.image, None
    if shot.mark:
        canvas = mark_package(canvas, pack, shot.mark, rng=mark_rng)
    if shot.damage:
        marked = Package(image=canvas, body=pack.body, label=pack.label, look=pack.look)
        canvas, hurt = damage_package(marked, shot.damage, rng=hurt_rng)
    middle = _middle(pack, shot, scene.ground_y)
    placing = Placing(pack, angle_deg=shot.angle_deg, scale=shot.scale, middle=middle)
    layer = placing.lay(canvas)
    where = placing.hull(pack.body)
    step = round((where[2] - where[0]) * (0.5 if shot.count == 3 else 0.55))
    other = layer if canvas is pack.image or shot.count == 1 else placing.lay(pack.image)
    for offset in ((), (-step,), (-step, step))[shot.count - 1]:  # the other items of a multipack stand behind
        photo.paste(other, (offset, -7 if scene.ground_y is not None else 6), other)
    _shadow(photo, layer, ground_y=scene.ground_y)
    photo.paste(layer, (0, 0), layer)

    blocked = np.zeros((SIDE // 2, SIDE // 2), bool)
    front = _blocker(shot, where, scene_rng)
    if front is not None and hurt is not None:  # an occluder that would hide the damage is dropped
        shut = np.asarray(front.getchannel("A").reduce(2)) > 60
        corners = placing.corners(hurt)
        front = front if share_clear(corners, shut) > 0.8 * share_clear(corners, blocked) else None
    fronts = [front]
    if shot.placement == "in hand":
        body = placing.corners(pack.body)
        left, right = body[[0, 3], 0].mean(), body[[1, 2], 0].mean()
        fronts.append(fingers(left_x=left, right_x=right, base_y=body[:, 1].mean() + 26, skin=shot.skin))
    for front in fronts:
        if front is not None:
            photo.paste(front, (0, 0), front)
            blocked |= np.asarray(front.getchannel("A").reduce(2)) > 60
    box = None
    if hurt is not None:
        x0, y0, x1, y1 = placing.hull(hurt)
        box = (max(0.0, x0), max(0.0, y0), min(float(SIDE), x1), min(float(SIDE), y1))
        box = tuple(round(v, 1) for v in box)
    light = shot.exposure * (1 - shot.shade / 2)
    seen = legible(pack, canvas, placing, blocked, light=light, blur_px=shot.blur_px, damage=shot.damage)
    return Taken(_finish(photo, shot, grain_rng), box, seen)


def catalogue_photo(pack: Package) -> Image.Image:
    """The shop's own photo: straight, evenly lit, on a plain background."""
    photo = Image.new("RGB", (SIDE, SIDE), (250, 250, 250))
    layer = catalogue_placing(pack).lay(pack.image)
    _shadow(photo, layer, ground_y=267)
    photo.paste(layer, (0, 0), layer)
    return photo


def catalogue_placing(pack: Package) -> Placing:
    """Where the package stands in `catalogue_photo`."""
    top = pack.image.getbbox()[1]
    return Placing(pack, angle_deg=0, scale=1.0, middle=(SIDE / 2, 268 - (FLOOR_Y - top) / 4))
