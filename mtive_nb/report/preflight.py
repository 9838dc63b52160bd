"""Check a profile before a long run: `python -m mtive_nb preflight <profile>` loads no weights and trains nothing.

Units: MB is 1e6 bytes, GB is 1e9. sizes.py contains the counts and estimates.
"""

import re
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
from packaging.requirements import Requirement
from torch import nn
from transformers import PreTrainedConfig

from mtive_nb.data.door.tables import find_table
from mtive_nb.data.emdiv.own import own_tasks
from mtive_nb.data.sources import SHOP_SOURCES, SOURCES, data_dir
from mtive_nb.model import sizes
from mtive_nb.model.text import TEXT_FAMILIES
from mtive_nb.report.findings import Book, Report, check_device, check_disk, check_endpoint, check_weights, gb
from mtive_nb.run.graph import GraphError, Project, chapters_of, find_project, read_graph
from mtive_nb.run.params import ParameterError, check_profile, effective_parameters
from mtive_nb.run.stale import OWN_FILES

KERNELS = {"sdpa": "torch", "eager": "torch", "flex_attention": "torch", "flash_attention_2": "flash_attn"}
# Chapters with a model of their own: the parameter that names it, and those that name models at ENDPOINT.
OWN_MODELS = {
    "15": ("TEXT_MODEL", ("CAPTIONER", "JUDGES")),
    "16": ("BASE", ("CAPTIONER", "VERIFIER")),
    "17": ("BASE", ("JUDGE",)),
}
# Chapters that read a file of the user's own: the page that has its form.
OWN_PAGES = {"15": "docs/commerce.md", "17": "docs/items.md"}
AdapterSizes = dict[str, dict[str, int]]  # number of weights, by notebook number and adapter name


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
    for number in (n for n in (*chapters_of("path"), *OWN_MODELS, "23") if n in graph):
        try:
            values = effective_parameters(graph[number].path, params=project.params, profile=profile)
            books[number] = Book(graph[number], values, project.params / profile)
        except ParameterError as error:
            report.add("fail", error)
    own = {number: books.pop(number) for number in OWN_MODELS if number in books}
    check_packages(report)
    if "01" in books:
        check_source(report, books["01"], home=project.home)
    for number, chosen in (("02", "GENERATOR"), ("23", "SECOND")):
        if number in books and books[number].values[chosen] == "endpoint":
            check_endpoint(report, books[number], {"LLM": [books[number].values["LLM"]]})
    if "04" in books:
        check_models(report, books, project=project)
    for number, book in own.items():
        if number in OWN_PAGES:
            check_own_files(report, book, OWN_FILES[number], OWN_PAGES[number], home=project.home)
        check_own_model(report, book, *OWN_MODELS[number], project=project)
    if others := sorted(graph.keys() - books.keys() - own.keys()):
        report.add(
            "ok", f"not looked at: chapters {', '.join(others)}; they train adapters of the sizes above or smaller"
        )
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


def check_models(report: Report, books: dict[str, Book], *, project: Project) -> None:
    """Check the base, its adapters, and the memory and disk space that they need."""
    base = books["04"]  # sets the model; later chapters read it from the stack
    kernel = base.values["ATTENTION"]
    if not find_spec(KERNELS.get(kernel, "?")):
        expected = f"{', '.join(KERNELS)}, and its package installed"
        report.add("fail", f"{base.where('ATTENTION')}: found {kernel!r}; expected one of {expected}")
    found = check_weights(report, base, "MODEL", home=project.home)
    if not found:
        return
    model, download = found
    total = sum(sizes.part_parameters(model).values())
    if model.config.model_type in TEXT_FAMILIES:
        found = f"{base.values['MODEL']}, a {model.config.model_type}, which reads text alone"
        report.add("fail", f"{base.where('MODEL')}: found {found}; expected a vision-language model")
        return
    adapters = check_adapters(report, books, model, total=total)
    check_memory(report, books, model, adapters, total=total)
    check_disk(report, [n for own in adapters.values() for n in own.values()], project.outputs, download=download)


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
        check_device(report, *max(peaks), read=2 * total if quantize else 0)
    if expert := max(sized.get("06", {}).values(), default=0):
        parts = sizes.serving_memory(config, total, expert=expert)
        line = {k: gb(n) for k, n in parts.items()} | {"experts beside": f"{parts['experts beside']:,}"}
        about = f"16 bits; cache of {sizes.SERVE_BATCH} x {sizes.SERVE_TOK:,} tokens, {sizes.kv_cache_bytes(config, tokens=1):,} bytes each"
        report.tables[f"Memory of serving in GB ({about}; a tenth of a 24 GB card stays free)"] = pd.DataFrame([line])


