"""Train a new version of an expert from corrected answers, and put it in force where it is not worse.

`mtive-nb retrain PROFILE TASK answers.csv`: the file is the output of `score`, with the right answers filled in. The new
version learns from the corrections and from the records that trained the version of chapter 06, over the same trunk
and with the same settings. A fifth of the corrections, chosen by a hash of the photo, and the catalogue's validation
records are held out; both versions answer them.
"""

import hashlib
import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mtive_nb.data.annotations import Annotation
from mtive_nb.data.emdiv.own import OwnTask
from mtive_nb.data.records import load_records, make_record, question_of
from mtive_nb.data.splits import split_of
from mtive_nb.evaluate.intervals import Interval, paired_difference
from mtive_nb.evaluate.judge.rule import RuleJudge
from mtive_nb.evaluate.metrics import facts_of, normalise_answer, yes_no
from mtive_nb.evaluate.predict import generate_answers
from mtive_nb.model.lineage import AdapterSpec
from mtive_nb.model.stack import open_stack
from mtive_nb.model.train import Training, train_adapter
from mtive_nb.run.atomic import write_atomic
from mtive_nb.run.graph import Project, find_project
from mtive_nb.run.stale import read_run
from mtive_nb.serve.answer import profile_tasks, run_folder, task_question
from mtive_nb.serve.questions import Question, read_questions
from mtive_nb.serve.versions import ExpertVersion, Versions
from mtive_nb.serve.vllm import VllmClient

ACCEPTED = "ok"  # in the column `correct_answer`: the answer was right
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

    own: the profile's own tasks. `source`: a file of answers with the column `correct_answer`: the right answer, "ok" where the answer given is right,
    empty where nobody looked. Errors: those of read_questions, and ValueError for a file without such answers.
    """
    records = []
    for question in read_questions(source):
        if question.task == task and (right := _right_answer(question)):
            photos = [path.resolve() for path in question.photos]
            key = hashlib.sha256(b"".join(photo.read_bytes() for photo in photos)).hexdigest()
            polar = yes_no(right)
            records.append(
                make_record(
                    f"{task}-own/{key[:16]}/{len(records)}",
                    product_id=key[:16],
                    task=task,
                    variant="bin" if polar else "aug",
                    images=photos,
                    question=question.text or task_question(task, own)[0],
                    answer=polar or right,
                    label=polar or None,
                    source="corrections",
                    split=split_of(key, shares=(1 - HELD_OUT, HELD_OUT, 0.0)),
                )
            )
    if not records:
        raise ValueError(
            f"{source}: found no corrected answer for {task}; fill the column correct_answer of its rows with the right "
            f'answer, or "{ACCEPTED}" where the answer is right'
        )
    return records


def answered_records(source: str | Path) -> list[dict]:
    """Return the answers of a file of `score` as records to annotate (show/annotate.py), the answer given as theirs."""
    return [
        make_record(
            f"{question.task}/{question.id}/{k}",
            product_id=question.id,
            task=question.task,
            variant="aug",
            images=[path.resolve() for path in question.photos],
            question=question.text,
            answer=str(question.row["answer"]),
            source="score",
            split="train",
        )
        for k, question in enumerate(read_questions(source))
        if question.task and question.text and question.row.get("answer")
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


def _right_answer(question: Question) -> str:
    given = question.row.get("correct_answer")
    text = "" if given is None or given != given else str(given).strip()
    return str(question.row.get("answer") or "").strip() if text.lower() == ACCEPTED else text


def retrain(
    profile: str, task: str, source: str | Path, *, force: bool = False, project: Project | None = None
) -> Retrained:
    """Train a task's next version from a file of corrections; put it in force if it is not worse, or by `force`.

    Not worse: of the held-out answers at least as many are right. Errors: FileNotFoundError for chapters that have not
    run, KeyError for a task without an expert, ValueError for a file without corrections.
    """
    folder = (project or find_project()).outputs / profile
    versions, own = Versions(folder), correction_records(source, task, own=profile_tasks(folder))
    old, chapters = versions.in_force(task), {n: run_folder(folder, n) for n in ("01", "04", "05", "06")}
    emdiv = [r for r in load_records(chapters["01"] / "records" / "emdiv.jsonl") if r["task"] == task]
    drawn = set(json.loads((chapters["06"] / "drawn.json").read_text(encoding="utf-8")))
    before = [record for record in emdiv if record["id"] in drawn]
    learned = [record for record in own if record["split"] == "train"]
    times = min(REPEATS, max(1, math.ceil(SHARE / (1 - SHARE) * len(before) / max(1, len(learned)))))
    records = before + [record | {"id": f"{record['id']}/{k}"} for k in range(times) for record in learned]
    settings = json.loads((chapters["06"] / "settings.json").read_text(encoding="utf-8"))[task]
    of_06 = read_run(chapters["06"])["parameters"]
    steps = math.ceil(settings["steps"] * len(records) / max(1, len(before)))
    batch = {name.lower(): of_06[name] for name in ("BATCH", "ACCUMULATE", "CHECKPOINTING")}
    stack = open_stack((chapters["04"] / "stack", "PT"), (chapters["05"] / "stack", "IT"), (old.folder, old.adapter))
    name, target = f"{task}_{versions.next_folder(task).name}", versions.next_folder(task)
    spec = AdapterSpec(settings["rank"], settings["alpha"], tuple(settings["placement"]))
    stack.add(name, spec, parent="IT")
    checkpoints = target.with_name(f".{target.name}.{_key(records)}")  # of these very records, so that a run resumes
    training = Training(steps, settings["rate"], seed=of_06["SEED"], **batch)
    train_adapter(stack, name, records, training, checkpoints=checkpoints)
    stack.assert_alive(name)
    shutil.rmtree(target, ignore_errors=True)  # of a run that ended before it was listed
    stack.save(target, name)
    held_out = [record for record in emdiv if record["split"] == "val"]
    held_out += [record for record in own if record["split"] == "val"]
    vocabulary = json.loads((chapters["01"] / "records" / "vocabulary.json").read_text(encoding="utf-8"))
    right = {}
    for adapter in (name, old.adapter):
        stack.activate(adapter)
        answers = generate_answers(stack, held_out, what=f"held out, {adapter}")
        right[adapter] = right_answers(held_out, answers, vocabulary)
    new, current = right[name], right[old.adapter]
    gain, corrected = _gain(held_out, new, current), None
    if mine := [k for k, record in enumerate(held_out) if record["source"] == "corrections"]:
        corrected = _gain([held_out[k] for k in mine], new[mine], current[mine])
    about = {"over": old.number, "records": len(records), "corrections": len(learned), "gain": asdict(gain)}
    version = versions.add(task, name, about=about)
    replaces = force or gain.value >= 0
    if replaces:
        versions.put_in_force(task, version.number)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return Retrained(version, gain, corrected, replaces)


def right_answers(records: Sequence[dict], answers: Sequence[str], vocabulary: Mapping) -> np.ndarray:
    """Score each answer from 0 to 1, (n,): yes/no by the label, facts by the judge's accuracy, else the same text."""
    judge, found = RuleJudge(vocabulary), []
    for record, answer in zip(records, answers, strict=True):
        if record["answer"] in ("yes", "no"):
            found.append(yes_no(answer) == record["answer"])
        elif facts_of(record):
            found.append(judge.judge(record, answer).accuracy / 100)
        else:
            found.append(normalise_answer(answer) == normalise_answer(record["answer"]))
    return np.array(found, float)


