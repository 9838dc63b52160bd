import numpy as np
import pytest
from PIL import Image

from mtive_nb.data.splits import assert_no_leaks, find_leaks, image_hashes, split_products


@pytest.fixture
def photos(tmp_path):
    """Four smooth random pictures; `again.jpg` is the first saved a second time, `copy.png` its exact copy."""
    rng = np.random.default_rng(1)
    for name in "abcd":
        small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        small.resize((120, 90), Image.Resampling.BICUBIC).save(tmp_path / f"{name}.png")
    first = Image.open(tmp_path / "a.png")
    first.save(tmp_path / "copy.png")
    first.resize((200, 150), Image.Resampling.BICUBIC).save(tmp_path / "again.jpg", quality=60)
    return tmp_path


def test_shares_hold_on_average():
    splits = split_products([f"P{n}" for n in range(5000)], shares=(0.7, 0.1, 0.2), seed=4)
    shares = [sum(split == name for split in splits.values()) / 5000 for name in ("train", "val", "test")]
    assert np.allclose(shares, (0.7, 0.1, 0.2), atol=0.02)


def test_adding_products_moves_no_other():
    few = split_products([f"P{n}" for n in range(50)])
    many = split_products([f"P{n}" for n in reversed(range(500))])
    assert all(many[product_id] == split for product_id, split in few.items())
    assert split_products(few, seed=1) != few


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_wrong_shares_are_refused(shares):
    with pytest.raises(ValueError, match="shares"):
        split_products(["P1"], shares=shares)


def test_an_exact_copy_in_another_split_is_a_leak(photos):
    pairs = [("train", photos / "a.png"), ("train", photos / "b.png"), ("test", photos / "copy.png")]
    leaks = find_leaks(pairs)
    assert leaks.drop(columns=["photo_a", "photo_b"]).values.tolist() == [["train", "test", True, None]]
    with pytest.raises(ValueError, match=r"a\.png.*copy\.png"):
        assert_no_leaks(pairs)


def test_a_copy_in_the_same_split_is_none(photos):
    assert_no_leaks([("train", photos / "a.png"), ("train", photos / "copy.png"), ("test", photos / "b.png")])


def test_a_photo_saved_anew_is_found_by_the_perceptual_hash_alone(photos):
    pairs = [("train", photos / "d.png"), ("train", photos / "a.png")]
    pairs += [("val", photos / "again.jpg"), ("test", photos / "c.png")]
    assert len(find_leaks(pairs)) == 0
    leaks = find_leaks(pairs, max_distance=4)
    assert len(leaks) == 1 and leaks["distance_bits"][0] <= 4 and not leaks["same_pixels"][0]


def test_different_photos_are_far_apart(photos):
    bits = image_hashes([photos / f"{name}.png" for name in "abcd"])["phash"].to_numpy()
    assert min(int(a ^ b).bit_count() for i, a in enumerate(bits) for b in bits[i + 1 :]) > 10


def test_records_with_pictures_in_memory(photos):
    image = Image.open(photos / "a.png")
    records = [
        {"split": "train", "images": [image]},
        {"split": "val", "images": [photos / "b.png", photos / "copy.png"]},
    ]
    assert find_leaks(records)["photo_b"].tolist() == [str(photos / "copy.png")]
