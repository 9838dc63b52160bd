"""Copy a profile's results, without large files, to outputs/reference/, the part of a stamped run that is committed."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from mtive_nb.model.lineage import LineageError
from mtive_nb.report.chapters import (
    CARDS,
    FIGURE_PX,
    example_cards,
    figure_paths,
    picture_kind,
    run_folders,
    small_picture,
)
from mtive_nb.report.executed import copy_executed, with_runs
from mtive_nb.report.page import write_report
from mtive_nb.report.verdicts import claims_board, summary
from mtive_nb.run.atomic import write_atomic
from mtive_nb.run.graph import Project, find_project
from mtive_nb.run.stale import read_run

MAX_BYTES = 2**20
MAIN = "pocket"  # the profile that docs/chapters.md shows


class DirtyRunError(ValueError):
    """Results that no commit reproduces: files of the checkout had changed, or there was no commit."""


def copy_reference(project: Project, profile: str, *, whole: bool = True, tell: Callable[[str], None] = print) -> Path:
    """Copy run.json, metrics, tables, figures, executed notebooks and the page to outputs/reference/<profile>/.

    Figures and examples are copied as the page shows them, so that it can be built again: small PNGs, and cards with
    thumbnails. A table larger than 1 MiB is not copied but named. The new reference is built in a hidden folder and
    swapped in, so that old and new numbers never mix. Of profile pocket, docs/chapters.md gets minutes, devices and
    links. Not `whole`: run.json, metrics, answers and claims alone, what chapter 21 and the report need of a seed.
    Returns the folder.
    Errors: DirtyRunError for runs whose files differed from a commit.
    """
    reference = project.outputs / "reference"
    target, aside = reference / profile, reference / f".{profile}.partial"
    folders = run_folders(project.outputs / profile)
    _assert_clean(folders, profile)
    shutil.rmtree(aside, ignore_errors=True)
    for folder in folders:
        if not read_run(folder).get("results"):
            tell(f"{folder.name}: run by hand, its numbers carry no stamp of the runner")
        for path in _kept(folder, whole=whole, tell=tell):
            copy = aside / folder.name / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".png":
                picture = small_picture(path.read_bytes(), side_px=FIGURE_PX)
                write_atomic(copy.with_suffix(f".{picture_kind(picture).lower()}"), picture)
            else:
                shutil.copyfile(path, copy)
        if whole and (cards := example_cards(folder, folders)):
            write_atomic(aside / folder.name / CARDS, json.dumps(cards, ensure_ascii=False, indent=1))
    if whole:
        copy_executed(project, profile, target=aside, tell=tell)
        others = [p for p in sorted(reference.iterdir()) if p.name not in (profile, aside.name) and run_folders(p)]
        write_report(project, profile, page=aside / "report.html", others=[project.outputs / profile, *others])
    shutil.rmtree(target, ignore_errors=True)
    os.replace(aside, target)
    if profile == MAIN and (page := project.home / "docs" / "chapters.md").exists():
        write_atomic(page, with_runs(page.read_text(encoding="utf-8"), target))
    return target


def _assert_clean(folders: list[Path], profile: str) -> None:
    faults = {}
    for folder in folders:
        git = read_run(folder).get("git") or {}
        if git.get("dirty") or not git.get("commit"):
            faults[folder.name] = "files differed from the commit" if git.get("dirty") else "no commit"
    if faults:
        found = "; ".join(f"{name}/run.json: {fault}" for name, fault in faults.items())
        again = f"python -m mtive_nb run {profile} {' '.join(name[:2] for name in faults)} --force --only"
        raise DirtyRunError(
            f"reference {profile}: found {found}; expected runs of a clean checkout. Commit or stash, then: {again}"
        )


def _kept(folder: Path, *, whole: bool, tell: Callable[[str], None]) -> list[Path]:
    """Return the files of a run folder to commit."""
    numbers = [folder / "run.json", folder / "metrics.jsonl"]
    if not whole:
        numbers += [folder / "tables" / name for name in ("answers.csv", "claims.csv")]
        return [path for path in numbers if path.exists()]
    kept = [p for p in numbers if p.exists()]
    kept += [p for p in sorted((folder / "tables").glob("*.csv")) if _fits(p, tell=tell)]
    return kept + figure_paths(folder)


def _fits(path: Path, *, tell: Callable[[str], None]) -> bool:
    fits = path.stat().st_size <= MAX_BYTES
    if not fits:
        tell(f"{path.parent.parent.name}/{path.parent.name}/{path.name}: larger than 1 MiB, not copied")
    return fits


def main(profile: str, *, reference: bool = False, numbers: bool = False) -> int:
    """Run the command `report`: write the page and the experts' model card, print how many claims hold, by kind.

    reference: also copy the results to outputs/reference/; numbers: the same for numbers, answers and claims alone.
    """
    from mtive_nb.serve.hub import model_card  # imports torch

    project = find_project()
    print(f"report: {write_report(project, profile)}")
    try:
        write_atomic(project.outputs / profile / "model_card.md", model_card(project.outputs / profile))
    except (FileNotFoundError, LineageError):
        pass  # a profile without experts, or without their files
    print("\n".join(summary(claims_board(run_folders(project.outputs / profile)))))
    try:
        if reference or numbers:
            print(f"reference: {copy_reference(project, profile, whole=not numbers)}")
    except DirtyRunError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
