"""Plan what a runner call will run, and why, before anything starts; --dry-run prints the plan."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mtive_nb.run.content import Hashes, code_of_chapter, results_of
from mtive_nb.run.graph import GraphError, Notebook, Project, code_of, read_graph, selected
from mtive_nb.run.params import check_profile, effective_parameters, header_minutes
from mtive_nb.run.progress import duration
from mtive_nb.run.stale import data_fingerprint, data_paths, fingerprint, read_run, reasons

TAKES = re.compile(r"\*\*Takes\*\* about ([\d.]+) minutes")  # in a notebook's first cell, for the profile pocket


@dataclass(frozen=True)
class Step:
    """One notebook of a plan. `why` is empty if it is skipped; `estimate_s` is None if no estimate exists."""

    notebook: Notebook
    parameters: dict[str, Any]
    why: tuple[str, ...]
    estimate_s: float | None

    @property
    def stale(self) -> bool:
        return bool(self.why)


@dataclass(frozen=True)
class Inputs:
    """Inputs of all steps: the folders, and by notebook number the hashes of code and data and the name."""

    project: Project
    profile: str
    code: dict[str, dict[str, str]]
    data: dict[str, str]
    names: dict[str, str]

    @property
    def profile_dir(self) -> Path:
        return self.project.outputs / self.profile

    def fingerprint(
        self, notebook: Notebook, parameters: dict[str, Any], *, look: Callable[[Path], Hashes] = results_of
    ) -> dict[str, Any]:
        """Return the current fingerprint of the notebook's next run; `look` as in stale.fingerprint."""
        return fingerprint(
            notebook,
            parameters=parameters,
            profile_dir=self.profile_dir,
            code=self.code[notebook.number],
            data=self.data[notebook.number],
            names=self.names,
            look=look,
        )


def make_plan(
    project: Project, profile: str, *, numbers: Iterable[str] = (), force: bool = False, only: bool = False
) -> tuple[list[Step], Inputs]:
    """Plan the named notebooks and all their dependencies, and check every parameter file.

    `force` runs the named notebooks even if nothing changed. `only` leaves out the dependencies, stale or not, and uses
    their existing results. Errors: ParameterError, GraphError.
    """
    numbers = list(numbers)
    graph = read_graph(project.notebooks)
    notebooks = selected(graph, numbers, only=only)
    named = {n.number for n in selected(graph, numbers, only=True)} if numbers else set()
    check_profile(project.params, profile=profile, notebooks=[n.path for n in graph.values()])
    # Check all files before the first notebook starts, so that a typo in the last file costs no hour.
    parameters = {
        n.number: effective_parameters(n.path, params=project.params, profile=profile) for n in selected(graph, numbers)
    }
    inputs = Inputs(
        project,
        profile,
        code={n.number: code_of_chapter(code_of(n.path)) for n in notebooks},
        data=_data_by_number(project, graph, parameters),
        names={number: notebook.name for number, notebook in graph.items()},
    )
    steps: list[Step] = []
    running: set[str] = set()
    look = cache(results_of)  # nothing runs while a plan is made
    for notebook in notebooks:
        now = inputs.fingerprint(notebook, parameters[notebook.number], look=look)
        if only:
            _check_upstream(notebook, now, planned=[n.number for n in notebooks])
        folder = inputs.profile_dir / notebook.name
        why = reasons(folder, now=now, running=running, look=look)
        if force and not why and notebook.number in named:
            why = ["forced (--force)"]
        if why:
            running.add(notebook.number)
        estimate_s = _estimate(folder, project.params, profile=profile, notebook=notebook)
        steps.append(Step(notebook, parameters[notebook.number], tuple(why), estimate_s))
    return steps, inputs


def _data_by_number(
    project: Project, graph: dict[str, Notebook], parameters: dict[str, dict[str, Any]]
) -> dict[str, str]:
    """Hash the photos that each notebook, or a notebook upstream of it, opens."""
    folders: dict[str, set[Path]] = {}
    for number in sorted(parameters):
        own = data_paths(graph[number], parameters[number], home=project.home)
        folders[number] = own.union(*(folders[n] for n in graph[number].upstream))
    kept = project.outputs / ".data.json"
    once = {frozenset(found): data_fingerprint(found, cache_file=kept) for found in folders.values()}
    return {number: once[frozenset(found)] for number, found in folders.items()}


def _check_upstream(notebook: Notebook, now: dict[str, Any], *, planned: list[str]) -> None:
    """Check upstream results. Errors: GraphError if a notebook reads results that neither exist nor are planned."""
    missing = [n for n, results in now["upstream"].items() if not results and n not in planned]
    if missing:
        raise GraphError(
            f"{notebook.name} reads {', '.join(missing)}: found no results; --only needs results of an earlier run "
            "(without --only, the runner makes them first)"
        )


def _estimate(folder: Path, params: Path, *, profile: str, notebook: Notebook) -> float | None:
    """Return the seconds of the last run, else the estimate of the parameter file, else the notebook's own, or None."""
    last = read_run(folder).get("wall_seconds")
    if last is not None:
        return float(last)
    minutes = header_minutes(params, profile=profile, stem=notebook.name)
    if minutes is None and (takes := TAKES.search(notebook.path.read_text(encoding="utf-8"))):
        minutes = float(takes[1])
    return None if minutes is None else 60 * minutes


def describe(steps: list[Step]) -> str:
    """Format the plan as a table (notebook, run or skip, why, estimate) with the total below."""
    rows = [("notebook", "", "why", "estimate")]
    for step in steps:
        about = duration(step.estimate_s) if step.stale and step.estimate_s is not None else ""
        why = ", ".join(step.why) or "nothing changed"
        rows.append((step.notebook.name, "run" if step.stale else "skip", why, about))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]).rstrip() for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    stale = [step for step in steps if step.stale]
    known = [step.estimate_s for step in stale if step.estimate_s is not None]
    total = f"{len(stale)} of {len(steps)} to run"
    if known:
        unknown = len(stale) - len(known)
        total += f", about {duration(sum(known))}" + (f" and {unknown} without an estimate" if unknown else "")
    return "\n".join([*lines, total])
