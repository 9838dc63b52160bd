"""A shop's own export at the door: CSV in any shape, other columns, texts as types, and what must never stop it."""

import json
import random
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from mtive_nb.data.catalogue import Catalogue, load_catalogue, write_quarantine
from mtive_nb.data.customer_photos import photos_by_split
from mtive_nb.data.door import lines
from mtive_nb.data.door.check import check_catalogue
from mtive_nb.data.door.coerce import coerced_facts
from mtive_nb.data.emdiv.build import build_emdiv
from mtive_nb.data.emdiv.questions import compact_json
from mtive_nb.data.mart.render import render_mart
from mtive_nb.data.records import load_records, write_records
from mtive_nb.data.rows import FACT_TYPES
from mtive_nb.data.shop import ShopPart, read_shop, split_photos, write_shop
from mtive_nb.data.splits import assert_no_leaks
from mtive_nb.run.params import ParameterError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the photos images/0.jpg to images/9.jpg, all different."""
    (tmp_path / "images").mkdir()
    for k in range(10):
        pixels = np.random.default_rng(k).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((48, 48), Image.Resampling.NEAREST).save(tmp_path / f"images/{k}.jpg")
    return tmp_path


def write(folder: Path, name: str, rows: list[dict | str]) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=True) for row in rows]
    (folder / name).write_text("\n".join(lines), encoding="utf-8")


def product(k: int, **changes) -> dict:
    return {"product_id": f"P{k}", "title": f"Zevo soap {k}", "images": f"images/{k}.jpg"} | changes


def load(folder: Path, products: list, feedback: list = ()) -> Catalogue:
    write(folder, "products.jsonl", list(products))
    write(folder, "feedback.jsonl", list(feedback))
    return load_catalogue(folder)


HEADER, CELLS = (
    ("product_id", "title", "colour", "images"),
    ("P1", 'Größe "M", 5 € | neu;\nzweite\tZeile', "weiß", "images/1.jpg"),
)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_csv_of_every_delimiter_and_encoding_reads_the_same(folder, delimiter, encoding, ending):
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in CELLS]
    text = ending.join(
        [delimiter.join(HEADER), delimiter.join(quoted), delimiter.join(("P2", "Seife", "", "images/2.jpg")), ""]
    )
    (folder / "products.csv").write_bytes(text.encode(encoding))
    catalogue = load_catalogue(folder)
    assert [row.reason for row in catalogue.quarantine] == ["no customer feedback to read"]
    first, second = catalogue.products
    assert (first.title, first.attributes) == (CELLS[1], {"colour": "weiß"})
    assert (second.title, second.attributes, second.category, second.coarse) == ("Seife", {}, "", "")


@pytest.mark.parametrize("text", ["", "\n\n", "sep=;\n", "product_id;title;images\n"])
def test_a_table_without_rows_is_no_error(folder, text):
    (folder / "products.csv").write_text(text)
    assert load_catalogue(folder).products == []


def test_a_delimiter_that_the_file_states_counts(folder):
    write(folder, "products.csv", ["sep=#", "product_id#title#images", "P1#a;b,c;d,e#images/1.jpg"])
    catalogue = load_catalogue(folder)
    assert [row.title for row in catalogue.products] == ["a;b,c;d,e"]


def test_broken_records_cost_only_themselves(folder):
    rows = [
        "product_id,title,images",
        'P1,"never closed,images/1.jpg',
        "P2,good,images/2.jpg",
        'P3,"15" screen,images/3.jpg',
        "P4,one, cell too many,images/4.jpg",
        "",
        "P5,fewer cells",
        "P6,good,images/6.jpg,,",
    ]
    write(folder, "products.csv", rows)
    catalogue = load_catalogue(folder)
    assert [row.product_id for row in catalogue.products] == ["P2", "P6"]
    found = {row.line: row.reason for row in catalogue.quarantine if row.line}
    assert sorted(found) == [2, 4, 5, 7]
    assert "not a record of CSV" in found[2] and "written twice" in found[4]
    assert "expected 3 cells as in the header, found 4" in found[5] and "missing" in found[7]


def test_lines_in_another_encoding_cost_only_themselves(folder):
    good = [f"P{k},Größe {k},images/{k}.jpg".encode() for k in range(3)]
    bad = "P3,Größe 3,images/3.jpg".encode("cp1252")
    (folder / "products.csv").write_bytes(b"\n".join([b"product_id,title,images", *good, bad]))
    catalogue = load_catalogue(folder)
    assert [row.title for row in catalogue.products] == ["Größe 0", "Größe 1", "Größe 2"]
    fault = catalogue.quarantine[0]
    assert (fault.line, fault.field, fault.row) == (5, "title", "P3") and "UTF-8" in fault.reason


def test_columns_are_mapped_for_both_files_and_faults_of_the_mapping_are_named(folder):
    (folder / "columns.yaml").write_text(
        "product_id: [Artikel, SKU]\ntitle: Bezeichnung\nattributes.colour: Farbe\nattributes.size: leer\nfacts.damaged: defekt\n"
        "tilte: x\ncount: [[1]]\nplacement: Ort\ncategory: Warengrupe\n"
    )
    write(
        folder,
        "products.csv",
        ["SKU;Title;Bezeichnung;Farbe;images;Warengruppe;leer", "7;old;Seife;weiss;images/1.jpg;x;"],
    )
    rows = [{"feedback_id": 1, "Artikel": 7, "images": "images/2.jpg", "defekt": "NO"}]
    write(folder, "feedback.jsonl", rows)
    catalogue = load_catalogue(folder)
    assert (catalogue.products[0].product_id, catalogue.products[0].title) == ("7", "Seife")
    assert catalogue.products[0].attributes == {"colour": "weiss"}
    assert (catalogue.feedback[0].feedback_id, catalogue.feedback[0].facts) == ("1", {"damaged": False})
    assert {row.field: row.reason for row in catalogue.quarantine} == {
        "tilte": "expected one of our fields, attributes.NAME or facts.NAME; did you mean title?",
        "count": "expected one of our fields, attributes.NAME or facts.NAME",
        "placement": "expected one of our fields, attributes.NAME or facts.NAME; did you mean facts.placement?",
    }
    assert {row.field for row in catalogue.warnings} == {"Warengruppe", "category"}
    reason = next(row.reason for row in catalogue.warnings if row.field == "category")
    assert "did you mean warengruppe?" in reason.casefold()


def test_a_mapping_holds_where_its_field_belongs(folder):
    (folder / "columns.yaml").write_text("title: text\nattributes.colour: Farbe\n")
    rows = [{"feedback_id": "F1", "product_id": "P1", "images": "images/2.jpg", "text": " fine ", "Farbe": "red"}]
    blank = {"feedback_id": "F2", "product_id": "P1", "images": "images/3.jpg", "text": " \n", "Farbe": " "}
    catalogue = load(folder, [product(1) | {"text": "Seife"}], [*rows, blank])
    assert catalogue.products[0].title == "Seife" and catalogue.quarantine == []
    assert [(row.text, row.facts) for row in catalogue.feedback] == [
        (" fine ", {"attributes": {"colour": "red"}}),
        ("", None),
    ]


def test_a_broken_mapping_stops_nothing(folder):
    (folder / "columns.yaml").write_text("a: [")
    catalogue = load(folder, [product(1)])
    assert len(catalogue.products) == 1 and catalogue.quarantine[0].file == "columns.yaml"


def test_facts_in_columns_by_name_by_dot_and_as_json(folder):
    load(folder, [product(1)])
    (folder / "feedback.jsonl").unlink()
    rows = [
        "feedback_id,product_id,images,damaged,facts.count,damage_box,facts.dates.expiry,facts.attributes,brand",
        'F1,P1,images/2.jpg,YES,"3","1 2 30 40",2027-01,"{""colour"": ""red"", ""brand"": """"}",Zevo',
        "F2,P1,images/3.jpg,,,,,,",
    ]
    write(folder, "feedback.csv", rows)
    catalogue = load_catalogue(folder)
    first, second = catalogue.feedback
    assert second.facts is None and first.facts == {
        "damaged": True,
        "count": 3,
        "damage_box": [1, 2, 30, 40],
        "dates": {"expiry": "2027-01"},
        "attributes": {"colour": "red"},
    }
    assert [row.field for row in catalogue.warnings] == ["brand"]


