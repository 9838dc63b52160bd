"""What do other settings of stage 1 or 2 teach, on held-out data, before the chapters take them over?

    python benchmarks/search_stages.py --home FOLDER --stage 1 --out S1 --rate 2e-3 --steps 400 --rehearsal 0.2
    python benchmarks/search_stages.py --home FOLDER --stage 2 --on S1 --out S2 --rate 2e-3 --expert_steps 60

FOLDER holds outputs/PROFILE with finished chapters 01 and 02. Each parameter of the chapter is a flag in small letters
(lists by commas) and keeps the profile's value where it is left out. A call trains one setting, writes its stack to
--out, and prints lines of JSON: the held-out loss, well-formed answers, the base's exam, and, after stage 2, MTIVE_IT
against zero-shot. --expert_steps also trains short experts on the stage (--stage 0: on the bare base) and scores them.
Everything held out is of the split val; no test record is read.
"""

import argparse
import ast
import json
import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import torch

import mtive_nb as m
from mtive_nb.data.dialogues import with_noisy_text
from mtive_nb.data.sampling import first_of_each_form, sample_variants
from mtive_nb.evaluate.gate import Fall, shop_words, well_formed
from mtive_nb.model.experts import expert_name
from mtive_nb.model.parallel import train_adapter_in_shares
from mtive_nb.model.train import held_out_loss, steps_for
from mtive_nb.pocket.exam import exam_change
from mtive_nb.pocket.rehearsal import rehearsal_records
from mtive_nb.run.params import check_type, effective_parameters, per_task, read_parameters

ROOT = Path(__file__).parents[1]
STAGES = [ROOT / "notebooks" / f"{name}.ipynb" for name in ("04_stage1_pretraining", "05_stage2_instructions")]
RECORDS = "01_catalogue_and_emdiv/records/pretrain.jsonl", "02_instruction_data/records/instructions.jsonl"


def say(**line: object) -> None:
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}
    print(json.dumps(rounded), file=sys.__stdout__, flush=True)


def parsed(text: str, annotation: str) -> object:
    """Return a flag's text as the type that the chapter declares."""
    if annotation.startswith("list"):
        return text.split(",")
    return text if annotation == "str" else check_type(ast.literal_eval(text), annotation)


def train_stage(stack: m.LoraStack, p: dict, given: argparse.Namespace, folder: Path) -> str:
    """Train stage 1 or 2 with the parameters `p`, print what it taught, return its adapter's name."""
    name, parent = (("PT", None), ("IT", "PT"))[given.stage - 1]
    records = m.load_records(given.runs / RECORDS[given.stage - 1])
    train, val = ([r for r in records if r["split"] == split] for split in ("train", "val"))
    train = with_noisy_text(train, share=given.noise, seed=p["SEED"])
    options = {
        "beside": len(train),
        "share": p["REHEARSAL"],
        "seed": p["SEED"] + given.stage - 1,
        "processes": p["PROCESSES"],
    }
    again = rehearsal_records(stack.vlm, folder / "rehearsal", **options)
    torch.manual_seed(p["SEED"])
    stack.add(name, m.AdapterSpec(p["RANK"], p["ALPHA"], tuple(p["PLACEMENT"])), parent=parent)
    start, begun = held_out_loss(stack, val), time.monotonic()
    steps = steps_for(len(train + again), p["STEPS"], passes=p["PASSES"], a_step=p["BATCH"] * p["ACCUMULATE"])
    options = {"beta": p["BETA"] if given.stage == 1 else 0.0, "balance": p["BALANCE"], "seed": p["SEED"]}
    training = m.Training(steps, p["RATE"], p["BATCH"], p["ACCUMULATE"], **options)
    train_adapter_in_shares(stack, name, train + again, training, checkpoints=folder, processes=p["PROCESSES"])
    stack.save(given.out, name)
    found = {"steps": steps, "seconds": time.monotonic() - begun, "start": start, "end": held_out_loss(stack, val)}
    say(stage=given.stage, **found, fall_percent=Fall(start, found["end"], len(val)).percent, n=len(val))
    asked = val[: p["ANSWERS"]]
    said = m.generate_answers(stack, asked, batch=p["ANSWER_BATCH"], max_new_tokens=p["MAX_NEW_TOKENS"], mark_cut=True)
    known = shop_words(train, json.loads((given.runs / RECORDS[0]).with_name("vocabulary.json").read_text()))
    ill = [a for r, a in zip(asked, said, strict=True) if not well_formed(r, a, known)]
    shares = {"well_formed": 1 - len(ill) / len(said), "exact": sum(a == r["answer"] for r, a in zip(asked, said, strict=True)) / len(said)}  # fmt: skip
    say(**shares, n=len(said), ill_formed=ill[:8])
    for row in exam_change(stack, name, folder=folder / "exam", n=p["EXAM"]).to_dict("records"):
        say(exam=row.pop("skill"), **row)
    return name


