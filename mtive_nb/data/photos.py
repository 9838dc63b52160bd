"""Loads photos from outside: decodes them in full, or says in one line what is wrong with the file.

Images leave this module as PIL RGB, turned upright by their EXIF orientation; as arrays they are HWC uint8. Model,
judge, endpoint, server and widget all get their photos from `load_image`, as pixels or by `data_url`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import warnings
from collections.abc import Callable
from functools import cache, lru_cache, wraps
from math import ceil
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# The allowed formats: Pillow knows more, and one of them, EPS, starts another program.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "HEIF")
MAX_RATIO = 200  # of the longer to the shorter side; the VLMs' processors refuse more
MIN_SIDE_PX = 16  # smaller photos show nothing to verify
MAX_PIXELS = 64_000_000  # a 64-megapixel photo takes 192 MB as RGB; larger files are mistakes or attacks

# Pillow's advice on palettes and on size, which is checked below. `catch_warnings` around a load is not safe in threads:
# it lost other threads' warnings.
warnings.filterwarnings("ignore", "Palette images with Transparency")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

P, T = ParamSpec("P"), TypeVar("T")


class PhotoError(ValueError):
    """A photo that cannot be used; the message says why, without the file's name."""


def cached_by_file(maxsize: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Cache a function of a path, `function(path, ...)`, for as long as the file stays as it is.

    The key is the path with the file's device, inode, size and times in ns, so that a replaced file is read anew.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @lru_cache(maxsize)
        def kept(_file: tuple[int, ...], *args: P.args, **kwargs: P.kwargs) -> T:
            return function(*args, **kwargs)

        @wraps(function)
        def look(path: str | Path, *args: P.args, **kwargs: P.kwargs) -> T:
            try:
                file = os.stat(path)
            except (OSError, ValueError):  # the function itself says what is wrong
                return function(path, *args, **kwargs)
            state = file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns
            return kept(state, path, *args, **kwargs)

        return look

    return decorate


@cached_by_file(65536)
def file_sha256(path: str | Path) -> str:
    """Return the hash of a file's bytes, for keys of caches. Errors: OSError for an unreadable file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_image(path: str | Path, *, side_px: int | None = None) -> Image.Image:
    """Decode a photo in full into upright RGB; shrink it to about the area of a square of `side_px` if it is larger.

    Transparent pixels become white, as a shop shows its cut-out products. Of several frames, the first counts.
    Errors: PhotoError for a missing, empty, truncated, non-image, tiny, giant or very long photo.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise PhotoError("no such file" if not path.exists() else "not a file")
    except OSError as error:  # a name too long, a folder that may not be entered
        raise PhotoError(f"cannot be read: {error.strerror}") from None
    try:
        with Image.open(path, formats=_formats()) as image:
            _check_size(image.size)
            if side_px:  # a JPEG decodes at a half, a quarter or an eighth, still twice as large as is asked for
                share = 2 * side_px / (image.width * image.height) ** 0.5
                image.draft(None, (ceil(share * image.width), ceil(share * image.height)))
            image.load()
            return _shrunk(_to_rgb(ImageOps.exif_transpose(image)), side_px)
    except PhotoError:
        raise
    except UnidentifiedImageError:
        raise PhotoError(_why_unidentified(path)) from None
    except Image.DecompressionBombError as error:
        raise PhotoError(f"more than {MAX_PIXELS} pixels: {error}") from None
    except Exception as error:  # a damaged file raises nearly any type: OSError, SyntaxError, struct.error
        raise PhotoError(f"truncated or damaged image: {error or type(error).__name__}") from None


def data_url(picture: Image.Image | bytes, *, kind: str = "PNG", quality: int = 95) -> str:
    """Return a picture as a data URL of the MIME type that its bytes have.

    An image is encoded as `kind`, "PNG" without loss or "JPEG" at `quality`; bytes are a file of that kind already.
    """
    if isinstance(picture, Image.Image):
        packed = io.BytesIO()
        picture.save(packed, kind, **({"quality": quality, "subsampling": 0} if kind == "JPEG" else {}))
        picture = packed.getvalue()
    return f"data:image/{kind.lower()};base64,{base64.b64encode(picture).decode()}"


def _shrunk(image: Image.Image, side_px: int | None) -> Image.Image:
    width, height = image.size
    if side_px and width * height > side_px * side_px:
        short = max(1, round(min(image.size) * side_px / (width * height) ** 0.5))
        # `thumbnail` finds the other side; a ratio below MAX_RATIO stays so or becomes MAX_RATIO, which processors take
        image.thumbnail((width, short) if width >= height else (short, height), Image.Resampling.BICUBIC)
    return image


@cache
def _formats() -> tuple[str, ...]:
    """The formats that this machine can open: HEIF if pillow-heif is installed, AVIF if Pillow was built with it."""
    Image.init()
    try:
        from pillow_heif import register_heif_opener

        register_heif_opener()
    except ImportError:
        pass
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _why_unidentified(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    if not head:
        return "empty file"
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "a HEIC photo: install pillow-heif to read it (pip install -e '.[heif]'), or save it as JPEG"
    return f"not an image of the formats {', '.join(FORMATS)} ({path.stat().st_size} bytes)"


def photo_fault(path: str | Path) -> str | None:
    """What is wrong with the photo, or None when it decodes."""
    try:
        load_image(path)
    except PhotoError as error:
        return str(error)
    return None


def path_fault(root: Path, relative: str) -> str | None:
    """Why `relative` may not be read as a file under `root`, or None. Links that lead out of the folder are refused."""
    try:
        if "://" in relative:
            return "a web address; load the photo into the catalogue's folder and give its path"
        if Path(relative).is_absolute():
            return "an absolute path; give it relative to the catalogue's folder"
        if not (root / relative).resolve().is_relative_to(root.resolve()):
            return "the path leads out of the catalogue's folder"
    except (OSError, ValueError, RuntimeError) as error:  # NUL bytes, names too long, loops of links
        return f"not a usable path: {error}"
    return None


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if min(size) < MIN_SIDE_PX:
        raise PhotoError(f"too small: {width} x {height} pixels, each side must have at least {MIN_SIDE_PX}")
    if max(size) >= MAX_RATIO * min(size):
        raise PhotoError(
            f"too long: {width} x {height} pixels, the longer side must stay below {MAX_RATIO} times the other"
        )
    if width * height > MAX_PIXELS:
        raise PhotoError(f"too large: {width} x {height} pixels, at most {MAX_PIXELS} in all")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _to_8_bit(np.asarray(image, dtype=np.float64)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(grey: np.ndarray) -> Image.Image:
    """Scale grey values (H, W) of 16 bits, or floats, to 0 to 255; Pillow's own conversion clips them to white.

    The largest value sets the input scale: 1, or that of 8, 10, 12, 14 or 16 bits, else that value itself.
    """
    if not np.isfinite(grey).all() or grey.min() < 0:
        raise PhotoError("grey values that are negative or no numbers")
    scale = next(
        (top for top in (1.0, *(2.0**bits - 1 for bits in (8, 10, 12, 14, 16))) if grey.max() <= top), grey.max()
    )
    return Image.fromarray(np.rint(grey * (255 / scale)).astype(np.uint8))