@pytest.mark.parametrize(
    ("fact", "value", "read"),
    [
        ("damaged", "True", True),
        ("damaged", " no ", False),
        ("damaged", 0, False),
        ("damaged", "perhaps", "perhaps"),
        ("count", "12", 12),
        ("count", "12.0", 12),
        ("count", 12.0, 12),
        ("count", "12.5", "12.5"),
        ("damaged", "1.0", True),
        ("packaging", "Bottle", "bottle"),
        ("packaging", "Crate", "Crate"),
        ("damage", "CRACK", "crack"),
        ("damage_box", "1, 2, 30.5, 40", [1, 2, 30.5, 40]),
        ("damage_box", "1 2 3", "1 2 3"),
        ("damage_box", "1,5 2 30 40", "1,5 2 30 40"),
        ("own", "True", "True"),
    ],
)
def test_texts_are_read_where_one_reading_is_possible(fact, value, read):
    found = coerced_facts({fact: value})[fact]
    assert found == read and type(found) is type(read)


def test_an_empty_text_is_unknown():
    assert coerced_facts(
        {"damaged": "", "dates": {"expiry": ""}, "attributes": {"brand": "", "name": "x"}, "own": ""}
    ) == {"attributes": {"name": "x"}}
    assert coerced_facts({"dates": {}, "damage": None}) == {"dates": {}, "damage": None}


