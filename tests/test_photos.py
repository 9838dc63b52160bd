"""The photos' door: formats from a list, 16 bits scaled, what no model can take refused, HEIC where it can be read."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtive_nb.data import photos
from mtive_nb.data.photos import FORMATS, PhotoError, load_image, photo_fault

RAMP = np.tile(np.linspace(0, 1, 120), (90, 1))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("grey16.png", (RAMP * 65535).astype(np.uint16)),
        ("grey16.tif", (RAMP * 65535).astype(np.uint16)),
        ("grey32.tif", (RAMP * 65535).astype(np.int32)),
        ("unit.tif", RAMP.astype(np.float32)),
        ("float255.tif", (RAMP * 255).astype(np.float32)),
    ],
)
def test_grey_of_more_than_8_bits_is_scaled_and_not_clipped(tmp_path: Path, name: str, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / name)
    found = np.asarray(load_image(tmp_path / name))
    assert found.shape == (90, 120, 3) and found.dtype == np.uint8
    assert np.abs(found[..., 0].astype(float) - RAMP * 255).max() <= 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_grey_that_is_no_grey_is_refused(tmp_path: Path, bad: float) -> None:
    values = RAMP.astype(np.float32)
    values[3, 4] = bad
    Image.fromarray(values).save(tmp_path / "float.tif")
    assert "negative or no numbers" in photo_fault(tmp_path / "float.tif")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF"])
def test_every_format_of_the_list_opens(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "photo", format=kind)
    red, green, blue = load_image(tmp_path / "photo").getpixel((20, 15))
    assert kind in FORMATS and red > 180 and green < 60 and blue < 60


def test_other_formats_stay_shut(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.jpg", format="EPS")  # would start Ghostscript
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.png", format="PPM")
    for path in tmp_path.iterdir():
        assert "not an image of the formats JPEG, PNG" in photo_fault(path)


def test_a_heic_photo_opens_or_its_message_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    packed = io.BytesIO()
    Image.new("RGB", (64, 48), (30, 30, 200)).save(packed, format="HEIF")
    (tmp_path / "photo.heic").write_bytes(packed.getvalue())
    assert load_image(tmp_path / "photo.heic").size == (64, 48)
    monkeypatch.setattr(photos, "_formats", lambda: tuple(name for name in FORMATS if name != "HEIF"))
    with pytest.raises(PhotoError, match="install pillow-heif"):
        load_image(tmp_path / "photo.heic")


@pytest.mark.parametrize(("size", "fault"), [((4000, 18), True), ((18, 4000), True), ((3000, 400), False)])
def test_a_strip_that_no_processor_takes_is_refused(tmp_path: Path, size: tuple[int, int], fault: bool) -> None:
    Image.new("RGB", size).save(tmp_path / "strip.png")
    assert ("too long" in (photo_fault(tmp_path / "strip.png") or "")) == fault
