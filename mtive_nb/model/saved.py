"""Read and write what a stack saves: files of an adapter, and the entry of stack.json that signs them (lineage.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load

from mtive_nb.model.lineage import (
    BOUNDS,
    CONFIG,
    KINDS,
    MANIFEST,
    WEIGHTS,
    AdapterSpec,
    Lineage,
    LineageError,
    check_config,
    check_tensors,
    line_of,
    read_files,
    read_manifest,
    sha256_of,
    signature,
    spec_of,
    write_manifest,
)
from mtive_nb.model.load import WRAPPER, target_modules
from mtive_nb.run.atomic import remove

if TYPE_CHECKING:
    import torch

    from mtive_nb.model.stack import LoraStack


@dataclass(frozen=True)
class Saved:
    """A saved adapter that fits a stack: spec, its parent's name on the stack, tensors under PEFT's names, hash."""

    spec: AdapterSpec
    parent: str | None
    tensors: dict[str, torch.Tensor]
    sha256: str


@contextmanager
def saving(stack: LoraStack, kind: str, folder: Path, name: str, *, parent: str | None, spec: object) -> Iterator[Path]:
    """Yield an empty folder for an adapter's files.

    When the block succeeds, the files take their place, folder / name / file, and an entry in the folder's stack.json
    under `kind` signs them. Until then, and after an error, what lay there before is as it was. Entries of another base,
    or of other pixel bounds, are dropped, which is said. Errors: LineageError for a parent not saved, or a broken stack.json.
    """
    if parent is not None and parent not in stack.hashes:
        raise LineageError(f"adapter {name!r}: save its parent {parent!r} first; the lineage needs the parent's hash")
    if (folder / MANIFEST).exists():
        read_manifest(folder)  # a broken one is refused before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=f".{name}.") as place:
        made, target, old = Path(place) / name, folder / name, Path(place) / "before"
        made.mkdir()
        yield made
        manifest = _entries(stack, folder)
        if others := [other for other in KINDS if other != kind and name in manifest.get(other, ())]:
            raise LineageError(f"{folder / MANIFEST}: {name!r} is one of the {others[0]} already; choose another name")
        hashes = {file.name: sha256_of(file) for file in sorted(made.iterdir())}
        row = asdict(Lineage(parent, stack.hashes[parent] if parent else None, "", asdict(spec), hashes))
        row = json.loads(json.dumps(row))  # as it will be read
        row["sha256"] = signature(manifest, kind, name, row)
        manifest.setdefault(kind, {})[name] = row
        try:
            if target.exists():
                target.rename(old)
            made.rename(target)
            write_manifest(folder, manifest)
        except BaseException:
            if old.exists():
                remove(target)
                old.rename(target)
            raise


def _entries(stack: LoraStack, folder: Path) -> dict:
    """Return the folder's stack.json, without entries of another base. Errors: LineageError for a broken file."""
    manifest = {"base": stack.base_fingerprint, "model": stack.vlm.settings, "adapters": {}}
    if not (folder / MANIFEST).exists():
        return manifest
    before = read_manifest(folder)
    if _ground(before) == _ground(manifest):
        return before | {"model": stack.vlm.settings}
    if others := sorted({*before["adapters"], *before.get("mixtures", {})}):
        print(f"{folder / MANIFEST}: {', '.join(others)} stand on another base or other pixel bounds: dropped")
    return manifest


def _ground(manifest: dict) -> list:
    return [manifest["base"], *map(manifest["model"].get, BOUNDS)]


def check_line(stack: LoraStack, kind: str, folder: Path, name: str) -> tuple[Lineage, str | None, dict[str, bytes]]:
    """Return an adapter's entry in stack.json, its parent's name on the stack, and the content of its files.

    Errors: LineageError for another base, a name not listed under `kind`, an edited entry, a changed file, an absent
    parent.
    """
    manifest = read_manifest(folder)
    if manifest["base"] != stack.base_fingerprint:
        raise LineageError(
            f"{folder / name}: trained over base {manifest['base']}, but {stack.vlm.name} is {stack.base_fingerprint}"
        )
    line = line_of(folder, name, kind=kind, manifest=manifest)
    parents = [known for known, sha256 in stack.hashes.items() if sha256 == line.parent_sha256]
    if line.parent is not None and not parents:
        raise LineageError(
            f"adapter {name!r} was trained over {line.parent!r} (sha256 {str(line.parent_sha256)[:12]}...), which is not on the "
            f"stack; it holds { ({k: v[:12] for k, v in stack.hashes.items()}) }. Load its parents first"
        )
    return line, parents[0] if line.parent is not None else None, read_files(folder / name, line)


def read_saved(stack: LoraStack, folder: Path, name: str) -> Saved:
    """Read a saved adapter whose base and parent are on the stack; hash and tensors are of the same bytes.

    Errors: LineageError as check_line, and for a configuration or tensors that differ from its spec; NotFiniteError.
    """
    line, parent, files = check_line(stack, "adapters", folder, name)
    where = folder / name
    spec = spec_of(line, AdapterSpec, where=where)
    check_config(files.get(CONFIG, b""), spec, where=where)
    try:
        tensors = load(files.get(WEIGHTS, b""))
    except SafetensorError as error:
        raise LineageError(f"{where / WEIGHTS}: no safetensors file ({error})") from None
    check_tensors(tensors, tensor_shapes(stack, spec), where=where / WEIGHTS)
    return Saved(spec, parent, tensors, line.sha256)


def tensor_shapes(stack: LoraStack, spec: AdapterSpec) -> dict[str, tuple[int, ...]]:
    """Return the tensors that PEFT saves of an adapter of this spec on the stack's base, {name: shape}."""
    shapes: dict[str, tuple[int, ...]] = {}
    model = stack.vlm.model
    for path in target_modules(model, list(spec.placement), family=stack.vlm.family, layers=spec.layers):
        layer, start = model.get_submodule(path), f"{WRAPPER}{path}."
        shapes[f"{start}lora_A.weight"] = (spec.rank, layer.in_features)
        shapes[f"{start}lora_B.weight"] = (layer.out_features, spec.rank)
        if spec.dora:
            shapes[f"{start}lora_magnitude_vector"] = (layer.out_features,)
    return shapes
