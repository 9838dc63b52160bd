"""Every claim's verdict from the tables of the chapters that decided it, counted by kind.

Kinds are counted apart, since a claim that holds by construction, or that training beats no training, says less than a
comparison of two trained systems. Apart, too, are claims decided on one run, whose interval lacks the variance of
training. `mtive-nb claims PROFILE` prints the counts.
"""

import csv
from pathlib import Path
from typing import Any

import pandas as pd

from mtive_nb.evaluate.claims import (
    FAILS,
    HOLDS,
    ONE_RUN,
    OPEN,
    SMALL,
    VERDICTS,
    board,
    find_claim,
    load_claims,
    pooled_claims,
)
from mtive_nb.evaluate.design import KINDS, load_design, registered_at
from mtive_nb.report.chapters import run_folders
from mtive_nb.report.tables import number, short, unit_in_words
from mtive_nb.run.graph import GraphError, find_project
from mtive_nb.run.published import PAPERS

NO_CHAPTER = "no chapter decides"
WITH_VARIANCE, ON_ONE_RUN, EXACTLY = "decided with training variance", "decided on one run", "decided exactly"
BASES = (WITH_VARIANCE, ON_ONE_RUN, EXACTLY)


def claims_board(folders: list[Path]) -> list[dict[str, Any]]:
    """Return each claim from the first of its registered chapters that decided it, else from any other chapter.

    A chapter that ran in several of the registered profiles decides over those runs. `tries`: the claim decided again
    with a single change (chapter 26), or with other numbers of training records (27).
    """
    by_claim: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for folder in folders:
        for row in _claims_of(folder):
            decided = _marked(_rounded(row, row.get("unit"))) | {"notebook": folder.name, "tries": []}
            place = _place(row["claim"], folder) + (0 if row.get("n") else 1000)
            by_claim.setdefault(row["claim"], []).append((place, decided))
    found = {claim: min(rows, key=lambda row: row[0])[1] for claim, rows in by_claim.items()}
    for folder in folders:
        for row in read_table(folder, "why"):
            if claim := found.get(row["claim"]):
                claim["tries"].append(_rounded(row, claim.get("unit")) | {"notebook": folder.name})
    return list(found.values())


def _place(claim: str, folder: Path) -> int:
    """Return the rank of a chapter among those registered for a claim; an unknown claim has chapters 21 and 20."""
    entry = load_design().find(claim)
    chapters = entry.chapters if entry else ("21", "20")
    return chapters.index(folder.name[:2]) if folder.name[:2] in chapters else len(chapters)


def _claims_of(folder: Path) -> list[dict[str, str]]:
    """Return a chapter's table of claims; over the registered profiles where the chapter ran in several of them."""
    rows, design = read_table(folder, "claims"), load_design()
    own, *others = [folder.parents[1] / profile / folder.name for profile in design.profiles]
    if folder != own or not rows or "intervals" not in rows[0]:
        return rows
    many = {claim for claim, entry in design.claims.items() if entry.runs > 1}
    runs = [rows, *(read_table(other, "claims") for other in others)]
    tables = [pd.DataFrame(run).replace({"": None}) for run in runs if run and "intervals" in run[0]]
    tables = [table[table["claim"].isin(many)] for table in tables]
    pooled = {row["claim"]: row for row in pooled_claims(tables).to_dict("records")} if len(tables) > 1 else {}
    texts = {claim: {k: "" if pd.isna(v) else str(v) for k, v in row.items()} for claim, row in pooled.items()}
    return [texts.get(row["claim"], row) for row in rows]


def read_table(folder: Path, name: str) -> list[dict[str, str]]:
    """Return the rows of a run folder's table, or an empty list if the table does not exist."""
    path = folder / "tables" / f"{name}.csv"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return list(csv.DictReader(text.splitlines(keepends=True)))


def _marked(row: dict[str, str]) -> dict[str, str]:
    """Return a row of the board whose remark says if its verdict rests on one run, also if its table is older than that."""
    parts = [part for part in (row.get("remark") or "").split("; ") if part and part != ONE_RUN]
    return row | {"remark": "; ".join([*parts, *[ONE_RUN] * (decided_on(row) == ON_ONE_RUN)])}


def _rounded(row: dict[str, str], unit: str | None) -> dict[str, str]:
    """Format a row of a claims table for reading; differences have the decimals of their unit."""
    differences = {k: number(float(row[k]), unit or "") for k in ("gain", "low", "high") if row.get(k)}
    counts = {k: number(float(row[k])) for k in ("n", "seeds") if row.get(k)}
    return {k: short(v) for k, v in row.items()} | differences | counts


