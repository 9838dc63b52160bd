"""One static HTML page per profile: a summary, the papers' numbers beside ours, the claims, figures, provenance.

`gather` collects the content of the run folders, and page.html.jinja lays it out. Styles, script and figures are
embedded, so the page needs no network and no other file.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mtive_nb.evaluate.design import load_design, registered_at
from mtive_nb.report.board import claim_tiles, headline, shown_board
from mtive_nb.report.chapters import notebook_part, run_folders
from mtive_nb.report.compare import compared_runs
from mtive_nb.report.tables import paper_table
from mtive_nb.report.verdicts import by_kind, out_of_reach, tally
from mtive_nb.run.atomic import write_atomic
from mtive_nb.run.graph import GraphError, Project
from mtive_nb.run.metrics import read_metrics
from mtive_nb.run.progress import duration
from mtive_nb.run.published import PAPERS, load_tables


def compared_profiles(folder: Path) -> list[Path]:
    """Return the results to compare: `folder` itself, then those beside it, without the smoke test's."""
    beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
    return [folder, *sorted(p for p in beside if p != folder and p.name != "smoke" and run_folders(p))]


def gather(project: Project, folder: Path, *, page_dir: Path, others: Iterable[Path]) -> dict[str, Any]:
    """Collect the page's content from the results in `folder`; it links the executed notebooks in `page_dir`.

    Errors: GraphError if the folder has no results.
    """
    folders = run_folders(folder)
    if not folders:
        raise GraphError(
            f"outputs/{folder.name}: found no results; make them with: python -m mtive_nb run {folder.name}"
        )
    parts = [notebook_part(project, one, folders, page_dir=page_dir) for one in folders]
    metrics = [m for one in folders for m in read_metrics(one)]
    stand_ins = {part["name"]: part["stand_ins"] for part in parts}
    claims = shown_board(folders)
    unreached = {claim for ids in load_design().not_here.values() for claim in ids}
    own = {f"{part['name']}/{table['name']}": table for part in parts for table in part["tables"]}
    by_table = {key: [m for m in metrics if (m["paper"], m["table"]) == key] for key in load_tables()}
    here = {key for key, table in load_tables().items() if by_table[key] or table.ours in own}
    runs = compared_runs(others)
    return {
        "profile": folder.name,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "tables": [
            paper_table(*key, metrics=found, stand_ins=stand_ins, own=own)
            for key, found in by_table.items()
            if key in here
        ],
        "missing": [
            {"name": f"{PAPERS[paper]} {name}", "title": table.title}
            for (paper, name), table in load_tables().items()
            if name != "text" and (paper, name) not in here
        ],
        "stand_ins": stand_ins,
        "claims": claims,
        "tally": tally(claims),
        "by_kind": by_kind(claims),
        "registered": registered_at(),
        "out_of_reach": out_of_reach(),
        "undecided": [c for c in claims if not c["n"] and c["claim"] not in unreached],
        "tiles": claim_tiles(claims),
        "headline": headline(metrics),
        "real": real_photos(metrics, runs),
        "compared": runs,
        "parts": parts,
        "titles": {part["name"]: part["title"] for part in parts},
        "count": len(metrics),
        "time": duration(sum(part["seconds"] for part in parts)),
    }


def real_photos(metrics: list[dict[str, Any]], runs: dict[str, Any]) -> list[str]:
    """Return, in sentences, where real photos stand: scores of this profile on them, and the profiles made of them."""
    shares = [m for m in metrics if "real photos" in m["table"] and m["unit"] == "fraction"]
    columns, parts = Counter(table for table, _ in {(m["table"], m["column"]) for m in shares}), {}
    for m in shares:
        title, arm = (f"{m['table']}, {m['row']}", m["column"]) if columns[m["table"]] > 1 else (m["table"], m["row"])
        parts.setdefault(title, []).append(f"{arm} {m['value'] * m['n']:.0f} of {m['n']}")
    found = [f"{title}: {'; '.join(said)}" for title, said in parts.items()]
    for k, run in enumerate(runs["runs"]):
        if run["source"] == "mart":
            continue
        means = {line["system"]: line["cells"][k] for line in runs["lines"] if line["measure"] == runs["mean"]}
        shown = [f"{s} {means[s]['value']}" for s in ("MTIVE_MTL", "Base_MTL", "majority") if means.get(s)]
        found.append(f"profile {run['profile']}, mean accuracy over its tasks, 0 to 100: {', '.join(shown)}")
    return found


def write_report(
    project: Project, profile: str, *, page: Path | None = None, others: Iterable[Path] | None = None
) -> Path:
    """Write outputs/<profile>/report.html, or `page`, and return its path.

    `others`: results of the profiles to compare; default, those of outputs/.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    folder = project.outputs / profile
    page = page or folder / "report.html"
    others = compared_profiles(folder) if others is None else others
    content = gather(project, folder, page_dir=page.parent, others=others)
    write_atomic(page, environment.get_template("page.html.jinja").render(**content))
    return page
