"""Item intelligence: schema, items files, crops at equal budgets, deduplication, records, scores."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image

from mtive_nb.data.items import crops
from mtive_nb.data.items.dedup import distinct, images_an_item, kept_photos
from mtive_nb.data.items.inputs import PROMPTS, fewer_photos, item_record, main_photo
from mtive_nb.data.items.items import Item, Region, load_items, write_items
from mtive_nb.data.items.readers import Barcode, Reading
from mtive_nb.data.items.schema import SCHEMA, WORDS, checked, fields_of, flat, gtin_ok, parse_answer, values_of
from mtive_nb.data.ocr import Line
from mtive_nb.data.records import load_records, record_fault, write_records
from mtive_nb.evaluate.items.judge import _fault as verdicts_fault
from mtive_nb.evaluate.items.scores import T3, fields_read, score_items, table3, verdicts
from mtive_nb.run.published import load_published

FIG_6 = {
    "identifiers": {"barcodes": [{"value": "049008346642"}], "model_number": "LATC-2900BLK"},
    "attributes": {
        "product_type": "Electronics",
        "product_category": "Headphones",
        "brand_name": "Lifestyle Advanced",
        "product_name": "Travel Combo",
        "capacity": [{"value": 7, "unit": "HR"}, {"value": 8, "unit": "hours"}],
        "colors": ["Black"],
    },
    "origin_production": {
        "country_of_origin": "China",
        "manufacturer": {"name": "RMJ Group", "address": "Brooklyn, NY 11223", "contact": "support@rmj.example"},
    },
    "regulatory_safety": {"certification_marks": ["FCC", "CE"], "hazard_statements": [{"text": "WARNING: Cancer"}]},
}


def test_the_paper_s_example_fits_and_loses_nothing() -> None:
    parsed = parse_answer(f"Here it is:\n```json\n{json.dumps(FIG_6)}\n```")
    assert parsed.answer == FIG_6 and parsed.faults == ()
    pairs = fields_of(FIG_6)
    assert ("attributes.capacity", "7 hr") in pairs and ("identifiers.barcodes", "00049008346642") in pairs
    assert len(pairs) == len(values_of(FIG_6)) == 16


@pytest.mark.parametrize(
    ("text", "left", "fault"),
    [
        ("no JSON at all", {}, "expected one JSON object"),
        ("[1, 2]", {}, "expected one JSON object"),
        ('{"attributes": {"brand_name": "LOZ"', {}, "expected one JSON object"),
        ('{"attributes": ["brand", "LOZ"]}', {}, "expected type object"),
        ('{"price": 3, "attributes": {"brand_name": "LOZ"}}', {"attributes": {"brand_name": "LOZ"}}, "'price'"),
        ('{"attributes": {"brand_name": " ", "colors": ["red", 3]}}', {"attributes": {"colors": ["red"]}}, "colors.1"),
        ('{"identifiers": {"barcodes": [{"code": "1"}]}}', {}, "'code'"),
    ],
)
def test_what_fails_the_schema_is_dropped_with_a_reason(text: str, left: dict, fault: str) -> None:
    parsed = parse_answer(text)
    assert parsed.answer == left and any(fault in one for one in parsed.faults)
    jsonschema.validate(parsed.answer, SCHEMA)


def test_a_flat_answer_says_the_same_without_brackets_and_underscores() -> None:
    text = flat(FIG_6)
    assert text.startswith('{"barcodes": "049008346642", "model number": "LATC-2900BLK"') and not set("_[]") & set(text)
    read = parse_answer(text)
    assert fields_of(read.answer) == fields_of(FIG_6) and read.faults == ()
    assert flat({}) == "{}" and parse_answer("{}").answer == {}
    wrong = parse_answer('{"brand name": "LOZ", "price": "3", "colors": " ", "capacity": 7}')
    assert wrong.answer == {"attributes": {"brand_name": "LOZ", "capacity": [{"value": "7"}]}}
    assert any("'price'" in one for one in wrong.faults) and any("colors" in one for one in wrong.faults)
    for text in (
        '{"attributes": "x", "brand name": "LOZ"}',
        '{"a": 1, "a.b": 2, "brand name": {"c": [3]}}',
    ):  # neither form
        assert parse_answer(text).answer == {} and len(parse_answer(text).faults) >= 2


def test_nesting_without_end_is_a_fault() -> None:
    assert parse_answer('{"a":' * 100_000 + "{}" + "}" * 100_000).answer == {}


def test_a_wrong_check_digit_is_a_fault_and_stays_in_the_answer() -> None:
    assert gtin_ok("4006381333931") and gtin_ok("73513537") and not gtin_ok("4006381333932") and not gtin_ok("١٢٣")
    parsed = checked({"identifiers": {"barcodes": [{"value": "4006381333932"}]}})
    assert len(parsed.faults) == 1 and "check digit" in parsed.faults[0]
    assert values_of(parsed.answer) == [("identifiers.barcodes", "4006381333932")]


def photo(path: Path, seed: int, size: tuple[int, int] = (64, 48)) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(path)
    return str(path)


def test_items_come_back_and_bad_rows_stop_nothing(tmp_path: Path) -> None:
    photos = tuple(photo(tmp_path / f"{k}.png", k) for k in range(2))
    item = Item("a", photos, FIG_6, (Region(1, "attributes.colors", "Black", (1.0, 2.0, 30.0, 40.0)),), source="mine")
    path = write_items([item], tmp_path / "items.jsonl")
    assert load_items(path) == ([item], [])
    good = json.loads(path.read_text())
    outside = good["regions"] + [{"photo": 0, "path": "p", "value": "v", "box": [0, 0, 65, 20]}]
    rows = [
        good,
        good | {"item_id": "b", "regions": outside, "truth": FIG_6 | {"price": 3}},
        good | {"item_id": "c", "images": ["0.png", "gone.png"]},
        good | {"item_id": "d", "images": ["gone.png"]},
        good,
        ["no", "object"],
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{half\n")
    items, faults = load_items(path)
    assert [one.item_id for one in items] == ["a", "b", "c"] and items[0] == item
    assert [len(one.photos) for one in items] == [2, 2, 1] and items[1].regions == item.regions
    assert items[2].regions == ()  # its photo is gone
    assert {(row.file, row.line, row.field) for row in faults} >= {
        ("items.jsonl", 2, "truth"),
        ("items.jsonl", 2, "regions[1]"),
        ("items.jsonl", 3, "images[1]"),
        ("items.jsonl", 4, ""),
        ("items.jsonl", 5, ""),
        ("items.jsonl", 6, ""),
        ("items.jsonl", 7, ""),
    }
    assert any("65" in row.reason and "64 x 48" in row.reason for row in faults)


def test_expanded_boxes_stay_inside_and_merged_ones_apart() -> None:
    assert crops.expand([(10, 10, 30, 20), (0, 0, 100, 50)], (100, 50), share=0.5) == [(0, 5, 40, 25), (0, 0, 100, 50)]
    # the hull of the first two reaches the third, which touched neither
    merged = crops.merge([(0, 0, 10, 10), (8, 8, 20, 20), (15, 0, 30, 9), (40, 40, 50, 50)])
    assert merged == [(0, 0, 30, 20), (40, 40, 50, 50)]
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 90, (40, 2))
    boxes = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(corners, rng.uniform(1, 12, (40, 2)), strict=True)]
    found = crops.merge(boxes)
    assert not any(crops._overlap(a, b) for k, a in enumerate(found) for b in found[k + 1 :])
    assert crops.hull(found) == crops.hull(boxes)


def test_the_square_is_the_smallest_around_all_boxes() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        x, y, w, h = rng.uniform(0, 50, 4)
        boxes = [(x, y, x + w + 1, y + h + 1)]
        square = crops.enclosing_square(boxes, (110, 110))
        assert square[2] - square[0] == pytest.approx(max(w, h) + 1) == pytest.approx(square[3] - square[1])
        assert crops.hull([*boxes, square]) == pytest.approx(square) and min(square) >= 0 and max(square) <= 110 + 1e-9
    tall = crops.enclosing_square([(5, 0, 15, 100)], (20, 100))
    part = crops.cut(Image.new("RGB", (20, 100), "red"), tall)
    assert (
        part.size == (100, 100) and part.getpixel((0, 50)) == (255, 255, 255) and part.getpixel((50, 50)) == (255, 0, 0)
    )


@pytest.mark.parametrize("budget_tok", [40, 100, 333])
def test_every_arm_stays_within_one_budget_and_uses_most_of_it(tmp_path: Path, budget_tok: int) -> None:
    photos = tuple(photo(tmp_path / f"{k}.png", k, (300, 200 + 250 * k)) for k in range(3))
    item = Item("a", photos, {}, (Region(1, "p", "v", (10, 10, 60, 20)), Region(1, "p", "v", (200, 300, 290, 330))))
    counts = {}
    for arm in crops.ARMS:
        images = crops.fit(crops.views(item, arm), budget_tok=budget_tok)
        counts[arm] = len(images)
        assert all(side % crops.PATCH_PX == 0 for image in images for side in image.size)
        used = sum(crops.image_tokens(image.size) for image in images)
        assert 0.6 * (budget_tok - len(images)) <= used <= budget_tok
    assert counts == {"photos": 3, "tiles": 3 + 2 + 2 + 2, "squares": 2}
    with pytest.raises(ValueError, match="at least one token"):
        crops.fit(crops.views(item, "tiles"), budget_tok=5)
    with pytest.raises(ValueError, match="arm"):
        crops.views(item, "circles")


def test_print_seen_on_shrunk_photos_gives_regions_in_the_photos_own_pixels(tmp_path: Path) -> None:
    photos = tuple(photo(tmp_path / f"{k}.png", k, (560, 280)) for k in range(2))
    small = crops.fit([Image.open(one) for one in photos], budget_tok=100)  # 10 x 5 tokens each
    assert small[0].size == (280, 140)
    seen = Reading((Line("NET 250 g", 0.9, (10, 20, 50, 30)),), (Barcode("1", "EAN-13", (60, 20, 70, 30)),))
    item = crops.with_printed_regions(Item("a", photos, {}), {photos[1]: seen}, budget_tok=100)
    assert [(r.photo, r.value, r.box) for r in item.regions] == [
        (1, "NET 250 g", (20, 40, 100, 60)),
        (1, "1", (120, 40, 140, 60)),
    ]
    whole, square = crops.views(item, "squares")
    assert whole.size == (560, 280) and square.width == square.height < 280


def test_fields_of_real_items_are_counted_at_their_own_paths_and_dates_beside() -> None:
    truth = {"attributes": {"brand_name": "Zevo", "product_name": "Crisps"}}
    items = [
        Item("a", ("a.png",), truth, complete=False, source="shop"),
        Item("b", ("b.png",), {}, complete=False, source="dates"),
    ]
    said = [
        [Reading((Line("Brand: Zevo", 0.9, (0, 0, 9, 9)),))],
        [Reading((Line("BEST BY 11 APR 2021", 0.9, (0, 0, 9, 9)),))],
    ]
    table = fields_read(items, said, dates={"b": {"2021-04-11", "2021-11-04"}})
    assert table["read"].tolist() == [True, False, True] and table["source"].tolist() == ["shop", "shop", "dates"]
    told = fields_read(
        items, said, dates={"b": {"2021-04-11"}}, answers=[{"attributes": {"product_name": "crisps"}}, {}]
    )
    assert told["read"].tolist() == [False, True, True]
    late = fields_read(items, said, dates={"b": {"2022-04-11"}})
    assert late["read"].tolist() == [True, False, False]


def test_tiles_cover_the_photo_once() -> None:
    for size in ((90, 100), (400, 100), (100, 1000)):
        tiles = crops.tiles_of(size)
        area = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in tiles)
        assert area == pytest.approx(size[0] * size[1]) and crops.hull(tiles) == (0, 0, *size) and 2 <= len(tiles) <= 4


def test_photos_saved_again_are_left_out(tmp_path: Path) -> None:
    first, other = photo(tmp_path / "a.png", 1, (256, 192)), photo(tmp_path / "b.png", 2, (256, 192))
    Image.open(first).resize((200, 150)).save(tmp_path / "again.jpg", quality=80)
    item = Item("x", (first, str(tmp_path / "again.jpg"), other), FIG_6, (Region(2, "p", "v", (0, 0, 9, 9)),))
    assert distinct(item.photos, distance_bits=4) == [0, 2] and distinct(item.photos, distance_bits=64) == [0]
    table = images_an_item([item, replace(item, photos=item.photos[:1], regions=())]).set_index(
        ["images", "distance_bits"]
    )
    assert list(table.loc["photos", -1]) == [2.0, 3, 2] and table.loc[("photos", 4), "maximum"] == 2
    assert len(table) == 29 and table.loc["photos", "maximum"].is_monotonic_decreasing
    assert list(table.loc["photos and crops", -1]) == [2.5, 4, 2]  # a region on one of three photos
    assert list(table.loc["main photo and squares", -1]) == [1.5, 2, 2]
    kept = kept_photos([item, replace(item, photos=item.photos[:1])], distances=(4, 64))
    assert kept == {-1: [[0, 1, 2], [0]], 4: [[0, 2], [0]], 64: [[0], [0]]}
    fewer, said = fewer_photos(item)
    assert fewer.photos == (first, other) and fewer.regions[0].photo == 1 and "left out 1 that look" in said
    assert fewer_photos(fewer) == (fewer, "")
    with pytest.raises(ValueError, match="distance_bits"):
        distinct(item.photos, distance_bits=65)


def test_an_item_becomes_a_record_of_any_number_of_photos(tmp_path: Path) -> None:
    photos = tuple(photo(tmp_path / f"{k}.png", k) for k in range(5))
    item = Item("a", photos, FIG_6, split="train")
    records = [item_record(item, prompt="long"), item_record(main_photo(item)) | {"id": "main"}]
    assert [record_fault(one) for one in records] == [None, None] and [len(r["images"]) for r in records] == [5, 1]
    assert load_records(write_records(records, tmp_path / "records.jsonl")) == records
    assert parse_answer(records[0]["answer"]).answer == FIG_6 == parse_answer(records[1]["answer"]).answer
    names = {"schema": SCHEMA["properties"], "flat": WORDS.values()}
    for form, prompts in PROMPTS.items():
        assert len(prompts["long"]) > 5 * len(prompts["short"])
        assert all(f'"{name}"' in prompts["long"] for name in names[form])
    assert item_record(item, told="Printed: LOZ.")["images"] == item_record(item, told="")["images"] == [str(photos[0])]
    assert item_record(item, form="flat")["answer"] == flat(FIG_6)
    for wrong in ({"prompt": "medium"}, {"form": "table"}):
        with pytest.raises(KeyError):
            item_record(item, **wrong)


def test_scores_and_verdicts_by_hand() -> None:
    truth = {
        "attributes": {"brand_name": "LOZ", "colors": ["red", "blue"]},
        "origin_production": {"country_of_origin": "Italy"},
    }
    answer = {
        "attributes": {"brand_name": "loz.", "colors": ["red", "green"]},
        "identifiers": {"model_number": "X-1"},
    }
    items = [Item("a", ("p",), truth), Item("b", ("p",), truth), Item("c", ("p",), {})]
    scores = score_items([answer, {}, {}], items)
    first = scores.iloc[0]
    assert (first["precision"], first["recall"], first["f1"]) == (2 / 4, 2 / 4, 2 * 2 / (4 + 4))
    assert verdicts(answer, items[0])["attributes.colors", "green"] == "incorrect"
    assert verdicts(answer, items[0])["identifiers.model_number", "x 1"] == "unverifiable"
    assert list(scores["f1"]) == [0.5, 0, 1]
    table = table3(scores)
    assert list(table["column"]) == list(T3) and table["value"].tolist() == pytest.approx([50, 50, 50, 50, 25, 25])
    # Means over three items, of which one has no answer; shares over the values of one item alone.
    assert list(table["low"])[:4] == [0, 0, 0, 50] and list(table["high"])[:4] == [100, 100, 100, 50]
    assert table3(scores.iloc[1:]).set_index("column").loc["unverifiable", ["value", "low", "high"]].isna().all()
    partial = score_items([answer], [replace(items[0], complete=False)]).iloc[0]
    assert partial["given"] == 3 and partial["unverifiable"] == 0
    with pytest.raises(ValueError):
        score_items([answer], items)


def test_mean_f1_may_lie_below_mean_precision_and_recall() -> None:
    """T3's row 27 is so, which a single F1 of all values never is."""
    truth = {"regulatory_safety": {"certification_marks": ["CE", "FCC", "UL", "CSA"]}}
    few = {"regulatory_safety": {"certification_marks": ["CE"]}}
    small = {"attributes": {"colors": ["red"]}}
    many = {"attributes": {"colors": ["red", "blue", "green", "pink"]}}
    table = table3(score_items([few, many], [Item("a", ("p",), truth), Item("b", ("p",), small)]))
    row = table.set_index("column")["value"]
    assert row["f1"] < min(row["precision"], row["recall"])


def test_the_published_columns_are_ours() -> None:
    rows = [row for row in load_published() if (row.paper, row.table) == ("ebay", "T3")]
    assert rows and {row.column for row in rows} == set(T3)


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ({"verdicts": {"0": "correct", "1": "Unverifiable"}}, None),
        ({"verdicts": {"0": "correct"}}, "each number from 0 to 1"),
        ({"verdicts": {"0": "correct", "1": "maybe"}}, "maybe"),
        ({}, "each number"),
    ],
)
def test_a_judge_s_reply_names_every_value_once(reply: dict, fault: str | None) -> None:
    found = verdicts_fault(reply, 2)
    assert found is None if fault is None else fault in found
