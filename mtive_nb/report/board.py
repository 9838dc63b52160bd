"""The board of the papers' claims, and the tiles on top of the report."""

import csv
from pathlib import Path
from typing import Any

from mtive_nb.evaluate.claims import SYSTEMS, load_claims
from mtive_nb.report.tables import REFERENCE, as_difference, number, of_most_seeds, short
from mtive_nb.run.published import PAPERS, load_published

VERDICTS = ("holds", "open", "does not hold")
SYMBOLS = {"holds": "✔", "open": "?", "does not hold": "✘", "not decided": "–"}


def claims_board(folders: list[Path]) -> list[dict[str, Any]]:
    """Return each claim from the first chapter that decided it: chapter 21 (several seeds), 20 (report), any other.

    `tries`: the claim decided again with a single change (chapter 26). `tasks`: (task, verdict) pairs.
    """
    found: dict[str, dict[str, Any]] = {}
    for folder in sorted(folders, key=lambda f: -int(f.name[:2]) if f.name[:2] in ("20", "21") else 0):
        for row in _table(folder, "claims"):
            if not found.get(row["claim"], {}).get("n"):
                found[row["claim"]] = _rounded(row, row.get("unit")) | {"notebook": folder.name, "tries": []}
    for folder in folders:
        for row in _table(folder, "why"):
            if claim := found.get(row["claim"]):
                claim["tries"].append(_rounded(row, claim.get("unit")) | {"notebook": folder.name})
    return [claim | _about(claim) for claim in found.values()]


def _about(claim: dict[str, Any]) -> dict[str, Any]:
    """Return what a row of the board shows beside the claim's own fields."""
    test = {c["id"]: c["test"] for c in load_claims()}.get(claim["claim"], {})
    sides = {side: SYSTEMS.get(test.get(side), str(test.get(side) or "")) for side in ("left", "right")}
    verdict = claim["verdict"] if claim["verdict"] in VERDICTS else "not decided"
    tasks = [part.split(" ", 1) for part in claim.get("by_task", "").split(", ") if " " in part]
    paper = PAPERS.get(claim["claim"].split("-")[0], "")
    return sides | {"paper": paper, "kind": verdict, "symbol": SYMBOLS[verdict], "tasks": tasks}


def _rounded(row: dict[str, str], unit: str | None) -> dict[str, str]:
    """Format a row of a claims table for reading; differences have the decimals of their unit."""
    differences = {k: number(float(row[k]), unit or "") for k in ("gain", "low", "high") if row.get(k)}
    counts = {k: number(float(row[k])) for k in ("n", "seeds") if row.get(k)}
    return {k: short(v) for k, v in row.items()} | differences | counts


def _table(folder: Path, name: str) -> list[dict[str, str]]:
    """Return the rows of a run folder's table, or an empty list if the table does not exist."""
    path = folder / "tables" / f"{name}.csv"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return list(csv.DictReader(text.splitlines(keepends=True)))


def tally(claims: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Count the testable claims that hold, are open, do not hold or were not decided, by paper and priority."""
    testable = [c for c in claims if not c["verdict"].startswith("not testable")]
    groups = {"1": ("1",), "2": ("2",), "1 and 2": ("1", "2"), "3": ("3",)}
    rows = []
    for paper, title in PAPERS.items():
        for name, priorities in groups.items():
            found = [c for c in testable if c["claim"].startswith(f"{paper}-") and c["priority"] in priorities]
            counts = {v: sum(c["verdict"] == v for c in found) for v in VERDICTS}
            counts = {"testable": len(found), **counts, "not decided": len(found) - sum(counts.values())}
            rows += [{"paper": title, "priority": name, **counts}] if found else []
    return rows


def claim_tiles(claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a tile per paper: how many of its claims, of any priority, hold, are open, do not hold, were not decided."""
    tiles = []
    for title in PAPERS.values():
        kinds = [c["kind"] for c in claims if c["paper"] == title and not c["verdict"].startswith("not testable")]
        counts = [(kind, SYMBOLS[kind], kinds.count(kind)) for kind in SYMBOLS]
        tiles += [{"paper": title, "counts": counts, "total": len(kinds)}] if kinds else []
    return tiles


def headline(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Return MTIVE's T1 in one figure: the mean accuracy of each system less that of Base_SL, the paper's and ours.

    `rows`: name, `paper` and `ours` as differences in points, `level` as our mean, positions in percent of the axis.
    The mean is over the tasks that we have. Empty without our Base_SL.
    """
    mine = of_most_seeds(m for m in metrics if (m["paper"], m["table"]) == ("mtive", "T1"))
    mine = {key: found[0] for key, found in mine.items() if key[1].endswith("/Acc")}
    tasks = [column for row, column in mine if row == REFERENCE]
    if not tasks:
        return {}
    printed = {(p.row, p.column): as_difference(p) for p in load_published() if (p.paper, p.table) == ("mtive", "T1")}

    def mean(found: dict, row: str) -> float | None:
        values = [found.get((row, task)) for task in tasks]
        return None if None in values else sum(values) / len(values)

    values = {key: m["value"] for key, m in mine.items()}
    names = [row for row in dict.fromkeys(row for row, _ in mine) if mean(values, row) is not None]
    gaps = {row: mean(values, row) - mean(values, REFERENCE) for row in names}
    paper = {row: mean(printed, row) - mean(printed, REFERENCE) for row in names if mean(printed, row) is not None}
    low, high = (f([*gaps.values(), *paper.values(), 0]) for f in (min, max))
    place = lambda x: round(4 + 92 * (x - low) / max(high - low, 1e-9), 2)  # noqa: E731
    rows = [
        {"name": row, "level": number(mean(values, row), "points")}
        | {"ours": number(gaps[row], "points", sign=True), "ours_at": place(gaps[row])}
        | ({"paper": number(paper[row], "points", sign=True), "paper_at": place(paper[row])} if row in paper else {})
        for row in sorted(names, key=lambda row: gaps[row])
    ]
    seeds = max(m.get("seeds", 1) for m in mine.values())
    n = sum(mine[REFERENCE, task]["n"] for task in tasks)
    return {"rows": rows, "zero": place(0.0), "tasks": [t.split("/")[0] for t in tasks], "seeds": seeds, "n": n}
