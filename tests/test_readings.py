"""Every phrase of readings.yaml is read as a person reads it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mtive_nb.data.dates import parse_date, stated_date
from mtive_nb.data.ocr import Line, expiry_of_print
from mtive_nb.evaluate.metrics import attribute_matches, date_match
from mtive_nb.evaluate.reading import class_of, is_abstention, parse_pairs, yes_no
from mtive_nb.evaluate.statements import Statement, StatementReader

TABLE = yaml.load(Path(__file__).with_name("readings.yaml").read_text(encoding="utf-8"), yaml.BaseLoader)
CLASSES = ["bottle", "box", "can", "tea", "iced tea", "café", "jalapeño", "damaged", "not damaged"]


def rows(section: str) -> list:
    return [pytest.param(*row, id=f"{k}: {row[0]}"[:60]) for k, row in enumerate(TABLE[section])]


READERS: dict[str, Callable[[str], str | None]] = {
    "yes_no": yes_no,
    "classes": lambda text: class_of(text, CLASSES),
    "dates": parse_date,
    "expiry": lambda text: parse_date(stated_date(text, "expiry")),
    "production": lambda text: parse_date(stated_date(text, "production")),
}


def test_the_table_is_large_and_names_no_phrase_twice() -> None:
    phrases = [(section, str(row[0])) for section, table in TABLE.items() for row in table]
    assert len(phrases) == len(set(phrases)) >= 150


@pytest.mark.parametrize(
    ("section", "text", "reading"),
    [
        pytest.param(section, *row, id=f"{section} {k}: {row[0]}"[:60])
        for section in READERS
        for k, row in enumerate(TABLE[section])
    ],
)
def test_a_phrase_is_read_as_by_a_person(section: str, text: str, reading: str) -> None:
    assert READERS[section](text) == (None if reading == "null" else reading)


@pytest.mark.parametrize(("lines", "expiry"), rows("prints"))
def test_label_words_decide_which_printed_date_is_the_expiry(lines: list[str], expiry: str) -> None:
    assert expiry_of_print([Line(text, 1.0, (0.0, 0.0, 1.0, 1.0)) for text in lines]) == expiry


@pytest.mark.parametrize(("text", "reading"), rows("abstentions"))
def test_what_says_that_nothing_is_visible(text: str, reading: str) -> None:
    assert is_abstention(text) == (reading == "true")


@pytest.mark.parametrize(("text", "pairs"), rows("pairs"))
def test_pairs(text: str, pairs: dict[str, str]) -> None:
    assert parse_pairs(text) == pairs


@pytest.mark.parametrize(("text", "asked", "right"), rows("matches"))
def test_values_in_any_form(text: str, asked: dict[str, str], right: str) -> None:
    assert list(attribute_matches(text, asked).values()) == [float(right)]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("The expiry date is 03/04/23.", (1, 1)),
        ("It expires on 3 April 2023.", (0, 1)),
        ("It was produced on 03/04/23.", (0, 0)),
        ("<think>EXP 03/04/23</think>I cannot tell.", (0, 0)),
        ("<think>unclear</think>EXP 03/04/23", (1, 1)),
        ('{"expiry": "Best before 03/04/23"}', (1, 1)),
    ],
)
def test_a_date_in_a_sentence_is_scored_as_the_date(text: str, score: tuple[int, int]) -> None:
    assert date_match(text, {"expiry": "03/04/23"}) == score


def test_statements_read_the_final_answer_in_one_unicode_form() -> None:
    reader = StatementReader({"brand": ["Café Noir"], "expiry": []})
    told = "<think>A MARS 45 perhaps.</think>It is a cafe\u0301 noir, 03/04/23 is the expiry date."
    found = reader.read(told, asked={"brand": "Café Noir", "expiry": "03/04/23"}, truth={})
    stated = {statement for segment in found for statement in segment.statements}
    assert stated == {Statement("brand", "café noir"), Statement("expiry", "03/04/23")}
