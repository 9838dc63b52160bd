"""The back label of a package of Pocket Mart: SIDE_PX x SIDE_PX RGB, in print that can be read, with a box per field.

Companies, addresses and warnings are invented; contacts are in the reserved domain `.example`. Boxes are XYXY.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mtive_nb.data.items.schema import check_digit
from mtive_nb.data.mart.label import INK, PAPER, Box, mix, text_mask
from mtive_nb.data.mart.vocabulary import COLOUR_RGB

SIDE_PX = 560
COUNTRIES = ("Portugal", "Poland", "Vietnam", "Mexico", "Turkey", "India", "Italy", "China")
MAKERS = ("Norvik Goods Ltd", "Albaro Works GmbH", "Tessel Trading Inc", "Quillon Foods SA", "Meridan Supply LLC")
STREETS = ("14 Mill Lane, Leeds", "8 Harbour Road, Cork", "231 Oak Street, Boise", "5 Rue Verte, Lyon")
MARKS = ("CE", "UKCA", "FCC", "RoHS", "WEEE")
HAZARDS = (
    "WARNING: Keep out of reach of children",
    "CAUTION: Contents under pressure",
    "DANGER: Highly flammable liquid",
    "WARNING: May irritate the eyes",
)
# How a label words a field; a brand, a category or an address may stand alone.
WORDS: dict[str, tuple[str, ...]] = {
    "brand_name": ("Brand: {}", "{}"),
    "product_name": ("Product: {}", "Product name: {}"),
    "product_category": ("Category: {}", "{}"),
    "product_type": ("Type: {}",),
    "capacity": ("Contents: {}", "Net {}", "{} e"),
    "colors": ("Colour: {}", "Color: {}"),
    "model_number": ("Model: {}", "Model No. {}", "Item no. {}"),
    "country_of_origin": ("Made in {}", "Product of {}", "Country of origin: {}"),
    "name": ("Manufacturer: {}", "Distributed by {}", "Made for you by {}"),
    "address": ("Address: {}", "{}"),
    "contact": ("Contact: {}", "{}"),
}
_MARGIN, _CAP_PX, _STEP_PX = 34, 15, 31
_BAR_PX, _BAR_HIGH_PX = 3, 84
_LEFT = ("0001101 0011001 0010011 0111101 0100011 0110001 0101111 0111011 0110111 0001011").split()
_PARITY = ("000000 001011 001101 001110 010011 011001 011100 010101 010110 011010").split()

Printed = tuple[str, str, Box]  # path of the field, its value, its box


@dataclass(frozen=True)
class Back:
    """A photo of a back label, and what is printed on it: (path, value, XYXY box in pixels)."""

    image: Image.Image
    printed: tuple[Printed, ...]


def back_facts(rng: np.random.Generator, *, share_absent: float = 0.15) -> dict[str, Any]:
    """Draw what only the back shows, as groups of the schema; each field is absent with probability `share_absent`."""

    def pick(values: tuple[str, ...]) -> str:
        return values[int(rng.integers(len(values)))]

    digits = "50" + "".join(map(str, rng.integers(0, 10, 10)))
    maker = pick(MAKERS)
    facts = {
        ("identifiers", "barcodes"): [{"value": digits + check_digit(digits)}],
        ("identifiers", "model_number"): f"{pick(('KV', 'RX', 'TL', 'QN'))}-{rng.integers(1000, 10000)}",
        ("origin_production", "country_of_origin"): pick(COUNTRIES),
        ("origin_production", "manufacturer"): {
            "name": maker,
            "address": pick(STREETS),
            "contact": f"help@{maker.split()[0].lower()}.example",
        },
        ("regulatory_safety", "certification_marks"): sorted(rng.choice(MARKS, 2, replace=False).tolist()),
        ("regulatory_safety", "hazard_statements"): [{"text": pick(HAZARDS)}],
    }
    kept: dict[str, Any] = {}
    for (group, name), value in facts.items():
        if rng.random() >= share_absent:
            kept.setdefault(group, {})[name] = value
    return kept


def ean13_modules(code: str) -> str:
    """Return the 95 modules of an EAN-13 symbol, 1 for a bar (ISO/IEC 15420). Errors: ValueError for a wrong code."""
    if len(code) != 13 or not code.isdecimal() or check_digit(code[:-1]) != code[-1]:
        raise ValueError(f"EAN-13: found {code!r}, expected 13 digits with a valid check digit")
    flip = str.maketrans("01", "10")
    right = [_LEFT[int(digit)].translate(flip) for digit in code]
    left = [right[k][::-1] if p == "1" else _LEFT[int(code[k])] for k, p in enumerate(_PARITY[int(code[0])], 1)]
    return "101" + "".join(left) + "01010" + "".join(right[7:]) + "101"


def take_back(facts: dict[str, Any], colour: str, *, rng: np.random.Generator) -> Back:
    """Print a truth of the schema on a label and photograph it: turned by at most 5 degrees, uneven light, noise."""
    body = COLOUR_RGB[colour]
    image = Image.new("RGB", (SIDE_PX, SIDE_PX), body)
    edge = _MARGIN - 12
    ImageDraw.Draw(image).rounded_rectangle((edge, edge, SIDE_PX - edge, SIDE_PX - edge), radius=14, fill=PAPER)
    printed, y = [], float(_MARGIN)
    for fields, text in _lines(facts, rng):
        box = _print(image, text, (_MARGIN, y))
        printed += [(path, value, box) for path, value in fields]
        y += _STEP_PX
    for barcode in facts.get("identifiers", {}).get("barcodes", []):
        printed.append(("identifiers.barcodes", barcode["value"], _bars(image, barcode["value"], y + 4)))
    angle = float(rng.uniform(-5, 5))
    image = image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=mix(body, INK, 0.2))
    ramp = np.linspace(-0.5, 0.5, SIDE_PX)[None, :, None]
    pixels = np.asarray(image) * (rng.uniform(0.8, 1.05) * (1 + rng.uniform(-0.25, 0.25) * ramp))
    pixels += rng.standard_normal((SIDE_PX, SIDE_PX, 1)) * rng.uniform(1, 5)
    seen = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return Back(seen, tuple((path, value, _turned(box, angle)) for path, value, box in printed))


def _lines(facts: dict[str, Any], rng: np.random.Generator) -> list[tuple[list[tuple[str, str]], str]]:
    """Return the printed lines, in words drawn from WORDS, each with the (path, value) pairs that it shows."""
    words = {name: forms[int(rng.integers(len(forms)))] for name, forms in WORDS.items()}
    attributes, origin = facts.get("attributes", {}), facts.get("origin_production", {})
    maker, safety = origin.get("manufacturer", {}), facts.get("regulatory_safety", {})
    model = facts.get("identifiers", {}).get("model_number")
    rows: list[tuple[list[tuple[str, str]], str]] = []

    def add(path: str, value: str | None, text: str) -> None:
        if value:
            rows.append(([(path, value)], text))

    for name in ("brand_name", "product_name", "product_category", "product_type"):
        add(f"attributes.{name}", attributes.get(name), words[name].format(attributes.get(name)))
    for capacity in attributes.get("capacity", []):
        amount = f"{capacity['value']} {capacity['unit']}"
        add("attributes.capacity", amount, words["capacity"].format(amount))
    if colours := attributes.get("colors", []):
        said = words["colors"].format(", ".join(colours))
        rows.append(([("attributes.colors", colour) for colour in colours], said))
    add("identifiers.model_number", model, words["model_number"].format(model))
    country = origin.get("country_of_origin")
    add("origin_production.country_of_origin", country, words["country_of_origin"].format(country))
    for name in ("name", "address", "contact"):
        add(f"origin_production.manufacturer.{name}", maker.get(name), words[name].format(maker.get(name)))
    if marks := safety.get("certification_marks", []):
        rows.append(([("regulatory_safety.certification_marks", mark) for mark in marks], "   ".join(marks)))
    for hazard in safety.get("hazard_statements", []):
        add("regulatory_safety.hazard_statements", hazard["text"], hazard["text"])
    return rows


def _print(image: Image.Image, text: str, at: tuple[float, float]) -> Box:
    mask = text_mask(text, "sans", _CAP_PX, SIDE_PX - 2 * _MARGIN)
    x, y = round(at[0]), round(at[1])
    image.paste(INK, (x, y), mask)
    return (x, y, x + mask.width, y + mask.height)


def _bars(image: Image.Image, code: str, top: float) -> Box:
    """Draw an EAN-13 symbol below `top`, its bars shortened where the label ends."""
    x, y = _MARGIN + 60, round(top)
    high = min(_BAR_HIGH_PX, SIDE_PX - _MARGIN - y - 18)
    draw = ImageDraw.Draw(image)
    for k, bar in enumerate(ean13_modules(code)):
        if bar == "1":
            draw.rectangle((x + k * _BAR_PX, y, x + (k + 1) * _BAR_PX - 1, y + high), fill=INK)
    digits = text_mask(code, "mono", 12, 95 * _BAR_PX)
    image.paste(INK, (x, y + high + 6), digits)
    return (x, y, x + 95 * _BAR_PX, y + high + 6 + digits.height)


def _turned(box: Box, angle_deg: float) -> Box:
    """Return the hull of a box after `Image.rotate`, which turns counter-clockwise about the photo's middle."""
    turn = np.deg2rad(angle_deg)
    x0, y0, x1, y1 = (v - SIDE_PX / 2 for v in box)
    x, y = np.array((x0, x1, x1, x0)), np.array((y0, y0, y1, y1))
    xs = x * np.cos(turn) + y * np.sin(turn) + SIDE_PX / 2
    ys = -x * np.sin(turn) + y * np.cos(turn) + SIDE_PX / 2
    clip = [float(np.clip(v, 0, SIDE_PX)) for v in (xs.min(), ys.min(), xs.max(), ys.max())]
    return tuple(round(v, 1) for v in clip)
