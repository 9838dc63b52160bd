"""What an answer states, phrase by phrase, where attributes share words, several rules meet or a word is denied."""

import pytest

from mtive_nb.evaluate.statements import StatementReader, vocabulary_of

VOCABULARY = {
    "damage": ["dent", "tear", "none"], "damaged": ["yes", "no"], "colour": ["orange", "blue"], "category": ["orange", "tea"],
    "differs": ["brand", "size"], "match": ["yes", "no"], "size": ["500 ML"],
}  # fmt: skip
READER = StatementReader(VOCABULARY)
MATCH = {"match": "no"}


@pytest.mark.parametrize(
    ("answer", "asked", "stated"),
    [
        ("not in good condition", {"damaged": "yes"}, {("damaged", "yes")}),
        ("no dent", {"damaged": "no", "damage": "none"}, {("damaged", "no"), ("damage", "none")}),
        ("no dent", {"damaged": "no"}, {("damaged", "no")}),
        ("3 with a dent", {"count": "3"}, {("damaged", "yes"), ("damage", "dent"), ("count", "3")}),
        ("500ml", {"size": "1 L"}, {("size", "500 ml")}),
        ('{"differs": "brand and size"}', MATCH, {("differs", "brand"), ("differs", "size")}),
        ("the size differs from the damaged one", MATCH, {("damaged", "yes"), ("match", "no"), ("differs", "size")}),
    ],
)
def test_every_rule_states_its_part(answer: str, asked: dict, stated: set) -> None:
    found = READER.read(answer, asked=asked, truth={})
    assert {(one.attribute, one.value) for segment in found for one in segment.statements} == stated


@pytest.mark.parametrize("name", ["colour", "category"])
def test_a_word_of_two_attributes_is_read_as_the_true_one_then_as_the_asked_one(name: str) -> None:
    for truth, asked in (({name: {"orange"}}, {"brand": "x"}), ({}, {name: "blue"})):
        (segment,) = READER.read("it is an orange thing", asked=asked, truth=truth)
        assert [(one.attribute, one.value) for one in segment.statements] == [(name, "orange")]


def test_a_leading_yes_is_a_segment_as_written() -> None:
    first, second = READER.read("(Yes, it is blue", asked={"damaged": "yes"}, truth={})
    assert (first.text, second.text) == ("(Yes", "it is blue")
    assert [(one.attribute, one.value) for one in first.statements] == [("damaged", "yes")]


def test_dates_in_any_form_are_no_words_of_a_vocabulary() -> None:
    dates = {"expiry": "03/04/23", "expiry_iso": "2023-04-03", "production_also": "2023-03-04"}
    records = [{"facts": {"asked": {"colour": ["blue", "red"], "brand": "Unanswerable"}, "known": dates}}]
    assert vocabulary_of(records) == {"colour": ["blue", "red"]}
