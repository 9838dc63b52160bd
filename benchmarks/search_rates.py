"""Which learning rate and how many passes does a training run need? Answered on validation records alone.

    python benchmarks/search_rates.py pocket AE --rates 0.002 0.005 0.01 --passes 1 2

An arm is one training run of a chapter: an expert or a shared adapter of 06 by its adapter's name (AE, Base_AE, SL,
Base_SL), the mixture of 08 (Base_MoE), a new task of 09 (PT on the stack, Base_PT on the bare base) or a share of replay
there, as T4 names it ("Base_SL+Replay(100%)"), a wide shared adapter of 26 (wide, wide_on_stages), an arm of 15 (uniM3,
UIA, CASLIE, context-free, "VLM, photos", "VLM, captions") or a specialist of 29 ("CASLIE, AP"). Everything but rate and
passes is the chapter's own setting in the profile: records, rank, placement, batch, loss, seed. The chapters before must
have run in the profile; of 15, its rows.
Stages 1 and 2: search_stages.py.

Each pair of a rate and a number of passes is one trial: train on the split train, score on the split val. One line of
JSON a trial goes to --out; a trial that has its line there is not run again. `passes` counts the arm's records as its
chapter draws them; for the arms of 06 and 08 it multiplies the chapter's STEPS, and records are drawn for so many steps.
`score` is the mean over the arm's tasks of the share of right answers, in 15 of the task's main metric. Compare arms that
had equally many trials.
"""

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch

import mtive_nb as m
from mtive_nb.data.commerce.fuse import fuse, labels_said
from mtive_nb.data.commerce.mmec import load_written
from mtive_nb.data.commerce.rows import COMMERCE_TASKS, CommerceRow
from mtive_nb.data.emdiv.build import tasks_with_questions
from mtive_nb.data.records import records_sha256
from mtive_nb.data.sampling import first_of_each_form, sample_variants
from mtive_nb.evaluate.commerce.scores import main_scores
from mtive_nb.evaluate.continual import replay_name, replay_records, steps_in
from mtive_nb.model.experts import expert_name
from mtive_nb.model.load import base_fingerprint
from mtive_nb.model.mixture import LoraMixture, MixtureSpec, matching_rank
from mtive_nb.run.graph import find_project
from mtive_nb.run.params import effective_parameters, per_task
from mtive_nb.serve.retrain import right_answers
from mtive_nb.serve.score import CASLIE_ARMS
from mtive_nb.serve.versions import run_folder

WIDE = {
    "wide": "Base_SL",
    "wide_on_stages": "SL",
}  # 26's shared adapters -> those of 06 which they are but for the rank
VLM_ARMS = {"VLM, photos": "", "VLM, captions": "CASLIE"}  # arms of 15's VLM -> the records that 15 wrote for them


@dataclass
class Arm:
    """One training run: what it stands on, what it learns from at a number of passes, and what scores it."""

    name: str
    stack: m.LoraStack
    spec: m.AdapterSpec
    parent: str | None
    common: m.Training  # steps and rate are those of a trial
    records: list[dict]  # for one pass
    held_out: list[dict]
    begins_as: tuple[Path, str] | None = None  # an adapter of a run folder that is trained further
    mixture: MixtureSpec | None = None
    draw: dict[str, tuple[list[dict], dict[str, float], int]] = field(
        default_factory=dict
    )  # of 06: pool, shares, STEPS
    rows: dict[str, CommerceRow] = field(default_factory=dict)  # of 15, by which answers are read as labels

    def at(self, passes: float) -> tuple[list[dict], int]:
        """The records and the optimizer steps of so many passes."""
        a_step = self.common.batch * self.common.accumulate
        if not self.draw:
            return self.records, steps_in(len(self.records), passes=passes, a_step=a_step)
        steps = {task: max(1, round(passes * most)) for task, (_, _, most) in self.draw.items()}
        own = [
            sample_variants(pool, shares, n=steps[task] * a_step, seed=self.common.seed)
            for task, (pool, shares, _) in self.draw.items()
        ]
        return [record for rows in own for record in rows], sum(steps.values())


