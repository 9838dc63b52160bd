"""Fingerprints: why a notebook has to run again.

A run is made of five things: the notebook, its effective parameters, the package, the data, and the results of the
notebooks it reads. Each is hashed, the hashes are kept in run.json, and the difference is the reason that is shown.
Of an upstream notebook the *results* count, not the run: one that ran again and came out the same makes nothing stale.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mtive_nb.run.graph import Notebook
from mtive_nb.run.params import ParameterError

PACKAGE = Path(__file__).resolve().parents[1]
PACKAGE_SUFFIXES = (".py", ".csv", ".yaml", ".json", ".safetensors", ".jinja", ".txt", ".md")
# They show results and change none.
NOT_HASHED = (
    "__main__.py",
    "report/preflight.py",
    "model/known_configs.json",
    "report/page.py",
    "report/reference.py",
    "run/report.html.jinja",
    "run/tables.yaml",
    "show/",
)
# A run folder's own records: times and notes differ from run to run.
NOT_RESULTS = ("run.json", "fingerprint.json", "papermill.log", "parameters.yaml")
REASONS = {
    "notebook": "the notebook changed",
    "parameters": "its parameters changed",
    "package": "the package changed",
    "data": "the data (MTIVE_DATA) changed",
}


def digest(value: Any) -> str:
    """A short hash of anything that JSON can write."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()


def hash_file(path: Path) -> str:
    """A short hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def notebook_fingerprint(notebook: Path) -> str:
    """Of the cells' kind and source; outputs, ids and metadata other than tags do not count."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return digest([[c["cell_type"], "".join(c["source"]), c.get("metadata", {}).get("tags", [])] for c in cells])


def package_fingerprint(folder: Path = PACKAGE) -> str:
    """Of the package's source and packaged data, but for what only shows results."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix in PACKAGE_SUFFIXES and path.is_file() and not name.startswith(NOT_HASHED):
            files[name] = hash_file(path)
    return digest(files)


def data_fingerprint(folder: str | None = None) -> str:
    """Of the names and sizes of the files under MTIVE_DATA; dates do not count, so that a copy is the same data.

    Errors: ParameterError for a folder that does not exist.
    """
    folder = folder or os.environ.get("MTIVE_DATA", "")
    if not folder:
        return "none"
    root = Path(folder)
    if not root.is_dir():
        raise ParameterError(f"MTIVE_DATA={folder}: there is no such folder; point it at your photos, or unset it")
    return digest([[p.relative_to(root).as_posix(), p.stat().st_size] for p in sorted(root.rglob("*")) if p.is_file()])


def results_fingerprint(folder: Path) -> str:
    """Of everything that a run left for others to read: not its log, its executed notebook, its figures."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        aside = name in NOT_RESULTS or name.startswith(("figures/", "checkpoints/")) or path.suffix == ".ipynb"
        if path.is_file() and not aside:
            files[name] = hash_file(path)
    return digest(files)


def read_run(folder: Path) -> dict[str, Any]:
    """A run folder's run.json; an empty mapping where there is none, or half of one."""
    try:
        return json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def fingerprint(
    notebook: Notebook, *, parameters: dict[str, Any], profile_dir: Path, package: str, data: str, names: dict[str, str]
) -> dict[str, Any]:
    """What a notebook's next run would be made of. `names`: number -> folder name, for the upstream results."""
    return {
        "notebook": notebook_fingerprint(notebook.path),
        "parameters": digest(parameters),
        "package": package,
        "data": data,
        "upstream": {n: read_run(profile_dir / names[n]).get("results") for n in notebook.upstream},
    }


def reasons(folder: Path, *, now: dict[str, Any], running: Iterable[str] = ()) -> list[str]:
    """Why a notebook has to run, in words; an empty list when its results are those of `now`.

    `running`: numbers of the upstream notebooks that will run before it.
    """
    if not folder.is_dir():
        return ["never ran in this profile"]
    record = read_run(folder)
    before = record.get("fingerprint")
    if not record or "results" not in record or not isinstance(before, dict):
        return ["its last run was by hand, not by the runner"]
    found = [text for key, text in REASONS.items() if before.get(key) != now[key]]
    running = set(running)
    for number in now["upstream"]:
        if number in running:
            found.append(f"upstream {number} runs first")
        elif before.get("upstream", {}).get(number) != now["upstream"][number]:
            found.append(f"the results of {number} changed")
    if set(before.get("upstream", {})) - set(now["upstream"]) and not found:
        found.append("it reads fewer notebooks")
    return found
