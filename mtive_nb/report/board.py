"""How the page shows the board of the papers' claims, and the tiles on top of the report."""

import re
from pathlib import Path
from typing import Any

from mtive_nb.evaluate.claims import SYSTEMS, VERDICTS, load_claims
from mtive_nb.evaluate.design import KINDS, load_design
from mtive_nb.report.tables import REFERENCE, as_difference, number, of_most_seeds, unit_in_words
from mtive_nb.report.verdicts import claims_board, whole_board
from mtive_nb.run.published import PAPERS, load_published

NOT_DECIDED = "not measured"
SYMBOLS = {"holds": "✔", "open": "?", "does not hold": "✘", NOT_DECIDED: "–"}


def shown_board(folders: list[Path]) -> list[dict[str, Any]]:
    """Return the board of verdicts.py with what the page shows beside a claim's own fields.

    `mark`: the verdict, or "not measured"; `tasks`: (task, verdict) pairs; `kind` and `design`: of the registered entry.
    """
    return [claim | _about(claim) for claim in whole_board(claims_board(folders))]


def _about(claim: dict[str, Any]) -> dict[str, Any]:
    """Return what a row of the board shows beside the claim's own fields."""
    test = {c["id"]: c["test"] for c in load_claims()}.get(claim["claim"], {})
    sides = {side: SYSTEMS.get(test.get(side), _in_words(str(test.get(side) or ""))) for side in ("left", "right")}
    verdict = claim["verdict"] if claim["verdict"] in VERDICTS else NOT_DECIDED
    tasks = re.findall(rf"(.+?) ({'|'.join(VERDICTS)})(?:, |$)", claim.get("by_task", ""))
    paper = PAPERS.get(claim["claim"].split("-")[0], "")
    entry = load_design().find(claim["claim"])
    about = (
        {"design": entry.in_words(), "kind": KINDS[entry.kind]} if entry else {"design": "", "kind": "not registered"}
    )
    words = {"unit": unit_in_words(claim), "decided_by": _in_words(claim.get("decided_by", ""))}
    return sides | about | words | {"paper": paper, "mark": verdict, "symbol": SYMBOLS[verdict], "tasks": tasks}


def _in_words(name: str) -> str:
    """Return a side of a claim in words: "item_expert[labels=crops,input=main]" -> "item expert (labels: crops, input: main)"."""
    name, _, settings = name.replace("_", " ").replace("constant:", "constant ").partition("[")
    return name + (f" ({settings.rstrip(']').replace('=', ': ').replace(',', ', ')})" if settings else "")


def claim_tiles(claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a tile per paper: how many of its claims, of any priority, hold, are open, do not hold, were not decided."""
    tiles = []
    for title in PAPERS.values():
        kinds = [c["mark"] for c in claims if c["paper"] == title and not c["verdict"].startswith("not testable")]
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
