"""Train a new version of an expert from corrected answers, and put it in force where it is not worse.

`mtive-nb retrain PROFILE TASK answers.csv`: the file is the output of `score`, with the right answers filled in. The new
version learns from these corrections, from those of the version in force, and from the records that trained chapter
06's expert, over the same trunk and with the same settings. A fifth of the corrections, chosen by a hash of the
customer's photo, and the catalogue's validation records are held out; both versions answer them.
"""

import hashlib
import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np
import openai

from mtive_nb.data.annotations import Annotation
from mtive_nb.data.emdiv.own import OwnTask
from mtive_nb.data.photos import file_sha256
from mtive_nb.data.records import load_records, make_record, question_of, records_sha256, write_records
from mtive_nb.data.splits import split_of
from mtive_nb.evaluate.intervals import Interval, paired_difference
from mtive_nb.evaluate.judge.rule import RuleJudge
from mtive_nb.evaluate.metrics import facts_of
from mtive_nb.evaluate.predict import generate_answers
from mtive_nb.evaluate.probability import YES_NO, choices_of_experts, fit_temperatures
from mtive_nb.evaluate.reading import normalise_answer, yes_no
from mtive_nb.model.experts import AdapterPlan, train_adapters
from mtive_nb.model.lineage import AdapterSpec
from mtive_nb.model.stack import open_stack
from mtive_nb.model.train import Training
from mtive_nb.run.atomic import write_atomic
from mtive_nb.run.graph import Project, find_project
from mtive_nb.run.lock import profile_lock
from mtive_nb.run.stale import read_run
from mtive_nb.serve.answer import answer_limits, profile_tasks, task_question
from mtive_nb.serve.chances import classes_of
from mtive_nb.serve.hub import model_card
from mtive_nb.serve.questions import in_words, read_questions
from mtive_nb.serve.versions import ExpertVersion, Versions, run_folder
from mtive_nb.serve.vllm import VllmClient

ACCEPTED = "ok"  # in the column `correct_answer`: the answer was right
CORRECTIONS = "corrections.jsonl"  # beside a version: all that it and the versions before it learned from
HELD_OUT = 0.2  # share of the corrections that both versions are compared on
SHARE = 0.25  # corrections are repeated until they are this share of the training records, at most REPEATS times
REPEATS = 8


@dataclass(frozen=True)
class Retrained:
    """The new version, its gain over the version in force (share of right answers held out), and whether it replaces it.

    gain: new less old on the same records, photos drawn together; corrected: the same on held-out corrections alone,
    None where there are none.
    """

    version: ExpertVersion
    gain: Interval
    corrected: Interval | None
    in_force: bool


def correction_records(source: str | Path, task: str, *, own: Mapping[str, OwnTask] | None = None) -> list[dict]:
    """Return a task's corrected answers as records: split "val" for a fifth, by a hash of the photo, else "train".

    `source`: a file of answers with the column `correct_answer`: the right answer, "ok" where the answer given is
    right, empty where nobody looked. `own`: the profile's own tasks. Errors: those of read_questions, PhotoError for a
    photo that is gone, ValueError for a file without such answers.
    """
    records = {}
    for question in read_questions(source):
        right = str(question.row.get("correct_answer") or "").strip()
        given = str(question.row.get("answer") or "").strip()
        right = given if right.lower() == ACCEPTED else right
        if question.task != task or not right or question.fault:
            continue
        if given.lower() in YES_NO and yes_no(right) is None:
            raise ValueError(
                f"{source}, {question.id}: correct_answer: found {right!r}, expected yes, no or {ACCEPTED}, or nothing"
            )
        photo = file_sha256(question.photos[-1])  # the customer's; with a pair, the shop's comes first
        polar = yes_no(right) if {given.lower(), right.lower().strip(" .")} & {*YES_NO} else None
        text = question.text or task_question(task, own)[0]
        record = make_record(
            _key(task, question.photos, text),
            product_id=photo[:16],
            task=task,
            variant="bin" if polar else "aug",
            images=[path.resolve() for path in question.photos],
            question=text,
            answer=polar or right,
            label=polar,
            source="corrections",
            split=split_of(photo, shares=(1 - HELD_OUT, HELD_OUT, 0.0)),
        )
        records[record["id"]] = record  # the last word on a photo counts
    if not records:
        raise ValueError(
            f"{source}: found no corrected answer for {task}; fill the column correct_answer of its rows with the right "
            f'answer, or "{ACCEPTED}" where the answer is right'
        )
    return list(records.values())


def _key(task: str, photos: Sequence[Path], question: str) -> str:
    """Identify a question about photos by their content."""
    content = "".join(map(file_sha256, photos)) + question
    return f"{task}-own/{hashlib.sha256(content.encode()).hexdigest()[:20]}"


