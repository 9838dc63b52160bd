import pytest

from mtive_nb.evaluate.metrics import (
    UNPARSED,
    abstentions,
    accepted_dates,
    asked_date,
    attribute_matches,
    classify,
    date_match,
    facts_of,
    majority_share,
    printed_date,
)
from mtive_nb.evaluate.reading import class_of, parse_pairs, yes_no

PACKAGINGS = ["bottle", "box", "can", "tea", "iced tea"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", "yes"),
        ("No, the brand differs.", "no"),
        ("The answer is yes.", "yes"),
        ("yes or no", None),
        ("it could be yes, could be no", None),
        ("", None),
        ("nothing", None),
    ],
)
def test_yes_no(text, expected):
    assert yes_no(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Bottle.", "bottle"),
        ("It is a box", "box"),
        ("an iced tea", "iced tea"),  # and not the tea inside it
        ("not a box, a can", "can"),
        ("a bottle or a can", None),
        ("boxing", None),
        ("", None),
    ],
)
def test_class_of(text, expected):
    assert class_of(text, PACKAGINGS) == expected


def test_an_unparsed_answer_is_a_class_of_its_own():
    predictions = ["Yes.", "no", "yes, it is", "maybe", "no", "no damage"]
    read = classify(predictions, ["yes", "no", "no", "yes", "yes", "no"])
    assert read.predicted == ("yes", "no", "yes", UNPARSED, "no", "no")


def test_classification_of_a_sample_with_yes_alone_still_reads_no():
    assert classify(["no"], ["yes"]).predicted == ("no",)


def test_classify_refuses_unequal_lengths():
    with pytest.raises(ValueError, match="1 predictions for 2 labels"):
        classify(["yes"], ["yes", "no"])


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ('{"brand": "ZEVO", "colour": "blue"}', {"brand": "ZEVO", "colour": "blue"}),
        ('Sure: ```json\n{"Brand": "ZEVO"}\n``` done', {"brand": "ZEVO"}),
        ("{'ExpiryDate': '11NOV.22', 'TimeValid': 'xxx'}", {"expiry": "11NOV.22", "timevalid": "xxx"}),
        ('{"brand": "ZEVO", "category": "sham', {"brand": "ZEVO"}),
        ('{"brand": "ZEVO", "cate', {"brand": "ZEVO"}),
        ('{"brand": "A", "brand": "B"}', {"brand": "A"}),
        ('{"damaged": true, "damage": null, "count": 2}', {"damaged": "yes", "damage": "unanswerable", "count": "2"}),
        ("a blue bottle", {}),
        ("{", {}),
    ],
)
def test_parse_pairs_is_lenient(text, pairs):
    assert parse_pairs(text) == pairs


def test_attribute_matches_counts_each_attribute():
    asked = {"brand": "ZEVO", "colour": "blue", "packaging": "bottle"}
    found = attribute_matches('{"brand": "Zevo ", "colour": "green", "pack', asked)
    assert found == {"brand": 1.0, "colour": 0.0, "packaging": 0.0}
    assert attribute_matches("Blue.", {"colour": "blue"}) == {"colour": 1.0}
    assert attribute_matches("red", {"colour": ["blue", "red"]}) == {"colour": 1.0}


@pytest.mark.parametrize(
    ("text", "printed", "date"),
    [
        ('{"expiry": "03/04/23"}', 1, 1),
        ("EXP 03/04/23", 1, 1),
        ('{"expiry": "3 APR 2023"}', 0, 1),
        ('{"expiry": "2023-03-04"}', 0, 1),  # the second accepted reading
        ('{"expiry": "04/04/23"}', 0, 0),
        ('{"production": "03/04/23"}', 0, 0),
        ('{"expiry": "Unanswerable"}', 0, 0),
        ("", 0, 0),
    ],
)
def test_date_match(text, printed, date):
    known = {"expiry": "03/04/23", "expiry_iso": "2023-04-03", "expiry_also": "2023-03-04"}
    assert date_match(text, {"expiry": "03/04/23", "production": "Unanswerable"}, known=known) == (printed, date)


def test_a_date_that_is_not_there_is_matched_by_saying_so_alone():
    assert date_match("Unanswerable", {"expiry": "Unanswerable"}) == (1, 1)
    assert date_match("03/04/23", {"expiry": "Unanswerable"}) == (0, 0)


def test_facts_survive_a_table_of_records():
    facts = ({"colour": "blue"}, {"brand": "ZEVO"})
    assert facts_of({"facts": {"asked": {"colour": "blue", "match": None}, "known": {"brand": "ZEVO"}}}) == facts
    assert facts_of({"facts": '{"asked": {"colour": "blue"}, "known": {"brand": "ZEVO"}}'}) == facts
    assert facts_of({"facts": None}) is None


def test_the_scored_date_is_the_expiry_wherever_it_stands():
    assert asked_date({"production": "1/2/24", "expiry": ["3/4/25", 2026]}) == ("expiry", ["3/4/25", "2026"])
    assert asked_date({"production": "1/2/24"}) == ("production", ["1/2/24"])
    assert date_match("03/04/25", {"production": "01/02/24", "expiry": "03/04/25"}) == (1, 1)
    assert date_match('{"production": "03/04/25"}', {"expiry": "Unanswerable"}) == (0, 0)
    assert date_match('{"expiry": "Unanswerable", "production": "03/04/25"}', {"expiry": "Unanswerable"}) == (1, 1)


@pytest.mark.parametrize("text", ["EXP 3 APR 23", ' "exp:  3 apr\n23". ', "'3 Apr 23';", "`3 APR  23`,"])
def test_a_printed_date_is_compared_without_case_spaces_prefix_and_signs(text):
    assert printed_date(text) == "3 APR 23"


def test_every_noted_reading_of_a_date_is_accepted():
    known = {"expiry": "EXP A1", "expiry_iso": "2023-04-03", "expiry_also": ["2023-03-04", "2023-04"]}
    assert accepted_dates("expiry", asked={}, known=known) == {"2023-04-03", "2023-03-04", "2023-04"}
    assert accepted_dates("expiry", asked={"expiry": "2024-05-06"}, known={}) == {"2024-05-06"}
    assert accepted_dates("expiry", asked={}, known={"production": "2024-05-06"}) == set()


def test_abstention_is_read_fact_by_fact_in_truth_and_answer():
    asked = {"colour": ["Unanswerable"], "brand": "ZEVO"}
    assert abstentions("Unanswerable", asked) == {"colour": (True, True), "brand": (False, True)}
    assert abstentions('{"colour": "unanswerable", "brand": "ZEVO"}', asked) == {
        "colour": (True, True), "brand": (False, False)
    }  # fmt: skip
    assert abstentions('{"brand": "unanswerable"}', asked) == {"colour": (True, False), "brand": (False, True)}


def test_the_share_of_the_commonest_label():
    assert majority_share(["a", "b", "a", "c"]) == 0.5 and majority_share([]) == 0