@pytest.mark.parametrize(
    ("facts", "field", "why"),
    [
        ({"packaging": "botle"}, "facts.packaging", "did you mean bottle?"),
        ({"placement": "on the shelf"}, "facts.placement", "did you mean on shelf?"),
        ({"dates": {"expiry": "31.03.2027"}}, "facts.dates.expiry", "did you mean 2027-03-31?"),
        ({"dates": {"expiry": "31.02.2027"}}, "facts.dates.expiry", "a date that exists as YYYY-MM-DD, or null"),
        ({"count": "three"}, "facts.count", "expected a whole number or null, found str"),
        ({"damaged": "vielleicht"}, "facts.damaged", "expected true or false or null, found str"),
        ({"damage": "x" * 501}, "facts.damage", "at most 500 characters, found 501"),
        ({"own": {"deep": ["\ud800"]}}, "facts.own.deep[0]", "not valid Unicode"),
        ({"phrases": [{"text": "smells"}]}, "facts.phrases[0]", '"visible"'),
        (
            {"phrases": [{"text": "elsewhere", "about": "x", "visible": True}]},
            "facts.phrases[0]",
            "part of the row's text",
        ),
    ],
)
def test_a_fact_without_a_reading_leaves_out_its_row(folder, facts, field, why):
    row = {"feedback_id": "F1", "product_id": "P1", "images": "images/2.jpg", "text": "smells good", "facts": facts}
    catalogue = load(folder, [product(1)], [row, row | {"feedback_id": "F2", "facts": {"damaged": True}}])
    assert [one.feedback_id for one in catalogue.feedback] == ["F2"]
    (fault,) = catalogue.quarantine
    assert (fault.file, fault.line, fault.field, fault.row) == (
        "feedback.jsonl",
        1,
        field,
        "F1",
    ) and why in fault.reason


