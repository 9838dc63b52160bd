"""Findings of a preflight, and the checks that every chapter's models need: weights, device, disk, endpoint.

Units: GB is 1e9 bytes.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import psutil
import torch
from huggingface_hub import constants
from torch import nn

from mtive_nb.model import sizes
from mtive_nb.run.graph import Notebook
from mtive_nb.run.params import files_of, load_yaml, per_task

STAGES = {"04": "PT", "05": "IT"}


@dataclass
class Report:
    """Findings, each with a level (ok, warn, fail) and a text, and tables by title."""

    findings: list[tuple[str, str]] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return all(level != "fail" for level, _ in self.findings)

    def add(self, level: str, text: object) -> None:
        finding = (level, " ".join(str(text).split()))
        self.findings += [finding] if finding not in self.findings else []

    def check(self, good: bool, text: str, *, found: object, expected: str) -> None:
        """Add "ok" with what was found, or "fail" with what was found and what was expected."""
        self.add("ok" if good else "fail", f"{text}: found {found}" + ("" if good else f"; expected {expected}"))

    def __str__(self) -> str:
        tables = [f"{title}\n{table.to_string(index=False, na_rep='-')}\n" for title, table in self.tables.items()]
        levels = [level for level, _ in self.findings]
        total = ", ".join(f"{levels.count(level)} {level}" for level in ("ok", "warn", "fail"))
        return "\n".join([*tables, *(f"{level:<4}  {text}" for level, text in self.findings), total])


@dataclass(frozen=True)
class Book:
    """A notebook with its effective parameters; `folder` contains the profile's parameter files."""

    notebook: Notebook
    values: dict[str, Any]
    folder: Path

    def where(self, name: str) -> str:
        """Return the file that sets a parameter and the parameter's name, as the start of a message."""
        setting = [path for path in files_of(self.folder, self.notebook.name) if name in load_yaml(path)]
        return (
            f"params/{self.folder.name}/{setting[-1].name}: {name}" if setting else f"{self.notebook.path.name}: {name}"
        )

    def adapters(self) -> dict[str, tuple[int, list[str], str]]:
        """Return each trained adapter's rank, placement and the placement's file; 06 trains on stack and bare base."""
        v, where = self.values, self.where("PLACEMENT")
        if "RANK" not in v:
            return {}
        if not isinstance(v["RANK"], dict):
            return {STAGES[self.notebook.number]: (v["RANK"], v["PLACEMENT"], where)}
        rank, placement = (per_task(v[name], v["TASKS"]) for name in ("RANK", "PLACEMENT"))
        own = {t: (rank[t], placement[t], f"{where}[{t}]") for t in v["TASKS"]}
        if not v["COMPARE"]:
            return own
        own["SL"] = (v["SHARED_RANK"], v["SHARED_PLACEMENT"], self.where("SHARED_PLACEMENT"))
        return own | {f"Base_{name}": line for name, line in own.items()}


def gb(n: float) -> str:
    """Format bytes as GB: two decimals, or four below 0.1 GB."""
    return f"{n / 1e9:.2f}" if n >= 1e8 else f"{n / 1e9:.4f}"


def check_weights(report: Report, book: Book, parameter: str, *, home: Path) -> tuple[nn.Module, int] | None:
    """Check the model that a parameter names; return it without weights, and the bytes to download; None if it fails."""
    name, where = book.values[parameter], book.where(parameter)
    try:
        config, source, here = sizes.find_config(name, home=home)
        model = sizes.meta_model(config)
    except Exception as error:  # transformers raises many types of error for a bad configuration
        report.add("fail", f"{where}: {error or type(error).__name__}")
        return None
    counts = {part: n for part, n in sizes.part_parameters(model).items() if n}
    total = sum(counts.values())
    rows = [(part, f"{n:,}", f"{n / total:.1%}") for part, n in (counts | {"all": total}).items()]
    report.tables[f"Parameters of {name}"] = pd.DataFrame(rows, columns=["component", "parameters", "share"])
    report.add("ok", f"{where}: {name}, {total:,} parameters according to {source}")
    if not here:
        can_come = sizes.hub_answers() and not Path(source).is_dir()
        come = "they will be downloaded" if can_come else "expected *.safetensors in the folder or the hub's cache"
        report.add("warn" if can_come else "fail", f"{where}: found no weights of {name} ({gb(2 * total)} GB); {come}")
    return model, 0 if here else 2 * total


def check_device(report: Report, needs: float, what: str, *, read: float = 0) -> None:
    """Check that the GPU has `needs` bytes free; without a GPU, check main memory, for float32.

    read: bytes of a checkpoint that pass through main memory before a GPU has them in 4 bits.
    """
    text = f"{what}: needs about {gb(needs)} GB, the largest peak"
    if torch.cuda.is_available():
        free = torch.cuda.mem_get_info()[0]
        level = "fail" if needs > free else "warn" if needs > 0.9 * free else "ok"
        report.add(level, f"{text}; found {gb(free)} GB free on {torch.cuda.get_device_name()}")
        free = psutil.virtual_memory().available
        if read > free:
            report.add("warn", f"main memory: found {gb(free)} GB free, the checkpoint to be packed has {gb(read)} GB")
        return
    free = psutil.virtual_memory().available
    build = "" if torch.version.cuda else f" (torch {torch.__version__} is built without CUDA)"
    text = f"no GPU here{build}; {text}; about twice that on the CPU, in float32; found {gb(free)} GB free"
    report.add("ok" if 2 * needs < free else "warn", text)


def check_disk(report: Report, weights: Sequence[int], outputs: Path, *, download: int) -> None:
    """Check free disk space: fp32 adapters, their last checkpoints with AdamW moments, a second copy during a write.

    `weights`: number of weights of each adapter. `download`: bytes of the base's weights for the hub's cache.
    """
    needs = {outputs: 16 * sum(weights) + 12 * max(weights, default=0), Path(constants.HF_HUB_CACHE): download}
    for folder, n in ((folder, n) for folder, n in needs.items() if n):
        free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
        report.check(n < free, f"disk at {folder}", found=f"{gb(free)} GB free, {gb(n)} GB needed", expected="more")


def check_endpoint(report: Report, book: Book, models: Mapping[str, Sequence[str]]) -> None:
    """Check that the chapter's endpoint answers and knows its models, {parameter: names of models}; none: no check."""
    values = book.values
    if not any(models.values()):
        return
    key = os.environ.get(values["API_KEY_ENV"], "")
    try:
        reply = httpx.get(
            f"{values['ENDPOINT'].rstrip('/')}/models", headers={"Authorization": f"Bearer {key}"}, timeout=10
        )
        reply.raise_for_status()
        known = [one["id"] for one in reply.json()["data"]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        report.add(
            "fail", f"{book.where('ENDPOINT')}: {values['ENDPOINT']} does not answer: {error or type(error).__name__}"
        )
        return
    for parameter, name in ((parameter, name) for parameter, names in models.items() for name in names):
        where = f"{book.where(parameter)} at {values['ENDPOINT']}"
        report.check(name in known, where, found=name, expected=f"one of {', '.join(known[:8])}")
