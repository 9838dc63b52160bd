"""Draws a package of Pocket Mart from the front, at twice its size in a photo, for smooth edges."""

from dataclasses import dataclass

from PIL import Image

from mtive_nb.data.mart.label import Box, Label, luminance, print_label
from mtive_nb.data.mart.shapes import DRAWERS, Bench
from mtive_nb.data.mart.vocabulary import COLOUR_RGB

STYLES = ("panel", "band", "badge", "direct")
TYPEFACES = ("sans", "sans", "slant", "serif", "mono")
_LIDS = ((246, 246, 244), (52, 52, 58), (196, 160, 84), (176, 182, 190))


@dataclass(frozen=True)
class Look:
    """All that decides how a product's package looks; `variant` in 0..2 picks the silhouette."""

    brand: str
    category: str
    colour: str
    packaging: str
    size: str
    variant: int
    style: str
    typeface: str
    lid: int


@dataclass
class Package:
    """A drawn package: RGBA canvas, the body's box (where damage is drawn), and the position of its label."""

    image: Image.Image
    body: Box
    label: Label
    look: Look


# the printable face of each silhouette, XYXY
_FACES = {
    "bottle": ((104, 190, 376, 506), (104, 166, 376, 500), (106, 160, 374, 490)),
    "can": ((98, 130, 382, 490), (98, 172, 382, 480), (100, 132, 380, 490)),
    "jar": ((86, 222, 394, 500), (84, 232, 396, 500), (92, 256, 388, 500)),
    "box": ((74, 104, 346, 506), (92, 110, 338, 506), (58, 178, 370, 506)),
    "pouch": ((104, 118, 376, 486), (106, 124, 374, 486), (104, 152, 376, 490)),
    "tube": ((112, 84, 368, 410), (112, 84, 368, 400), (120, 150, 360, 484)),
}


def draw_package(look: Look) -> Package:
    """Draws one package. Errors: KeyError for a packaging or colour that the shop does not have."""
    body = COLOUR_RGB[look.colour]
    lid = _LIDS[look.lid % len(_LIDS)]
    if abs(luminance(lid) - luminance(body)) < 30:
        lid = _LIDS[(look.lid + 1) % len(_LIDS)]
    labels: list[Label] = []

    def paint(art: Image.Image) -> None:
        face = _FACES[look.packaging][look.variant]
        words = {"brand": look.brand, "category": look.category, "size": look.size}
        labels.append(print_label(art, face, **words, style=look.style, typeface=look.typeface, body=body))

    bench = Bench()
    box = DRAWERS[look.packaging](bench, look.variant, body, lid, paint)
    return Package(image=bench.canvas, body=box, label=labels[0], look=look)
