"""What engines read from an item's photos: printed lines by OCR, barcodes by zxing-cpp (extra `barcode`)."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from PIL import Image

from mtive_nb.data.items.schema import gtin_ok
from mtive_nb.data.ocr import Line, OcrEngine
from mtive_nb.data.photos import load_image

_GTIN = ("EAN-13", "EAN-8", "UPC-A", "UPC-E", "ITF-14")


@dataclass(frozen=True)
class Barcode:
    """A decoded symbol: its text, its kind such as "EAN-13", and the XYXY hull of its corners in pixels."""

    text: str
    kind: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Reading:
    """What one photo's print says. faults: symbols that were seen but not accepted, with the reason.

    seconds: those that processor cores worked to read it.
    """

    lines: tuple[Line, ...] = ()
    barcodes: tuple[Barcode, ...] = ()
    faults: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)


def read_barcodes(image: Image.Image) -> tuple[list[Barcode], list[str]]:
    """Return the barcodes of a photo, and the reasons why further symbols were refused.

    A GTIN whose check digit is wrong is refused. Errors: ImportError that names the extra to install.
    """
    try:
        import zxingcpp
    except ImportError:
        raise ImportError("barcodes: found no zxing-cpp; install it by pip install -e '.[barcode]'") from None
    codes, refused = [], []
    for found in zxingcpp.read_barcodes(image.convert("RGB"), return_errors=True):
        kind, where = str(found.format), found.position
        corners = [(p.x, p.y) for p in (where.top_left, where.top_right, where.bottom_right, where.bottom_left)]
        xs, ys = zip(*corners, strict=True)
        if found.error is not None or kind in _GTIN and not gtin_ok(found.text) and kind != "UPC-E":
            refused.append((min(xs), min(ys), max(xs), max(ys), found.text, kind))
        else:
            codes.append(Barcode(found.text, kind, (min(xs), min(ys), max(xs), max(ys))))
    # A misread line of a symbol that another line decodes is no fault.
    faults = [
        f"barcode {text or '?'} ({kind}): wrong check digit or unreadable"
        for x0, y0, x1, y1, text, kind in refused
        if not any(x0 <= c.box[2] and c.box[0] <= x1 and y0 <= c.box[3] and c.box[1] <= y1 for c in codes)
    ]
    return codes, faults


def read_photo(image: Image.Image, *, ocr: OcrEngine | None = None, barcodes: bool = True) -> Reading:
    """Return what is printed on a photo: lines where an engine is passed, barcodes where asked for."""
    started = time.process_time()
    codes, faults = read_barcodes(image) if barcodes else ([], [])
    lines = tuple(ocr.read(image)) if ocr else ()
    return Reading(lines, tuple(codes), tuple(faults), time.process_time() - started)


def read_photos(photos: Sequence[str], *, ocr: OcrEngine | None = None, barcodes: bool = True) -> dict[str, Reading]:
    """Return {path: Reading} of photos. Errors: PhotoError for an unusable photo, ImportError."""
    return {photo: read_photo(load_image(photo), ocr=ocr, barcodes=barcodes) for photo in photos}


def as_prompt(readings: Iterable[Reading], *, most_characters: int = 800) -> str:
    """Return the readings of an item's images as text for a prompt; "" where nothing was read.

    Photos of one label repeat its lines; each line stands once, compared by letters and digits.
    """
    said: dict[str, str] = {}
    for found in readings:
        for words in (*(line.text for line in found.lines), *(f"barcode {code.text}" for code in found.barcodes)):
            said.setdefault("".join(filter(str.isalnum, words.casefold())), words)
    return f"Printed: {' | '.join(said.values())[:most_characters]}." if said else ""
