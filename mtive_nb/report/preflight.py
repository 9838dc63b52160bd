"""Check a profile before a long run: `python -m mtive_nb preflight <profile>` loads no weights and trains nothing.

Units: MB is 1e6 bytes, GB is 1e9. sizes.py contains the counts and estimates.
"""

import os
import re
import shutil
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import psutil
import torch
from huggingface_hub import constants
from packaging.requirements import Requirement
from torch import nn
from transformers import PreTrainedConfig

from mtive_nb.data.door.tables import find_table
from mtive_nb.data.emdiv.own import own_tasks
from mtive_nb.data.sources import SHOP_SOURCES, SOURCES, data_dir
from mtive_nb.model import sizes
from mtive_nb.run.graph import GraphError, Notebook, Project, chapters_of, find_project, read_graph
from mtive_nb.run.params import ParameterError, check_profile, effective_parameters, files_of, load_yaml, per_task

STAGES = {"04": "PT", "05": "IT"}
KERNELS = {"sdpa": "torch", "eager": "torch", "flex_attention": "torch", "flash_attention_2": "flash_attn"}
AdapterSizes = dict[str, dict[str, int]]  # number of weights, by notebook number and adapter name


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


def preflight(profile: str, *, project: Project | None = None) -> Report:
    """Run all checks of a profile's MTIVE path; a user's mistake becomes a finding, never an exception."""
    report, books = Report(), {}
    try:
        project = project or find_project()
        graph = read_graph(project.notebooks)
        check_profile(project.params, profile=profile, notebooks=[n.path for n in graph.values()])
    except (GraphError, ParameterError) as error:
        report.add("fail", error)
        return report
    for number in (n for n in (*chapters_of("path"), "23") if n in graph):
        try:
            values = effective_parameters(graph[number].path, params=project.params, profile=profile)
            books[number] = Book(graph[number], values, project.params / profile)
        except ParameterError as error:
            report.add("fail", error)
    check_packages(report)
    if "01" in books:
        check_source(report, books["01"], home=project.home)
    for number, chosen in (("02", "GENERATOR"), ("23", "SECOND")):
        if number in books:
            check_endpoint(report, books[number], chosen=chosen)
    if "04" in books:
        check_models(report, books, project=project)
    return report


def check_packages(report: Report) -> None:
    """Check that the packages in pyproject.toml are installed; extras serve notebooks outside this path."""
    missing: dict[str, list[str]] = {}
    for text in metadata.requires("mtive-nb") or ():
        wanted, extra = Requirement(text), re.search(r'extra == "(\w+)"', text)
        here = {d.version for d in metadata.distributions(name=wanted.name)}
        if not any(wanted.specifier.contains(version, prereleases=True) for version in here):
            missing.setdefault(extra[1] if extra else "", []).append(" ".join([wanted.name, *here]))
    base = ", ".join(missing.pop("", [])) or "none"
    report.check(base == "none", "packages missing or too old", found=base, expected="none: pip install -e .")
    for extra, names in missing.items():
        report.add(
            "ok", f"extra {extra}, not needed on this path, lacks {', '.join(names)} (pip install -e '.[{extra}]')"
        )


def check_source(report: Report, book: Book, *, home: Path) -> None:
    """Check that the source folder of the records exists; its photos are not decoded."""
    source, where = book.values["SOURCE"], book.where("SOURCE")
    if source == "mart":
        report.add("ok", f"{where}: mart, which notebook 01 draws")
    elif source == "real":
        try:
            for names, origin in (SOURCES[name] for name in SHOP_SOURCES):
                here = [n for n in names if (data_dir() / n).is_dir()]
                report.check(bool(here), f"{where}: {names[0]}", found=here or f"none in {data_dir()}", expected=origin)
        except FileNotFoundError as error:
            report.add("fail", f"{where}: {error}")
    else:
        folder, expected = home / source, "mart, real or a catalogue folder (docs/catalogue.md)"
        state = folder if find_table(folder, "products") else f"{source!r}, no products.jsonl or .csv in {folder}"
        report.check(state == folder, where, found=state, expected=expected)
        try:
            names = own_tasks(folder)
            report.add("ok", f"{folder}: own tasks: {', '.join(names) or 'none'}")
        except ParameterError as error:
            report.add("fail", error)


