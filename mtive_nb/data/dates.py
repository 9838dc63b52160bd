"""Printed dates: the formats found on packages, random dates in these formats, and a parser.

The project's only module for date formats: Pocket Mart and `composite.py` print with it, the metrics parse with it.
The true date is an ISO string, `YYYY-MM-DD`, or `YYYY-MM` where the package shows only the month. Dates without a month
name are read day first (03/04/23 is the third of April), as in Europe and India, unless a year of four digits leads.
"""

from __future__ import annotations

import datetime as dt
import re

import numpy as np

MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")

# {b} month name, {d} day, {m} month, {y} year of two digits, {Y} year of four. The comments show 3 August 2021.
DATE_FORMATS: tuple[str, ...] = (
    "{d} {b} {Y}",  # 03 AUG 2021
    "{Y}.{m}.{d}",  # 2021.08.03
    "{d}/{m}/{Y}",  # 03/08/2021
    "{d}/{m}/{y}",  # 03/08/21
    "{b} {Y}",  # AUG 2021: month only
    "{b}/{d}/{y}",  # AUG/03/21
    "{Y}-{m}-{d}",  # 2021-08-03
    "{d} {m} {y}",  # 03 08 21
    "{d}{b}{y}",  # 03AUG21
    "{d}.{m}.{Y}",  # 03.08.2021
    "{m}/{Y}",  # 08/2021: month only
)

EXPIRY_PREFIXES: tuple[str, ...] = ("EXP", "BEST BEFORE", "USE BY", "BB", "E")
PRODUCTION_PREFIXES: tuple[str, ...] = ("MFG", "PROD", "PKD", "P")

MAX_LINE_CHARS = 14  # a line of 14 characters is still legible on a label 168 px wide
FIRST_EXPIRY, LAST_EXPIRY = dt.date(2020, 1, 1), dt.date(2027, 12, 31)

_DAY_FIRST = re.compile(r"(\d{1,2})[ ./-](\d{1,2})[ ./-](\d{4}|\d{2})")
_YEAR_FIRST = re.compile(r"(\d{4})[ ./-](\d{1,2})[ ./-](\d{1,2})")
_DAY_NAME_YEAR = re.compile(r"(\d{1,2})[ ./-]?([A-Z]{3})[A-Z]*[ ./-]?(\d{4}|\d{2})")
_NAME_DAY_YEAR = re.compile(r"([A-Z]{3})[A-Z]*[ ./-](\d{1,2})[ ./,-]+(\d{4}|\d{2})")
_NAME_YEAR = re.compile(r"([A-Z]{3})[A-Z]*[ ./-]?(\d{4}|\d{2})")
_MONTH_YEAR = re.compile(r"(\d{1,2})[ ./-](\d{4})")
_YEAR_MONTH = re.compile(r"(\d{4})[ ./-](\d{1,2})")


def format_date(date: dt.date, fmt: str) -> str:
    """Print `date` in one of `DATE_FORMATS`, in capitals, with two digits for days and months."""
    if fmt not in DATE_FORMATS:
        raise ValueError(f"format_date: found the format {fmt!r}, expected one of DATE_FORMATS {DATE_FORMATS}")
    return fmt.format(
        d=f"{date.day:02d}", m=f"{date.month:02d}", b=MONTHS[date.month - 1], y=f"{date.year % 100:02d}", Y=date.year
    )


def iso_date(date: dt.date, fmt: str) -> str:
    """The ISO date that a print in `fmt` shows: `YYYY-MM-DD`, or `YYYY-MM` when the format has no day."""
    return date.isoformat() if "{d}" in fmt else f"{date.year:04d}-{date.month:02d}"


def parse_date(text: str) -> str | None:
    """Parse a date, as printed or as a model wrote it, into ISO; a prefix such as EXP may precede it.

    Returns None for a date that does not exist (31/02/21), or text beyond one prefix and one date: nothing is guessed.
    """
    text = strip_prefix(text)
    readers = (
        (_YEAR_FIRST, lambda g: (g[0], g[1], g[2])),
        (_DAY_FIRST, lambda g: (g[2], g[1], g[0])),
        (_DAY_NAME_YEAR, lambda g: (g[2], _month(g[1]), g[0])),
        (_NAME_DAY_YEAR, lambda g: (g[2], _month(g[0]), g[1])),
        (_NAME_YEAR, lambda g: (g[1], _month(g[0]), None)),
        (_YEAR_MONTH, lambda g: (g[0], g[1], None)),
        (_MONTH_YEAR, lambda g: (g[1], g[0], None)),
    )
    for pattern, order in readers:
        match = pattern.fullmatch(text)
        if match:
            return _to_iso(*order(match.groups()))
    return None


def strip_prefix(text: str) -> str:
    """The text in capitals, without a leading EXP, BEST BEFORE, MFG ...: `Best By FEB/21/21` gives `FEB/21/21`."""
    words = (*EXPIRY_PREFIXES, *PRODUCTION_PREFIXES, "EXPIRY", "EXPIRES", "BBE", "BEST BY", "MFD")
    alternatives = "|".join(sorted(map(re.escape, words), key=len, reverse=True))
    return re.sub(rf"^(?:{alternatives})(?![A-Z])[ .:]*", "", text.upper().strip()).strip()


def random_dates(
    rng: np.random.Generator, *, share_production: float = 0.35, share_none: float = 0.0
) -> dict[str, object]:
    """Draw the dates of one package.

    Returns `expiry`, `expiry_text`, `production`, `production_text` (ISO and as printed; None where not printed) and
    `lines`, what to print line by line with prefixes, each of at most `MAX_LINE_CHARS` characters ([] for no date).
    """
    found: dict[str, object] = dict.fromkeys(("expiry", "expiry_text", "production", "production_text"))
    found["lines"] = []
    if rng.random() < share_none:
        return found
    days = int(rng.integers((LAST_EXPIRY - FIRST_EXPIRY).days + 1))
    expiry = FIRST_EXPIRY + dt.timedelta(days=days)
    fmt = str(rng.choice(DATE_FORMATS))
    blocks = [_print(found, "expiry", expiry, fmt=fmt, prefix=str(rng.choice(EXPIRY_PREFIXES)))]
    if rng.random() < share_production:
        production = expiry - dt.timedelta(days=int(rng.integers(60, 900)))
        block = _print(found, "production", production, fmt=fmt, prefix=str(rng.choice(PRODUCTION_PREFIXES)))
        blocks.insert(
            int(rng.integers(2)), block
        )  # either date may come first: its prefix identifies it, not its position
    found["lines"] = [line for block in blocks for line in block]
    return found


def _print(found: dict[str, object], which: str, date: dt.date, *, fmt: str, prefix: str) -> list[str]:
    text = format_date(date, fmt)
    found[which], found[f"{which}_text"] = iso_date(date, fmt), text
    line = f"{prefix} {text}"
    return [line] if len(line) <= MAX_LINE_CHARS else [prefix, text]


def _month(name: str) -> int | None:
    return MONTHS.index(name) + 1 if name in MONTHS else None


def _to_iso(year: str, month: str | int | None, day: str | None) -> str | None:
    if month is None:
        return None
    full_year = int(year) if len(year) == 4 else 2000 + int(year)
    try:
        date = dt.date(full_year, int(month), int(day) if day is not None else 1)
    except ValueError:  # no such day in the calendar
        return None
    return date.isoformat() if day is not None else date.isoformat()[:7]
