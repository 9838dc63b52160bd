"""Content hashes of results, of data, and of the code that a chapter imports."""

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mtive_nb.run.atomic import write_atomic

PACKAGE = Path(__file__).parents[1]
NAME = PACKAGE.name
# These files display results or schedule chapters; they change no result.
NOT_CODE = ("show/", "report/", "run/frames.py", "run/tables.yaml", "run/chapters.yaml")
# A run's own records are not results: their times and notes differ from run to run.
RESULTS = "results.json"
NOT_RESULTS = ("run.json", "fingerprint.json", "papermill.log", "parameters.yaml", RESULTS)
Hashes = dict[str, list]  # file name -> [hash, size in bytes, modification time in ns]


def digest(value: Any) -> str:
    """Return a short hash of any value that JSON can serialise."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()


def hash_file(path: Path) -> str:
    """Return a short hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def hash_files(folder: Path, names: Iterable[str], *, known: Mapping[str, list]) -> Hashes:
    """Hash files of a folder; keep the hash from `known` if a file's size and modification time match."""
    found: Hashes = {}
    for name in names:
        stat = (folder / name).stat()
        before = known.get(name)
        same = before is not None and before[1:] == [stat.st_size, stat.st_mtime_ns]
        found[name] = before if same else [hash_file(folder / name), stat.st_size, stat.st_mtime_ns]
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON mapping; return {} if the file is missing, broken, or holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def results_of(folder: Path) -> Hashes:
    """Hash a run's result files: not its log and records, executed notebook, figures or checkpoints."""
    names = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        aside = name in NOT_RESULTS or name.startswith(("figures/", "checkpoints/")) or path.suffix == ".ipynb"
        if path.is_file() and not aside:
            names.append(name)
    return hash_files(folder, names, known=read_json(folder / RESULTS))


def results_digest(results: Hashes) -> str:
    """Return one hash of a run's results."""
    return digest({name: row[0] for name, row in results.items()})


def data_digest(path: Path, *, cache_file: Path | None = None) -> str:
    """Return one hash of a file, or of all files below a folder, by name and content; a copy has the same hash.

    `cache_file` stores the hashes, so that a second call reads only changed files.
    """
    known = read_json(cache_file) if cache_file else {}
    folder, files = (path.parent, [path]) if path.is_file() else (path, sorted(path.rglob("*")))
    names = [p.relative_to(folder).as_posix() for p in files if p.is_file()]
    found = hash_files(folder, names, known=known.get(str(path.resolve()), {}))
    if cache_file:
        try:
            write_atomic(cache_file, json.dumps(known | {str(path.resolve()): found}))
        except OSError:
            pass  # a cache that cannot be written costs only time
    return results_digest(found)


def code_of_chapter(cells: Iterable[str]) -> dict[str, str]:
    """Return the package's files that a chapter's code cells, in order, reach through imports: {path in the package: hash}.

    A module's hash covers its statements; comments, docstrings and layout do not count. A packaged data file counts if
    a module in the same folder names it.
    """
    waiting = _imported(ast.parse("\n".join(cells)))  # as one text: a cell uses the names that an earlier one imports
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        waiting |= (_references(path) if path.suffix == ".py" else set()) - seen
    names = {path.relative_to(PACKAGE).as_posix(): path for path in seen}
    return {name: hash_code(path) for name, path in sorted(names.items()) if not name.startswith(NOT_CODE)}


@cache
def _references(path: Path) -> frozenset[Path]:
    """Return the package's modules that a module imports, and the packaged files that it names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    beside = [path.parent / text for text in texts if re.fullmatch(r"[\w.-]+", text)]
    files = [f for p in beside if p.is_dir() and not list(p.glob("*.py")) for f in p.iterdir() if f.is_file()]
    files += [p for p in beside if p.is_file()]
    return frozenset(_imported(tree) | {f for f in files if f.suffix not in (".py", ".md")})


def _imported(tree: ast.AST) -> set[Path]:
    """Return the package's files that code imports, at any level of the code."""
    names: set[str] = set()
    aliases: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
            aliases |= {alias.asname or NAME for alias in node.names if alias.name == NAME}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            names.add(f"{NAME}.{node.attr}")
    own = {_public(name) for name in names if name == NAME or name.startswith(f"{NAME}.")}
    return {path for name in own for path in _files_of(name)}


def _public(name: str) -> str:
    """Return the module behind a public name of the package (`mtive_nb.load_vlm`); return other names unchanged."""
    return public_names().get(name.removeprefix(f"{NAME}."), name)


@cache
def public_names() -> dict[str, str]:
    """Return the package's public names and their modules, as listed in __init__.pyi."""
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    lines = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: f"{NAME}.{line.module}" for line in lines for alias in line.names}


def _files_of(name: str) -> list[Path]:
    """Return a module's file and the __init__.py of its parent folders; a name inside a module adds no file."""
    parts = name.split(".")[1:]
    found = [PACKAGE.joinpath(*parts[:k], "__init__.py") for k in range(len(parts) + 1)]
    found.append(PACKAGE.joinpath(*parts).with_suffix(".py"))
    return [path for path in found if path.is_file()]


@cache
def hash_code(path: Path) -> str:
    """Hash a module's statements without docstrings; hash the bytes of any other file."""
    if path.suffix != ".py":
        return hash_file(path)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            del body[0]
    return digest(ast.dump(tree))
