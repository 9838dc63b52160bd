"""Facts that cannot be true are a quarantined row, with field, found and expected; those that can be are not."""

import pytest

from mtive_nb.data.rows import FEEDBACK_FIELDS, row_faults


def faults(facts: object) -> list[tuple[str, object, str]]:
    row = {"feedback_id": "F", "product_id": "P", "text": "", "images": ["a.jpg"], "facts": facts}
    return row_faults(row, FEEDBACK_FIELDS)


@pytest.mark.parametrize(
    ("facts", "field", "why"),
    [
        ({"dates": {"expiry": "none"}}, "facts.dates.expiry", "a date that exists"),
        ({"dates": {"expiry": "2025-13-40"}}, "facts.dates.expiry", "a date that exists"),
        ({"dates": {"production": "2025-02-29"}}, "facts.dates.production", "a date that exists"),
        ({"dates": {"expiry": 20250403}}, "facts.dates.expiry", "expected text or null, found int"),
        ({"dates": {"expiri": "2025-04-03"}}, "facts.dates.expiri", "did you mean expiry?"),
        ({"damaged": False, "damage": "Crack"}, "facts.damage", "facts.damaged is false"),
        ({"attributes": {"colour": 7}}, "facts.attributes.colour", "expected text or null, found int"),
        ({"count": True}, "facts.count", "expected a whole number"),
    ],
)
def test_what_cannot_be_true_is_named(facts: dict, field: str, why: str) -> None:
    ((named, found, reason),) = faults(facts)
    assert named == field and why in reason and found is not None


@pytest.mark.parametrize(
    "facts",
    [
        None,
        {"damaged": False, "damage": "none"},
        {"damaged": False, "damage": None},
        {"damaged": True, "damage": "crack"},
        {"dates": {"expiry": "2025-04-03", "expiry_text": "EXP 03.04.25", "production": None, "production_text": None}},
        {"dates": {"expiry": "2025-04", "expiry_also": "2025-03-04"}},
        {"dates": {}},
        {"attributes": {"colour": "red", "brand": None}},
    ],
)
def test_what_can_be_true_passes(facts: dict | None) -> None:
    assert faults(facts) == []
