"""One static HTML page per profile: the papers' numbers beside ours, figures, tables, and each run's provenance.

`gather` collects the content of the run folders, and page.html.jinja lays it out. The figures are embedded, so the page
needs no network and no other file.
"""

import csv
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mtive_nb.data.photos import data_url
from mtive_nb.evaluate.design import load_design, registered_at
from mtive_nb.report.chapters import run_folders
from mtive_nb.report.tables import number, short
from mtive_nb.report.verdicts import by_kind, claims_board, out_of_reach, summary, tally, whole_board
from mtive_nb.run.atomic import write_atomic
from mtive_nb.run.graph import GraphError, Project, find_project
from mtive_nb.run.metrics import read_metrics
from mtive_nb.run.progress import duration
from mtive_nb.run.published import PAPERS, columns_of, load_published, load_tables, rows_of
from mtive_nb.run.stale import read_run

ROWS_SHOWN = 24
# A wider table is split by the part of its column names before the slash ("AE/Acc": by task).
COLUMNS_SHOWN = 6


def cell_of(metric: dict[str, Any]) -> dict[str, str]:
    """Return one of our numbers as texts for a table cell: value, interval, n with seed, and notebook."""
    low, high = metric.get("low"), metric.get("high")
    unit = metric["unit"]
    value, interval = number(metric["value"], unit), "no interval"
    if low is not None and high is not None:
        interval = f"{number(low, unit)} to {number(high, unit)}"
    if metric["better"] == "none":
        interval = ""  # a count or a setting
    seeds = metric.get("seeds", 1)
    basis = f"n {metric['n']:,} · " + (f"{seeds} seeds" if seeds > 1 else f"seed {metric['seed']}")
    return {"value": value, "interval": interval, "basis": basis, "notebook": metric["notebook"]}


def paper_table(
    paper: str, table: str, *, metrics: list[dict[str, Any]], stand_ins: dict[str, list[str]], own: dict[str, dict]
) -> dict[str, Any]:
    """Return a paper's table with our numbers in its cells; rows that only we have come last.

    own: our tables by "notebook/table"; a table of texts or properties appears below the paper's table.
    """
    printed = {(p.row, p.column): p for p in load_published() if (p.paper, p.table) == (paper, table)}
    ours: dict[tuple[str, str], list[dict[str, str]]] = {}
    for metric in metrics:
        ours.setdefault((metric["row"], metric["column"]), []).append(cell_of(metric))
    known = rows_of(paper, table)
    rows = [*known, *dict.fromkeys(m["row"] for m in metrics if m["row"] not in known)]
    about = load_tables().get((paper, table))
    groups = []
    for title, columns in column_groups(columns_of(paper, table)):
        heads = [_head(column, metrics, about) for column in columns]
        lines = []
        for row in rows:
            cells = [{"paper": printed.get((row, c)), "ours": ours.get((row, c), [])} for c in columns]
            if any(c["paper"] or c["ours"] for c in cells):
                lines.append(
                    {"name": row, "cells": cells, "only_ours": row not in known, "ours": any(c["ours"] for c in cells)}
                )
        groups.append({"title": title, "heads": heads, "rows": lines})
    shown = own.get(about.ours) if about else None
    notebooks = sorted({m["notebook"] for m in metrics} | ({about.ours.split("/")[0]} if shown else set()))
    remarks = [f"{p.row}, {p.column}: {p.note}" for p in printed.values() if _is_remark(p.note)]
    return {
        "id": f"{paper}-{table}",
        "title": f"{PAPERS[paper]} {table}" + (f": {about.title}" if about else ""),
        "relative_to": about.relative_to if about else None,
        "anomalies": about.anomalies if about else (),
        "remarks": remarks,
        "groups": [group for group in groups if group["rows"]],
        "own": shown,
        "notebooks": notebooks,
        "stand_ins": [(n, text) for n in notebooks for text in stand_ins.get(n, []) if _concerns(text, table)],
    }


def _concerns(note: str, table: str) -> bool:
    """Return whether a note concerns `table`; a note that begins with a table ("T4: ...") concerns only that table."""
    named = re.match(r"(T\d+): ", note)
    return named is None or named[1] == table


def _is_remark(note: str) -> bool:
    """Return whether a note says more than the group of a row or the printed spelling of a number."""
    return bool(note) and (";" in note or not note.startswith(("group=", "env=", "printed ")))


def _head(column: str, metrics: list[dict[str, Any]], about: Any) -> dict[str, str]:
    """Return a column's name, our unit, and whether higher or lower is better."""
    mine = next((m for m in metrics if m["column"] == column), None)
    direction = mine["better"] if mine else ""
    if about and not direction:
        direction = next((d for name, d, _ in about.metrics if column.split("/")[-1] == name.split(" ")[0]), "")
    arrow = {"higher": "higher is better", "lower": "lower is better"}.get(direction, "")
    return {"name": column, "unit": mine["unit"] if mine else "", "arrow": arrow, "ours": bool(mine)}


