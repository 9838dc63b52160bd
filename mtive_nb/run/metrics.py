"""A run's metrics: check each number, convert a notebook's tables, read metrics.jsonl back."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtive_nb.run.published import check_keys

if TYPE_CHECKING:
    import pandas

BETTER = ("higher", "lower", "none")
KEY = ("paper", "table", "row", "column", "seed")  # a metric's key: a second number replaces the first
OWN_COLUMNS = ("paper", "table", "unit", "better", "n", "low", "high")  # columns that override arguments


def lines_of(
    frame: "pandas.DataFrame | pandas.Series",
    *,
    row: str,
    column: str,
    value: str,
    unit: str | Mapping[str, str],
    better: str | Mapping[str, str],
) -> list[dict[str, Any]]:
    """Return the metrics of a table without NaN values; arguments as in Run.metrics."""
    if not isinstance(unit, str):
        lines = _of_wide(frame, unit, dict.fromkeys(unit, better) if isinstance(better, str) else better)
    elif not hasattr(frame, "columns"):
        places = [{"row": row, "column": str(name)} for name in frame.index]
        if column != "column":
            places = [{"row": str(name), "column": column} for name in frame.index]
        cells = zip(places, frame, strict=True)
        lines = [place | {"value": number, "unit": unit, "better": better} for place, number in cells]
    else:
        column = "metric" if column == "column" and "column" not in frame and "metric" in frame else column
        lines = []
        for cells in frame.to_dict("records"):
            place = {"row": str(cells.get(row, row)), "column": str(cells.get(column, column)), "value": cells[value]}
            lines.append({"unit": unit, "better": better} | place | {k: cells[k] for k in OWN_COLUMNS if k in cells})
    return [line for line in lines if not math.isnan(line["value"])]


def _of_wide(frame: "pandas.DataFrame", units: Mapping[str, str], better: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {"row": str(name), "column": column, "value": cells[column], "unit": unit, "better": better[column]}
        for name, cells in frame.iterrows()
        for column, unit in units.items()
    ]


def checked_metric(given: Mapping[str, Any], *, seed: int) -> dict[str, Any]:
    """Check a metric and return its line of metrics.jsonl; `seed` is the run's. Errors: ValueError as in Run.metric."""
    paper, table, row, column = (given[key] for key in ("paper", "table", "row", "column"))
    check_keys(paper=paper, table=table, column=column)
    where = f"metric {paper} {table} {row} {column}"
    value, low, high, n = float(given["value"]), _number(given["low"]), _number(given["high"]), int(given["n"])
    if not (table and given["unit"]):
        raise ValueError(f"{where}: table {table!r}, unit {given['unit']!r}: expected both")
    if given["better"] not in BETTER:
        raise ValueError(f"{where}: better={given['better']!r}: expected one of {', '.join(BETTER)}")
    if not math.isfinite(value):
        raise ValueError(f"{where}: found {value}, expected a finite number; leave out unmeasured values")
    if n < 1:
        raise ValueError(f"{where}: n={n}: expected at least one item")
    if low is not None and high is not None and not low <= value <= high:
        raise ValueError(f"{where}: {value} lies outside its interval [{low}, {high}]")
    line = {"paper": paper, "table": table, "row": row, "column": column, "value": value, "unit": given["unit"]}
    line |= {"better": given["better"], "n": n, "low": low, "high": high}
    return line | {"seed": seed if given["seed"] is None else int(given["seed"]), "seeds": int(given["seeds"])}


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of a run folder's metrics.jsonl. Errors: ValueError with file and line for a broken line."""
    path = folder / "metrics.jsonl"
    metrics = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else (), start=1):
        try:
            metrics.append(json.loads(line) | {"notebook": folder.name})
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error}); run the notebook again") from None
    return metrics
