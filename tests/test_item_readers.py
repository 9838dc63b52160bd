"""Items of Pocket Mart and of real photos: back labels, barcodes, OCR, and the extractor by rules."""

import os
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from mtive_nb.data.items.items import Item, load_items
from mtive_nb.data.items.mart import FEWEST, MOST, render_items
from mtive_nb.data.items.readers import Barcode, Reading, as_prompt, read_barcodes, read_photo, read_photos
from mtive_nb.data.items.real import ORIGINS, listing_truth, printed_dates, real_items
from mtive_nb.data.items.rules import Shop, extract
from mtive_nb.data.items.schema import checked, fields_of, values_of
from mtive_nb.data.mart.back import SIDE_PX, back_facts, ean13_modules, take_back
from mtive_nb.data.mart.vocabulary import BRANDS, CATEGORIES
from mtive_nb.data.ocr import Line, RapidOcr
from mtive_nb.data.photos import load_image
from mtive_nb.evaluate.items.scores import score_items

needs_photos = pytest.mark.skipif(not os.environ.get("MTIVE_DATA"), reason="MTIVE_DATA names no folder of real photos")
needs_zxing = pytest.mark.skipif(not find_spec("zxingcpp"), reason="the extra `barcode` is not installed")


@pytest.fixture(scope="module")
def items(tmp_path_factory) -> list[Item]:
    return render_items(tmp_path_factory.mktemp("items"), items=8, seed=3)


def test_an_item_is_the_same_whatever_the_number_of_items(items: list[Item], tmp_path) -> None:
    again = render_items(tmp_path, items=1, seed=3, first=5)[0]
    assert (again.item_id, again.truth, again.regions) == (items[5].item_id, items[5].truth, items[5].regions)
    pixels = [[load_image(photo).tobytes() for photo in one.photos] for one in (again, items[5])]
    assert pixels[0] == pixels[1]


def test_items_are_valid_and_show_every_true_value(items: list[Item]) -> None:
    folder = os.path.dirname(os.path.dirname(items[0].photos[0]))
    assert load_items(f"{folder}/items.jsonl") == (items, [])  # no box outside its photo, no fault of the schema
    assert {len(item.photos) for item in items} <= set(range(FEWEST, MOST + 1))
    for item in items:
        assert {(r.path, r.value) for r in item.regions if r.photo == 1} == set(values_of(item.truth))
        assert load_image(item.photos[1]).size == (SIDE_PX, SIDE_PX)


def test_boxes_hold_the_print(items: list[Item]) -> None:
    """Inside a box there is ink on paper; the label's empty lower right corner has none."""
    for item in items[:4]:
        grey = np.asarray(load_image(item.photos[1]).convert("L"), np.float32)
        for region in (r for r in item.regions if r.photo == 1):
            x0, y0, x1, y1 = map(round, region.box)
            assert np.ptp(grey[y0:y1, x0:x1]) > 100, region
        assert np.ptp(grey[380:500, 450:510]) < 80


@needs_zxing
def test_zxing_reads_the_drawn_barcodes_where_their_boxes_are() -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        facts = back_facts(rng, share_absent=0)
        back = take_back(facts, "red", rng=rng)
        codes, faults = read_barcodes(back.image)
        (box,) = [box for path, _, box in back.printed if path == "identifiers.barcodes"]
        assert [c.text for c in codes] == [facts["identifiers"]["barcodes"][0]["value"]] and codes[0].kind == "EAN-13"
        assert faults == [] and np.abs(np.subtract(codes[0].box, box))[[0, 2]].max() < 12


def test_a_wrong_check_digit_is_not_drawn_and_not_read() -> None:
    assert len(ean13_modules("4006381333931")) == 95
    with pytest.raises(ValueError, match="check digit"):
        ean13_modules("4006381333932")
    wrong = Reading((Line("4006381333932", 1.0, (0, 0, 1, 1)),), (Barcode("4006381333932", "EAN-13", (0, 0, 1, 1)),))
    assert extract([wrong]) == {}
    right = Reading((Line("4 006381 333931", 1.0, (0, 0, 1, 1)),))
    assert extract([right]) == {"identifiers": {"barcodes": [{"value": "4006381333931"}]}}


@needs_zxing
def test_a_symbol_with_a_wrong_check_digit_is_a_fault() -> None:
    code = ean13_modules("4006381333931")
    modules = code[:-10] + "1110010" + code[-3:]  # the last digit as 0
    bars = np.repeat(np.array([[255 * (bit == "0") for bit in "0" * 12 + modules + "0" * 12]], np.uint8), 4, axis=1)
    codes, faults = read_barcodes(Image.fromarray(np.repeat(bars, 90, axis=0)))
    assert codes == [] and any("4006381333930" in fault for fault in faults), faults


def test_without_zxing_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zxingcpp", None)
    with pytest.raises(ImportError, match=r"\.\[barcode\]"):
        read_photo(Image.new("RGB", (60, 60)))