def test_what_only_looks_wrong_is_a_warning_once_for_all_rows(folder):
    facts = [
        {"damagd": True},
        {"damagd": False},
        {"damaged": True, "damage": "cracks"},
        {"packaging": "tub"},
        {"damage": "moth"},
    ]
    rows = [
        {"feedback_id": f"F{k}", "product_id": "P1", "images": ["images/2.jpg"], "facts": one}
        for k, one in enumerate(facts)
    ]
    rows[4]["images"].append("images/3.jpg")
    catalogue = load(folder, [product(1, attributes={"color": "red"})], rows)
    assert len(catalogue.feedback) == 5 and catalogue.quarantine == []
    said = {row.field: (row.line, row.reason) for row in catalogue.warnings}
    assert said["attributes.color"] == (1, "no task asks for this attribute; did you mean colour?")
    assert said["facts.damagd"] == (1, "no task reads this fact; did you mean damaged? (2 rows)")
    assert "did you mean crack?" in next(row.reason for row in catalogue.warnings if row.found == "cracks")
    assert "questions are about the first photo" in said["images"][1]
    assert not any(row.found == "tub" for row in catalogue.warnings)


DEEP = '{"a": ' * 900 + "1" + "}" * 900


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"product_id": "P2", "title": "x", "images": "images/2.jpg", "facts": ' + DEEP + "}", "nested deeper than 20 levels"),
        ('{"product_id": "P2", "product_id": "P3", "title": "x", "images": "images/2.jpg"}', "'product_id' stands twice"),
        ('{"product_id": "P2", "title": "x", "images": "images/2.jpg", "facts": {"count": NaN}}', "NaN is no JSON"),
        ('{"product_id": "P2", "title": "x", "images": "images/2.jpg", "facts": {"damage_box": [0, 0, 1e999, 9]}}', "x0 < x1"),
        ('{"product_id": "P2", "title": "x", "images": "images/2.jpg", "facts": {"count": %s}}' % ("9" * 5000), "not a line"),
        ('{"product_id": "P2", "title": "x", "images": ["%s.jpg"]}' % ("n" * 5000), "cannot be read: File name too long"),
        ('{"product_id": "P2", "title": "x", "images": ["https://shop.example/2.jpg"]}', "a web address"),
        ('{"product_id": "P2", "title": "x", "images": ["images/2.JPG"]}', "no such file; did you mean 2.jpg?"),
        ('{"product_id": "%s", "title": "x", "images": "images/2.jpg"}' % ("i" * 5000), "at most 500 characters"),
        ('{"product_id": "P2", "title": "x", "images": "images/2.jpg", "attributes": {"\\ud800": "x"}}', "not valid Unicode"),
        ('{"product_id": "P2", "title": "x", "images": "images/2.jpg", "attributes": "{x}"}', "not a text of JSON"),
        ('{"product_id": "P2", "title": "x", "images": {"a": 1}}', "expected a list"),
    ],
)  # fmt: skip
def test_what_no_later_chapter_could_take_is_a_quarantined_row(folder, line, why):
    catalogue = load(folder, [line, product(1)])
    assert [row.product_id for row in catalogue.products] == ["P1"]
    assert why in catalogue.quarantine[0].reason and catalogue.quarantine[0].line == 1
    assert all(len(row.found) <= 120 and len(row.row) <= 120 for row in catalogue.quarantine)


def test_facts_need_the_photo_that_they_are_about(folder):
    def row(k: int, images: list[str], **facts) -> dict:
        return {"feedback_id": f"F{k}", "product_id": "P1", "images": images, "facts": facts or None}

    rows = [
        row(1, ["images/none.jpg", "images/2.jpg"], damaged=True),
        row(2, ["images/none.jpg", "images/3.jpg"]),
        row(3, ["images/4.jpg"], damaged=True, damage_box=[10, 10, 60, 40]),
        row(4, ["images/5.jpg"], damaged=True, damage_box=[10, 10, 48, 48]),
        row(5, ["images/6.jpg,images/7.jpg"]),
    ]
    catalogue = load(folder, [product(1)], rows)
    assert [(one.feedback_id, one.images[0]) for one in catalogue.feedback] == [
        ("F2", "images/3.jpg"),
        ("F4", "images/5.jpg"),
    ]
    said = {fault.row: fault.reason for fault in catalogue.quarantine if fault.row != "F5"}
    assert "facts are about this photo" in said["F1"] and "48 x 48 pixels" in said["F3"]
    assert any("separate several photos by |" in fault.reason for fault in catalogue.quarantine)


