"""Tables of the report: a paper's table with our numbers in its cells, our own numbers, the tables of a run folder."""

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mtive_nb.run.published import PAPERS, Published, Table, columns_of, load_published, load_tables, rows_of

ROWS_SHOWN = 24
# A wider table is split by the part of its column names before the slash ("AE/Acc": by task).
COLUMNS_SHOWN = 6
# Where a paper prints differences to a row that it does not print, its numbers and ours become differences to this row.
REFERENCE = "Base_SL"
ITSELF = "*"  # printed in the row to which a table's numbers are differences
DECIMALS = {
    "points 0-100": 1, "points": 1, "fraction": 3, "share": 3, "correlation": 3, "cosine": 3, "f1": 3, "s": 1,
}  # fmt: skip  # by unit
UNITS = {"percent_points": "percentage points", "f1_points": "points of F1", "x": "times"}


def number(value: float, unit: str = "", *, sign: bool = False) -> str:
    """Format a number for a table: its unit's decimals, else four significant digits; commas between thousands."""
    plus = "+" if sign else ""
    if unit in DECIMALS:
        return f"{round(value, DECIMALS[unit]) or 0.0:{plus},.{DECIMALS[unit]}f}"  # no "-0.0"
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{int(value):{plus},}"
    return f"{value:{plus},.1f}" if abs(value) >= 1000 else f"{value:{plus}.4g}"


def unit_in_words(claim: dict[str, Any]) -> str:
    """Return the unit of a claim's difference in words, an empty text without one."""
    unit = claim.get("unit") or ""
    return UNITS.get(unit, unit)


def cell_of(metric: dict[str, Any], *, with_unit: bool = False) -> dict[str, str]:
    """Return one of our numbers as texts for a table cell: value, interval, n with seed (and unit), and notebook."""
    low, high = metric.get("low"), metric.get("high")
    unit = metric["unit"]
    value, interval = number(metric["value"], unit), "no interval"
    if low is not None and high is not None:
        interval = f"{number(low, unit)} to {number(high, unit)}"
    if metric["better"] == "none":
        interval = ""  # a count or a setting
    seeds = metric.get("seeds", 1)
    basis = f"n {metric['n']:,} · " + (f"{seeds} seeds" if seeds > 1 else f"seed {metric['seed']}")
    basis = f"{unit} · {basis}" if with_unit else basis
    return {"value": value, "interval": interval, "basis": basis, "notebook": metric["notebook"], "gap": ""}


