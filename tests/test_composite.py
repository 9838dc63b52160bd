import numpy as np
import pytest
from PIL import Image

from mtive_nb.data.catalogue import Catalogue, Feedback, Product, load_catalogue, write_catalogue
from mtive_nb.data.composite import composite_damage, composite_dates, print_date
from mtive_nb.data.damage import DRAWN_DAMAGES, draw_damage
from mtive_nb.data.dates import parse_date
from mtive_nb.data.photos import load_image


def photo(seed: int, size=(240, 200)) -> Image.Image:
    """A smooth coloured picture with edges, as stand-in for a phone photo."""
    small = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def grocery(tmp_path):
    root = tmp_path / "source"
    (root / "images").mkdir(parents=True)
    rows = []
    for n in range(24):
        photo(n).save(root / f"images/{n}.jpg")
        rows.append(Feedback(f"train/{n}", f"P{n % 2}", "", (f"images/{n}.jpg",), {"packaging": "box"}))
    attributes = ({"packaging": "box", "category": "milk"}, {"packaging": "loose", "category": "milk"})
    products = [Product(f"P{n}", "Milk", "", "milk", "milk", attributes[n], ("images/0.jpg",)) for n in range(2)]
    splits = {row.feedback_id: "test" if n < 6 else "train" for n, row in enumerate(rows)}
    return Catalogue("grocery", root, products, rows, splits=splits)


@pytest.mark.parametrize("kind", DRAWN_DAMAGES)
@pytest.mark.parametrize("seed", range(4))
def test_box_holds_all_that_changed_and_nothing_else_changed(kind, seed):
    before = photo(seed)
    after, (x0, y0, x1, y1) = draw_damage(before, kind, np.random.default_rng(seed))
    change = np.abs(np.asarray(after).astype(int) - np.asarray(before)).max(axis=2)
    assert 0 <= x0 < x1 <= before.width and 0 <= y0 < y1 <= before.height
    inside = change[y0:y1, x0:x1].copy()
    change[y0:y1, x0:x1] = 0
    assert change.max() == 0
    # Tight on all four sides, and plain to see: a fair share of the box differs clearly.
    assert min(inside[0].max(), inside[-1].max(), inside[:, 0].max(), inside[:, -1].max()) > 0
    assert (inside > 25).mean() > 0.02 and (x1 - x0) * (y1 - y0) > 0.02 * before.width * before.height


def test_six_kinds_at_least():
    assert len(set(DRAWN_DAMAGES)) >= 6


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'rust'"):
        draw_damage(photo(0), "rust", np.random.default_rng(0))


def test_flat_photo_still_shows_damage():
    _, (x0, y0, x1, y1) = draw_damage(Image.new("RGB", (100, 100), "black"), "dent", np.random.default_rng(0))
    assert x1 > x0 and y1 > y0


@pytest.mark.parametrize("seed", range(6))
def test_printed_lines_stand_out_at_the_small_size(seed):
    plain = Image.new("RGB", (300, 300), (120, 110, 100))
    label = print_date(plain, ["BEST BEFORE", "03/04/23"], np.random.default_rng(seed)).resize((168, 112))
    grey = np.asarray(label.convert("L"), dtype=float)
    assert np.percentile(grey, 99) - np.percentile(grey, 1) > 90


def test_print_needs_lines():
    with pytest.raises(ValueError, match="no lines"):
        print_date(photo(0), [], np.random.default_rng(0))


def test_damage_catalogue(grocery, tmp_path):
    made = composite_damage(grocery, tmp_path / "damage", share=0.5, seed=2)
    assert len(made.feedback) == 24 and 4 < sum(row.facts["damaged"] for row in made.feedback) < 20
    for row, source in zip(made.feedback, grocery.feedback, strict=True):
        assert made.splits[row.feedback_id] == grocery.splits[source.feedback_id]
        assert row.facts["packaging"] == "box"
        if row.facts["damaged"]:
            assert row.facts["composited"] == "damage composited on a real photo" and len(row.facts["damage_box"]) == 4
            assert row.product_id == "P0" or row.facts["damage"] in ("crush", "stain", "crack")
        else:
            assert row.facts["composited"] is row.facts["damage"] is row.facts["damage_box"] is None
    again = load_catalogue(write_catalogue(made, made.root))
    assert (again.products, again.feedback, again.splits) == (made.products, made.feedback, made.splits)
    assert again.quarantine == []


def test_dates_catalogue(grocery, tmp_path):
    made = composite_dates(grocery, tmp_path / "dates", n=20, share_none=0.3, seed=2)
    assert len(made.feedback) == 20
    for row in made.feedback:
        dates = row.facts["dates"]
        assert set(dates) == {"expiry", "expiry_text", "production", "production_text"}
        assert dates["expiry"] == (parse_date(dates["expiry_text"]) if dates["expiry_text"] else None)
        assert row.facts["composited"] == "date composited on a real photo"
        assert load_image(made.root / row.images[0]).size == (336, 224)
    assert 0 < sum(row.facts["dates"]["expiry"] is None for row in made.feedback) < 20


def test_same_seed_same_photos_whatever_their_number(grocery, tmp_path):
    few = composite_damage(grocery, tmp_path / "few", n=5, seed=2)
    many = composite_damage(grocery, tmp_path / "many", seed=2)
    facts = {row.feedback_id: row.facts for row in many.feedback}
    for row in few.feedback:
        assert facts[row.feedback_id] == row.facts
        assert (few.root / row.images[0]).read_bytes() == (many.root / row.images[0]).read_bytes()


def test_share_is_checked(grocery, tmp_path):
    with pytest.raises(ValueError, match="share"):
        composite_damage(grocery, tmp_path / "x", share=2)