def answered_records(source: str | Path) -> list[dict]:
    """Return the answers of a file of `score` as records to annotate (show/annotate.py), the answer given as theirs."""
    return [
        make_record(
            _key(question.task, question.photos, question.text),
            product_id=question.id,
            task=question.task,
            variant="aug",
            images=[path.resolve() for path in question.photos],
            question=question.text,
            answer=str(question.row["answer"]),
            source="score",
            split="train",
        )
        for question in read_questions(source)
        if question.task and question.text and question.row.get("answer") and not question.fault
    ]


def write_corrections(records: Sequence[dict], annotations: Mapping[str, Annotation], path: str | Path) -> Path:
    """Write a person's decisions on `answered_records` as a file for `retrain`; return its path.

    Errors: ValueError where nothing is decided.
    """
    decided = [(record, annotations[record["id"]].answer) for record in records if record["id"] in annotations]
    rows = [
        {"photo": record["images"], "task": record["task"], "question": question_of(record), "answer": record["answer"],
         "correct_answer": answer}
        for record, answer in decided if answer is not None
    ]  # fmt: skip
    if not rows:
        raise ValueError("no answer is decided: use the form above, then run this cell again")
    write_atomic(Path(path), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return Path(path)


def retrain(
    profile: str, task: str, source: str | Path, *, force: bool = False, project: Project | None = None
) -> Retrained:
    """Train a task's next version from a file of corrections; put it in force if it is not worse, or by `force`.

    Not worse: of the held-out answers at least as many are right. A corrected photo that is in the catalogue keeps the
    catalogue's split; one of its test photos is left out. Errors: FileNotFoundError for chapters that have not run,
    KeyError for a task without an expert, ValueError for a file without corrections, or with too few to learn from and
    to compare on, LockedError where a runner is at work.
    """
    folder = (project or find_project()).outputs / profile
    run_folder(folder, "06")  # before the lock, which writes
    with profile_lock(folder):
        return _retrain(folder, task, source, force=force)


def _retrain(folder: Path, task: str, source: str | Path, *, force: bool) -> Retrained:
    versions, own_tasks = Versions(folder), profile_tasks(folder)
    old, chapters = versions.in_force(task), {n: run_folder(folder, n) for n in ("01", "04", "05", "06")}
    everything = load_records(chapters["01"] / "records" / "emdiv.jsonl")
    own = _with_earlier(correction_records(source, task, own=own_tasks), old, everything)
    drawn = set(json.loads((chapters["06"] / "drawn.json").read_text(encoding="utf-8")))
    before = [record for record in everything if record["task"] == task and record["id"] in drawn]
    learned, held_out = ([r for r in own if r["split"] == split] for split in ("train", "val"))
    held_out = [r for r in everything if r["task"] == task and r["split"] == "val"] + held_out
    if not learned or not held_out:
        missing = "learn from" if not learned else "compare on"
        raise ValueError(
            f"{source}: found {len(own)} corrections of {task}, but none to {missing}; correct more answers"
        )
    times = min(REPEATS, max(1, math.ceil(SHARE / (1 - SHARE) * len(before) / len(learned))))
    records = before + [record | {"id": f"{record['id']}/{k}"} for k in range(times) for record in learned]
    settings = json.loads((chapters["06"] / "settings.json").read_text(encoding="utf-8"))[task]
    of_06 = read_run(chapters["06"])["parameters"]
    steps = math.ceil(settings["steps"] * len(records) / max(1, len(before)))
    named = ("BATCH", "ACCUMULATE", "BALANCE", "CHECKPOINTING", "SEED")
    batch = {name.lower(): of_06[name] for name in named if name in of_06}  # a run from before BALANCE has none
    spec = AdapterSpec(settings["rank"], settings["alpha"], tuple(settings["placement"]))
    target = versions.next_folder(task)
    name = f"{task}_{target.name}"
    plan = AdapterPlan(name, spec, "IT", records, Training(steps, settings["rate"], **batch))
    stack = open_stack((chapters["04"] / "stack", "PT"), (chapters["05"] / "stack", "IT"), (old.folder, old.adapter))
    work = repr((records_sha256(records), stack.hashes["IT"], spec, plan.training))
    kept = versions.folder / task / f".{hashlib.sha256(work.encode()).hexdigest()[:12]}"  # an interrupted run resumes
    train_adapters(stack, [plan], checkpoints=kept)
    stack.assert_alive(name)
    vocabulary = json.loads((chapters["01"] / "records" / "vocabulary.json").read_text(encoding="utf-8"))
    right = {}
    for adapter in (name, old.adapter):
        stack.activate(adapter)
        answers = generate_answers(stack, held_out, what=f"held out, {adapter}", **answer_limits(folder))
        right[adapter] = right_answers(held_out, answers, vocabulary)
    classes = classes_of(own_tasks)
    temperatures = fit_temperatures(choices_of_experts(stack, {task: name}, held_out, classes=classes))
    stack.save(target, name)
    write_records(own, target / CORRECTIONS)
    calibration = {
        row.kind: {"temperature": row.temperature, "n": row.n, "expert": stack.hashes[name],
                   "options": list(YES_NO if row.kind == "yes/no" else classes[task])}
        for row in temperatures.itertuples()
    }  # fmt: skip
    gain = _gain(held_out, right[name], right[old.adapter])
    mine = [k for k, record in enumerate(held_out) if record["source"] == "corrections"]
    corrected = _gain([held_out[k] for k in mine], right[name][mine], right[old.adapter][mine]) if mine else None
    about = {"over": old.number, "records": len(records), "corrections": len(learned), "gain": asdict(gain)}
    version = versions.add(task, target, name, about=about | {"calibration": calibration})
    write_atomic(target / "README.md", model_card(folder, {task: version}))
    replaces = force or gain.value >= 0
    if replaces:
        versions.put_in_force(task, version.number)
    shutil.rmtree(kept, ignore_errors=True)
    return Retrained(version, gain, corrected, replaces)


def _with_earlier(new: list[dict], old: ExpertVersion, catalogue: Sequence[dict]) -> list[dict]:
    """Return corrections with those that the version in force learned from, each in its photo's split of the catalogue."""
    earlier = old.folder / CORRECTIONS
    found = {record["id"]: record for record in (load_records(earlier) if earlier.is_file() else [])}
    found |= {record["id"]: record for record in new}
    split_in = {file_sha256(path): r["split"] for path, r in {r["images"][-1]: r for r in catalogue}.items()}
    placed = [r | {"split": split_in.get(file_sha256(r["images"][-1]), r["split"])} for r in found.values()]
    return [record for record in placed if record["split"] != "test"]


def right_answers(records: Sequence[dict], answers: Sequence[str], vocabulary: Mapping) -> np.ndarray:
    """Score each answer from 0 to 1, (n,): yes/no by the label, facts by the judge's accuracy, else the same text."""
    judge, found = RuleJudge(vocabulary), []
    for record, answer in zip(records, answers, strict=True):
        if record["answer"] in YES_NO:
            found.append(yes_no(answer) == record["answer"])
        elif facts_of(record):
            found.append(judge.judge(record, answer).accuracy / 100)
        else:
            found.append(normalise_answer(answer) == normalise_answer(record["answer"]))
    return np.array(found, float)


def _gain(records: Sequence[dict], new: np.ndarray, old: np.ndarray) -> Interval:
    return paired_difference(new, old, groups=[record["product_id"] for record in records])


def table_of(versions: Versions, tasks: Sequence[str]) -> str:
    """Format the versions of tasks, one a line, the one in force marked by a star."""
    lines = ["   task   version  made                       corrections  gain (95% interval), held out"]
    for task in tasks:
        now = versions.in_force(task).number
        for v in versions.of(task):
            gain = v.about.get("gain")
            said = f"{gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f}), n = {gain['n']}" if gain else ""
            mark, made = "*" if v.number == now else " ", v.made or "chapter 06"
            lines.append(f" {mark} {task:<6} {v.number:>7}  {made:<25}  {v.about.get('corrections', ''):>11}  {said}")
    return "\n".join(line.rstrip() for line in lines)


def show_versions(profile: str, task: str = "", number: int = 0, *, pin: bool = False) -> int:
    """Run the command `versions`: list a profile's versions, or one task's; with a number, put that version in force.

    pin: pin what is then in force, so that nothing else is served.
    """
    try:
        versions = Versions(find_project().outputs / profile)
        if number:
            versions.put_in_force(task, number)
        if pin:
            print(f"pinned in params/{profile}/{versions.pin().name}")
        print(table_of(versions, [task] if task else versions.tasks))
    except (OSError, KeyError, ValueError) as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 2
    return 0


def main(profile: str, task: str, source: str, *, force: bool, server: str = "") -> int:
    """Run the command `retrain`; return 0 if the new version is in force, 1 if it is worse, 2 for a wrong input."""
    try:
        found = retrain(profile, task, source, force=force)
    except (OSError, KeyError, ValueError) as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 2
    for what, gain in (("held-out answers", found.gain), ("of these, corrections", found.corrected)):
        if gain:
            print(f"{what}: {gain.value:+.3f} right ({gain.low:+.3f} to {gain.high:+.3f}), n = {gain.n}")
    number, before = found.version.number, found.version.about["over"]
    if not found.in_force:
        sure = "worse" if found.gain.high < 0 else "not better, as far as so few answers show,"
        print(
            f"{task}: version {number} is {sure} and not in force; mtive-nb versions {profile} {task} {number} takes it"
        )
        return 1
    print(f"{task}: version {number} is in force; back: mtive-nb versions {profile} {task} {before}")
    if server:
        try:
            with VllmClient(server) as client:
                print(
                    f"{server}: {client.update(task, found.version.folder / found.version.adapter)} answers from now on"
                )
        except (openai.APIError, httpx.HTTPError, RuntimeError, KeyError) as error:
            print(f"error: {server} still serves the version before: {error}", file=sys.stderr)
            return 1
    return 0