def check_pixels(report: Report, book: Book, config: PreTrainedConfig) -> int:
    """Return the tokens per image under a notebook's pixel bounds."""
    try:
        return sizes.image_tokens(config, min_px=book.values["MIN_PX"], max_px=book.values["MAX_PX"])
    except ValueError as error:
        report.add("fail", f"{book.where('MAX_PX')}: {error}")
        return 1


def check_own_files(report: Report, book: Book, names: Sequence[str], page: str, *, home: Path) -> None:
    """Check that the paths which a chapter's parameters `names` hold exist, and that own rows have no stand-ins."""
    for name in names:
        if path := book.values[name]:
            there = (home / path).exists()
            found = path if there else f"{path!r}, which is not in {home}"
            report.check(there, book.where(name), found=found, expected=f"a path from there ({page})")
    for name, stand_in in (("CAPTIONER", "facts"), ("JUDGES", [])) if book.values.get("ROWS") else ():
        if book.values[name] == stand_in:
            needs = "expected `facts` and `stratum` in every row of ROWS, or models (docs/commerce.md)"
            report.add("warn", f"{book.where(name)}: found {stand_in!r}, a stand-in; {needs}")


def check_own_model(report: Report, book: Book, parameter: str, asked: Sequence[str], *, project: Project) -> None:
    """Check the model that a chapter's `parameter` names, its adapter, and that the models of `asked` are served.

    An empty name means the model of 04, which has checks of its own. A model of `asked` whose name is a hub id
    ("owner/name") answers at ENDPOINT; other names are of this package. LARGE, if there is one, is loaded beside.
    """
    values = book.values
    served = {name: [values[name]] if isinstance(values[name], str) else list(values[name]) for name in asked}
    check_endpoint(report, book, {name: [m for m in models if "/" in m] for name, models in served.items()})
    large = check_weights(report, book, "LARGE", home=project.home) if values.get("LARGE") else None
    found = check_weights(report, book, parameter, home=project.home) if values[parameter] else None
    if not found:
        return
    model, download = found
    try:
        adapter = sizes.adapter_parameters(model, values["PLACEMENT"], rank=values["RANK"])
    except ValueError as error:
        report.add("fail", f"{book.where('PLACEMENT')}: {error}")
        return
    load = {
        "trained": adapter,
        "resident": 0,
        "batch": values["BATCH"],
        "image_tok": sizes.image_tokens(model.config),
    }
    parts = sizes.training_memory(model.config, sizes.weight_bytes(model), **load)
    kept = parts["checkpointed" if values.get("CHECKPOINTING") else "activations"]
    peaks = [(parts["weights"] + parts["adapters"] + kept, f"{book.notebook.path.name}, training")]
    if large:
        beside = parts["weights"] + sizes.weight_bytes(large[0])
        peaks.append((beside, f"{book.notebook.path.name}, with LARGE beside"))
    check_device(report, *max(peaks))
    check_disk(report, [adapter], project.outputs, download=download + (large[1] if large else 0))


def main(profile: str) -> int:
    """Run the command `preflight`; return exit code 0 if no check failed, else 1."""
    report = preflight(profile)
    print(report)
    return 0 if report.ok else 1
