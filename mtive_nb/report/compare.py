"""Runs side by side: the scores of chapter 07 of several profiles, among them the same profile with other seeds."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mtive_nb.report.tables import cell_of, number
from mtive_nb.run.graph import find_run
from mtive_nb.run.metrics import read_metrics
from mtive_nb.run.stale import read_run

TABLES = ("T1", "T2")
MEAN = "mean accuracy"


def compared_runs(profiles: Iterable[Path]) -> dict[str, Any]:
    """Return the runs (profile, source of the photos, seed, commit) and the lines (system, measure, a cell per run).

    `profiles`: folders of results; those without chapter 07 are left out. `spread`: largest less smallest value of
    the runs on the same photos as the first. The mean accuracy is over T1's tasks.
    """
    runs, scores = [], []
    for folder in profiles:
        evaluation = find_run(folder, "07")
        if evaluation is None or not (found := _scores(evaluation)):
            continue
        record, shop = read_run(evaluation), find_run(folder, "01")
        source = read_run(shop).get("parameters", {}).get("SOURCE", "mart") if shop else "mart"
        about = {"profile": folder.name, "source": source, "seed": record.get("seed", "")}
        runs.append(about | {"commit": ((record.get("git") or {}).get("commit") or "none")[:10]})
        scores.append(found)
    lines = []
    for system, measure in dict.fromkeys(key for found in scores for key in found):
        cells = [found.get((system, measure)) for found in scores]
        values = [c["raw"] for c, run in zip(cells, runs, strict=True) if c and run["source"] == runs[0]["source"]]
        unit = next(c["unit"] for c in cells if c)
        spread = number(max(values) - min(values), unit) if len(values) > 1 else ""
        lines.append({"system": system, "measure": measure, "cells": cells, "spread": spread, "unit": unit})
    return {"runs": runs, "lines": lines, "mean": MEAN}


def _scores(evaluation: Path) -> dict[tuple[str, str], dict[str, Any]]:
    metrics = [m for m in read_metrics(evaluation) if m["paper"] == "mtive" and m["table"] in TABLES]
    means: dict[str, list[dict]] = {}
    for metric in (m for m in metrics if m["table"] == "T1" and m["column"].endswith("/Acc")):
        means.setdefault(metric["row"], []).append(metric)
    found = {}
    for system, parts in means.items():
        mean = sum(m["value"] for m in parts) / len(parts)
        whole = parts[0] | {"value": mean, "n": sum(m["n"] for m in parts), "low": None, "high": None}
        found[system, MEAN] = cell_of(whole) | {"raw": mean, "unit": whole["unit"], "interval": ""}
    cells = {(m["row"], m["column"]): cell_of(m) | {"raw": m["value"], "unit": m["unit"]} for m in metrics}
    return found | cells
