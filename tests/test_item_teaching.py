"""Records that teach an expert to read items: as many as asked, values changed in prompt and label alike."""

from mtive_nb.data.items.items import Item
from mtive_nb.data.items.readers import Barcode, Reading
from mtive_nb.data.items.schema import checked, gtin_ok, parse_answer, values_of
from mtive_nb.data.items.teaching import other_values, teaching_records
from mtive_nb.data.ocr import Line
from mtive_nb.data.records import record_fault

BOX = (0.0, 0.0, 1.0, 1.0)
LOZ = {
    "identifiers": {"barcodes": [{"value": "4006381333931"}], "model_number": "KV-61"},
    "attributes": {"brand_name": "LOZ", "capacity": [{"value": "250", "unit": "ML"}], "colors": ["red"]},
}
ZEVO = {"attributes": {"brand_name": "ZEVO", "capacity": [{"value": "7", "unit": "HR"}], "colors": ["blue", "green"]}}


def reading(*words: str, code: str = "") -> Reading:
    return Reading(tuple(Line(word, BOX, 1.0) for word in words), (Barcode(code, "EAN-13", BOX),) if code else ())


READINGS = {
    "a0": reading("LOZ", "250 ML"),
    "a1": reading("Color: red", "Model KV-61", code="4006381333931"),
    "a2": reading("LOZ"),
    "b0": reading("ZEVO", "7 HR"),
}
ITEMS = [Item("a", ("a0", "a1", "a2"), {}, split="train"), Item("b", ("b0",), {}, split="train")]


def label(item: Item) -> dict:
    return LOZ if item.item_id == "a" else ZEVO


def test_other_values_stand_in_prompt_and_label_alike() -> None:
    told = "Printed: LOZ | 250 ML | Color: red | Model KV-61 | barcode 4006381333931."
    seen = {"attributes.brand_name": ["ZEVO"], "attributes.capacity": ["7 HR"], "attributes.colors": ["blue"]}
    text, answer = other_values(told, LOZ, seen, "0")
    values = dict(values_of(answer))
    assert values["attributes.brand_name"] == "ZEVO" and values["attributes.capacity"] == "7 HR"
    barcode, model = values["identifiers.barcodes"], values["identifiers.model_number"]
    assert gtin_ok(barcode) and barcode != "4006381333931" and len(barcode) == 13
    assert model != "KV-61" and [c.isdigit() for c in model] == [c.isdigit() for c in "KV-61"]
    assert text == f"Printed: ZEVO | 7 HR | Color: blue | Model {model} | barcode {barcode}."
    assert checked(answer).faults == ()


def test_a_value_that_was_not_read_stays() -> None:
    text, answer = other_values("Printed: LOZ.", LOZ, {"attributes.brand_name": ["ZEVO"]}, "0")
    assert text == "Printed: ZEVO." and answer["attributes"] == LOZ["attributes"] | {"brand_name": "ZEVO"}
    assert answer["identifiers"] == LOZ["identifiers"]
    assert other_values("Printed: nothing.", LOZ, {}, "0") == ("Printed: nothing.", LOZ)


def test_a_value_changes_as_a_whole_word_only() -> None:
    label = {"attributes": {"brand_name": "CE", "colors": ["red"]}}
    seen = {"attributes.brand_name": ["ZEVO"], "attributes.colors": ["blue"]}
    text, answer = other_values("Printed: CENTRE CE | CE-1 | Fred, coloured.", label, seen, "0")
    assert text == "Printed: CENTRE ZEVO | ZEVO-1 | Fred, coloured."
    assert answer["attributes"] == {"brand_name": "ZEVO", "colors": ["red"]}


def test_every_item_once_as_it_is_and_as_often_as_asked_in_another_form() -> None:
    records = teaching_records(ITEMS, READINGS, label, varied=3, seed=1)
    assert len(records) == 8 == len({record["id"] for record in records})
    assert [record["id"] for record in records[:3]] == ["a", "b", "a#1"]
    assert [record_fault(record) for record in records] == [None] * 8
    assert [parse_answer(record["answer"]).answer for record in records[:2]] == [LOZ, ZEVO]
    assert [record["images"] for record in records[:2]] == [["a0"], ["b0"]]
    assert {record["variant"] for record in records if record["id"].startswith("a")} == {"short", "long"}
    for record in records:
        question = record["messages"][0]["content"][-1]["text"]
        brand = parse_answer(record["answer"]).answer["attributes"]["brand_name"]
        assert f"Printed: {brand} | " in question  # the main photo is always read
    assert records == teaching_records(ITEMS, READINGS, label, varied=3, seed=1)
    assert records[2:] != teaching_records(ITEMS, READINGS, label, varied=3, seed=2)[2:]


def test_photos_are_left_out_for_the_label_too() -> None:
    asked: list[Item] = []
    teaching_records(ITEMS, READINGS, lambda item: asked.append(item) or label(item), varied=20)
    few = [item for item in asked if item.item_id == "a"]
    assert all(item.photos[0] == "a0" for item in few)
    assert {item.photos for item in few} >= {("a0", "a1"), ("a0", "a2"), ("a0", "a1", "a2")}
    (flat_one,) = teaching_records(ITEMS[1:], READINGS, label, form="flat")
    assert flat_one["answer"].startswith('{"brand name": "ZEVO"')


def test_another_label_of_one_item_changes_no_other_record() -> None:
    def other(item: Item) -> dict:
        return label(item) | ({"identifiers": {"model_number": "X-1"}} if item.item_id == "b" else {})

    one, two = (teaching_records(ITEMS, READINGS, of, varied=3, seed=1) for of in (label, other))
    apart = [a["id"] for a, b in zip(one, two, strict=True) if a != b]
    assert apart and all(name.startswith("b") for name in apart)