class Chapters:
    """A profile's parameters and run folders by the chapter's number."""

    def __init__(self, profile: str) -> None:
        self.project, self.profile = find_project(), profile
        self.folder = self.project.outputs / profile

    def run(self, number: str) -> Path:
        return run_folder(self.folder, number)

    def parameters(self, number: str) -> dict:
        notebook = next(self.project.notebooks.glob(f"{number}_*.ipynb"))
        return effective_parameters(notebook, params=self.project.params, profile=self.profile)

    def emdiv(self) -> list[dict]:
        return m.load_records(self.run("01") / "records" / "emdiv.jsonl")


def training_of(given: dict, **more: object) -> m.Training:
    """A chapter's settings of training; steps and rate come with the trial."""
    named = {"batch": "BATCH", "accumulate": "ACCUMULATE", "balance": "BALANCE", "checkpointing": "CHECKPOINTING"}
    return m.Training(1, seed=given["SEED"], **{name: given[key] for name, key in named.items() if key in given} | more)


def of_split(records: Iterable[dict], split: str) -> list[dict]:
    return [record for record in records if record["split"] == split]


def of_06(chapters: Chapters, arm: str, stages: tuple) -> Arm | None:
    """An expert or a shared adapter, on the stack or on the bare base; None where 06 trains no such arm."""
    given, emdiv = chapters.parameters("06"), chapters.emdiv()
    tasks = tasks_with_questions(emdiv, given["TASKS"])
    named = {expert_name(t): [t] for t in tasks} | {f"Base_{t}": [t] for t in tasks} | {"SL": tasks, "Base_SL": tasks}
    if arm not in named:
        return None
    own, shared = named[arm], len(named[arm]) > 1 or arm in ("SL", "Base_SL")
    steps, shares = per_task(given["STEPS"], tasks), per_task(given["SAMPLING"], tasks)
    pool = {t: [r for r in of_split(emdiv, "train") if r["task"] == t] for t in own}
    held_out = [r for r in of_split(emdiv, "val") if r["task"] in own]
    if shared:
        spec = m.AdapterSpec(given["SHARED_RANK"], float(given["SHARED_RANK"]), tuple(given["SHARED_PLACEMENT"]))
    else:
        rank, alpha, place = (per_task(given[key], own)[own[0]] for key in ("RANK", "ALPHA", "PLACEMENT"))
        spec = m.AdapterSpec(rank, alpha, tuple(place))
    draw = {t: (pool[t], shares[t], steps[t]) for t in own}
    parent = None if arm.startswith("Base_") else "IT"
    return Arm(arm, m.open_stack(*stages), spec, parent, training_of(given), [], held_out, draw=draw)


def mixture_of_08(chapters: Chapters, stages: tuple) -> Arm:
    """The mixture: the shared adapter's records, as large as it."""
    arm, given = of_06(chapters, "Base_SL", stages), chapters.parameters("08")
    arm.stack.add("sized", arm.spec)
    weights = arm.stack.trainable_parameters("sized")
    arm.stack.unload("sized")
    size = {"placement": arm.spec.placement, "experts": given["EXPERTS"]}
    rank = matching_rank(arm.stack.vlm, weights, **size)
    spec = MixtureSpec(rank, float(rank), arm.spec.placement, given["EXPERTS"], given["TOP_K"], given["ROUTER_BALANCE"])
    common = training_of(given, balance=arm.common.balance)
    return replace(arm, name="Base_MoE", common=common, mixture=spec)


