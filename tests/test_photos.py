"""The photos' door: formats, modes and sizes; what every reader gets of a photo; caches that notice a replaced file."""

import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtive_nb.data import photos
from mtive_nb.data.endpoint import SENT_PX, photo_part
from mtive_nb.data.photos import FORMATS, PhotoError, cached_by_file, data_url, file_sha256, load_image, photo_fault
from mtive_nb.model.batches import cached_image

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


def red_and_clear(mode: str) -> Image.Image:
    """A photo whose left half is red and whose right half is transparent black."""
    image = Image.new("RGBA", (40, 30))
    image.paste((255, 0, 0, 255), (0, 0, 20, 30))
    return image.quantize() if mode == "P" else image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGBA", "PNG"), ("P", "PNG"), ("RGBA", "GIF"), ("RGBA", "WEBP"), ("LA", "PNG")]
)
def test_what_is_transparent_becomes_white(tmp_path: Path, mode: str, kind: str) -> None:
    red_and_clear(mode).save(tmp_path / "photo", format=kind, **({"lossless": True} if kind == "WEBP" else {}))
    image = load_image(tmp_path / "photo")
    red = (255, 0, 0) if mode != "LA" else (76, 76, 76)
    assert image.mode == "RGB" and image.getpixel((5, 5)) == red and image.getpixel((35, 5)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "L", "1"])
def test_other_modes_become_rgb_of_the_same_colours(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (40, 30), "white").convert(mode).save(tmp_path / "photo", format="TIFF" if mode == "1" else "JPEG")
    image = load_image(tmp_path / "photo")
    assert image.mode == "RGB" and min(image.getpixel((9, 9))) > 250


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_of_several_frames_counts(tmp_path: Path, kind: str) -> None:
    first, second = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "photo", format=kind, save_all=True, append_images=[second])
    red, green, blue = load_image(tmp_path / "photo").getpixel((9, 9))
    assert red > 240 and max(green, blue) < 15


def test_a_phone_s_photo_of_two_frames_is_its_first(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (64, 48), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "photo.jpg", format="MPO", save_all=True, append_images=[second])
    red, _, blue = load_image(tmp_path / "photo.jpg").getpixel((9, 9))
    assert red > 240 and blue < 15


@pytest.mark.parametrize("size", [(3000, 400), (400, 3000), (640, 480), (900, 900)])
def test_a_large_photo_keeps_its_ratio_and_the_area_asked_for(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "photo.png")
    width, height = load_image(tmp_path / "photo.png", side_px=280).size
    assert width * height == pytest.approx(280**2, rel=0.02) and width / height == pytest.approx(
        size[0] / size[1], rel=0.02
    )


@pytest.mark.parametrize("size", [(1600, 1200), (1201, 1599), (320, 240)])
def test_a_jpeg_decoded_at_a_part_of_its_size_is_the_whole_one_shrunk(tmp_path: Path, size: tuple[int, int]) -> None:
    rows, turned = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8), Image.Exif()
    turned[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(rows).resize(size, Image.Resampling.BICUBIC).save(tmp_path / "photo.jpg", quality=90, exif=turned)
    found = load_image(tmp_path / "photo.jpg", side_px=140)
    whole = load_image(tmp_path / "photo.jpg")
    assert whole.size == size[::-1]
    whole.thumbnail(found.size, Image.Resampling.BICUBIC)
    gap = np.abs(np.asarray(found, float) - np.asarray(whole, float))
    assert whole.size == found.size and gap.max() < 16 and gap.mean() < 2 and (max(size) > 400 or not gap.any())


def test_a_photo_of_the_area_asked_for_or_less_stays_as_it_is(tmp_path: Path) -> None:
    for size in ((280, 280), (784, 100), (20, 60)):
        noise = Image.effect_noise(size, 80).convert("RGB")
        noise.save(tmp_path / "photo.png")
        assert load_image(tmp_path / "photo.png", side_px=280).tobytes() == noise.tobytes()


def test_a_shrunk_strip_stays_within_the_processors_ratio(tmp_path: Path) -> None:
    for size in ((3999, 20), (3383, 17), (17, 3383), (6399, 32)):
        Image.new("RGB", size).save(tmp_path / "strip.png")
        for side_px in (40, 56, 100, 112, 280):
            found = load_image(tmp_path / "strip.png", side_px=side_px).size
            assert max(found) <= photos.MAX_RATIO * min(found)


def test_a_file_replaced_under_its_name_is_read_anew_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    path, reads = tmp_path / "image.jpg", []

    @cached_by_file(8)
    def pixel(path: str, place: int) -> tuple[int, ...]:
        reads.append(path)
        return cached_image(path, None).getpixel((place, place))

    def put(colour: str) -> None:
        Image.new("RGB", (40, 30), colour).save(path, format="BMP")  # always of the same size

    put("red")
    assert pixel(str(path), 5) == pixel(str(path), 5) == (255, 0, 0) and len(reads) == 1
    assert pixel(str(path), 6) == (255, 0, 0) and len(reads) == 2
    hashes, times = [file_sha256(path)], path.stat()
    put("blue")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a copy with its times does
    assert pixel(str(path), 5) == (0, 0, 255) and file_sha256(path) not in hashes
    (tmp_path / "other.jpg").write_bytes(path.read_bytes())
    put("lime")
    path.unlink()
    path.symlink_to(tmp_path / "other.jpg")
    assert pixel(str(path), 5) == (0, 0, 255)
    path.unlink()
    with pytest.raises(PhotoError, match=r"image.jpg: no such file"):
        pixel(str(path), 5)
    put("lime")
    assert pixel(str(path), 5) == (0, 255, 0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_data_url_has_the_type_of_its_bytes(kind: str) -> None:
    image = Image.effect_noise((40, 30), 80).convert("RGB")
    head, packed = data_url(image, kind=kind).split(",")
    with Image.open(io.BytesIO(base64.b64decode(packed))) as back:
        assert back.format == kind and head == f"data:image/{kind.lower()};base64"
        assert np.abs(np.asarray(back, int) - np.asarray(image, int)).mean() < (1e-9 if kind == "PNG" else 4)
    assert data_url(base64.b64decode(packed), kind=kind) == f"{head},{packed}"


def test_an_endpoint_gets_upright_rgb_whatever_the_file_is_called(tmp_path: Path) -> None:
    image, turned = Image.new("RGB", (60, 40), "white"), Image.Exif()
    image.paste((255, 0, 0), (0, 0, 20, 40))
    turned[0x0112] = 6  # the camera was held upright: turn by 90 degrees
    image.save(tmp_path / "photo.webp", exif=turned, lossless=True)
    (tmp_path / "photo.jpg").write_bytes((tmp_path / "photo.webp").read_bytes())
    red_and_clear("RGBA").resize((3000, 3000)).save(tmp_path / "cut-out.jpg", format="PNG")
    sent = {}
    for name in ("photo.webp", "photo.jpg", "cut-out.jpg"):
        head, packed = photo_part(tmp_path / name)["image_url"]["url"].split(",")
        sent[name] = Image.open(io.BytesIO(base64.b64decode(packed)))
        assert head == "data:image/jpeg;base64" and sent[name].format == "JPEG" and sent[name].mode == "RGB"
    assert sent["photo.webp"].tobytes() == sent["photo.jpg"].tobytes()
    assert sent["photo.jpg"].size == (40, 60) and sent["photo.jpg"].getpixel((20, 5))[1] < 30
    assert sent["cut-out.jpg"].size == (SENT_PX, SENT_PX) and min(sent["cut-out.jpg"].getpixel((2000, 100))) > 245
