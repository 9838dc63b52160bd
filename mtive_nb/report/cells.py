"""Texts of numbers and cells, and the folders and tables of results that the report reads."""

import csv
from pathlib import Path

DECIMALS = {
    "points 0-100": 1, "points": 1, "fraction": 3, "share": 3, "correlation": 3, "cosine": 3, "f1": 3, "s": 1,
}  # fmt: skip  # by unit


def number(value: float, unit: str = "") -> str:
    """Format a number for a table: its unit's decimals, else four significant digits; commas between thousands."""
    if unit in DECIMALS:
        return f"{value:,.{DECIMALS[unit]}f}"
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def short(text: str) -> str:
    """Shorten a CSV cell for reading: round floats, cut long texts."""
    try:
        return number(float(text)) if "." in text or "e" in text.lower() else text
    except (ValueError, OverflowError):
        return text if len(text) <= 300 else text[:300] + " …"


def run_folders(profile_dir: Path) -> list[Path]:
    """Return the folders of a profile's good results, in order; failed and partial runs are left out."""
    found = profile_dir.glob("[0-9][0-9]_*") if profile_dir.is_dir() else ()
    return sorted(p for p in found if p.is_dir() and p.suffix == "")


def read_table(folder: Path, name: str) -> list[dict[str, str]]:
    """Return the rows of a run folder's table, or an empty list if the table does not exist."""
    path = folder / "tables" / f"{name}.csv"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return list(csv.DictReader(text.splitlines(keepends=True)))
