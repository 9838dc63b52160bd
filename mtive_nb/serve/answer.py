"""Query a profile's trained experts: from photos, predict the answer, its probability and the expert's version.

The experts of chapter 06 run in this process, on the trunk of chapters 04 and 05, or in a running vLLM
(serve/served.py). For many photos, use serve/score.py; for many concurrent users, serve/engine.py or vLLM.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from transformers.utils import logging

from mtive_nb.data.emdiv import questions as ask
from mtive_nb.data.emdiv.own import OwnTask, own_tasks
from mtive_nb.data.emdiv.tasks import PP, PT
from mtive_nb.data.records import assistant_turn, user_turn
from mtive_nb.evaluate.predict import generate_answers
from mtive_nb.evaluate.probability import option_tokens
from mtive_nb.model.batches import batch_of, prepared_image
from mtive_nb.model.experts import STAGES
from mtive_nb.model.mixed import images_of_rows, mixed_experts
from mtive_nb.model.stack import LoraStack, open_stack
from mtive_nb.run.graph import Project, find_project, find_run
from mtive_nb.run.stale import read_run
from mtive_nb.serve.chances import Chances, read_calibration
from mtive_nb.serve.pinned import check_pin
from mtive_nb.serve.pool import ExpertPool
from mtive_nb.serve.questions import check_question, in_words
from mtive_nb.serve.versions import Versions, run_folder

if TYPE_CHECKING:
    import pandas as pd

ANSWER_TOK = 64  # tokens that an answer of any profile may have, at least
BATCH = 32  # questions asked together, at most
# Default question of each built-in task.
QUESTIONS = {
    "AE": ask.AE_GEN,
    "DD": ask.DD_BIN,
    "PM": ask.PM_BIN,
    "EX": ask.EX_AUG["expiry"][0],
    "PT": PT.question,
    "PP": PP.question,
}


@dataclass(frozen=True)
class Answer:
    """An expert's answer: text, probability, version and hash of the expert, and milliseconds (batch mean per record).

    probability: of `probability_of` (yes, or the chosen class) among the possible answers, in [0, 1]; None for an open
    answer. calibrated: whether it has the temperature that chapter 07 fitted to this expert.
    """

    text: str
    probability: float | None
    probability_of: str
    calibrated: bool
    expert: str
    milliseconds: float


class Experts:
    """The experts of a profile, wherever they run. Call `close` after use, or use them in a `with` block."""

    name: str
    max_px: int | None = None  # the model's bound on a photo
    longest: int = ANSWER_TOK  # tokens of an answer, at most, where a call names no other number
    batch: int = BATCH  # questions that `score` asks together, likewise
    own: Mapping[str, OwnTask] = {}  # the catalogue's own tasks
    chances: Chances
    tasks: list[str]

    def __enter__(self) -> "Experts":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back what the experts hold."""

    def expert_of(self, task: str) -> str:
        """Return the version and short hash of a task's expert, "DD@1 f06cfe1c". Errors: KeyError for none."""
        raise NotImplementedError

    def calibrated(self, task: str) -> bool:
        """Return whether there are temperatures for the version that answers a task's questions now."""
        return self.chances.calibrated(task, self.expert_of(task).split(" ")[-1])

    def answers(self, records: Sequence[dict], *, max_new_tokens: int | None = None) -> list[Answer]:
        """Answer records together; each record's task selects its expert. Errors: those of `check_question`."""
        raise NotImplementedError

    def ask(self, task: str, *photos: str | Path, question: str = "", max_new_tokens: int | None = None) -> Answer:
        """Return the answer of a task's expert about one or two photos; default question: `task_question`.

        Errors: KeyError for a task without expert or question, PhotoError for an unusable photo, ValueError for a wrong
        number of photos.
        """
        record = question_record(task, photos, question=question, max_px=self.max_px, own=self.own)
        return self.answers([record], max_new_tokens=max_new_tokens)[0]

    def score(
        self,
        source: "str | Path | Sequence[Mapping] | pd.DataFrame",
        *,
        tasks: Sequence[str] = (),
        output: str | Path | None = None,
        batch: int | None = None,
        max_new_tokens: int | None = None,
    ) -> "pd.DataFrame":
        """Return a row per photo and task of a folder, a CSV or JSON-lines file, or rows; see serve/score.py.

        `output`: file that gets the rows batch by batch, and whose answers are not asked for again.
        """
        from mtive_nb.serve.score import score

        return score(self, source, tasks=tasks, output=output, batch=batch, max_new_tokens=max_new_tokens)


