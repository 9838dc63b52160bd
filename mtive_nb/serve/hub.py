"""Trained experts as a model repository: the adapters of a profile in one stack folder, with a model card.

A stack folder holds each expert with the stages that it stands on, because an expert without them loads and is wrong.
The card says what the adapters were trained on, how they scored, and the hash of each.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from mtive_nb.model.experts import STAGES
from mtive_nb.model.lineage import LineageError, line_of, read_files, read_manifest, write_manifest
from mtive_nb.run.graph import find_project, find_run
from mtive_nb.run.metrics import read_metrics
from mtive_nb.run.stale import read_run
from mtive_nb.serve.questions import in_words
from mtive_nb.serve.versions import ExpertVersion, Versions, run_folder

LICENCES = {"pocket": "apache-2.0"}  # by base; of another base "other": its own licence binds its adapters
CARD = "README.md"
OURS = "MTIVE_MTL"  # the row of chapter 07 that holds the experts' scores
HEAD = """---
library_name: peft
license: {licence}
base_model: {base}
pipeline_tag: image-text-to-text
tags: [lora, mtive-nb]
---

# Experts of profile {profile}

{count} LoRA experts ({names}) over two shared stages, stage 1 (PT) and stage 2 (IT), on `{base}`. An expert answers questions about photos of products, and is used with the stages that it stands on:

```python
import mtive_nb as m

stack = m.open_stack(("FOLDER", "PT"), ("FOLDER", "IT"), ("FOLDER", "{first}"))
```
"""
LIMITS = """
## Limits

