"""Lineage of stacked adapters: the entries of `stack.json`, which lies beside the PEFT folders.

An entry's sha256 covers the base, its pixel bounds, the parent's sha256, the adapter's name and spec, and the content of
its files. A parent's sha256 covers its own parent, so one hash stands for the whole branch down to the base. The spec is
the only source of rank, alpha and placement; PEFT's adapter_config.json must agree with it.

Someone who edits an adapter can also sign its entry anew. Its children then refuse it; for an adapter without children,
a hash that is pinned elsewhere shows the edit (serve/pinned.py).
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mtive_nb.run.atomic import write_atomic

if TYPE_CHECKING:
    import torch

MANIFEST = "stack.json"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"  # PEFT's names
KINDS = ("adapters", "mixtures")
BOUNDS = ("min_px", "max_px")  # of the model's settings, they decide what a photo becomes
Spec = TypeVar("Spec")


class LineageError(ValueError):
    """An adapter does not fit this base or these parents, or its files or its entry have changed."""


class NotFiniteError(ValueError):
    """A weight or a loss is infinite or not a number."""


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

    def __post_init__(self) -> None:
        """Errors: ValueError naming the field, what was found and what was expected."""
        as_python(self, "rank", "alpha", "dropout")
        layers, whole = self.layers, lambda value: isinstance(value, int) and not isinstance(value, bool)
        expected = {
            "rank": (whole(self.rank) and self.rank >= 1, "a whole number from 1"),
            "alpha": (isinstance(self.alpha, Real) and math.isfinite(self.alpha), "a finite number"),
            "placement": (
                self.placement
                and not isinstance(self.placement, str)
                and _are(lambda p: isinstance(p, str), self.placement),
                "names of parts",
            ),
            "layers": (
                layers is None or isinstance(layers, dict) and all(_are(whole, own) for own in layers.values()),
                "{part: layer numbers} or None",
            ),
            "dora": (isinstance(self.dora, bool), "True or False"),
            "dropout": (isinstance(self.dropout, Real) and 0 <= self.dropout < 1, "a share from 0 to below 1"),
        }
        for name, (right, what) in expected.items():
            if not right:
                raise ValueError(f"AdapterSpec: {name}: found {getattr(self, name)!r}, expected {what}")


def as_python(settings: object, *fields: str) -> None:
    """Turn fields of a frozen dataclass from numbers of a table (NumPy's) into Python's, which JSON can hold."""
    for name in fields:
        if hasattr(found := getattr(settings, name), "item"):
            object.__setattr__(settings, name, found.item())


def _are(right: Callable[[object], bool], values: object) -> bool:
    return isinstance(values, list | tuple) and all(map(right, values))


@dataclass(frozen=True)
class Lineage:
    """One adapter's entry in stack.json: its parent, its spec as JSON, and the hash of each of its files."""

    parent: str | None
    parent_sha256: str | None
    sha256: str
    spec: dict
    files: dict[str, str]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_manifest(folder: Path) -> dict:
    """Return the stack.json of a folder, parsed. Errors: LineageError for a missing, broken or older file."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise LineageError(f"{path} does not exist: {folder} is no folder of a stack (LoraStack.save writes this file)")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        about = {"base": str, "model": dict, "adapters": dict} | ({"mixtures": dict} if "mixtures" in manifest else {})
        wrong = [name for name, kind in about.items() if not isinstance(manifest[name], kind)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LineageError(
            f"{path}: half-written or edited, found {type(error).__name__} ({error}); restore it, or delete it and save its adapters again"
        ) from None
    if wrong:
        raise LineageError(f"{path}: found {manifest[wrong[0]]!r} as {wrong[0]!r}; save its adapters again")
    return manifest


def write_manifest(folder: Path, manifest: dict) -> None:
    """Replace a folder's stack.json atomically."""
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1))


def signature(manifest: Mapping, kind: str, name: str, row: Mapping) -> str:
    """Return the hash of an entry: of all that makes the adapter, its parents and the base what they are."""
    bounds = [manifest["model"].get(bound) for bound in BOUNDS]
    own = [row[field] for field in ("parent", "parent_sha256", "spec", "files")]
    return hashlib.sha256(json.dumps([manifest["base"], bounds, kind, name, *own], sort_keys=True).encode()).hexdigest()