class Profile(Experts):
    """The experts of a profile in this process, trained by chapters 04 to 06.

    Errors: FileNotFoundError with the chapter that has not run; LineageError for adapters that have changed.
    """

    def __init__(self, name: str, *, project: Project | None = None) -> None:
        folder = (project or find_project()).outputs / name
        for number in ("04", "05", "06"):
            run_folder(folder, number)  # what is missing is said before a model loads
        self.name, self.own = name, profile_tasks(folder)
        limits = answer_limits(folder)
        self.longest, self.batch = limits["max_new_tokens"], limits["batch"]
        self.stack = open_stages(folder)
        self.pool = ExpertPool(self.stack, trunk="IT")
        self.versions = Versions(folder)
        for task in self.versions.tasks:
            self.versions.serve(self.pool, task)
        self.max_px = self.stack.vlm.max_px
        processor = self.stack.vlm.processor
        self.chances = Chances(lambda names: option_tokens(processor, names), self._calibration(), self.own)
        self._serving = ExitStack()
        self._serving.enter_context(self.stack.serving("IT"))

    def _calibration(self) -> dict:
        return read_calibration(self.versions.folder.parent) | self.versions.calibration()

    def close(self) -> None:
        """Restore the base's weights."""
        self._serving.close()

    @property
    def tasks(self) -> list[str]:
        """The tasks that have an expert."""
        return list(self.pool.experts)

    def expert_of(self, task: str) -> str:
        version = self.pool.hold(task)
        self.pool.release(version)
        return f"{version.alias} {version.sha256[:8]}"

    def follow(self) -> None:
        """Serve the versions that were retrained or rolled back since the last call, with their temperatures."""
        if self.versions.follow(self.pool):
            self.chances.calibration = self._calibration()

    @torch.inference_mode()
    def answers(self, records: Sequence[dict], *, max_new_tokens: int | None = None) -> list[Answer]:
        """Answer records in one batch; each record's task selects its expert. max_new_tokens: default `longest`."""
        for record in records:
            check_question(record)
        self.follow()
        started, versions = time.perf_counter(), [self.pool.hold(record["task"]) for record in records]
        vlm = self.stack.vlm
        try:
            inputs = batch_of(vlm, records)
            experts, shown = self.pool.in_memory(versions), images_of_rows(records, inputs)
            with self.pool.forward, mixed_experts(self.stack, experts, trunk="IT", **shown) as model:
                made = model.generate(
                    **inputs,
                    max_new_tokens=max_new_tokens or self.longest,
                    do_sample=False,
                    output_logits=True,
                    return_dict_in_generate=True,
                )
        finally:
            for version in versions:
                self.pool.release(version)
        tokens = made.sequences[:, inputs["input_ids"].shape[1] :]
        texts = [text.strip() for text in vlm.processor.batch_decode(tokens, skip_special_tokens=True)]
        milliseconds = 1000 * (time.perf_counter() - started) / len(records)
        answers = []
        for row, (record, version, text) in enumerate(zip(records, versions, texts, strict=True)):
            said, sha256 = tokens[row].tolist(), version.sha256
            logits = [step[row] for step in made.logits]
            chance = self.chances.of(record["task"], sha256, text=text, tokens=said, logits=logits)
            answers.append(Answer(text, *chance, f"{version.alias} {sha256[:8]}", milliseconds))
        return answers


def open_stages(profile_dir: Path, *experts: tuple[Path, str]) -> LoraStack:
    """Open the base with a profile's stages 1 and 2, and `experts` (stack folder, adapter) on them.

    Errors: FileNotFoundError with the chapter that has not run; LineageError for changed files or stages that are not
    the pinned ones.
    """
    stages = [(run_folder(profile_dir, number) / "stack", name) for name, number in STAGES.items()]
    stack = open_stack(*stages, *experts)
    for stage in STAGES:
        check_pin(profile_dir, stage, stack.hashes[stage])
    return stack


class StackExpert(Experts):
    """One adapter of an open stack, in this process: an expert that another chapter than 06 trained.

    It answers every record, whatever its task. Errors: LineageError for an adapter that is not the pinned one.
    """

    def __init__(self, profile_dir: Path, stack: LoraStack, adapter: str) -> None:
        check_pin(profile_dir, adapter, stack.hashes[adapter])
        self.name, self.stack, self.adapter, self.max_px = profile_dir.name, stack, adapter, stack.vlm.max_px
        stack.activate(adapter)

    @property
    def tasks(self) -> list[str]:
        """The adapter's name."""
        return [self.adapter]

    def expert_of(self, task: str) -> str:
        """Return name and short hash of the adapter, whatever the task."""
        return f"{self.adapter} {self.stack.hashes[self.adapter][:8]}"

    def calibrated(self, task: str) -> bool:
        """No answer has a probability."""
        return False

    def answers(self, records: Sequence[dict], *, max_new_tokens: int | None = None) -> list[Answer]:
        """Answer records in one batch; no answer has a probability."""
        for record in records:
            check_question(record)
        started = time.perf_counter()
        how = {"batch": len(records), "max_new_tokens": max_new_tokens or self.longest, "fold": False}
        texts = generate_answers(self.stack, list(records), **how)
        took_ms = 1000 * (time.perf_counter() - started) / len(records)
        return [Answer(text.strip(), None, "", False, self.expert_of(""), took_ms) for text in texts]


