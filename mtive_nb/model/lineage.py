"""Lineage of stacked adapters: the entries of `stack.json`, which lies beside the PEFT folders."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from mtive_nb.run.atomic import write_atomic

MANIFEST = "stack.json"


class LineageError(ValueError):
    """An adapter does not fit this base or these parents, or its file has changed."""


@dataclass(frozen=True)
class AdapterSpec:
    """An adapter's shape: rank, alpha, placement ("language.attention", ...), layers, dropout, and whether it is DoRA.

    layers: {part: layer numbers, counted from 0}; None for all layers.
    """

    rank: int
    alpha: float
    placement: tuple[str, ...]
    layers: dict[str, list[int]] | None = None
    dora: bool = False
    dropout: float = 0.0


@dataclass(frozen=True)
class Lineage:
    """One adapter's entry in stack.json."""

    parent: str | None
    parent_sha256: str | None
    sha256: str
    spec: AdapterSpec


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_manifest(folder: Path) -> dict:
    """Return the parsed stack.json of a folder. Errors: LineageError where the file is missing."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise LineageError(f"{path} does not exist: {folder} is no folder of a stack (LoraStack.save writes this file)")
    return json.loads(path.read_text())


def write_manifest(folder: Path, manifest: dict) -> None:
    """Replace a folder's stack.json atomically."""
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1))