def lines(*texts: str) -> Reading:
    return Reading(tuple(Line(text, 1.0, (0.0, 0.0, 1.0, 1.0)) for text in texts))


def test_rules_read_labels_and_leave_prose_alone() -> None:
    answer = extract(
        [
            lines("ZARN", "Item no. TL-77", "Net wt 2,5 kg e", "Color: dark blue", "Made in Viet Nam"),
            lines("Distributed by Acme Inc", "www.acme.example", "CE  FCC", "DANGER: corrosive", "250 ML", "250 ml"),
            lines("The CE mark is blue in places", "modelling clay", "Model", "warning", "typed by hand"),
        ],
        shop=Shop(("LOZ", "ZARN"), ("soap",)),
    )
    assert checked(answer).faults == ()
    assert answer == {
        "identifiers": {"model_number": "TL-77"},
        "attributes": {
            "brand_name": "ZARN",
            "capacity": [{"value": "2,5", "unit": "kg"}],
            "colors": ["blue"],
        },
        "origin_production": {
            "country_of_origin": "Viet Nam",
            "manufacturer": {"name": "Acme Inc", "contact": "www.acme.example"},
        },
        "regulatory_safety": {
            "certification_marks": ["CE", "FCC"],
            "hazard_statements": [{"text": "DANGER: corrosive"}],
        },
    }
    assert extract([]) == extract([lines()]) == {}
    assert extract([lines("250 ML", "250 ml")]) == {"attributes": {"capacity": [{"value": "250", "unit": "ML"}]}}
    assert extract([lines("40 g", "18 g", "4.4 g", "fat 3 g")]) == {}  # a table of nutrition


@needs_zxing
def test_rules_on_ocr_find_most_of_a_mart_item_and_invent_little(items: list[Item]) -> None:
    ocr, shop = RapidOcr(threads=1), Shop(BRANDS, tuple(CATEGORIES))
    some = items[:3]
    answers, fronts = [], []
    for item in some:
        readings = read_photos(item.photos[:2], ocr=ocr)
        answers.append(extract(readings.values(), shop=shop))
        fronts.append(extract([readings[item.photos[0]]], shop=shop))
        assert "barcode" not in as_prompt([readings[item.photos[0]]]) and "barcode" in as_prompt(readings.values())
    whole, front = score_items(answers, some), score_items(fronts, some)
    assert whole["recall"].min() > 0.6 and whole["precision"].min() > 0.7
    assert front["recall"].mean() < whole["recall"].mean() / 2  # the main photo does not show the back


def test_a_prompt_has_each_line_that_photos_repeat_once() -> None:
    code = Barcode("123", "QRCode", (0, 0, 1, 1))
    readings = {
        "a": lines("LOZ", "250 ML"),
        "b": Reading(),
        "c": Reading((*lines("loz.", "250ML", "Italy").lines,), (code, code)),
    }
    assert as_prompt(readings[k] for k in "abc") == "Printed: LOZ | 250 ML | Italy | barcode 123."
    assert as_prompt(readings[k] for k in "ca") == "Printed: loz. | 250ML | Italy | barcode 123."
    assert as_prompt([readings["b"]]) == ""


def test_an_abo_listing_is_read_in_english() -> None:
    text = str(
        {
            "brand": "[{language_tag=fr_FR, value=Le Solimo}, {language_tag=en_US, value=Solimo}]",
            "model_number": "[{language_tag=null, value=4006381333931}]",
            "model_name": "",
            "color": "[{language_tag=en_US, value=Iron Grey}]",
        }
    )
    pairs = fields_of(listing_truth(text))
    assert pairs == {
        ("attributes.brand_name", "solimo"),
        ("attributes.colors", "iron grey"),
        ("identifiers.barcodes", "04006381333931"),
    }


def test_where_there_are_no_real_photos_they_are_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="openfoodfacts/test-data"):
        real_items("packages", tmp_path)
    with pytest.raises(KeyError, match="abo-samples"):
        real_items("grocery", tmp_path)


@needs_photos
def test_real_items_are_valid() -> None:
    found = {source: real_items(source) for source in ORIGINS}
    assert [len(found[source]) for source in ("packages", "abo-samples", "expiry-photos")] == [7, 3, 8]
    for item in (one for items in found.values() for one in items):
        assert checked(item.truth).faults == () and not item.complete and item.photos
    assert max(len(item.photos) for item in found["abo-samples"]) == 5
    dates = printed_dates()
    assert set(dates) == {item.item_id for item in found["expiry-photos"]} and all(dates.values())
    assert dates["img_01"] == {"2023-04-03", "2023-03-04"}


@needs_photos
@needs_zxing
def test_barcodes_of_real_photos_decode_and_nothing_else_does() -> None:
    for item in real_items("packages"):
        readings = read_photos(item.photos)
        true = {value for path, value in values_of(item.truth) if path == "identifiers.barcodes"}
        assert {code.text for reading in readings.values() for code in reading.barcodes} == true