def check_endpoint(report: Report, book: Book, *, chosen: str) -> None:
    """Check that the endpoint answers and knows the model, where the parameter `chosen` asks for one."""
    values = book.values
    if values[chosen] != "endpoint":
        return
    key = os.environ.get(values["API_KEY_ENV"], "")
    try:
        reply = httpx.get(
            f"{values['ENDPOINT'].rstrip('/')}/models", headers={"Authorization": f"Bearer {key}"}, timeout=10
        )
        reply.raise_for_status()
        models = [one["id"] for one in reply.json()["data"]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        report.add(
            "fail", f"{book.where('ENDPOINT')}: {values['ENDPOINT']} does not answer: {error or type(error).__name__}"
        )
        return
    where = f"{book.where('LLM')} at {values['ENDPOINT']}"
    report.check(values["LLM"] in models, where, found=values["LLM"], expected=f"one of {', '.join(models[:8])}")


def check_models(report: Report, books: dict[str, Book], *, project: Project) -> None:
    """Check the base, its adapters, and the memory and disk space that they need."""
    base = books["04"]  # sets the model; later chapters read it from the stack
    name, where, kernel = base.values["MODEL"], base.where("MODEL"), base.values["ATTENTION"]
    if not find_spec(KERNELS.get(kernel, "?")):
        expected = f"{', '.join(KERNELS)}, and its package installed"
        report.add("fail", f"{base.where('ATTENTION')}: found {kernel!r}; expected one of {expected}")
    try:
        config, source, here = sizes.find_config(name, home=project.home)
        model = sizes.meta_model(config)
    except Exception as error:  # transformers raises many types of error for a bad configuration
        report.add("fail", f"{where}: {error or type(error).__name__}")
        return
    counts = sizes.part_parameters(model)
    total = sum(counts.values())
    rows = [(part, f"{n:,}", f"{n / total:.1%}") for part, n in (counts | {"all": total}).items()]
    report.tables[f"Parameters of {name}"] = pd.DataFrame(rows, columns=["component", "parameters", "share"])
    report.add("ok", f"{where}: {name}, {total:,} parameters according to {source}")
    if not here:
        can_come = sizes.hub_answers() and not Path(source).is_dir()
        come = "they will be downloaded" if can_come else "expected *.safetensors in the folder or the hub's cache"
        report.add("warn" if can_come else "fail", f"{where}: found no weights of {name} ({gb(2 * total)} GB); {come}")
    adapters = check_adapters(report, books, model, total=total)
    check_memory(report, books, model, adapters, total=total)
    check_disk(report, adapters, project.outputs, download=0 if here else 2 * total)


def check_adapters(report: Report, books: dict[str, Book], model: nn.Module, *, total: int) -> AdapterSizes:
    """Check each adapter's placement and return its size."""
    found: AdapterSizes = {}
    rows = []
    for number, book in books.items():
        for name, (rank, placement, where) in book.adapters().items():
            try:
                modules = sizes.placement_modules(model, placement)
                n = sizes.adapter_parameters(model, placement, rank=rank)
            except ValueError as error:
                report.add("fail", f"{where}: {error}")
                continue
            found.setdefault(number, {})[name] = n
            hits = ", ".join(f"{entry} {len(names)}" for entry, names in modules.items())
            rows.append((number, name, rank, hits, f"{n:,}", f"{2e-6 * n:.1f}", f"{4e-6 * n:.1f}", f"{n / total:.3%}"))
    columns = ["in", "adapter", "rank", "linear layers hit", "parameters", "MB fp16", "MB fp32", "of the base"]
    report.tables["Adapters"] = pd.DataFrame(rows, columns=columns)
    if rows:
        report.add("ok", f"placements of {len(rows)} adapters: every entry matches layers, all of its own component")
    return found


def check_memory(report: Report, books: dict[str, Book], model: nn.Module, sized: AdapterSizes, *, total: int) -> None:
    """Estimate the memory of each training run and of a server; check the largest training peak on this machine."""
    config, quantize = model.config, books["04"].values["QUANTIZE"]
    weights = sizes.weight_bytes(model, quantize=quantize)
    rows, peaks, below, image_tok = [], [], 0, check_pixels(report, books["04"], config)
    for number, book in books.items():
        if not (own := sized.get(number, {}).values()):
            continue
        batch = book.values["BATCH"]
        newest, below = max(own), below + sum(own)
        load = {"trained": newest, "resident": below - newest, "batch": batch, "image_tok": image_tok}
        parts = sizes.training_memory(config, weights, **load)
        kept = parts["checkpointed" if book.values["CHECKPOINTING"] else "activations"]
        needs = parts["weights"] + parts["adapters"] + kept
        peaks.append((needs, f"{book.notebook.path.name}, training"))
        if number == "06":
            copies = "06, the stack twice" if quantize else "06, the stack live and merged in float32"
            peaks.append(((2 if quantize else 3) * weights + parts["adapters"], copies))
        line = {"in": number, "batch": batch, "tokens an image": image_tok}
        rows.append(line | {name: gb(n) for name, n in (parts | {"needs": needs}).items()})
    if rows:
        about = f"{quantize or 'bfloat16'}; a record of {sizes.IMAGES} images and {sizes.TEXT_TOK} tokens of text; activations by a rough rule"
        report.tables[f"Memory of training in GB ({about})"] = pd.DataFrame(rows)
        check_device(report, *max(peaks))
    if expert := max(sized.get("06", {}).values(), default=0):
        parts = sizes.serving_memory(config, total, expert=expert)
        line = {k: gb(n) for k, n in parts.items()} | {"experts beside": f"{parts['experts beside']:,}"}
        about = f"16 bits; cache of {sizes.SERVE_BATCH} x {sizes.SERVE_TOK:,} tokens, {sizes.kv_cache_bytes(config, tokens=1):,} bytes each"
        report.tables[f"Memory of serving in GB ({about}; a tenth of a 24 GB card stays free)"] = pd.DataFrame([line])


def check_pixels(report: Report, book: Book, config: PreTrainedConfig) -> int:
    """Return the tokens per image under a notebook's pixel bounds; 1,024 for a model family without a rule."""
    where = book.where("MAX_PX")
    if config.model_type != "qwen2_5_vl":
        report.add("warn", f"{where}: {config.model_type} sizes its images itself; assuming 1,024 tokens per image")
        return 1024
    try:
        return sizes.image_tokens(config, min_px=book.values["MIN_PX"], max_px=book.values["MAX_PX"])
    except ValueError as error:
        report.add("fail", f"{where}: {error}")
        return 1


def check_device(report: Report, needs: float, what: str) -> None:
    """Check that the GPU has `needs` bytes free; without a GPU, check main memory, for float32."""
    text = f"{what}: needs about {gb(needs)} GB, the largest peak"
    if torch.cuda.is_available():
        free = torch.cuda.mem_get_info()[0]
        level = "fail" if needs > free else "warn" if needs > 0.9 * free else "ok"
        report.add(level, f"{text}; found {gb(free)} GB free on {torch.cuda.get_device_name()}")
        return
    free = psutil.virtual_memory().available
    build = "" if torch.version.cuda else f" (torch {torch.__version__} is built without CUDA)"
    text = f"no GPU here{build}; {text}; about twice that on the CPU, in float32; found {gb(free)} GB free"
    report.add("ok" if 2 * needs < free else "warn", text)


def check_disk(report: Report, adapters: AdapterSizes, outputs: Path, *, download: int) -> None:
    """Check free disk space: fp32 adapters, their last checkpoints with AdamW moments, a second copy during a write.

    `download`: bytes of the base's weights to download to the hub's cache.
    """
    weights = [n for own in adapters.values() for n in own.values()]
    needs = {outputs: 16 * sum(weights) + 12 * max(weights, default=0), Path(constants.HF_HUB_CACHE): download}
    for folder, n in ((folder, n) for folder, n in needs.items() if n):
        free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
        report.check(n < free, f"disk at {folder}", found=f"{gb(free)} GB free, {gb(n)} GB needed", expected="more")


def main(profile: str) -> int:
    """Run the command `preflight`; return exit code 0 if no check failed, else 1."""
    report = preflight(profile)
    print(report)
    return 0 if report.ok else 1
