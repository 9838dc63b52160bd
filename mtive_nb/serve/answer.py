"""Query a profile's trained experts: from photos, predict the answer, its probability of yes and the expert's version.

The experts of chapter 06 run in this process, on the trunk of chapters 04 and 05. For many concurrent users, use
serve/engine.py or vLLM.
"""

import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.utils import logging

from mtive_nb.data.emdiv import questions as ask
from mtive_nb.data.photos import PhotoError, photo_fault
from mtive_nb.data.records import assistant_turn, user_turn
from mtive_nb.data.rows import PACKAGINGS, PLACEMENTS
from mtive_nb.evaluate.predict import yes_no_tokens
from mtive_nb.model.batches import batch_of
from mtive_nb.model.experts import expert_name
from mtive_nb.model.mixed import images_of_rows, mixed_experts
from mtive_nb.model.stack import open_stack
from mtive_nb.run.graph import Project, find_project, find_run
from mtive_nb.serve.pool import ExpertPool

# Default question of each task.
QUESTIONS = {
    "AE": ask.AE_GEN,
    "DD": ask.DD_BIN,
    "PM": ask.PM_BIN,
    "EX": ask.EX_AUG["expiry"][0],
    "PT": ask.PT_GEN.format(options=ask.options_text(PACKAGINGS)),
    "PP": ask.PP_GEN.format(options=ask.options_text(PLACEMENTS)),
}
MEANT_YES_NO = 0.5  # below this total probability of yes and no, the answer is open


@dataclass(frozen=True)
class Answer:
    """An expert's answer: text, probability of yes, version of the expert, and milliseconds (batch mean per record).

    probability_yes: of yes against no as the answer's first token, in [0, 1], not calibrated; None for an open answer.
    """

    text: str
    probability_yes: float | None
    expert: str
    milliseconds: float


class Profile:
    """The experts of a profile, trained by chapters 04 to 06. Call `close` after use, or use it in a `with` block.

    Errors: FileNotFoundError with the chapter that has not run; LineageError for adapters that have changed.
    """

    def __init__(self, name: str, *, project: Project | None = None) -> None:
        folder = (project or find_project()).outputs / name
        chapters = [_run_folder(folder, number) for number in ("04", "05", "06")]
        stacks = [chapter / "stack" for chapter in chapters]
        self.name = name
        self.stack = open_stack((stacks[0], "PT"), (stacks[1], "IT"))
        self.pool = ExpertPool(self.stack, trunk="IT")
        for task in json.loads((chapters[2] / "settings.json").read_text(encoding="utf-8")):
            self.pool.add(task, stacks[2], expert_name(task))
        self._serving = ExitStack()
        self._serving.enter_context(self.stack.serving("IT"))

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Restore the base's weights."""
        self._serving.close()

    @property
    def tasks(self) -> list[str]:
        """The tasks that have an expert."""
        return list(self.pool.experts)

    def ask(self, task: str, *photos: str | Path, question: str = "", max_new_tokens: int = 64) -> Answer:
        """Return the answer of a task's expert about one or two photos; default question: QUESTIONS[task].

        Errors: KeyError for a task without expert or question, PhotoError for an unusable photo, ValueError for a wrong
        number of photos.
        """
        record = question_record(task, photos, question=question)
        return self.answers([record], max_new_tokens=max_new_tokens)[0]

    @torch.inference_mode()
    def answers(self, records: Sequence[dict], *, max_new_tokens: int = 64) -> list[Answer]:
        """Answer records in one batch; each record's task selects its expert."""
        started, versions = time.perf_counter(), [self.pool.hold(record["task"]) for record in records]
        vlm = self.stack.vlm
        try:
            inputs = batch_of(vlm, records)
            experts, shown = self.pool.in_memory(versions), images_of_rows(records, inputs)
            with mixed_experts(self.stack, experts, trunk="IT", **shown) as model:
                made = model.generate(
                    **inputs,
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    output_logits=True,
                    return_dict_in_generate=True,
                )
        finally:
            for version in versions:
                self.pool.release(version)
        texts = vlm.processor.batch_decode(made.sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        first = made.logits[0].float().softmax(-1)  # (B, V): probabilities of the answers' first tokens
        milliseconds = 1000 * (time.perf_counter() - started) / len(records)
        yes, no = (first[:, token] for token in yes_no_tokens(vlm))
        shares = [
            y / (y + n) if y + n >= MEANT_YES_NO else None for y, n in zip(yes.tolist(), no.tolist(), strict=True)
        ]
        return [
            Answer(text.strip(), share, version.alias, milliseconds)
            for text, share, version in zip(texts, shares, versions, strict=True)
        ]


def question_record(task: str, photos: Sequence[str | Path], *, question: str = "") -> dict:
    """Return a question about photos as a record without an answer. Errors: as in Profile.ask."""
    if task not in QUESTIONS and not question:
        raise KeyError(f"task {task!r}: found no question; pass one (default exists for {', '.join(QUESTIONS)})")
    wanted = 2 if task == "PM" and not question else 1
    if not wanted <= len(photos) <= 2:
        raise ValueError(f"photos: found {len(photos)}, expected {wanted if wanted == 2 else '1 or 2'}")
    images = [str(Path(photo).expanduser().resolve()) for photo in photos]
    for image in images:
        if fault := photo_fault(image):
            raise PhotoError(f"{image}: {fault}")
    messages = [user_turn(question or QUESTIONS[task], images=len(images)), assistant_turn("")]
    return {"id": images[0], "task": task, "variant": "own", "images": images, "messages": messages, "answer": ""}


def open_profile(name: str, *, project: Project | None = None) -> Profile:
    """Open the experts of a trained profile, such as "pocket" or your own (`params/mine/`)."""
    return Profile(name, project=project)


def _run_folder(profile_dir: Path, number: str) -> Path:
    found = find_run(profile_dir, number)
    if found is None:
        raise FileNotFoundError(
            f"outputs/{profile_dir.name}/{number}_*: not found; train the experts first: mtive-nb run {profile_dir.name} 06"
        )
    return found


def main(profile: str, task: str, photos: Sequence[str], *, question: str) -> int:
    """Run the command `ask`: print the answer; return exit code 2 for an invalid question, photo or profile."""
    logging.disable_progress_bar()
    try:
        record = question_record(task, photos, question=question)  # refuse a wrong question before loading a model
        with open_profile(profile) as experts:
            found = experts.answers([record])[0]
    except (FileNotFoundError, KeyError, ValueError) as error:
        print(f"error: {error.args[0] if error.args else error}", file=sys.stderr)
        return 2
    sure = "" if found.probability_yes is None else f"  (yes: {found.probability_yes:.2f})"
    print(f"{found.text}{sure}  [{found.expert}, {found.milliseconds:.0f} ms]")
    return 0