def of_09(chapters: Chapters, arm: str, stages: tuple) -> Arm | None:
    """A new task's adapter on the stack or the bare base, or the shared adapter of 06 trained further with replay."""
    given, emdiv = chapters.parameters("09"), chapters.emdiv()
    common = training_of(given, balance=chapters.parameters("06")["BALANCE"])
    train, val = of_split(emdiv, "train"), of_split(emdiv, "val")
    draw, n = given["SAMPLING"], given["STEPS"] * given["BATCH"] * given["ACCUMULATE"]
    of_task = {t: [r for r in train if r["task"] == t] for t in given["NEW"]}
    new = {t: sample_variants(rows, draw, n=n, seed=given["SEED"]) for t, rows in of_task.items() if rows}
    if (task := arm.removeprefix("Base_")) in new:
        spec = m.AdapterSpec(given["RANK"], float(given["RANK"]), tuple(given["PLACEMENT"]))
        asked = [r for r in val if r["task"] == task and r["variant"] != "bin"]
        parent = "IT" if arm == task else None
        return Arm(f"{arm}_expert", m.open_stack(*stages), spec, parent, common, new[task], asked)
    share = {replay_name(share): share for share in given["REPLAY"]}.get(arm)
    if share is None:
        return None
    drawn = set(json.loads((chapters.run("06") / "drawn.json").read_text()))
    old, all_new = [r for r in train if r["id"] in drawn], [r for rows in new.values() for r in rows]
    records = replay_records(old, all_new, share=share, seed=given["SEED"])
    tasks = {*new, *(r["task"] for r in old)}
    asked = [r for r in val if r["task"] in tasks and r["variant"] != "bin"]  # T4 counts open questions alone
    begins_as = chapters.run("06") / "stack", "Base_SL"
    stack = m.open_stack(stages[0], begins_as)
    return Arm(arm, stack, stack.specs["Base_SL"], None, common, records, asked, begins_as=begins_as)


def of_15(chapters: Chapters, arm: str) -> Arm | None:
    """An arm of CASLIE's text model or VLM on the rows that 15 wrote, or 29's specialist of a task; None for no such arm."""
    of, _, task = arm.partition(", ")
    if arm not in (*CASLIE_ARMS, *VLM_ARMS) and (of, task in COMMERCE_TASKS) != ("CASLIE", True):
        return None
    given, run = chapters.parameters("15"), chapters.run("15")
    with TemporaryDirectory() as aside:  # 15 wrote these rows, and has a quarantine of its own
        rows = load_written(run, given, quarantine=f"{aside}/left_out.csv")
    if arm == "VLM, photos":
        records = [fuse(row, arm="image", answer=given["ANSWER"]) for row in rows]
    else:
        records = m.load_records(run / "records" / f"{VLM_ARMS.get(arm, of)}.jsonl")
        records = [r for r in records if task not in COMMERCE_TASKS or r["task"] == task]
    if arm in VLM_ARMS:
        model = json.loads((chapters.run("04") / "stack" / "stack.json").read_text())["model"]
        stack = m.LoraStack(m.load_vlm(model["name"], max_px=model["max_px"]))
    else:
        stack = m.LoraStack(m.load_vlm(given["TEXT_MODEL"]))
    spec = m.AdapterSpec(given["RANK"], float(given["RANK"]), tuple(given["PLACEMENT"]))
    train, held_out = of_split(records, "train"), of_split(records, "val")
    own = {row.row_id: row for row in rows}
    return Arm(arm.split(", ")[-1], stack, spec, None, training_of(given), train, held_out, rows=own)


def arm_of(chapters: Chapters, name: str) -> Arm:
    """The arm of this name. Errors: ValueError for a name that no chapter trains."""
    if found := of_15(chapters, name):
        return found
    stages = (chapters.run("04") / "stack", "PT"), (chapters.run("05") / "stack", "IT")
    if name == "Base_MoE":
        return mixture_of_08(chapters, stages)
    if name in WIDE:
        arm, wider = of_06(chapters, WIDE[name], stages), chapters.parameters("26")["WIDER"]
        return replace(arm, name=name, spec=replace(arm.spec, rank=wider * arm.spec.rank, alpha=wider * arm.spec.alpha))
    if found := of_06(chapters, name, stages) or of_09(chapters, name, stages):
        return found
    raise ValueError(
        f"arm: found {name!r}, expected an adapter of 06, Base_MoE, a new task of 09, T4's row, an arm of 15 or of {[*WIDE]}"
    )


