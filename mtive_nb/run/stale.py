"""Why a notebook must run again.

A run has five inputs: the notebook, its effective parameters, the code that it imports, its data, and the results of
the notebooks that it reads. run.json keeps a content hash of each input, and a changed hash is the reason to run again.
An upstream notebook counts by its *results*: if it ran again with the same results, nothing becomes stale.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mtive_nb.run.content import RESULTS, Hashes, data_digest, digest, read_json, results_digest, results_of
from mtive_nb.run.graph import Notebook, code_of
from mtive_nb.run.params import ParameterError

DATA = "MTIVE_DATA"  # environment variable: the folder of real photos
REASONS = {
    "notebook": "the notebook changed",
    "parameters": "its parameters changed",
    "data": "its data changed",
}
FILES_NAMED = 3
OWN_FILES = {"15": ("ROWS", "PHOTOS"), "17": ("FILE",), "19": ("ANSWERS",)}  # parameters that name the user's own paths


def notebook_fingerprint(notebook: Path) -> str:
    """Hash the type, source and tags of a notebook's cells; outputs, ids and other metadata do not count."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return digest([[c["cell_type"], "".join(c["source"]), c.get("metadata", {}).get("tags", [])] for c in cells])


def data_paths(notebook: Notebook, parameters: Mapping[str, Any], *, home: Path) -> set[Path]:
    """Return the folders and files of the user's that a notebook itself opens, as far as they are there.

    They are the folder named by SOURCE, MTIVE_DATA if SOURCE is "real" or the notebook's code names MTIVE_DATA, and
    what the parameters of OWN_FILES name. Photos that such a file names do not count.
    Errors: ParameterError if MTIVE_DATA is not a folder.
    """
    real = os.environ.get(DATA, "")
    if real and not Path(real).is_dir():
        raise ParameterError(f"{DATA}={real}: there is no such folder; point it at your photos, or unset it")
    source = parameters.get("SOURCE", "mart")
    found = {home / source} if source not in ("mart", "real") else set()
    if real and (source == "real" or any(DATA in cell for cell in code_of(notebook.path))):
        found.add(Path(real))
    found |= {home / parameters[name] for name in OWN_FILES.get(notebook.number, ()) if parameters.get(name)}
    return {path for path in found if path.exists()}


def data_fingerprint(paths: Iterable[Path], *, cache_file: Path | None = None) -> str:
    """Hash the content of all these folders and files; "none" without any."""
    return digest(sorted(data_digest(p, cache_file=cache_file) for p in paths)) if paths else "none"


def read_run(folder: Path) -> dict[str, Any]:
    """Read a run folder's run.json; return an empty mapping if it is missing or broken."""
    return read_json(folder / "run.json")


def fingerprint(
    notebook: Notebook,
    *,
    parameters: dict[str, Any],
    profile_dir: Path,
    code: Mapping[str, str],
    data: str,
    names: Mapping[str, str],
    look: Callable[[Path], Hashes] = results_of,
) -> dict[str, Any]:
    """Return the inputs of a notebook's next run. `names`: number -> folder name, for the upstream results.

    `look` returns a folder's results; a plan passes one that remembers them, since many notebooks read the same folder.
    """
    folders = {n: profile_dir / names[n] for n in notebook.upstream}
    return {
        "notebook": notebook_fingerprint(notebook.path),
        "parameters": digest(parameters),
        "code": dict(code),
        "data": data,
        "upstream": {n: results_digest(look(f)) if f.is_dir() else None for n, f in folders.items()},
    }


def reasons(
    folder: Path, *, now: dict[str, Any], running: Iterable[str] = (), look: Callable[[Path], Hashes] = results_of
) -> list[str]:
    """Return why a notebook must run, in words; an empty list if its results match `now` and did not change since.

    `running`: numbers of the upstream notebooks that will run before it. `look`: as in `fingerprint`.
    """
    if not folder.is_dir():
        return ["never ran in this profile"]
    record = read_run(folder)
    before = record.get("fingerprint")
    if not record or "results" not in record or not isinstance(before, dict):
        return ["its last run was by hand, not by the runner"]
    found = [text for key, text in REASONS.items() if before.get(key) != now[key]]
    if changed := _differing(before.get("code", {}), now["code"]):
        found.append(f"{_named(changed)} changed")
    running = set(running)
    for number in now["upstream"]:
        if number in running:
            found.append(f"upstream {number} runs first")
        elif before.get("upstream", {}).get(number) != now["upstream"][number]:
            found.append(f"the results of {number} changed")
    if set(before.get("upstream", {})) - set(now["upstream"]) and not found:
        found.append("it reads fewer notebooks")
    results = look(folder)
    if results_digest(results) != record["results"]:
        left = {name: row[0] for name, row in read_json(folder / RESULTS).items()}
        changed = _differing(left, {name: row[0] for name, row in results.items()}) if left else ["a result"]
        found.append(f"{_named(changed)} changed after the run")
    return found


def _differing(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]


def _named(files: list[str]) -> str:
    more = len(files) - FILES_NAMED
    return ", ".join(files[:FILES_NAMED]) + (f" and {more} more" if more > 0 else "")
