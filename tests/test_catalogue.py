"""Every kind of bad row and photo: quarantined with its place and reason, while the good rows beside it load."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtive_nb.data.catalogue import Catalogue, load_catalogue, write_catalogue, write_quarantine
from mtive_nb.data.photos import PhotoError, load_image


def product(**changes) -> dict:
    row = {"product_id": "P1", "title": "Zevo shampoo", "description": "", "category": "shampoo", "coarse": "care"}
    return row | {"attributes": {"brand": "Zevo"}, "images": ["images/good.jpg"], "facts": None} | changes


def feedback(**changes) -> dict:
    row = {"feedback_id": "F1", "product_id": "P1", "text": "cap broken", "images": ["images/good.jpg"], "facts": None}
    return row | changes


def save_photo(path: Path, size=(40, 30), **options) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def shop(tmp_path):
    """Writes a catalogue folder from rows (dicts, or raw text for a line that is not JSON) and loads it."""

    def make(products=(), messages=()) -> Catalogue:
        (tmp_path / "images").mkdir(exist_ok=True)
        if not (tmp_path / "images/good.jpg").exists():
            save_photo(tmp_path / "images/good.jpg")
        for name, rows in (("products.jsonl", products), ("feedback.jsonl", messages)):
            lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
            (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return load_catalogue(tmp_path)

    return make


def only(catalogue: Catalogue):
    assert len(catalogue.quarantine) == 1, catalogue.quarantine
    return catalogue.quarantine[0]


def test_good_catalogue_loads_whole(shop):
    catalogue = shop([product(), product(product_id="P2")], [feedback(), feedback(feedback_id="F2", product_id="P2")])
    assert [row.product_id for row in catalogue.products] == ["P1", "P2"]
    assert [(row.feedback_id, row.product_id) for row in catalogue.feedback] == [("F1", "P1"), ("F2", "P2")]
    assert catalogue.quarantine == []


def test_missing_folder_names_fields_and_example(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"(?s)nowhere.*no such folder.*products\.jsonl.*\"product_id\".*\"feedback_id\""
    ):
        load_catalogue(tmp_path / "nowhere")


def test_missing_products_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no products\.jsonl"):
        load_catalogue(tmp_path)


def test_missing_feedback_file_is_told(shop, tmp_path):
    shop([product()])
    (tmp_path / "feedback.jsonl").unlink()
    assert only(load_catalogue(tmp_path)).file == "feedback.jsonl"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"product_id": "P2", ', "not a line of JSON"),
        ('["P2"]', "expected a JSON object, found list"),
        ("[" * 100_000, "not a line of JSON"),
    ],
)
def test_bad_line(shop, line, reason):
    catalogue = shop([product(), line])
    assert len(catalogue.products) == 1
    row = only(catalogue)
    assert (row.file, row.line) == ("products.jsonl", 2) and reason in row.reason and len(row.found) <= 120


def test_line_in_another_encoding_costs_only_itself(shop, tmp_path):
    shop([product()])
    with (tmp_path / "products.jsonl").open("ab") as stream:
        stream.write(
            json.dumps(product(product_id="P2", title="Caf\u00e9"), ensure_ascii=False).encode("latin-1") + b"\n"
        )
    catalogue = load_catalogue(tmp_path)
    assert len(catalogue.products) == 1 and only(catalogue).line == 2


def test_blank_lines_and_byte_order_mark_are_no_fault(shop, tmp_path):
    shop([product()])
    text = (tmp_path / "products.jsonl").read_bytes()
    (tmp_path / "products.jsonl").write_bytes(b"\xef\xbb\xbf" + text + b"\r\n\n")
    catalogue = load_catalogue(tmp_path)
    assert len(catalogue.products) == 1 and catalogue.quarantine == []


def test_missing_field(shop):
    row = product(product_id="P2")
    del row["title"]
    catalogue = shop([product(), row])
    assert len(catalogue.products) == 1
    assert (only(catalogue).field, only(catalogue).line) == ("title", 2) and "missing" in only(catalogue).reason


def test_an_unknown_field_is_ignored_and_named_once_a_file(shop):
    catalogue = shop([product(titel="x"), product(product_id="P2", titel="y", stock=3)])
    assert len(catalogue.products) == 2 and catalogue.quarantine == []
    assert {row.field: row.reason for row in catalogue.warnings if row.field != "P1"} == {
        "titel": "no field of ours: ignored; did you mean title?",
        "stock": "no field of ours: ignored",
    }


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"title": 7}, "title"),
        ({"title": " "}, "title"),
        ({"title": "\ud800"}, "title"),
        ({"images": 3}, "images"),
        ({"images": [3]}, "images"),
        ({"attributes": {"size": 3}}, "attributes.size"),
        ({"facts": []}, "facts"),
        ({"facts": {"damaged": "perhaps"}}, "facts.damaged"),
        ({"facts": {"damaged": 2}}, "facts.damaged"),
        ({"facts": {"count": "3.5"}}, "facts.count"),
        ({"facts": {"count": -1}}, "facts.count"),
        ({"title": "x" * 5000}, "title"),
        ({"facts": {"count": True}}, "facts.count"),
        ({"facts": {"damage_box": [5, 5, 5, 9]}}, "facts.damage_box"),
    ],
)
def test_wrong_type(shop, changes, field):
    catalogue = shop([product(), product(product_id="P2", **changes)])
    assert len(catalogue.products) == 1 and only(catalogue).field == field


def test_every_fault_of_a_row_is_told(shop):
    catalogue = shop([product(title=7, category=5)])
    assert {row.field for row in catalogue.quarantine} == {"title", "category"}


def test_duplicate_id_keeps_the_first(shop):
    catalogue = shop([product(title="first"), product(title="second")])
    assert [row.title for row in catalogue.products] == ["first"]
    assert only(catalogue).line == 2 and "line 1" in only(catalogue).reason


def test_feedback_of_an_unknown_product(shop):
    catalogue = shop([product()], [feedback(), feedback(feedback_id="F2", product_id="P9")])
    assert len(catalogue.feedback) == 1
    assert (only(catalogue).file, only(catalogue).found) == ("feedback.jsonl", "P9")


def test_missing_photo_leaves_the_row_out_and_its_feedback(shop):
    catalogue = shop([product(images=["images/none.jpg"])], [feedback()])
    assert catalogue.products == [] and catalogue.feedback == []
    assert [row.reason.split(":")[0] for row in catalogue.quarantine] == [
        "no such file",
        "no readable photo",
        "no usable product of products.jsonl has this id",
    ]


@pytest.mark.parametrize("images", [[], ["images"]])
def test_row_without_photo(shop, images):
    assert shop([product(images=images)]).products == []


def test_good_photos_of_a_row_are_kept(shop):
    catalogue = shop([product(images=["images/none.jpg", "images/good.jpg"])])
    assert catalogue.products[0].images == ("images/good.jpg",)
    assert (only(catalogue).field, only(catalogue).found) == ("images[0]", "images/none.jpg")


def test_truncated_photo(shop, tmp_path):
    (tmp_path / "images").mkdir()
    whole = save_photo(tmp_path / "images/cut.jpg", (200, 200)).read_bytes()
    (tmp_path / "images/cut.jpg").write_bytes(whole[: len(whole) // 2])
    catalogue = shop([product(images=["images/good.jpg", "images/cut.jpg"])])
    assert "truncated" in only(catalogue).reason


@pytest.mark.parametrize(("content", "reason"), [(b"<html>404</html>", "not an image"), (b"", "empty file")])
def test_file_that_is_no_image(shop, tmp_path, content, reason):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/page.jpg").write_bytes(content)
    assert reason in only(shop([product(images=["images/good.jpg", "images/page.jpg"])])).reason


def test_tiny_photo(shop, tmp_path):
    (tmp_path / "images").mkdir()
    save_photo(tmp_path / "images/dot.png", (1, 1))
    assert "too small: 1 x 1" in only(shop([product(images=["images/good.jpg", "images/dot.png"])])).reason


@pytest.mark.parametrize("side", [9_000, 20_000])
def test_giant_photo_is_refused_before_it_is_decoded(shop, tmp_path, side):
    (tmp_path / "images").mkdir()
    Image.new("1", (side, side)).save(tmp_path / "images/giant.png")
    row = only(shop([product(images=["images/good.jpg", "images/giant.png"])]))
    assert "too large" in row.reason or "more than" in row.reason


@pytest.mark.parametrize("path", ["../outside.jpg", "images/../../outside.jpg", "/etc/hostname", "images/\0.jpg"])
def test_path_that_leaves_the_folder(shop, tmp_path, path):
    save_photo(tmp_path.parent / "outside.jpg")
    row = only(shop([product(images=["images/good.jpg", path])]))
    assert any(word in row.reason for word in ("leads out", "absolute", "not a usable path"))


def test_link_that_leaves_the_folder(shop, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/link.jpg").symlink_to(save_photo(tmp_path.parent / "elsewhere.jpg"))
    assert "leads out" in only(shop([product(images=["images/good.jpg", "images/link.jpg"])])).reason


def test_splits_with_a_bad_entry(shop, tmp_path):
    shop([product()], [feedback()])
    (tmp_path / "splits.json").write_text(json.dumps({"P1": "train", "F1": "holdout", "P9": "test"}))
    catalogue = load_catalogue(tmp_path)
    assert catalogue.splits == {"P1": "train"}
    assert {row.field for row in catalogue.quarantine} == {"F1", "P9"}


def test_load_image_turns_upright_and_is_rgb(tmp_path):
    path, exif = tmp_path / "turned.jpg", Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    save_photo(path, (40, 30), exif=exif)
    assert (load_image(path).size, load_image(path).mode) == ((30, 40), "RGB")


def test_load_image_lays_transparency_on_white(tmp_path):
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert load_image(tmp_path / "clear.png").getpixel((3, 3)) == (255, 255, 255)


def test_load_image_says_why(tmp_path):
    with pytest.raises(PhotoError, match="no such file"):
        load_image(tmp_path / "none.jpg")


def test_written_catalogue_reads_back_equal(shop, tmp_path_factory):
    facts = {
        "damaged": True,
        "damage": "dent",
        "damage_box": [1, 2, 30, 20],
        "phrases": [{"text": "cap", "about": "product", "visible": True}],
    }
    catalogue = shop([product()], [feedback(facts=facts), feedback(feedback_id="F2", product_id="P9")])
    catalogue.splits = {"P1": "train", "F1": "train"}
    again = load_catalogue(write_catalogue(catalogue, tmp_path_factory.mktemp("copy")))
    assert (again.products, again.feedback) == (catalogue.products, catalogue.feedback)
    assert again.splits == catalogue.splits and again.quarantine == []
    assert load_image(again.root / "images/good.jpg").size == (40, 30)


def test_quarantine_is_a_table(shop, tmp_path):
    catalogue = shop([product(), "{", product(title="a, b\n")])
    with write_quarantine(catalogue.quarantine, tmp_path / "quarantine.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["file"], row["line"], row["field"]) for row in rows] == [
        ("products.jsonl", "2", ""),
        ("products.jsonl", "3", "product_id"),
    ]
    assert all(row["reason"] for row in rows)