def test_a_required_field_without_a_column_is_named_once(folder):
    write(folder, "products.csv", ["SKU,title,images", *(f"P{k},soap,images/{k}.jpg" for k in range(4))])
    catalogue = load_catalogue(folder)
    assert catalogue.products == [] and {row.field for row in catalogue.warnings} == {"product_id", "SKU"}
    assert "columns.yaml can name yours" in next(row.reason for row in catalogue.warnings if row.field == "product_id")


def test_a_folder_without_products_names_the_tables_it_has(folder):
    write(folder, "export.csv", ["product_id"])
    with pytest.raises(FileNotFoundError, match=r"holds no products\.jsonl or products\.csv, but export\.csv: save"):
        load_catalogue(folder)
    (folder / "products.jsonl").mkdir()
    with pytest.raises(FileNotFoundError, match=r"products\.jsonl is a folder, expected a file"):
        load_catalogue(folder)


def test_a_workbook_under_another_name_is_named(folder):
    (folder / "products.csv").write_bytes(b"PK\x03\x04" + bytes(40))
    with pytest.raises(FileNotFoundError, match=r"products\.csv is a workbook .*save the table as CSV"):
        load_catalogue(folder)


@pytest.mark.parametrize("kind", ["folder", "dangling link"])
@pytest.mark.parametrize("name", ["splits.json", "columns.yaml"])
def test_a_file_of_settings_that_cannot_be_read_is_named(folder, name, kind):
    (folder / name).mkdir() if kind == "folder" else (folder / name).symlink_to("gone")
    (fault,) = load(folder, [product(1)]).quarantine
    assert fault.file == name and "not usable" in fault.reason


@pytest.mark.parametrize("kind", ["folder", "dangling link"])
def test_tasks_that_cannot_be_read_are_an_error(folder, kind):
    (folder / "tasks.yaml").mkdir() if kind == "folder" else (folder / "tasks.yaml").symlink_to("gone")
    with pytest.raises(ParameterError, match=r"tasks\.yaml: "):
        load(folder, [product(1)])


def test_a_mapping_of_few_lines_and_a_billion_words_costs_nothing(folder):
    levels = [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 10)]
    (folder / "columns.yaml").write_text("\n".join(["a0: &a0 [x]", *levels, "title: *a9"]))
    catalogue = load(folder, [product(1)])
    assert len(catalogue.products) == 1 and {row.field for row in catalogue.quarantine} >= {"a9", "title"}


