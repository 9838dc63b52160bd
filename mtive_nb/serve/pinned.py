"""Hashes of a profile's adapters, pinned in its parameter folder, so that only these adapters are served.

A lineage (model/lineage.py) shows an edit by whoever does not sign the entry anew. `params/PROFILE/pinned.json`, which
version control keeps apart from the outputs, shows any other edit, also of an expert, on which no adapter stands.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from mtive_nb.model.lineage import LineageError, line_of, read_files
from mtive_nb.run.atomic import write_atomic

FILE = "pinned.json"


def pin_file(profile_dir: Path) -> Path:
    """Return the file of pins beside the parameters of the profile with these outputs."""
    return profile_dir.parent.parent / "params" / profile_dir.name / FILE


def pin(profile_dir: Path, hashes: Mapping[str, str]) -> Path:
    """Pin each adapter's hash, {its name in its chapter: sha256}, in place of earlier pins; returns the file."""
    write_atomic(pin_file(profile_dir), json.dumps(dict(hashes), indent=1) + "\n")
    return pin_file(profile_dir)


def check_pin(profile_dir: Path, name: str, sha256: str) -> None:
    """Refuse an adapter whose hash is not the pinned one; without a file of pins every adapter passes.

    Errors: LineageError naming both hashes.
    """
    file = pin_file(profile_dir)
    if not file.is_file():
        return
    try:
        expected = json.loads(file.read_text(encoding="utf-8")).get(name)
    except (ValueError, AttributeError, RecursionError):
        raise LineageError(f"{file}: no JSON object of names and hashes; pin the adapters again") from None
    if sha256 != expected:
        shown = f"{expected[:12]}... is pinned" if isinstance(expected, str) else "none is pinned"
        raise LineageError(
            f"{name}: found an adapter of sha256 {sha256[:12]}..., but {shown} in params/{profile_dir.name}/{FILE}; "
            f"if it may be served, pin it: mtive-nb versions {profile_dir.name} --pin"
        )


def pinned_experts(export: Path) -> dict[str, Path]:
    """Return the experts of an export by notebook 14, {name: folder}: pins may be newer than the export.

    Errors: LineageError for an expert that changed since it was exported, and for one that is not pinned or stands on a
    stage that is not; the export's notebook checks the trunk.
    """
    profile_dir = export.resolve().parent
    experts = {folder.name: folder for folder in sorted((export / "experts").iterdir()) if folder.is_dir()}
    for name, folder in experts.items():
        line = line_of(folder.parent, name)
        read_files(folder, line)
        check_pin(profile_dir, line.parent, line.parent_sha256)
        check_pin(profile_dir, name, line.sha256)
    return experts
