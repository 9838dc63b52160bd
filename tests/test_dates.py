import datetime as dt

import numpy as np
import pytest

from mtive_nb.data.dates import DATE_FORMATS, MAX_LINE_CHARS, format_date, iso_date, parse_date, random_dates


@pytest.mark.parametrize(
    ("text", "iso"),
    [  # as printed on real packages and in the issue, read by hand
        ("11 APR 2021", "2021-04-11"),
        ("2021.08.03", "2021-08-03"),
        ("26/11/2021", "2021-11-26"),
        ("03/04/23", "2023-04-03"),
        ("NOV 2021", "2021-11"),
        ("NOV2021", "2021-11"),
        ("FEB/21/21", "2021-02-21"),
        ("2023-07-14", "2023-07-14"),
        ("28 10 21", "2021-10-28"),
        ("14AUG22", "2022-08-14"),
        ("08/2021", "2021-08"),
        ("2021-11", "2021-11"),
        ("BEST BEFORE:03/04/23", "2023-04-03"),
        ("Best By FEB/21/21", "2021-02-21"),
        ("E 28 10 21", "2021-10-28"),
        ("EXP: 26/11/2021", "2021-11-26"),
        ("31/02/21", None),
        ("13 13 21", None),
        ("12 XYZ 2021", None),
        ("LOT AB1234", None),
        ("NET 250 G", None),
        ("", None),
    ],
)
def test_parse_date(text, iso):
    assert parse_date(text) == iso


def test_printed_dates_are_spelled_as_on_packages():
    printed = {format_date(dt.date(2021, 8, 3), fmt) for fmt in DATE_FORMATS}
    assert len(DATE_FORMATS) >= 9 and len(printed) == len(DATE_FORMATS)
    assert printed >= {
        "03 AUG 2021",
        "2021.08.03",
        "03/08/2021",
        "03/08/21",
        "AUG 2021",
        "AUG/03/21",
        "03 08 21",
        "03AUG21",
    }


@pytest.mark.parametrize("fmt", DATE_FORMATS)
def test_every_format_reads_back_on_every_day_of_a_leap_year(fmt):
    for day in range(366):
        date = dt.date(2024, 1, 1) + dt.timedelta(days=day)
        assert parse_date(format_date(date, fmt)) == iso_date(date, fmt)


def test_unknown_format_is_refused():
    with pytest.raises(ValueError, match="DATE_FORMATS"):
        format_date(dt.date(2021, 8, 3), "{Y}")


def test_random_dates_agree_with_what_is_printed():
    rng = np.random.default_rng(3)
    drawn = [random_dates(rng, share_none=0.2) for _ in range(400)]
    for dates in drawn:
        assert all(len(line) <= MAX_LINE_CHARS for line in dates["lines"])
        for which in ("expiry", "production"):
            text = dates[f"{which}_text"]
            assert (text is None) == (dates[which] is None)
            if text is not None:
                assert parse_date(text) == dates[which] and any(line.endswith(text) for line in dates["lines"])
        if dates["production"]:
            assert dates["production"] < dates["expiry"]
    empty = sum(not dates["lines"] for dates in drawn)
    assert 50 < empty < 110 and 60 < sum(dates["production"] is not None for dates in drawn) < 160


def test_random_dates_follow_the_seed():
    assert random_dates(np.random.default_rng(5)) == random_dates(np.random.default_rng(5))