def test_a_photo_that_may_not_be_read_is_a_quarantined_photo(folder, monkeypatch):
    entered = Path.is_file

    def is_file(path: Path) -> bool:
        if path.name == "2.jpg":
            raise PermissionError(13, "Permission denied")
        return entered(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    catalogue = load(folder, [product(1), product(2)])
    assert len(catalogue.products) == 1 and "cannot be read: Permission denied" in catalogue.quarantine[0].reason


def test_a_folder_that_may_not_be_entered_is_a_clear_error(folder, monkeypatch):
    def closed(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    load(folder, [product(1)])
    monkeypatch.setattr(Path, "read_bytes", closed)
    with pytest.raises(FileNotFoundError, match=r"cannot be read: .*Permission denied"):
        load_catalogue(folder)


def test_feedback_names_the_product_that_took_it_along_or_was_meant(folder):
    def row(k: int, product_id: str) -> dict:
        return {"feedback_id": f"F{k}", "product_id": product_id, "images": "images/3.jpg"}

    catalogue = load(folder, [product(1), product(2, title=" ")], [row(1, "P2"), row(2, "p-01"), row(3, "Q")])
    reasons = [fault.reason for fault in catalogue.quarantine if fault.field == "product_id"]
    start = "no usable product of products.jsonl has this id"
    assert reasons == [f"{start}: line 2 was left out", f"{start}; did you mean P1?", start]


def test_ids_that_look_alike_are_different_products(folder):
    alike = ["1", "01", "P-1", "p1", "P_01"]
    products = [product(k) | {"product_id": own} for k, own in enumerate(alike)]
    feedback = [
        {"feedback_id": f"F{k}", "product_id": own, "images": f"images/{5 + k}.jpg"} for k, own in enumerate(alike)
    ]
    catalogue = load(folder, products, feedback)
    assert [row.product_id for row in catalogue.feedback] == alike and catalogue.quarantine == []


def test_a_fact_that_a_task_of_the_shop_s_own_reads_is_no_warning_and_is_counted(folder):
    task = {"kind": "yes/no", "fact": "german_label", "questions": ["Is the label in German?"]}
    (folder / "tasks.yaml").write_text(json.dumps({"german-label": task}))
    row = {
        "feedback_id": "F1",
        "product_id": "P1",
        "images": "images/2.jpg",
        "facts": {"german_label": True, "other": 1},
    }
    catalogue = load(folder, [product(1)], [row])
    assert [fault.field for fault in catalogue.warnings] == ["facts.other"]
    assert "german-label" in set(check_catalogue(folder).questions["task"])


def test_a_listing_s_attributes_serve_for_a_whole_product_and_not_for_a_close_up(folder):
    def row(k: int, facts: dict | None) -> dict:
        return {"feedback_id": f"F{k}", "product_id": "P1", "images": f"images/{k}.jpg", "facts": facts}

    listed = {"brand": "Zevo", "colour": "blue"}
    facts = [
        {"damaged": True},
        {"damaged": True, "attributes": {"colour": "red"}},
        {"dates": {"expiry": "2027-01"}},
        None,
    ]
    others = product(2, attributes={"brand": "Lumi", "colour": "red"})
    catalogue = load(folder, [product(1, attributes=listed), others], [row(k + 3, one) for k, one in enumerate(facts)])
    photos = {p.feedback.feedback_id: p for rows in photos_by_split(catalogue, catalogue.splits).values() for p in rows}
    assert [photos[f"F{k}"].seen for k in range(3, 7)] == [listed, {"colour": "red"}, {}, listed]
    assert [photos[f"F{k}"].recognisable for k in range(3, 7)] == [True, False, False, True]
    records = build_emdiv(catalogue).records
    (asked,) = [record for record in records if (record["task"], record["variant"]) == ("AE", "gen")]
    assert asked["answer"] == compact_json(listed) and asked["facts"]["known"]["damaged"] == "yes"


NASTY = (
    *(None, True, 0, 2.5, 10**30, "", " ", "x" * 600, "\ud800", "\x00", "$a$ {title}", "{", "[1]", "yes", "none"),
    *([], {}, [[]], {"": ""}, [None], ["images/1.jpg"], {"a": {"b": [{"c": 1}]}}, "../x.png", "images", "2027-02-30"),
    *("training", "images/1.jpg|images/2.jpg", [1, 2, 3, 4], {"expiry": 7}, {"colour": "\ud800"}, "\u8336"),
)
PLACES = (
    *("product_id", "feedback_id", "title", "category", "coarse", "attributes", "images", "facts", "text", "", "extra"),
    *("attributes.colour", "facts.damaged", "facts.dates.expiry", "damaged", "colour"),
)


@pytest.mark.parametrize("seed", range(12))
def test_no_content_stops_the_door(folder, seed):
    rng = random.Random(seed)
    facts = ({"damaged": True, "damage": "crack"}, {"packaging": "can"}, {"dates": {"expiry": "2027-01"}}, None)
    products = [product(k, attributes={"brand": ("Zevo", "Lumi")[k % 2]}, category="soap") for k in range(5)]
    feedback = [
        {
            "feedback_id": f"F{k}",
            "product_id": f"P{k % 5}",
            "images": [f"images/{5 + k % 5}.jpg"],
            "facts": facts[k % 4],
        }
        for k in range(10)
    ]
    for row in rng.sample([*products, *feedback], 9):
        row[rng.choice(PLACES)] = rng.choice(NASTY)
        if isinstance(row.get("facts"), dict):
            row["facts"] = row["facts"] | {rng.choice([*FACT_TYPES, "own", ""]): rng.choice(NASTY)}
    (folder / "splits.json").write_text(json.dumps({rng.choice(["P1", "F2", ""]): rng.choice(NASTY) for _ in range(3)}))
    catalogue = load(folder, products, feedback)
    parts = [ShopPart(catalogue, ("DD",))]
    assert_no_leaks(split_photos(parts))
    records = build_emdiv(catalogue).records
    assert load_records(write_records(records, folder / "records.jsonl")) == records
    write_quarantine([*catalogue.quarantine, *catalogue.warnings], folder / "quarantine.csv")
    again = read_shop(write_shop(parts, folder / "shop.json"))[0].catalogue
    assert (again.products, again.feedback, again.splits) == (catalogue.products, catalogue.feedback, catalogue.splits)


def test_pocket_mart_has_its_facts_named_and_passes_unchanged(tmp_path):
    root = render_mart(tmp_path / "mart", products=4, photos=4, dates=2, seed=1)
    catalogue = load_catalogue(root)
    rows = [json.loads(line) for line in (root / "feedback.jsonl").read_text().splitlines()]
    assert [row.facts for row in catalogue.feedback] == [row["facts"] for row in rows]
    assert all(row["facts"]["attributes"] is not None for row in rows) and catalogue.quarantine == []


def test_the_delimiter_is_the_header_s_and_not_the_descriptions(folder):
    head = "product_id;title;description, long;images"
    assert lines._delimiter(head, {"product_id", "title", "images"}) == ";"


def test_an_id_of_both_tables_shares_no_split(folder):
    ids = [str(k) for k in range(10)]
    products = [product(k, product_id=own) for k, own in enumerate(ids)]
    feedback = [
        {"feedback_id": own, "product_id": ids[-1 - k], "images": f"images/{9 - k}.jpg"} for k, own in enumerate(ids)
    ]
    catalogue = load(folder, products, feedback)
    photos = [one for own in photos_by_split(catalogue).values() for one in own]
    assert len(photos) == 10 and all(one.split == catalogue.splits[one.product.product_id] for one in photos)
    assert [row.feedback_id for row in catalogue.feedback] == [f"feedback-{own}" for own in ids]
    assert "a product has this id as well" in catalogue.warnings[0].reason


def test_spellings_of_one_value_are_one_value(folder):
    colours = ["Red", "red", "Red", "dark  blue"]
    products = [product(k, category="Soap" if k else "soap", attributes={"colour": c}) for k, c in enumerate(colours)]
    facts = {"attributes": {"colour": "RED"}, "damaged": True, "damage": "None"}
    feedback = [{"feedback_id": "F", "product_id": "P0", "images": "images/0.jpg", "facts": facts}]
    catalogue = load(folder, products, feedback)
    assert [p.attributes["colour"] for p in catalogue.products] == ["Red", "Red", "Red", "dark  blue"]
    assert {(p.category, p.coarse, p.attributes["category"]) for p in catalogue.products} == {("Soap",) * 3}
    assert catalogue.feedback[0].facts == {"attributes": {"colour": "Red"}, "damaged": True}, "no kind is named"
    told = {w.field: w.reason for w in catalogue.warnings}
    assert told["attributes.colour"] == "read as 'Red', the commonest spelling (2 rows)"
    assert "'Soap'" in told["attributes.category"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_photo_is_found_in_either_form_of_its_name(folder, form):
    (folder / "images/0.jpg").rename(folder / "images" / normalize("NFD" if form == "NFC" else "NFC", "käse.jpg"))
    catalogue = load(folder, [product(0, images=normalize(form, "images/käse.jpg"))])
    assert len(catalogue.products) == 1 and not [q for q in catalogue.quarantine if q.file == "products.jsonl"]
