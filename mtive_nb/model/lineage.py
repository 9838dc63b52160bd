"""Lineage of stacked adapters: what `stack.json` says of each, beside the PEFT folders themselves."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from mtive_nb.run.atomic import write_atomic

MANIFEST = "stack.json"


class LineageError(ValueError):
    """An adapter that does not belong over this base or these parents, or whose file was changed."""


@dataclass(frozen=True)
class AdapterSpec:
    """What an adapter is: its rank, alpha, where it goes ("language.attention", ...) and to which layers."""

    rank: int
    alpha: float
    placement: tuple[str, ...]
    layers: dict[str, list[int]] | None = None
    dora: bool = False
    dropout: float = 0.0


@dataclass(frozen=True)
class Lineage:
    """One adapter's line in stack.json."""

    parent: str | None
    parent_sha256: str | None
    sha256: str
    spec: AdapterSpec


def sha256_of(path: Path) -> str:
    """Hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_manifest(folder: Path) -> dict:
    """The parsed stack.json of a folder. Errors: LineageError where there is none."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise LineageError(
            f"{path} does not exist: {folder} is no folder of a stack (it was written by LoraStack.save)"
        )
    return json.loads(path.read_text())


def write_manifest(folder: Path, manifest: dict) -> None:
    """Replace a folder's stack.json in one step."""
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1))
