"""Printed dates: the formats found on packages, random dates in these formats, and a parser.

The project's only module for date formats: Pocket Mart and `composite.py` print with it, the metrics parse with it.
The true date is an ISO string, `YYYY-MM-DD`, or `YYYY-MM` where the package shows only the month. Dates without a month
name are read day first (03/04/23 is the third of April), as in Europe and India, unless a year of four digits leads.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mtive_nb.data.records import final_answer, one_form

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

_MONTH = (
    "(JAN(?:UARY)?|FEB(?:RUARY)?|MAR(?:CH)?|APR(?:IL)?|MAY|JUNE?|JULY?|AUG(?:UST)?"
    "|SEP(?:T(?:EMBER)?)?|OCT(?:OBER)?|NOV(?:EMBER)?|DEC(?:EMBER)?)"
)
_TWO, _DAY = r"(\d{1,2})", r"(\d{1,2})(?:ST|ND|RD|TH)?"
_YEAR, _LONG_YEAR = r"((?:19|20)\d{2}|\d{2})", r"((?:19|20)\d{2})"
_SPACED = " ?[./–-] ?"
# The forms of a date, each with its groups of year, month and, where it has one, day.
_FORMS: tuple[tuple[str, tuple[int, ...]], ...] = (
    (rf"{_LONG_YEAR}[ ./–-]{_TWO}[ ./–-]{_TWO}", (1, 2, 3)),
    (rf"{_LONG_YEAR}[ ./-]?{_MONTH}[ ./-]?{_DAY}", (1, 2, 3)),
    (rf"{_TWO}[ ./–-]{_TWO}[ ./–-]{_YEAR}", (3, 2, 1)),
    (rf"{_TWO}{_SPACED}{_TWO}{_SPACED}{_LONG_YEAR}", (3, 2, 1)),
    (rf"{_DAY}(?: OF)?[ ./-]?{_MONTH}[ ./,'-]{{0,2}}{_YEAR}", (3, 2, 1)),
    (rf"{_MONTH}[ ./-]{{1,2}}{_DAY}[ ./,-]{{1,2}}{_YEAR}", (3, 1, 2)),
    (rf"{_MONTH}[ ./,'-]{{0,2}}{_YEAR}", (2, 1)),
    (rf"{_LONG_YEAR}[./-]{_TWO}", (1, 2)),
    (rf"{_TWO}[./-]{_LONG_YEAR}", (2, 1)),
    (rf"(0[1-9]|1[0-2]) {_LONG_YEAR}", (2, 1)),
)
_READERS = [(re.compile(form, re.IGNORECASE), groups) for form, groups in _FORMS]


def _ungrouped(pattern: str) -> str:
    return re.sub(r"\((?!\?)", "(?:", pattern)


_ANY_DATE = rf"(?<!\w)(?<!\d[./-])(?:{'|'.join(_ungrouped(form) for form, _ in _FORMS)})(?!\w|[./-]\d)"
DATE = re.compile(_ANY_DATE, re.IGNORECASE)

# Words that say what a date is. A single letter counts only right before a date.
_BEFORE_DATE = rf"(?=[ .:]*(?:\d|{_ungrouped(_MONTH)}))"
_LABELS = {
    "expiry": r"EXP(?:IRY|IRES?|IRED|IRING|IRATION|D)?|BEST (?:BEFORE|BY|IF USED BY)|USE[ -](?:BY|BEFORE)"
    rf"|CONSUME (?:BY|BEFORE)|B\.?B\.?|BB[ED]|MHD|UNTIL|E{_BEFORE_DATE}",
    "production": rf"MF[GDR]|MANUFACTUR\w*|PROD(?:UCTION|UCED)?|PACK(?:ED|ING)|PACKAGING DATE|PK[DG]"
    rf"|MADE(?! IN\b)|(?:(?:PACKAGED|ROASTED|BOTTLED|HERGESTELLT)(?: (?:ON|AM))?|DOM|P){_BEFORE_DATE}",
    "lot": rf"LOT|BATCH|CODE|REF|SERIAL|L{_BEFORE_DATE}",
}
_KNOWN_LABELS = {name: re.compile(rf"(?:{words})(?![^\W\d_])", re.IGNORECASE) for name, words in _LABELS.items()}
_LABEL = rf"(?<!\w)(?:{'|'.join(_LABELS.values())})(?![^\W\d_])"
_NOT = r"(?:not|isn't|wasn't) (?:the |its |an? )?"
_TOKEN = re.compile(
    rf"(?P<date>{_ANY_DATE})"
    rf"(?:\s*(?:\(|(?:(?:is|was) )?(?:the|its) )(?P<after>{_LABEL})"
    rf"|(?P<denied> (?:(?:is|was) )?{_NOT}{_LABEL})(?:(?: date)? but (?:the|its) (?P<but>{_LABEL}))?)?"
    rf"|(?P<refused>\b{_NOT}{_LABEL})|{_LABEL}",
    re.IGNORECASE,
)
_GLUED = re.compile(rf"{_LABEL}(?=\d)", re.IGNORECASE)  # EXP26/11/2021
_WORD = re.compile(r"\b(?!(?:dates?|end|on|and|of|by|no|the)\b)\w+", re.IGNORECASE)  # but words between label and date
_PREFIX = re.compile(rf"^(?:{_LABELS['expiry']}|{_LABELS['production']})(?![A-Z])(?: (?:DATE|END|ON))*[ .:]*")
_EDGES = " \t\r\n\"'`.,;:!?()[]*"


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
    for pattern, groups in _READERS:
        if match := pattern.fullmatch(text):
            return _to_iso(*(match[group] for group in groups))
    return None


def strip_prefix(text: str) -> str:
    """The text in capitals, without a leading EXP, BEST BEFORE, MFG ...: `Best By FEB/21/21` gives `FEB/21/21`."""
    return _PREFIX.sub("", one_form(text).strip(_EDGES).upper())


@dataclass(frozen=True)
class StatedDate:
    """A date of a text as it is written, its label ("expiry", "production", "lot", or None), and its ISO date.

    A date of which the text says only what it is not has the label "other". `iso` is None where the calendar has no such day.
    """

    text: str
    label: str | None
    iso: str | None


def dates_in(text: str) -> list[StatedDate]:
    """Find the dates of a sentence or of printed lines, in order, each with the label that stands by it.

    A label counts for the next date on its line or, alone on its line, below it (`BEST BEFORE`, `03 AUG 2021`). Labels
    side by side before as many dates are columns (`MFG EXP`, `03/2024 03/2026`). `03/2026 (EXP)` and `03/2026 is the
    expiry date` are read, too.
    """
    text = _GLUED.sub(r"\g<0> ", one_form(text))
    found: list[StatedDate] = []
    labels: list[re.Match] = []
    dates: list[re.Match] = []
    for token in [*_TOKEN.finditer(text), None]:
        if token and token["date"]:
            dates.append(token)
            continue
        found += _labelled(text, labels, dates)
        if dates:
            labels, dates = [], []
        labels += [token] if token else []
    return found


def stated_date(text: str, label: str) -> str:
    """Return the one date that an answer states under a label ("expiry" or "production"), as the answer writes it.

    A date without a label counts where none has this label. Returns "" where the answer states only other dates, or
    several, and the text itself where it has no date.
    """
    text = final_answer(text)
    if not (found := dates_in(text)):
        return text
    named = [date for date in found if date.label == label] or [date for date in found if date.label is None]
    return named[0].text if len({date.iso or date.text for date in named}) == 1 else ""


def _labelled(text: str, labels: list[re.Match], dates: list[re.Match]) -> list[StatedDate]:
    """Give a run of dates the labels that stand before it; `not the expiry` counts where no other label stands there."""
    labels = [label for label in labels if not label["refused"]] or labels[-1:]
    if dates and labels:
        gap = text[labels[-1].end() : dates[0].start()]
        labels = [] if "\n" in gap and _WORD.search(gap) else labels
    columns = all(not _WORD.search(text[a.end() : b.start()]) for a, b in pairwise(labels))
    if len(labels) != len(dates) or not columns:
        labels = labels[-1:]
    return [
        StatedDate(date["date"], _label_of(date, label), parse_date(date["date"]))
        for date, label in zip(dates, [*labels, *[None] * len(dates)], strict=False)
    ]


def _label_of(date: re.Match, label: re.Match | None) -> str | None:
    """Return a date's label from its own token and the label before it."""
    if (word := date["after"] or date["but"]) is None and label and not label["refused"]:
        word = label[0]
    if word is None:
        return "other" if date["denied"] or label else None
    # a single letter is a label only before a date
    return next((name for name, known in _KNOWN_LABELS.items() if known.match(f"{word} 1")), None)


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


def _to_iso(year: str, month: str, day: str | None = None) -> str | None:
    """The ISO date; two digits of a year are read as POSIX reads them, 69 to 99 as the last century."""
    full_year = int(year) if len(year) == 4 else int(year) + (1900 if int(year) >= 69 else 2000)
    number = int(month) if month.isdigit() else MONTHS.index(month[:3].upper()) + 1
    try:
        date = dt.date(full_year, number, int(day) if day is not None else 1)
    except ValueError:  # no such day in the calendar
        return None
    return date.isoformat() if day is not None else date.isoformat()[:7]