def whole_board(claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the board with the papers' claims that no table of the profile names, as not measured or not testable."""
    named = {claim["claim"] for claim in claims}
    rest = board([claim for claim in load_claims() if claim["id"] not in named], {})
    about = rest[["claim", "statement", "priority", "verdict"]].astype(str).to_dict("records")
    return [*claims, *(row | {"n": "", "tries": []} for row in about)]


def _counts(claims: list[dict[str, Any]]) -> dict[str, int]:
    """Count testable claims by verdict, and those decided by what their interval contains."""
    counts = {verdict: sum(c["verdict"] == verdict for c in claims) for verdict in VERDICTS}
    bases = [decided_on(claim) for claim in claims]
    of_basis = {basis: bases.count(basis) for basis in BASES}
    return {"testable": len(claims), **counts, "not measured": len(claims) - sum(counts.values()), **of_basis}


def decided_on(claim: dict[str, Any]) -> str:
    """Return which of BASES a decided claim of the board rests on, or an empty text for one that is not decided.

    A claim of one run never counts as decided with the variance of training; one without a number of runs has one run.
    """
    if claim["verdict"] not in (HOLDS, FAILS):
        return ""
    entry = load_design().find(claim["claim"])
    if entry and entry.kind == "exact":
        return EXACTLY
    return WITH_VARIANCE if float(claim.get("seeds") or 1) > 1 else ON_ONE_RUN


def _testable(claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [c for c in claims if not c["verdict"].startswith("not testable")]


def tally(claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Count the testable claims that hold, are open, do not hold or were not measured, by paper and priority."""
    groups = {"1": ("1",), "2": ("2",), "1 and 2": ("1", "2"), "3": ("3",)}
    rows = []
    for paper, title in PAPERS.items():
        for name, priorities in groups.items():
            found = [c for c in _testable(claims) if c["claim"].startswith(f"{paper}-") and c["priority"] in priorities]
            rows += [{"paper": title, "priority": name, **_counts(found)}] if found else []
    return rows


def by_kind(claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Count the testable claims of priority 1 and 2 by paper and kind, and those that no chapter decides."""
    rows = []
    for paper, title in PAPERS.items():
        of_kind: dict[str, list] = {name: [] for name in (*KINDS.values(), NO_CHAPTER)}
        for claim in _testable(claims):
            if claim["claim"].startswith(f"{paper}-") and claim["priority"] in ("1", "2"):
                entry = load_design().find(claim["claim"]) if claim["n"] else load_design().claims.get(claim["claim"])
                of_kind[KINDS[entry.kind] if entry else NO_CHAPTER].append(claim)
        rows += [{"paper": title, "kind": kind, **_counts(found)} for kind, found in of_kind.items() if found]
    return rows


def out_of_reach() -> dict[str, list[str]]:
    """Return the statements of the claims that no chapter decides, by what they need."""
    needs = load_design().not_here.items()
    return {need: [" ".join(find_claim(claim)["statement"].split()) for claim in ids] for need, ids in needs}


def summary(claims: list[dict[str, Any]]) -> list[str]:
    """Return the counts of a board in lines of text: by paper and priority, by kind, by runs, and the share decided."""
    whole = whole_board(claims)

    def line(row: dict[str, Any], about: str) -> str:
        counts = [f"{row[name]} {name}" for name in ("testable", *VERDICTS, "not measured")]
        return f"{row['paper']}, {about}: {', '.join(counts)}"

    both = [row for row in tally(whole) if row["priority"] == "1 and 2"]
    testable, decided = sum(row["testable"] for row in both), sum(row[HOLDS] + row[FAILS] for row in both)
    of_basis = {row["paper"]: ", ".join(f"{row[basis]} {basis}" for basis in BASES) for row in both}
    with_variance, undecided = sum(row[WITH_VARIANCE] for row in both), sum(row[OPEN] for row in both)
    small = sum(SMALL in c["remark"] for c in whole if c["verdict"] == OPEN and c["priority"] in ("1", "2"))
    needs = [f"{need} ({len(statements)})" for need, statements in out_of_reach().items()]
    return [
        *(line(row, f"claims of priority {row['priority']}") for row in tally(whole)),
        "Priority 1 and 2 by kind:",
        *(line(row, row["kind"]) for row in by_kind(whole)),
        "Priority 1 and 2 by runs (exact claims involve no chance):",
        *(f"{paper}: {counts}" for paper, counts in of_basis.items()),
        f"Decided (not open): {decided} of {testable} testable claims of priority 1 and 2, {with_variance} of these with "
        "the variance of training",
        f"Open: {undecided}; {small} of these differences are surely {SMALL}",
        f"What no chapter decides needs: {'; '.join(needs)}",
        f"Design registered: {registered_at()}",
    ]


def main(profile: str) -> int:
    """Run the command `claims`: print a profile's verdicts, then their counts. Errors: GraphError without results."""
    folders = run_folders(find_project().outputs / profile)
    if not folders:
        raise GraphError(f"outputs/{profile}: found no results; make them with: python -m mtive_nb run {profile}")
    claims = claims_board(folders)
    for claim in claims:
        if claim.get("n"):
            print(_in_a_line(claim))
    print("\n".join(summary(claims)))
    return 0


def _in_a_line(claim: dict[str, Any]) -> str:
    """Return a claim's verdict with the difference behind it, the chapter, its runs, and what it lacks of the design."""
    interval = f"{claim['low']} to {claim['high']}; {claim.get('decided_by')}"
    found = f"{claim['verdict']}, {claim['gain']} {unit_in_words(claim)} ({interval})"
    runs = int(claim.get("seeds") or 1)
    basis = f"chapter {claim['notebook'][:2]}, {runs} run{'s' if runs > 1 else ''}"
    return "; ".join(filter(None, (f"{claim['claim']}: {found}", basis, claim.get("short"))))
