"""Export a stack to folders that stock vLLM serves: a merged trunk with its experts, or a branch as one adapter.

vLLM applies one LoRA per request, so an expert's ancestors must be in the base's weights or in the expert itself.
"""

import shutil
from dataclasses import asdict
from pathlib import Path

from mtive_nb.model.lineage import LineageError, read_manifest, write_manifest
from mtive_nb.model.saved import check_line
from mtive_nb.model.stack import LoraStack

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the maximum ranks that vLLM accepts


def export_trunk(stack: LoraStack, folder: Path, name: str | None) -> Path:
    """Write base + `name` with its ancestors (None: the bare base), merged, and the processor; returns the folder.

    Errors: ValueError for a base in 4 bits, RuntimeError while the stack serves.
    """
    merged = stack.merged_trunk(name)
    merged.model.save_pretrained(folder)
    merged.processor.save_pretrained(folder)
    return Path(folder)


def export_expert(stack: LoraStack, saved: Path, folder: Path, name: str, *, trunk: str | None) -> Path:
    """Copy the saved adapter `saved` / name to `folder` / name, if its parent is `trunk`; returns the new folder.

    Its entry is copied to the stack.json of `folder`, so that a server's answers can be traced to the adapter.
    Errors: as LoraStack.load; ValueError for another parent or for DoRA.
    """
    stack.read(Path(saved), name)  # the server would not notice a scale that its spec does not have, or NaN
    line, parent, files = check_line(stack, "adapters", Path(saved), name)
    if parent != trunk:
        raise ValueError(f"{Path(saved) / name} stands on {parent!r}, the exported trunk is {trunk!r}")
    if line.spec["dora"]:
        raise ValueError(f"{Path(saved) / name} is a DoRA adapter, which vLLM cannot serve: merge it")
    copy, manifest = Path(folder) / name, read_manifest(saved)
    copy.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():  # the bytes that were checked, and no other file of the folder
        (copy / file).write_bytes(content)
    try:
        before = read_manifest(folder)
        others = before["adapters"] if before["base"] == manifest["base"] else {}
    except LineageError:  # none yet
        others = {}
    write_manifest(Path(folder), manifest | {"adapters": others | {name: asdict(line)}, "mixtures": {}})
    return copy


def export_flat(stack: LoraStack, folder: Path, name: str) -> Path:
    """Write the branch of `name` as one adapter over the bare base, `folder` / name; its rank is the sum of ranks.

    B = [s_PT B_PT, s_IT B_IT, s_E B_E], and A is stacked likewise: the same function without merging.
    Errors: ValueError for a branch with DoRA, whose parts cannot be concatenated.
    """
    branch = stack.branch(name)
    if any(stack.specs[a].dora for a in branch):
        raise ValueError(f"branch {branch} holds a DoRA adapter, which cannot be concatenated")
    active, model = stack.active, stack.peft
    model.add_weighted_adapter(list(branch), [1.0] * len(branch), adapter_name="flat", combination_type="cat")
    try:
        scratch = Path(folder) / ".flat"
        model.save_pretrained(scratch, selected_adapters=["flat"], save_embedding_layers=False)
        shutil.rmtree(Path(folder) / name, ignore_errors=True)
        shutil.move(scratch / "flat", Path(folder) / name)
        shutil.rmtree(scratch)
    finally:
        model.delete_adapter("flat")
        stack.activate(active[-1] if active else None)
    return Path(folder) / name


def rank_room(ranks: list[int]) -> int:
    """Return the smallest of vLLM's RANKS that fits all `ranks`. Errors: ValueError if none does."""
    room = [r for r in RANKS if r >= max(ranks)]
    if not room:
        raise ValueError(f"ranks: found {max(ranks)}, vLLM serves {RANKS[-1]} at most")
    return room[0]