def of_most_seeds(metrics: Iterable[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the numbers by (row, column); of one key, those that rest on the most seeds."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for metric in metrics:
        found.setdefault((metric["row"], metric["column"]), []).append(metric)
    most = {key: max(m.get("seeds", 1) for m in same) for key, same in found.items()}
    return {key: [m for m in same if m.get("seeds", 1) == most[key]] for key, same in found.items()}


def paper_table(
    paper: str, table: str, *, metrics: list[dict[str, Any]], stand_ins: dict[str, list[str]], own: dict[str, dict]
) -> dict[str, Any]:
    """Return a paper's table with our numbers in its cells; rows that only we have come last.

    own: our tables by "notebook/table"; a table of texts or properties appears below the paper's table.
    """
    printed = {(p.row, p.column): p for p in load_published() if (p.paper, p.table) == (paper, table)}
    about = load_tables().get((paper, table))
    ours = of_most_seeds(metrics)
    known = rows_of(paper, table)
    rows = [*known, *dict.fromkeys(row for row, _ in ours if row not in known)]
    groups, rescaled = [], set()
    for title, columns in column_groups(columns_of(paper, table)):
        mine = {c: [m for (_, name), same in ours.items() if name == c for m in same] for c in columns}
        units = {c: {m["unit"] for m in mine[c]} for c in columns}
        cells = {c: _column(c, rows, printed, ours, about, with_unit=len(units[c]) > 1) for c in columns}
        rescaled |= {_reference(c, printed) for c in columns if any(cell["gap"] for cell in cells[c].values())}
        lines = [{"name": r, "cells": [cells[c][r] for c in columns], "only_ours": r not in known} for r in rows]
        lines = [line | {"ours": any(c["ours"] for c in line["cells"])} for line in lines]
        lines = [line for line in lines if line["ours"] or any(c["paper"] for c in line["cells"])]
        groups.append({"title": title, "heads": [_head(c, mine[c], units[c], about) for c in columns], "rows": lines})
    shown = own.get(about.ours) if about else None
    notebooks = sorted({m["notebook"] for m in metrics} | ({about.ours.split("/")[0]} if shown else set()))
    remarks = [f"{p.row}, {p.column}: {p.note}" for p in printed.values() if _is_remark(p.note)]
    notes: dict[str, list[str]] = {}
    for notebook in notebooks:
        for text in (text for text in stand_ins.get(notebook, []) if _concerns(text, table)):
            notes.setdefault(text, []).append(notebook)
    return {
        "id": f"{paper}-{table}",
        "paper": PAPERS[paper],
        "title": f"{PAPERS[paper]} {table}" + (f": {about.title}" if about else ""),
        "relative_to": about.relative_to if about else None,
        "rescaled": ", ".join(sorted(rescaled)),
        "anomalies": about.anomalies if about else (),
        "remarks": remarks,
        "groups": [group for group in groups if group["rows"]],
        "own": shown,
        "notebooks": notebooks,
        "stand_ins": notes,
    }


def _column(
    column: str,
    rows: list[str],
    printed: dict[tuple[str, str], Published],
    ours: dict[tuple[str, str], list[dict[str, Any]]],
    about: Table | None,
    *,
    with_unit: bool,
) -> dict[str, dict[str, Any]]:
    """Return a column's cells by row; if the paper prints differences, both are differences to the same row."""
    reference = _reference(column, printed)
    base = as_difference(printed.get((reference, column)))
    mine = ours.get((reference, column), [])
    same_scale = about is not None and about.relative_to and base is not None and mine
    cells = {}
    for row in rows:
        paper, found = printed.get((row, column)), ours.get((row, column), [])
        cell = {
            "paper": paper.value if paper else "",
            "gap": "",
            "ours": [cell_of(m, with_unit=with_unit) for m in found],
        }
        if same_scale:
            value = as_difference(paper)
            cell["gap"] = "" if value is None else number(value - base, "points", sign=True)
            for shown, metric in zip(cell["ours"], found, strict=True):
                shown["gap"] = number(metric["value"] - mine[0]["value"], metric["unit"], sign=True)
        cells[row] = cell
    return cells


def _reference(column: str, printed: dict[tuple[str, str], Published]) -> str:
    """Return the row to which a column's numbers are differences: the one row printed as "*", else REFERENCE."""
    marked = [row for (row, c), p in printed.items() if c == column and p.value == ITSELF]
    return marked[0] if len(marked) == 1 else REFERENCE


def as_difference(cell: Published | None) -> float | None:
    """Return a printed difference ("+10.4", "0.0", or "*" for the row itself) as a number; None for a mark or a level."""
    if cell and cell.value in (ITSELF, "0.0"):
        return 0.0
    return float(cell.value) if cell and re.fullmatch(r"[+-]\d+(\.\d+)?", cell.value) else None


def _concerns(note: str, table: str) -> bool:
    """Return whether a note concerns `table`; a note that begins with a table ("T4: ...") concerns only that table."""
    named = re.match(r"(T\d+): ", note)
    return named is None or named[1] == table


def _is_remark(note: str) -> bool:
    """Return whether a note says more than the place of a row, a blank cell, or the printed spelling of a number."""
    said = [
        part for part in note.split("; ") if part and part != "blank in print" and not re.fullmatch(r"row \d+", part)
    ]
    return len(said) > 1 or any(not part.startswith(("group=", "env=", "printed ")) for part in said)


def _head(column: str, mine: list[dict[str, Any]], units: set[str], about: Table | None) -> dict[str, Any]:
    """Return a column's name, the unit that all our numbers have, and whether higher or lower is better."""
    direction = mine[0]["better"] if mine else ""
    if about and not direction:
        direction = next((d for name, d, _ in about.metrics if column.split("/")[-1] == name.split(" ")[0]), "")
    arrow = {"higher": "higher is better", "lower": "lower is better"}.get(direction, "")
    return {"name": column, "unit": next(iter(units)) if len(units) == 1 else "", "arrow": arrow, "ours": bool(mine)}


def column_groups(columns: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Group columns by the part before the slash if one table is too wide; else return one untitled group."""
    columns = list(columns)
    if len(columns) <= COLUMNS_SHOWN:
        return [("", columns)]
    groups: dict[str, list[str]] = {}
    for column in columns:
        groups.setdefault(column.split("/")[0] if "/" in column else "", []).append(column)
    return list(groups.items())


def pivoted(lines: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Turn a long list of numbers (row, column, value, ...) into tables of rows by columns; empty if that saves nothing.

    A list is left long if two of its numbers share a cell, if it has one row or one column, or if most cells stay empty.
    """
    cells = {(line["row"], line["column"]): line for line in lines}
    rows, columns = (list(dict.fromkeys(line[key] for line in lines)) for key in ("row", "column"))
    if len(cells) < len(lines) or min(len(rows), len(columns)) < 2 or len(cells) < 0.6 * len(rows) * len(columns):
        return []
    tables = []
    for title, some in column_groups(columns):
        heads = [next(line for line in lines if line["column"] == c) for c in some]
        full = [{"name": r, "cells": [cells.get((r, c)) for c in some]} for r in rows]
        tables.append({"title": title, "heads": heads, "rows": [row for row in full if any(row["cells"])]})
    return tables


def table_files(folder: Path) -> list[dict[str, Any]]:
    """Return the tables/*.csv of a run folder, each cut after ROWS_SHOWN rows; a long table of scores is pivoted."""
    tables = []
    for path in sorted((folder / "tables").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            head, *lines = list(csv.reader(file)) or [[]]
        if not head:
            continue
        body = [[short(text) for text in line] for line in lines[:ROWS_SHOWN]]
        more = max(0, len(lines) - ROWS_SHOWN)
        table = {"name": path.stem, "head": head, "rows": body, "more": more, "count": len(lines)}
        table["pivots"] = _scores(head, lines) if more else []
        table["prompt"] = "\n".join(line[0] for line in lines) if path.stem.endswith("prompt") else ""
        tables.append(table)
    return tables


def _scores(head: list[str], lines: list[list[str]]) -> list[dict[str, Any]]:
    """Return a table of scores (system, metric or the like, value) pivoted; empty for any other table."""
    name = next((n for n in ("metric", "column", "attribute") if n in head), "")
    if not name or not {"system", "value"} <= set(head):
        return []
    rows = [dict(zip(head, line, strict=False)) for line in lines]
    texts = {"unit": "", "better": ""}
    return pivoted(
        [
            {k: row.get(k, v) for k, v in texts.items()}
            | {"row": row["system"], "column": row[name], "value": short(row["value"]), "interval": _interval(row)}
            | {"basis": f"n {row['n']}" if row.get("n") else ""}
            for row in rows
        ]
    )


def _interval(row: dict[str, str]) -> str:
    return f"{short(row['low'])} to {short(row['high'])}" if row.get("low") and row.get("high") else ""


def short(text: str) -> str:
    """Shorten a CSV cell for reading: round floats, cut long texts."""
    try:
        return number(float(text)) if "." in text or "e" in text.lower() else text
    except (ValueError, OverflowError):
        return text if len(text) <= 300 else text[:300] + " …"