def line_of(
    folder: Path, name: str, *, kind: str = "adapters", manifest: dict | None = None, check: bool = True
) -> Lineage:
    """Return the entry of an adapter in the stack.json of `folder` (manifest: as read; default: read now).

    check: recompute its hash; False where the adapter is only named, since loading checks it.
    Errors: LineageError for an absent name, an incomplete or an edited entry.
    """
    manifest, path = manifest or read_manifest(folder), Path(folder) / MANIFEST
    rows = manifest.get(kind, {})
    if name not in rows:
        raise LineageError(f"{path}: no adapter {name!r}; its {kind} are {sorted(rows)}")
    try:
        line = Lineage(**rows[name])
        signed = signature(manifest, kind, name, rows[name])
        if not all(isinstance(sha256, str) for sha256 in line.files.values()):
            raise TypeError
    except (TypeError, AttributeError):
        raise LineageError(
            f"{path}: the entry of {name!r} has other fields than {', '.join(Lineage.__dataclass_fields__)}: edited, or "
            "saved by an earlier version; train the adapter again"
        ) from None
    if check and signed != line.sha256:
        raise LineageError(
            f"{path}: the entry of {name!r} was edited: its content has sha256 {signed[:12]}..., its signature says "
            f"{str(line.sha256)[:12]}...; restore the file, or train the adapter again"
        )
    return line


def read_files(folder: Path, line: Lineage) -> dict[str, bytes]:
    """Return the content of an adapter's files, {name: bytes}. Errors: LineageError for a missing or changed file."""
    found = {}
    for name, sha256 in line.files.items():
        file = Path(folder) / name
        found[name] = file.read_bytes() if file.is_file() else b""
        if (now := hashlib.sha256(found[name]).hexdigest()) != sha256:
            now = f"now {now[:12]}..." if file.is_file() else "no such file"
            raise LineageError(
                f"{file}: missing or changed since it was saved (expected sha256 {sha256[:12]}..., {now})"
            )
    return found


def spec_of(line: Lineage, kind: type[Spec], *, where: Path) -> Spec:
    """Return an entry's spec. Errors: LineageError for another field or value."""
    try:
        return kind(**line.spec | {"placement": tuple(line.spec["placement"])})
    except (TypeError, KeyError, ValueError) as error:
        raise LineageError(f"{where}: its spec in {MANIFEST} is none of a {kind.__name__}: {error}") from None


def check_config(content: bytes, spec: AdapterSpec, *, where: Path) -> None:
    """Refuse PEFT's configuration where it scales or shapes the adapter otherwise than its spec. Errors: LineageError."""
    expected = {
        "peft_type": "LORA", "r": spec.rank, "lora_alpha": spec.alpha, "use_dora": spec.dora, "use_rslora": False,
        "rank_pattern": {}, "alpha_pattern": {}, "bias": "none",
    }  # fmt: skip
    try:
        found = json.loads(content)
        wrong = [name for name, value in expected.items() if found.get(name, value) != value]
    except (ValueError, AttributeError, RecursionError):
        raise LineageError(f"{where / CONFIG}: not the JSON object that PEFT writes") from None
    if wrong:
        name = wrong[0]
        raise LineageError(
            f"{where / CONFIG}: {name} is {found[name]!r}, but {MANIFEST} has {expected[name]!r} for this adapter"
        )


def check_tensors(
    found: "Mapping[str, torch.Tensor]", shapes: Mapping[str, tuple[int, ...]], *, where: Path | str
) -> None:
    """Refuse tensors that are not exactly those of `shapes`, {name: shape}, all finite.

    Errors: LineageError naming a missing or extra tensor, another shape or kind of numbers; NotFiniteError.
    """
    for said, names in (("lacks", shapes.keys() - found.keys()), ("has an extra", found.keys() - shapes.keys())):
        if names:
            raise LineageError(f"{where}: {said} tensor {min(names)} ({len(names)} in all); expected {len(shapes)}")
    for name, shape in shapes.items():
        if not found[name].is_floating_point() or found[name].element_size() < 2:
            raise LineageError(f"{where}: {name} is of {found[name].dtype}, expected floating point of 16 bits or more")
        if tuple(found[name].shape) != shape:
            raise LineageError(f"{where}: {name} has the shape {tuple(found[name].shape)}, its spec expects {shape}")
    check_finite(found, where=where)


def check_finite(weights: "Mapping[str, torch.Tensor]", *, where: Path | str) -> None:
    """Raise NotFiniteError if any weight is infinite or not a number."""
    wrong = [name for name, weight in weights.items() if not weight.isfinite().all()]
    if wrong:
        raise NotFiniteError(f"{where}: {len(wrong)} of {len(weights)} tensors are not finite, e.g. {wrong[0]}")
