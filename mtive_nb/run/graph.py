"""The graph of notebooks. Its only edges are the literal calls `run.upstream("NN")` in the notebooks' code."""

import ast
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

# Groups that a call may name in place of numbers: the chapters of `make reproduce`, and the chapters run per seed.
GROUPS = ("path", "seeds")


class GraphError(ValueError):
    """Raised if the notebooks form no graph, or if a requested notebook, project or result does not exist."""


@dataclass(frozen=True)
class Project:
    """The folders of a project."""

    home: Path

    @property
    def notebooks(self) -> Path:
        return self.home / "notebooks"

    @property
    def params(self) -> Path:
        return self.home / "params"

    @property
    def outputs(self) -> Path:
        return self.home / "outputs"


@dataclass(frozen=True)
class Notebook:
    """One numbered notebook; `upstream` lists the numbers of the notebooks whose results it reads."""

    number: str
    path: Path
    upstream: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.stem


@cache
def load_chapters() -> dict[str, dict[str, Any]]:
    """Read chapters.yaml, by number: name, when the chapter runs (path, all, asked), and whether it is in `seeds`."""
    return yaml.safe_load((Path(__file__).with_name("chapters.yaml")).read_text(encoding="utf-8"))


def chapters_of(group: str) -> list[str]:
    """Return the numbers of the chapters of a group (GROUPS), in order."""
    chapters = load_chapters().items()
    return [n for n, about in chapters if (about["runs"] == "path" if group == "path" else about.get("seeds"))]


def without_groups(names: Iterable[str]) -> list[str]:
    """Return the names with each group of GROUPS replaced by the numbers of its chapters."""
    return [n for name in names for n in (chapters_of(name) if name in GROUPS else [name])]


def find_run(profile_dir: Path, number: str) -> Path | None:
    """Return the finished run folder NN_name of a profile; None if notebook `number` has not run there."""
    found = sorted(p for p in profile_dir.glob(f"{number}_*") if p.is_dir() and p.suffix == "")
    return found[0] if found else None


def find_project() -> Project:
    """Find the project: at MTIVE_HOME, else in the working directory or above it, else this package's checkout.

    Errors: GraphError if MTIVE_HOME contains no notebooks folder.
    """
    if home := os.environ.get("MTIVE_HOME"):
        if not (Path(home) / "notebooks").is_dir():
            raise GraphError(f"MTIVE_HOME={home}: found no notebooks/ there; point it at a project, or unset it")
        return Project(Path(home).resolve())
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "params").is_dir():
            return Project(folder)
    return Project(Path(__file__).resolve().parents[2])


def outputs_around(path: Path) -> Path | None:
    """Return the outputs folder of the project that a path lies in; None outside a project's outputs."""
    found = (folder for folder in (path, *path.parents) if folder.name == "outputs")
    return next((folder for folder in found if (folder.parent / "notebooks").is_dir()), None)


def code_of(notebook: Path) -> list[str]:
    """Return the source of a notebook's code cells, without `%%` cells and with line magics replaced by `pass`."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return [re.sub(r"^(\s*)[%!?].*$", r"\1pass", s, flags=re.MULTILINE) for s in sources if not s.startswith("%%")]


def upstream_of(notebook: Path) -> tuple[str, ...]:
    """Return the numbers in a notebook's `run.upstream("NN")` calls, sorted.

    Errors: GraphError for code with a syntax error, and for a call whose argument is not a literal.
    """
    found: set[str] = set()
    for number, source in enumerate(code_of(notebook), start=1):
        try:
            tree = ast.parse(source)
        except SyntaxError as error:
            raise GraphError(f"{notebook.name}: code cell {number}, line {error.lineno}: {error.msg}") from None
        for node in ast.walk(tree):
            if not (
                isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "upstream"
            ):
                continue
            if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "run"):
                continue
            literal = node.args[0] if len(node.args) == 1 else None
            if not (isinstance(literal, ast.Constant) and isinstance(literal.value, str)):
                raise GraphError(
                    f'{notebook.name}: code cell {number}: `{ast.unparse(node)}`: expected run.upstream("NN")'
                )
            found.add(literal.value)
    return tuple(sorted(found))


def read_graph(folder: Path) -> dict[str, Notebook]:
    """Return the notebooks NN_name.ipynb of a folder by number, in order.

    Errors: GraphError for no notebook, a duplicate number, and an edge to a missing or later notebook (so no cycles).
    """
    graph: dict[str, Notebook] = {}
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        number = path.name[:2]
        if number in graph:
            raise GraphError(
                f"{folder.name}: two notebooks have the number {number}: {graph[number].path.name}, {path.name}"
            )
        graph[number] = Notebook(number, path, upstream_of(path))
    if not graph:
        raise GraphError(f"{folder}: found no notebook NN_name.ipynb")
    for notebook in graph.values():
        for number in notebook.upstream:
            if number not in graph:
                raise GraphError(f"{notebook.path.name}: reads {number}, but there is no notebook {number}_*.ipynb")
            if number >= notebook.number:
                raise GraphError(f"{notebook.path.name}: reads {number}; expected a lower-numbered notebook")
    return graph


def selected(graph: dict[str, Notebook], numbers: Iterable[str], *, only: bool = False) -> list[Notebook]:
    """Return the named notebooks and all their dependencies, in order. `only`: without the dependencies.

    A name is a notebook's number, stem or file name, or a group of GROUPS. Default: every notebook except the chapters
    marked `asked`. Errors: GraphError for an unknown name.
    """
    by_name = {name: n.number for n in graph.values() for name in (n.number, n.name, n.path.name)}
    wanted = [n for n in graph if load_chapters().get(n, {}).get("runs") != "asked"]
    if numbers := list(numbers):
        numbers = without_groups(numbers)
        unknown = [n for n in numbers if n not in by_name]
        if unknown:
            raise GraphError(
                f"no notebook {', '.join(unknown)}; there are: {', '.join(n.name for n in graph.values())}"
            )
        wanted = [by_name[n] for n in numbers]
    closure: set[str] = set()
    while wanted:
        number = wanted.pop()
        if number not in closure:
            closure.add(number)
            wanted.extend(() if only else graph[number].upstream)
    return [graph[number] for number in sorted(closure)]