def profile_tasks(folder: Path) -> dict[str, OwnTask]:
    """Return the own tasks of the catalogue that chapter 01 opened, by name. folder: the profile's outputs."""
    found = find_run(folder, "01")
    return own_tasks(found / "records") if found else {}


def answer_limits(folder: Path) -> dict[str, int]:
    """Return how answers of a profile are generated, as `generate_answers` reads it: max_new_tokens and batch.

    Both are those of chapter 07, where it has run, but no fewer tokens than ANSWER_TOK and no more questions than BATCH.
    """
    found = find_run(folder, "07")
    given = read_run(found).get("parameters", {}) if found else {}
    tokens, batch = given.get("MAX_NEW_TOKENS", ANSWER_TOK), given.get("BATCH", BATCH)
    return {"max_new_tokens": max(ANSWER_TOK, tokens), "batch": min(BATCH, batch)}


def task_question(task: str, own: Mapping[str, OwnTask] | None = None) -> tuple[str, int]:
    """Return a task's default question and its number of photos. Errors: KeyError for a task without a question."""
    questions = QUESTIONS | {name: one.question for name, one in (own or {}).items()}
    if task not in questions:
        raise KeyError(f"task {task!r}: found no question; pass one (default exists for {', '.join(questions)})")
    return questions[task], 2 if task == "PM" else 1


def question_record(
    task: str,
    photos: Sequence[str | Path],
    *,
    question: str = "",
    max_px: int | None = None,
    decode: Callable[[str], Image.Image] | None = None,
    own: Mapping[str, OwnTask] | None = None,
) -> dict:
    """Return a question about photos as a record without an answer, with the photos decoded.

    decode: default, prepared_image with `max_px`. own: a profile's own tasks. Errors: KeyError for a task without
    question, ValueError for a wrong number of photos, PhotoError for one that cannot be used.
    """
    text, wanted = (question, 1) if question.strip() else task_question(task, own)
    if not wanted <= len(photos) <= 2:
        raise ValueError(f"photos: found {len(photos)}, expected {wanted if wanted == 2 else '1 or 2'}")
    images = [str(Path(photo).expanduser().resolve()) for photo in photos]
    pixels = [decode(image) if decode else prepared_image(image, max_px) for image in images]
    messages = [user_turn(text, images=len(images)), assistant_turn("")]
    record = {"id": images[0], "task": task, "variant": "own", "images": images, "pixels": pixels}
    return record | {"messages": messages, "answer": ""}


def open_profile(name: str, *, project: Project | None = None, server: str = "", workers: int = 0) -> Experts:
    """Open the experts of a trained profile, such as "pocket" or your own (`params/mine/`).

    In place of this process: `server`, the address of a running vLLM that serves them, or `workers` of a Ray cluster.
    """
    if workers:
        from mtive_nb.serve.ray_profile import RayProfile

        return RayProfile(name, workers=workers, project=project)
    if server:
        from mtive_nb.serve.served import ServedProfile

        return ServedProfile(name, server, project=project)
    return Profile(name, project=project)


def main(profile: str, task: str, photos: Sequence[str], *, question: str, server: str = "") -> int:
    """Run the command `ask`: print the answer; return exit code 2 for an invalid question, photo or profile."""
    logging.disable_progress_bar()
    try:
        own = profile_tasks(find_project().outputs / profile)
        question_record(task, photos, question=question, own=own)  # refused before a model loads
        with open_profile(profile, server=server) as experts:
            found = experts.ask(task, *photos, question=question)
    except (FileNotFoundError, KeyError, ValueError, ConnectionError) as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 2
    sure = ""  # an open answer has no probability
    if found.probability is not None:
        sure = f"  ({found.probability_of}: {found.probability:.2f}{'' if found.calibrated else ', not calibrated'})"
    print(f"{found.text}{sure}  [{found.expert}, {found.milliseconds:.0f} ms]")
    return 0