def train_experts(stack: m.LoraStack, parent: str | None, train: dict[str, list[dict]], given: argparse.Namespace) -> None:  # fmt: skip
    """Train short experts on a stage (None: the bare base), with chapter 06's settings."""
    p = effective_parameters(ROOT / "notebooks" / "06_experts.ipynb", params=ROOT / "params", profile=given.profile)
    own, plans = {name: per_task(p[name], train) for name in ("RANK", "ALPHA", "PLACEMENT", "RATE", "SAMPLING")}, []
    options = {"batch": p["BATCH"], "accumulate": p["ACCUMULATE"], "balance": p["BALANCE"], "seed": p["SEED"]}
    common = m.Training(given.expert_steps, **options)
    n = given.expert_steps * p["BATCH"] * p["ACCUMULATE"]
    for t, records in train.items():
        spec = m.AdapterSpec(own["RANK"][t], own["ALPHA"][t], tuple(own["PLACEMENT"][t]))
        drawn = sample_variants(records, own["SAMPLING"][t], n=n, seed=p["SEED"])
        plans.append(m.AdapterPlan(expert_name(t), spec, parent, drawn, replace(common, rate=own["RATE"][t])))
    m.train_adapters(stack, plans, processes=p["PROCESSES"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, required=True, help="folder with outputs/PROFILE of chapters 01 and 02")
    parser.add_argument("--stage", type=int, choices=(0, 1, 2), required=True)
    parser.add_argument("--out", type=Path, default=Path("searched"), help="folder that gets the stage's stack")
    parser.add_argument("--on", type=Path, help="folder of stage 1's stack, for stage 2")
    parser.add_argument("--noise", type=float, default=0.0, help="share of texts replaced by another product's")
    parser.add_argument("--expert_steps", type=int, default=0)
    parser.add_argument("--profile", default="pocket")
    declared = read_parameters(STAGES[0]) | read_parameters(STAGES[1])
    for name in set(declared) - {"PROFILE"}:
        parser.add_argument(f"--{name.lower()}", dest=name)
    given = parser.parse_args()
    given.runs = given.home / "outputs" / given.profile
    first, second = (effective_parameters(path, params=ROOT / "params", profile=given.profile) for path in STAGES)
    p = first | second if given.stage == 2 else second | first
    p |= {name: parsed(text, declared[name].annotation) for name, text in vars(given).items() if name in declared and text is not None}  # fmt: skip
    say(**p, noise=given.noise)
    bounds = {"attention": p["ATTENTION"], "min_px": p["MIN_PX"], "max_px": p["MAX_PX"]}
    stack = m.open_stack((given.on, "PT")) if given.stage == 2 else m.LoraStack(m.load_vlm(p["MODEL"], **bounds))
    emdiv = [r for r in m.load_records(given.runs / RECORDS[0].replace("pretrain", "emdiv")) if r["task"] in p["TASKS"]]
    asked = first_of_each_form([r for r in emdiv if r["split"] == "val"], p["QUESTIONS"])
    tasks, systems = list(dict.fromkeys(r["task"] for r in asked)), {}
    with tempfile.TemporaryDirectory() as folder:
        name = train_stage(stack, p, given, Path(folder)) if given.stage else None
        if given.stage == 2:
            systems = {"zero-shot": dict.fromkeys(tasks), "MTIVE_IT": dict.fromkeys(tasks, "IT")}
        if given.expert_steps:
            train = {t: [r for r in emdiv if r["split"] == "train" and r["task"] == t] for t in tasks}
            train_experts(stack, name, train, given)
            systems["experts"] = {t: expert_name(t) for t in tasks}
        answers = m.answers_of_systems(stack, systems, asked, cache=Path(folder), processes=p["PROCESSES"])
    scores = m.score_table(asked, answers)
    for row in scores[scores["metric"].str.contains("/Acc|/EM")].to_dict("records"):
        say(**{key: row[key] for key in ("system", "metric", "value", "low", "high", "n", "unit")})
    if "MTIVE_IT" in systems:
        for row in m.paired_gains(asked, answers, system="MTIVE_IT", over=["zero-shot"]).to_dict("records"):
            say(system="MTIVE_IT", **row)


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):  # progress; the lines of JSON go to stdout
        main()