def _gain(records: Sequence[dict], new: np.ndarray, old: np.ndarray) -> Interval:
    return paired_difference(new, old, groups=[record["product_id"] for record in records])


def _key(records: Sequence[dict]) -> str:
    return hashlib.sha256(json.dumps(records, ensure_ascii=False).encode()).hexdigest()[:12]


def table_of(versions: Versions) -> str:
    """Format a profile's versions, one a line, the one in force marked by a star."""
    lines = ["   task   version  made                       corrections  gain (95% interval), held out"]
    for task in versions.tasks:
        now = versions.in_force(task).number
        for v in versions.of(task):
            gain = v.about.get("gain")
            said = f"{gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f}), n = {gain['n']}" if gain else ""
            mark, made = "*" if v.number == now else " ", v.made or "chapter 06"
            lines.append(f" {mark} {task:<6} {v.number:>7}  {made:<25}  {v.about.get('corrections', ''):>11}  {said}")
    return "\n".join(line.rstrip() for line in lines)


def show_versions(profile: str, task: str = "", number: int = 0) -> int:
    """Run the command `versions`: list a profile's versions; with a task and a number, put that version in force."""
    try:
        versions = Versions(find_project().outputs / profile)
        if task:
            versions.put_in_force(task, number)
        print(table_of(versions))
    except (FileNotFoundError, KeyError) as error:
        print(f"error: {error.args[0]}", file=sys.stderr)
        return 2
    return 0


def main(profile: str, task: str, source: str, *, force: bool, server: str = "") -> int:
    """Run the command `retrain`; return 0 if the new version is in force, 1 if it is worse, 2 for a wrong input."""
    try:
        found = retrain(profile, task, source, force=force)
    except (OSError, KeyError, ValueError) as error:
        print(f"error: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 2
    for what, gain in (("held-out answers", found.gain), ("of these, corrections", found.corrected)):
        if gain:
            print(f"{what}: {gain.value:+.3f} right ({gain.low:+.3f} to {gain.high:+.3f}), n = {gain.n}")
    number = found.version.number
    if not found.in_force:
        print(f"{task}: version {number} is worse and not in force; --force puts it in force all the same")
        return 1
    if server:
        with VllmClient(server) as client:
            print(f"{server}: {client.update(task, found.version.folder / found.version.adapter)} answers from now on")
    print(f"{task}: version {number} is in force; back: mtive-nb versions {profile} {task} {number - 1}")
    return 0