@torch.inference_mode()
def scored(arm: Arm, vocabulary: dict) -> dict:
    """The trial's score on the validation records, with the active adapters.

    Errors: ValueError for records of another split.
    """
    if others := {record["split"] for record in arm.held_out} - {"val"}:
        found = ", ".join(sorted(others))
        raise ValueError(f"{arm.name}: found records of {found} among those that score, expected val alone")
    answers = m.generate_answers(arm.stack, arm.held_out)
    if arm.rows:
        answers = labels_said([arm.rows[r["id"]] for r in arm.held_out], answers)
        scores = {task: round(value, 4) for (_, task), value in main_scores(arm.held_out, answers).items()}
        mean = sum(scores.values()) / len(scores)
        return {"score": mean, "measure": "main metric", "n": len(answers), "by_form": scores}
    right = right_answers(arm.held_out, answers, vocabulary)
    table = pd.DataFrame({"task": [r["task"] for r in arm.held_out], "variant": [r["variant"] for r in arm.held_out]})
    by_form = table.assign(right=right).groupby(["task", "variant"], sort=False)["right"].mean()
    by_task = table.assign(right=right).groupby("task", sort=False)["right"].mean()
    forms = {"/".join(form): round(float(value), 4) for form, value in by_form.items()}
    return {"score": float(by_task.mean()), "measure": "share right", "n": len(right), "by_form": forms}


def trial(arm: Arm, training: m.Training, records: list[dict], vocabulary: dict) -> dict:
    """Train the arm once, score it, and take it off its stack again."""
    stack, name = arm.stack, arm.name
    torch.manual_seed(training.seed)
    began = time.monotonic()
    if arm.mixture:
        stack.activate(None)
        mixture = LoraMixture(stack, name, arm.mixture)
        log = m.train_adapter(mixture, name, records, training)
    elif arm.begins_as:
        stack.load(*arm.begins_as, alias=name)
        log = m.train_adapter(stack, name, records, training)
    else:
        log = m.train_adapters(stack, [m.AdapterPlan(name, arm.spec, arm.parent, records, training)])[name]
    seconds = time.monotonic() - began
    found = scored(arm, vocabulary)
    if arm.mixture:
        mixture.activate(None)
    else:
        stack.unload(name)
    return found | {"last loss": float(log["loss"].iloc[-1]), "seconds": round(seconds, 1)}


def key_of(arm: Arm, training: m.Training, records: list[dict]) -> str:
    """Hash of all that decides a trial's score: weights below it, its own settings, its records, the questions."""
    below = arm.stack.hashes.get(arm.parent or "", "")
    start = arm.stack.hashes.get("Base_SL", "") if arm.begins_as else ""
    about = [base_fingerprint(arm.stack.vlm.model), below, start, asdict(training), asdict(arm.spec), repr(arm.mixture)]
    about += [records_sha256(records), records_sha256(arm.held_out)]
    return sha256(json.dumps(about).encode()).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile")
    parser.add_argument("arm")
    parser.add_argument("--rates", type=float, nargs="+", required=True)
    parser.add_argument("--passes", type=float, nargs="+", required=True)
    parser.add_argument("--limit", type=int, default=0, help="validation records a task and variant; 0: all")
    parser.add_argument("--out", type=Path, help="default: outputs/PROFILE/search_rates.jsonl")
    asked = parser.parse_args()
    chapters = Chapters(asked.profile)
    arm = arm_of(chapters, asked.arm)
    arm.held_out = first_of_each_form(arm.held_out, asked.limit)
    if not arm.held_out:
        raise SystemExit(f"{asked.arm}: found no validation record in profile {asked.profile}")
    file = chapters.run("01") / "records" / "vocabulary.json"
    vocabulary = json.loads(file.read_text())
    out = asked.out or chapters.folder / "search_rates.jsonl"
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.is_file() else []
    done = {line["key"]: line for line in lines}
    rows = []
    for passes in asked.passes:
        records, steps = arm.at(passes)
        for rate in asked.rates:
            training = replace(arm.common, steps=steps, rate=rate)
            key = key_of(arm, training, records)
            if key not in done:
                about = {"profile": asked.profile, "arm": asked.arm, "rate": rate, "passes": passes, "steps": steps}
                about |= {"records": len(records), "balance": training.balance, "seed": training.seed}
                done[key] = about | trial(arm, training, records, vocabulary) | {"key": key}
                with out.open("a") as stream:  # one line a trial: an interrupted search goes on after the last
                    stream.write(json.dumps(done[key]) + "\n")
            rows.append(done[key])
            print(json.dumps(done[key]))
    best = max(rows, key=lambda row: row["score"])
    print(f"best of {len(rows)} trials on val: rate {best['rate']:g}, passes {best['passes']:g}")


if __name__ == "__main__":
    main()
