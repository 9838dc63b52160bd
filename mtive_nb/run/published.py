"""The papers' numbers, as printed: published.csv and tables.yaml, shipped in the package."""

import csv
import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

HERE = Path(__file__).parent
PAPERS = {"mtive": "MTIVE", "vitpro": "VIT-Pro", "ebay": "eBay", "caslie": "CASLIE"}


@dataclass(frozen=True)
class Published:
    """One printed number; `value` is its text, since many are relative ("+10.4") and some are marks ("*")."""

    paper: str
    table: str
    row: str
    column: str
    value: str
    note: str


@dataclass(frozen=True)
class Table:
    """Description of a paper's table; `metrics` contains (name, direction, unit).

    ours: "notebook/table" of our run folders, for a table of texts or properties, where our numbers have no place.
    """

    paper: str
    table: str
    title: str
    metrics: tuple[tuple[str, str, str], ...]
    relative_to: str | None
    anomalies: tuple[str, ...]
    ours: str = ""


@cache
def load_published() -> tuple[Published, ...]:
    """Read every number that the four papers print, in the papers' order."""
    with (HERE / "published.csv").open(encoding="utf-8", newline="") as file:
        return tuple(Published(**line) for line in csv.DictReader(file))


@cache
def load_tables() -> dict[tuple[str, str], Table]:
    """Read the descriptions of the papers' tables by (paper, table), e.g. ("mtive", "T1")."""
    tables = {}
    for entry in yaml.safe_load((HERE / "tables.yaml").read_text(encoding="utf-8")):
        paper, table = entry["id"].split("/", 1)
        metrics = tuple((m["name"], m["direction"], m["unit"]) for m in entry["metrics"] or [])
        anomalies = tuple(entry["anomalies"] or [])
        about = entry["title"], metrics, entry["relative_to"], anomalies, entry.get("ours", "")
        tables[paper, table] = Table(paper, table, *about)
    return tables


def columns_of(paper: str, table: str) -> tuple[str, ...]:
    """Return the columns of a paper's table, in its order; empty for a table without numbers."""
    return tuple(dict.fromkeys(p.column for p in load_published() if (p.paper, p.table) == (paper, table)))


def rows_of(paper: str, table: str) -> tuple[str, ...]:
    """Return the rows of a paper's table, in its order."""
    return tuple(dict.fromkeys(p.row for p in load_published() if (p.paper, p.table) == (paper, table)))


def check_keys(*, paper: str, table: str, column: str) -> None:
    """Refuse a metric whose paper, table or column is not in published.csv; `paper="own"` is not checked.

    Rows are not checked, because our own systems may appear below the paper's rows. Errors: ValueError.
    """
    if paper == "own":
        return
    if paper not in PAPERS:
        raise ValueError(f"metric: paper {paper!r}: expected one of {', '.join(PAPERS)}, or own")
    columns = columns_of(paper, table)
    if not columns:
        known = dict.fromkeys(p.table for p in load_published() if p.paper == paper)
        raise ValueError(
            f"metric: {paper} prints no numbers in table {table!r}: expected one of {', '.join(known)}; "
            'or use paper="own"'
        )
    if column not in columns:
        near = difflib.get_close_matches(column, columns, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(
            f"metric: {paper} {table} has no column {column!r}{hint}: expected one of {', '.join(columns)}; "
            'or use paper="own"'
        )
