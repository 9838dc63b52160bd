"""Customer photos composited from real photos: damage drawn onto them, or dates printed onto a cut-out part.

Real damage and real dates are rare in public sets, so these photos stand in; `facts["composited"]` marks them.
All photos, damaged or not, are saved in the same way, so that the JPEG compression does not reveal the answer.
A composited photo stays in the split of its source photo.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from mtive_nb.data.catalogue import Catalogue, Feedback, Product
from mtive_nb.data.damage import DRAWN_DAMAGES, draw_damage
from mtive_nb.data.dates import random_dates
from mtive_nb.data.photos import load_image
from mtive_nb.data.source_tables import LOOSE

__all__ = ["composite_damage", "composite_dates", "draw_damage", "print_date"]

LOOSE_DAMAGES = ("crush", "stain", "crack")  # the kinds possible on fruit and vegetables; the others need a package
LABEL_SIZE_PX = (336, 224)  # twice 168 x 112, the size at which the small model reads
PAPERS = ((246, 244, 236), (252, 252, 252), (250, 226, 120), (236, 232, 214))
INKS = ((20, 20, 24), (24, 24, 70), (70, 16, 20))
DAMAGE_NOTE, DATE_NOTE = "damage composited on a real photo", "date composited on a real photo"


def composite_damage(
    catalogue: Catalogue, folder: str | Path, *, share: float = 0.5, n: int | None = None, seed: int = 0
) -> Catalogue:
    """Build a catalogue of the same products with damage drawn onto a `share` of the customer photos.

    `n` limits the photos (a uniform draw over all feedback; None: all). Photos without drawn damage are saved again and
    count as undamaged, as photos from shops show no damage. Boxes are XYXY in pixels. Photos go to `folder`/images.
    """
    _check_share(share)
    rng = np.random.default_rng([seed, 1])
    made = _start(catalogue, f"{catalogue.name}-damage", folder)
    products = {product.product_id: product for product in catalogue.products}
    for source in _draw_rows(catalogue.feedback, n, rng):
        image, own = load_image(catalogue.root / source.images[0]), _rng_of(source, seed)
        facts = dict(source.facts or {}) | {"damaged": False, "damage": None, "damage_box": None, "composited": None}
        if own.random() < share:
            loose = products[source.product_id].attributes.get("packaging") == LOOSE
            kind = str(own.choice(LOOSE_DAMAGES if loose else DRAWN_DAMAGES))
            image, box = draw_damage(image, kind, own)
            facts |= {"damaged": True, "damage": kind, "damage_box": list(box), "composited": DAMAGE_NOTE}
        _add(made, catalogue, source, image=image, facts=facts, kind="damage")
    return made


def composite_dates(
    catalogue: Catalogue, folder: str | Path, *, n: int, share_none: float = 0.1, seed: int = 0
) -> Catalogue:
    """Build a catalogue of `n` close-ups cut from customer photos, with a date printed onto each as on a package.

    A share `share_none` shows a label without a date (all dates are null). Facts contain the dates alone: anything else
    in the whole photo may lie outside the close-up. Photos, 336 x 224 pixels, go to `folder`/images.
    """
    _check_share(share_none)
    rng = np.random.default_rng([seed, 2])
    made = _start(catalogue, f"{catalogue.name}-dates", folder)
    for source in _draw_rows(catalogue.feedback, n, rng):
        own = _rng_of(source, seed)
        dates = random_dates(own, share_none=share_none)
        lines = dates.pop("lines") or _other_lines(own)
        image = print_date(load_image(catalogue.root / source.images[0]), lines, own)
        _add(made, catalogue, source, image=image, facts={"dates": dates, "composited": DATE_NOTE}, kind="date")
    return made


def print_date(image: Image.Image, lines: list[str], rng: np.random.Generator) -> Image.Image:
    """Cut a part from the photo, enlarge it to 336 x 224 pixels and print the lines onto it, legible at 168 x 112.

    Half of the prints are paper labels, half are ink on a flat part of the package in the photo's own colour.
    """
    if not lines:
        raise ValueError("print_date: found no lines, expected at least one")
    width, height = LABEL_SIZE_PX
    side = min(image.width / 3, image.height / 2) * rng.uniform(0.5, 0.8)
    left, top = rng.uniform(0, image.width - 3 * side), rng.uniform(0, image.height - 2 * side)
    part = image.resize(LABEL_SIZE_PX, Image.Resampling.BICUBIC, box=(left, top, left + 3 * side, top + 2 * side))
    face = _fitting_font(lines, width_px=0.84 * width, height_px=0.8 * height)
    patch = _patch(part, lines, face, rng)
    angle = float(rng.uniform(-6, 6))
    turned = patch.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    scale = min(1.0, 0.97 * width / turned.width, 0.97 * height / turned.height)
    turned = turned.resize((round(turned.width * scale), round(turned.height * scale)), Image.Resampling.LANCZOS)
    place = [int(rng.integers(0, room - size + 1)) for room, size in zip(LABEL_SIZE_PX, turned.size, strict=True)]
    result = part.convert("RGBA")
    result.alpha_composite(turned, tuple(place))
    pixels = np.asarray(result.convert("RGB").filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.9))), dtype=np.float32)
    light = np.linspace(rng.uniform(0.8, 1.05), rng.uniform(0.85, 1.1), width)[None, :, None]  # uneven, left to right
    noisy = pixels * light + rng.normal(0, rng.uniform(1, 5), pixels.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _patch(part: Image.Image, lines: list[str], face: ImageFont.FreeTypeFont, rng: np.random.Generator) -> Image.Image:
    """The printed piece, RGBA: a paper label, or ink on a soft-edged flat area in the photo's mean colour."""
    spacing, pad = round(face.size * 0.3), round(face.size * 0.45)
    text = "\n".join(lines)
    pen = ImageDraw.Draw(Image.new("L", (1, 1)))
    x0, y0, x1, y1 = pen.multiline_textbbox((0, 0), text, font=face, spacing=spacing)
    size = (round(x1 - x0) + 2 * pad, round(y1 - y0) + 2 * pad)
    if rng.random() < 0.5:
        paper, ink = PAPERS[rng.integers(len(PAPERS))], INKS[rng.integers(len(INKS))]
        patch = Image.new("RGBA", size, (*paper, 255))
    else:
        mean = np.asarray(part, dtype=np.float32).mean(axis=(0, 1))
        dark = mean.mean() < 118
        # Packages leave a plain field for the date; dark fields are printed in white, light fields in black.
        field = mean * 0.6 if dark else mean * 0.5 + 118
        ink = (244, 244, 240) if dark else (22, 22, 26)
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).rounded_rectangle((4, 4, size[0] - 5, size[1] - 5), radius=pad, fill=235)
        patch = Image.new("RGBA", size, (*(int(value) for value in field), 255))
        patch.putalpha(mask.filter(ImageFilter.GaussianBlur(3)))
    pen = ImageDraw.Draw(patch)
    bold = int(rng.integers(1, 3)) if face.size > 30 else 1
    pen.multiline_text((pad - x0, pad - y0), text, fill=(*ink, 255), font=face, spacing=spacing, stroke_width=bold // 2)
    return patch


def _fitting_font(lines: list[str], *, width_px: float, height_px: float) -> ImageFont.FreeTypeFont:
    """Pillow's built-in font, which every machine has, as large as the space allows."""
    trial = ImageFont.load_default(40)
    longest = max(trial.getlength(line) for line in lines) / 40 + 0.9  # in units of the font size, margins included
    size = min(width_px / longest, height_px / (1.3 * len(lines) + 0.6), 64)
    return ImageFont.load_default(max(12, int(size)))


def _other_lines(rng: np.random.Generator) -> list[str]:
    """Print on a package besides dates: a lot number, a net weight, advice. Nothing that could be read as a date."""
    lot = f"LOT {''.join(rng.choice(list('ABCDEFGHKLMNPRSTUX'), 2))}{rng.integers(1000, 9999)}"
    weight = f"NET {rng.choice([100, 250, 330, 500, 750])} {rng.choice(['G', 'ML'])}"
    return [[lot], [weight], [lot, weight], ["KEEP COOL"], ["STORE DRY", lot]][int(rng.integers(5))]


def _start(catalogue: Catalogue, name: str, folder: str | Path) -> Catalogue:
    """A catalogue in `folder` with the same products and copies of their photos, without feedback."""
    root = Path(folder)
    (root / "images").mkdir(parents=True, exist_ok=True)
    products: list[Product] = []
    for product in catalogue.products:
        images = []
        for index, image in enumerate(product.images):
            images.append(f"images/product-{_flat(product.product_id)}-{index}{Path(image).suffix}")
            shutil.copyfile(catalogue.root / image, root / images[-1])
        products.append(dataclasses.replace(product, images=tuple(images)))
    return Catalogue(name, root, products, [], splits={})


def _add(
    made: Catalogue, catalogue: Catalogue, source: Feedback, *, image: Image.Image, facts: dict, kind: str
) -> None:
    feedback_id = f"{kind}-{_flat(source.feedback_id)}"
    path = f"images/{feedback_id}.jpg"
    image.save(made.root / path, quality=92)
    made.feedback.append(Feedback(feedback_id, source.product_id, "", (path,), facts))
    splits = catalogue.splits or {}
    split = splits.get(source.feedback_id) or splits.get(source.product_id)
    if split is not None:
        made.splits[feedback_id] = split


def _draw_rows(feedback: list[Feedback], n: int | None, rng: np.random.Generator) -> list[Feedback]:
    if n is None or n >= len(feedback):
        return list(feedback)
    return [feedback[index] for index in sorted(rng.choice(len(feedback), n, replace=False))]


def _rng_of(source: Feedback, seed: int) -> np.random.Generator:
    """The row's own generator, so that a photo looks the same however many other photos are made."""
    digest = hashlib.sha256(source.feedback_id.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def _flat(name: str) -> str:
    return name.replace("/", "_")


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"share: found {share}, expected a number from 0 to 1")
