"""How an item's photos become a model's images: whole, in tiles, or as squares around regions (eBay, A.5).

The paper expands and merges boxes by amounts that it does not print; here both are parameters. The three arms get the
same budget of image tokens, which the paper's comparison does not: its crops add images. Boxes are XYXY in pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import floor, sqrt

from PIL import Image

from mtive_nb.data.items.items import Box, Item, Region
from mtive_nb.data.items.readers import Reading, read_photo
from mtive_nb.data.ocr import OcrEngine
from mtive_nb.data.photos import load_image

PATCH_PX = 28  # side of the square that one image token covers, in Qwen2.5-VL and the pocket base
ARMS = ("photos", "tiles", "squares")


def expand(boxes: Sequence[Box], size: tuple[int, int], *, share: float = 0.15) -> list[Box]:
    """Return boxes grown on each side by `share` of their own width and height, cut at the photo's edges."""
    width, height = size
    grown = []
    for x0, y0, x1, y1 in boxes:
        dx, dy = share * (x1 - x0), share * (y1 - y0)
        grown.append((max(0.0, x0 - dx), max(0.0, y0 - dy), min(float(width), x1 + dx), min(float(height), y1 + dy)))
    return grown


def merge(boxes: Sequence[Box]) -> list[Box]:
    """Return the hulls of boxes that overlap, until no two overlap; boxes that only touch stay apart."""
    left, merged = list(boxes), []
    while left:
        box = left.pop()
        hit = next((k for k, b in enumerate(merged) if _overlap(box, b)), None)
        if hit is None:
            merged.append(box)
        else:
            left.append(hull([box, merged.pop(hit)]))  # the larger box may reach others
    return sorted(merged)


def hull(boxes: Sequence[Box]) -> Box:
    """Return the smallest box around one box or more."""
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return (min(x0), min(y0), max(x1), max(y1))


def enclosing_square(boxes: Sequence[Box], size: tuple[int, int]) -> Box:
    """Return the smallest square around all boxes, moved into the photo where it fits there.

    A side longer than the photo's sticks out evenly on both sides; `cut` fills it with white.
    """
    x0, y0, x1, y1 = hull(boxes)
    side = max(x1 - x0, y1 - y0)

    def start(low: float, high: float, room: float) -> float:
        middle = (low + high - side) / 2
        return min(max(middle, 0), room - side) if side <= room else (room - side) / 2

    left, top = start(x0, x1, size[0]), start(y0, y1, size[1])
    return (left, top, left + side, top + side)


def tiles_of(size: tuple[int, int], *, most: int = 4) -> list[Box]:
    """Return the tiles of pan & scan: equal parts along the longer side, at least 2, at most `most`.

    Gemma 3 leaves photos below a ratio of 1.2 whole; here they are cut too, so that the arm differs from whole photos.
    """
    width, height = size
    n = min(max(2, round(max(size) / min(size))), most)
    if width >= height:
        return [(k * width / n, 0.0, (k + 1) * width / n, float(height)) for k in range(n)]
    return [(0.0, k * height / n, float(width), (k + 1) * height / n) for k in range(n)]


def cut(image: Image.Image, box: Box) -> Image.Image:
    """Return the part of an RGB photo in a box, white where the box leaves the photo."""
    x0, y0, x1, y1 = (round(v) for v in box)
    part = Image.new("RGB", (max(1, x1 - x0), max(1, y1 - y0)), "white")
    part.paste(image, (-x0, -y0))
    return part


def views(item: Item, arm: str, *, expand_share: float = 0.15, most_tiles: int = 4) -> list[Image.Image]:
    """Return an item's images by an arm of ARMS, at the photos' own resolution.

    photos: all photos. tiles: all photos, each followed by its tiles. squares: the main photo, then one square for each
    photo with regions; an item without regions keeps its photos. Errors: ValueError for another arm, PhotoError.
    """
    if arm not in ARMS:
        raise ValueError(f"arm: found {arm!r}, expected one of {ARMS}")
    photos = [load_image(photo) for photo in item.photos]
    if arm == "photos" or arm == "squares" and not item.regions:
        return photos
    if arm == "tiles":
        return [one for p in photos for one in (p, *(cut(p, box) for box in tiles_of(p.size, most=most_tiles)))]
    found = photos[:1]
    for k, photo in enumerate(photos):
        if boxes := [region.box for region in item.regions if region.photo == k]:
            regions = merge(expand(boxes, photo.size, share=expand_share))
            found.append(cut(photo, enclosing_square(regions, photo.size)))
    return found


def read_views(item: Item, arm: str, *, budget_tok: int, ocr: OcrEngine) -> list[Reading]:
    """Return what engines read from each of an item's `views`, scaled to the budget, at least four tokens a photo."""
    pictures = fit(views(item, arm), budget_tok=max(budget_tok, 4 * len(item.photos)))
    return [read_photo(picture, ocr=ocr) for picture in pictures]


def with_printed_regions(item: Item, readings: Mapping[str, Reading], *, budget_tok: int) -> Item:
    """Return the item with a region around each line and barcode that engines read, so that real photos have squares.

    readings: by photo path, of the photos as `fit` scales them to `budget_tok`; regions are in the photos' own pixels.
    A region's path is empty: engines see where print is, not which field it is.
    """
    photos, regions = [load_image(photo) for photo in item.photos], []
    for k, (photo, small) in enumerate(zip(photos, fit(photos, budget_tok=budget_tok), strict=True)):
        across, down = photo.width / small.width, photo.height / small.height
        found = readings.get(item.photos[k], Reading())
        for one in (*found.lines, *found.barcodes):
            x0, y0, x1, y1 = one.box
            regions.append(Region(k, "", one.text, (x0 * across, y0 * down, x1 * across, y1 * down)))
    return replace(item, regions=tuple(regions))


def image_tokens(size: tuple[int, int], *, patch_px: int = PATCH_PX) -> int:
    """Return the tokens of an image whose sides are multiples of `patch_px`."""
    return (size[0] // patch_px) * (size[1] // patch_px)


def fit(images: Sequence[Image.Image], *, budget_tok: int, patch_px: int = PATCH_PX) -> list[Image.Image]:
    """Return images scaled to an equal share of `budget_tok` image tokens each, enlarged where they are smaller.

    Sides are multiples of `patch_px`, so that the total never exceeds the budget. Errors: ValueError where the budget
    gives an image no token.
    """
    share = budget_tok // max(1, len(images))
    if share < 1:
        raise ValueError(f"budget_tok: found {budget_tok} for {len(images)} images, expected at least one token each")
    return [image.resize(_size(image.size, share, patch_px), Image.Resampling.BICUBIC) for image in images]


def _size(size: tuple[int, int], tokens: int, patch_px: int) -> tuple[int, int]:
    """The sides closest to the photo's ratio among those that use most of `tokens`."""
    ratio = size[0] / size[1]
    across = min(max(1, round(sqrt(tokens * ratio))), tokens)
    down = max(1, min(floor(tokens / across), round(across / ratio) or 1))
    return across * patch_px, down * patch_px


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