def column_groups(columns: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Group columns by the part before the slash if one table is too wide; else return one untitled group."""
    columns = list(columns)
    if len(columns) <= COLUMNS_SHOWN:
        return [("", columns)]
    groups: dict[str, list[str]] = {}
    for column in columns:
        groups.setdefault(column.split("/")[0] if "/" in column else "", []).append(column)
    return list(groups.items())


def table_files(folder: Path) -> list[dict[str, Any]]:
    """Return the tables/*.csv of a run folder, each cut after ROWS_SHOWN rows."""
    tables = []
    for path in sorted((folder / "tables").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file))
        if lines:
            body = [[short(text) for text in line] for line in lines[1 : ROWS_SHOWN + 1]]
            more = max(0, len(lines) - 1 - ROWS_SHOWN)
            tables.append({"name": path.stem, "head": lines[0], "rows": body, "more": more})
    return tables


def figure_files(folder: Path) -> list[dict[str, str]]:
    """Return the figures of a run folder as data URIs."""
    figures = []
    for path in sorted((folder / "figures").glob("*.png")):
        figures.append({"name": path.stem.replace("_", " "), "uri": data_url(path.read_bytes())})
    return figures


def notebook_part(folder: Path, *, links: bool) -> dict[str, Any]:
    """Return one run folder's part of the page: its own numbers, tables, figures and provenance."""
    record = read_run(folder)
    own = [m for m in read_metrics(folder) if m["paper"] == "own"]
    groups: dict[str, list[dict[str, Any]]] = {}
    for metric in own:
        line = cell_of(metric) | {"row": metric["row"], "column": metric["column"], "unit": metric["unit"]}
        line["better"] = {"higher": "higher", "lower": "lower"}.get(metric["better"], "")
        groups.setdefault(metric["table"], []).append(line)
    notes = record.get("notes", {})
    executed = folder / f"{folder.name}.ipynb"
    git = record.get("git") or {}
    seconds = record.get("wall_seconds") or record.get("seconds")
    return {
        "name": folder.name,
        "link": f"{folder.name}/{executed.name}" if links and executed.exists() else "",
        "own": groups,
        "tables": table_files(folder),
        "figures": figure_files(folder),
        "stand_ins": notes.get("stand_in", []),
        "missing": [*notes.get("missing", []), *filter(None, [notes.get("left_out")])],
        "notes": {k: v for k, v in notes.items() if k not in ("stand_in", "missing", "left_out")},
        "commit": (git.get("commit") or "none")[:10],
        "dirty": bool(git.get("dirty")),
        "device": record.get("device", "unknown"),
        "duration": duration(seconds) if seconds is not None else "not finished",
        "peak": number(round(record["peak_mib"])) if record.get("peak_mib") else "",
        "seed": record.get("seed", ""),
        "started": record.get("started", "").replace("T", " ").removesuffix("+00:00"),
        "command": record.get("command", ""),
        "parameters": record.get("parameters", {}),
        "versions": record.get("versions", {}),
    }


def gather(project: Project, profile: str, *, links: bool = True) -> dict[str, Any]:
    """Collect the page's content; `links`: link executed notebooks. Errors: GraphError if a profile has no results."""
    folders = run_folders(project.outputs / profile)
    if not folders:
        raise GraphError(f"outputs/{profile}: found no results; make them with: python -m mtive_nb run {profile}")
    parts = [notebook_part(folder, links=links) for folder in folders]
    metrics = [m for folder in folders for m in read_metrics(folder)]
    stand_ins = {part["name"]: part["stand_ins"] for part in parts}
    decided = claims_board(folders)
    claims = whole_board(decided) if decided else []
    own = {f"{part['name']}/{table['name']}": table for part in parts for table in part["tables"]}
    by_table = {key: [m for m in metrics if (m["paper"], m["table"]) == key] for key in load_tables()}
    here = {key for key, table in load_tables().items() if by_table[key] or table.ours in own}
    return {
        "profile": profile,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "tables": [
            paper_table(*key, metrics=found, stand_ins=stand_ins, own=own)
            for key, found in by_table.items()
            if key in here
        ],
        "missing": [
            {"name": f"{PAPERS[paper]} {name}", "title": table.title}
            for (paper, name), table in load_tables().items()
            if paper in ("mtive", "vitpro") and name != "text" and (paper, name) not in here
        ],
        "stand_ins": stand_ins,
        "claims": claims,
        "tally": tally(claims),
        "by_kind": by_kind(claims),
        "design": {name: entry.in_words() for name, entry in load_design().claims.items()},
        "registered": registered_at(),
        "out_of_reach": out_of_reach(),
        "unreached": set().union(*load_design().not_here.values()),
        "parts": parts,
        "count": len(metrics),
    }


def write_report(project: Project, profile: str, *, page: Path | None = None, links: bool = True) -> Path:
    """Write outputs/<profile>/report.html, or `page`, and return its path."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.get_template("page.html.jinja").render(**gather(project, profile, links=links))
    path = page or project.outputs / profile / "report.html"
    write_atomic(path, html)
    return path


def main(profile: str) -> int:
    """Run the command `report`: write the page and print how many claims hold."""
    project = find_project()
    print(f"report: {write_report(project, profile)}")
    print("\n".join(summary(claims_board(run_folders(project.outputs / profile)))))
    return 0