The scores cover the test split of the training source, at one training seed. Nothing here was measured on your photos:
`mtive-nb score` and a file of corrected answers show how the experts do there. Licence: Apache 2.0 for code and pocket
base; where the base is another one, its licence binds the adapters.
"""


def write_hub_folder(profile_dir: Path, folder: Path, *, tasks: Sequence[str] = ()) -> Path:
    """Write the experts in force of `tasks` (default: all), their stages and a model card to a folder; return it.

    Errors: FileNotFoundError where chapters 05 or 06 have not run, KeyError for a task without an expert, LineageError
    for files that were changed or belong to different bases.
    """
    versions = Versions(profile_dir)
    if unknown := sorted(set(tasks) - set(versions.tasks)):
        raise KeyError(f"task {unknown[0]!r}: found no expert, expected one of {', '.join(versions.tasks)}")
    experts = {task: versions.in_force(task) for task in tasks or versions.tasks}
    manifest, lines = None, {}
    for name, source in _sources(profile_dir, experts).items():
        own = read_manifest(source)
        manifest = manifest or own | {"adapters": {}, "mixtures": {}}
        if own["base"] != manifest["base"]:
            raise LineageError(
                f"{source}: stands on base {own['base']}, the stages on {manifest['base']}; run 06 again"
            )
        lines[name] = line_of(source, name, manifest=own)
        (folder / name).mkdir(parents=True, exist_ok=True)
        for file, content in read_files(source / name, lines[name]).items():
            (folder / name / file).write_bytes(content)
        manifest["adapters"][name] = asdict(lines[name])
    write_manifest(folder, manifest)
    (folder / CARD).write_text(model_card(profile_dir, experts), encoding="utf-8")
    return folder


def _sources(profile_dir: Path, experts: dict[str, ExpertVersion]) -> dict[str, Path]:
    """Return the stack folder of each adapter: the stages, then the experts."""
    stages = {name: run_folder(profile_dir, number) / "stack" for name, number in STAGES.items()}
    return stages | {version.adapter: version.folder for version in experts.values()}


def model_card(profile_dir: Path, experts: dict[str, ExpertVersion] | None = None) -> str:
    """Return the model card in Markdown: use, training, scores with n and interval, lineage, stand-ins, limits.

    `experts`: default, those in force. Errors: as of write_hub_folder.
    """
    if experts is None:
        versions = Versions(profile_dir)
        experts = {task: versions.in_force(task) for task in versions.tasks}
    sources = _sources(profile_dir, experts)
    lines = {name: line_of(source, name) for name, source in sources.items()}
    base = str(read_manifest(sources["PT"])["model"].get("name", "unknown"))
    about = {"base": base, "profile": profile_dir.name, "count": len(experts), "names": ", ".join(experts)}
    about["licence"] = LICENCES.get(base, "other")
    parts = [HEAD.format(**about, first=next(iter(experts.values())).adapter)]
    shop, trained = (find_run(profile_dir, number) for number in ("01", "06"))
    source = read_run(shop).get("parameters", {}).get("SOURCE", "unknown") if shop else "unknown"
    commit = (read_run(trained).get("git") or {}).get("commit") or "unknown"
    parts.append(f"\n## Training\n\nSource of the photos: {source}. Code: mtive-nb at commit {commit[:10]}.\n")
    parts += ["\n", *_training(trained, experts), *(f"- Stand-in: {text}\n" for text in _stand_ins(profile_dir))]
    parts += ["\n## Scores\n\n", *_scores(profile_dir, experts), "\n## Lineage\n\n"]
    parts += ["| adapter | stands on | rank | alpha | sha256 |\n| --- | --- | --- | --- | --- |\n"]
    for name, line in lines.items():
        parts.append(
            f"| {name} | {line.parent or 'the base'} | {line.spec['rank']} | {line.spec['alpha']:g} | {line.sha256} |\n"
        )
    return "".join([*parts, LIMITS])


def _training(trained: Path, experts: dict[str, ExpertVersion]) -> list[str]:
    """Return a line for each expert: records, steps and seed of chapter 06, or what a later version learned from."""
    settings, drawn = (
        json.loads((trained / name).read_text(encoding="utf-8")) for name in ("settings.json", "drawn.json")
    )
    seed, lines = read_run(trained).get("seed", "unknown"), []
    for task, version in experts.items():
        ids = [i for i in drawn if i.split("/")[0].rpartition("-")[0] == task]
        said = f"{len(ids):,} records ({len(set(ids)):,} different), {settings[task]['steps']} steps, seed {seed}"
        if version.number > 1:
            about = version.about
            said = f"version {version.number}, trained on {about['records']:,} records with {about['corrections']} corrections"
        lines.append(f"- {task}: {said}, rate {settings[task]['rate']}\n")
    return lines


def _stand_ins(profile_dir: Path) -> list[str]:
    folders = [run for number in ("01", "02", "07") if (run := find_run(profile_dir, number))]
    return [text for folder in folders for text in read_run(folder).get("notes", {}).get("stand_in", [])]


def _scores(profile_dir: Path, experts: dict[str, ExpertVersion]) -> list[str]:
    """Return the rows of chapter 07 for these experts; a later version was not measured there, so it has no row."""
    evaluation = find_run(profile_dir, "07")
    first = {task for task, version in experts.items() if version.number == 1}
    metrics = read_metrics(evaluation) if evaluation else []
    rows = [m for m in metrics if m["row"] == OURS and m["column"].split("/")[0] in first]
    if not rows:
        return ["Not measured: chapter 07 has no scores of these versions.\n"]
    lines = ["| measure | value | 95% interval | unit | n | better |\n| --- | --- | --- | --- | --- | --- |\n"]
    for m in rows:
        interval = "" if m["low"] is None else f"{m['low']:.4g} to {m['high']:.4g}"
        lines.append(f"| {m['column']} | {m['value']:.4g} | {interval} | {m['unit']} | {m['n']} | {m['better']} |\n")
    return lines


def push(profile: str, repo: str, *, tasks: Sequence[str] = (), private: bool = True) -> str:
    """Upload the experts of a profile to `repo` ("user/name") of the Hugging Face hub; return the address.

    The token is that of `hf auth login` or HF_TOKEN. Errors: as write_hub_folder's, and the hub's own.
    """
    from huggingface_hub import HfApi

    with TemporaryDirectory() as scratch:
        folder = write_hub_folder(find_project().outputs / profile, Path(scratch), tasks=tasks)
        api = HfApi()
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"Experts of profile {profile}")
    return str(address)


def main(profile: str, repo: str, *, tasks: Sequence[str], public: bool, output: str) -> int:
    """Run the command `push`: upload the experts, or with `output` only write the folder; say where it is."""
    try:
        if output:
            print(f"folder: {write_hub_folder(find_project().outputs / profile, Path(output), tasks=tasks)}")
        else:
            print(f"pushed: {push(profile, repo, tasks=tasks, private=not public)}")
    except (OSError, KeyError, ValueError) as error:  # the hub's errors are OSErrors
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 2
    return 0
