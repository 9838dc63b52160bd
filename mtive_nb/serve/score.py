"""Score many photos with a profile's experts: `mtive-nb score PROFILE INPUT -o answers.csv`.

Each question (serve/questions.py) gives one row of COLUMNS. What cannot be answered is a row with its `error`, never a
stop. The output file grows batch by batch. A second run keeps the answers whose photo content, task, question and
expert are the same, and asks for the rest. One row stands for each id, photo, task and question.
"""

import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import TextIO

import pandas as pd
from transformers.utils import logging

from mtive_nb.data.photos import file_sha256
from mtive_nb.model.batches import prepared_image
from mtive_nb.run import progress
from mtive_nb.run.atomic import write_atomic
from mtive_nb.serve.answer import Experts, open_profile, question_record, task_question
from mtive_nb.serve.questions import Question, in_words, read_questions

COLUMNS = (
    "id", "photo", "task", "question", "answer", "probability", "probability_of", "calibrated", "expert",
    "milliseconds", "error", "photo_hash", "correct_answer",
)  # fmt: skip
PLACE = COLUMNS[:4]  # what a row stands for
NUMBERS = ("probability", "milliseconds")
WINDOW = 4  # batches of photos that are decoded ahead, and sorted by the expected length of their answers
DECODERS = 4  # threads
CASLIE_ARMS = ("uniM3", "UIA", "CASLIE", "context-free")  # adapters of 15, which read rows (serve/commerce.py)
SHOWN = 5  # errors on the screen; the file has them all


class Output:
    """The file of answers: CSV, or JSON lines by its suffix (None: no file). A context manager.

    Errors: ValueError for a suffix that is neither, and for a file with other columns.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path = None if path is None else Path(path)
        self.rows: dict[tuple[str, ...], dict] = {}
        self._file: TextIO | None = None
        if self.path and self.path.suffix not in (".csv", ".jsonl"):
            raise ValueError(f"{path}: found the suffix {self.path.suffix!r}, expected .csv or .jsonl")
        if self.path and self.path.exists():
            self._read()

    def __enter__(self) -> "Output":
        if self.path:
            write_atomic(self.path, self._header() + self._lines(self.rows.values()))  # repaired
            self._file = self.path.open("a", encoding="utf-8", newline="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()
            write_atomic(self.path, self._header() + self._lines(self.rows.values()))  # one row for each place

    def shown(self, photos: Sequence[Path]) -> str:
        """Return photos as paths from the file's folder, where `retrain` looks for them; "" without a file."""
        home = self.path.resolve().parent if self.path else None
        return "|".join(Path(os.path.relpath(photo.resolve(), home)).as_posix() for photo in photos) if home else ""

    def answer(self, row: dict, *, calibrated: bool) -> dict | None:
        """Return an earlier answer to the same question about the same photo by the same expert, or None.

        An answer without a calibrated probability is none where it would be `calibrated` now. Else `row` takes over
        what a person wrote about the photo.
        """
        before = self.rows.get(_place(row))
        if not before or before["photo_hash"] != row["photo_hash"]:
            return None
        row["correct_answer"] = before["correct_answer"]
        same = not before["error"] and before["expert"] == row["expert"]
        raw = before["probability"] is not None and not before["calibrated"]
        return before if same and not (raw and calibrated) else None

    def write(self, rows: Sequence[dict]) -> None:
        """Append rows and flush them; a row replaces the earlier row of its place."""
        for row in rows:
            place = _place(row)
            self.rows.pop(place, None)
            self.rows[place] = row
        if self._file and rows:
            self._file.write(self._lines(rows))
            self._file.flush()

    def sort(self, rows: Sequence[dict]) -> None:
        """Put these rows last, in this order, without earlier errors about their photos; other rows stay before them."""
        places = {_place(row) for row in rows}
        asked = {place[:2] for place in places}
        for place in [p for p, row in self.rows.items() if row["error"] and p not in places and p[:2] in asked]:
            del self.rows[place]
        for row in rows:
            place = _place(row)
            self.rows[place] = self.rows.pop(place, row)

    def _read(self) -> None:
        """Read earlier rows; a last line that was not written to its end is dropped."""
        text = self.path.read_bytes().decode("utf-8-sig", "replace")  # a last character may be half there
        start = self._header().strip() or '{"id":'
        if not (text.startswith(start) or start.startswith(text)):
            raise ValueError(f"{self.path}: found a file that holds no answers of `score`; choose another output")
        end = text.rfind("\n") + 1
        if self.path.suffix == ".csv":
            while text.count('"', 0, end) % 2:  # a line's end inside quotes
                end = text.rfind("\n", 0, end - 1) + 1
            rows = csv.DictReader(io.StringIO(text[:end], newline=""))
        else:
            rows = map(json.loads, filter(None, text[:end].split("\n")))
        for row in rows:
            self.rows[_place(row)] = _typed(row)

    def _header(self) -> str:
        return ",".join(COLUMNS) + "\r\n" if self.path.suffix == ".csv" else ""

    def _lines(self, rows: Sequence[dict]) -> str:
        if self.path.suffix == ".jsonl":
            return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        text = io.StringIO()
        csv.DictWriter(text, COLUMNS).writerows(rows)
        return text.getvalue()


def _place(row: Mapping) -> tuple[str, ...]:
    return tuple(row[name] for name in PLACE)


def _typed(row: Mapping) -> dict:
    """Return a row of a file with numbers as numbers, and None for those that are not there."""
    numbers = {name: float(row[name]) if row[name] not in ("", None) else None for name in NUMBERS}
    calibrated = {"true": True, "false": False}.get(str(row["calibrated"]).lower())  # spreadsheets write TRUE
    return {name: row[name] for name in COLUMNS} | numbers | {"calibrated": calibrated}


def score(
    experts: Experts,
    source: str | Path | Sequence[Mapping] | pd.DataFrame,
    *,
    tasks: Sequence[str] = (),
    output: str | Path | None = None,
    batch: int | None = None,
    max_new_tokens: int | None = None,
) -> pd.DataFrame:
    """Return a row of COLUMNS for each question, in the order of the source (see read_questions).

    tasks: asked of every row that names no task. output: file as in Output. batch: questions answered together, of any
    tasks. Errors: those of read_questions and Output; an unknown task or a bad photo is a row with an error.
    """
    batch = experts.batch if batch is None else batch
    if batch < 1:
        raise ValueError(f"batch: found {batch}, expected 1 or more")
    questions = read_questions(source, tasks=tasks)
    with Output(output) as kept, ThreadPoolExecutor(DECODERS) as threads:
        limits = {"batch": batch, "max_new_tokens": max_new_tokens}
        done = _scored(experts, questions, kept=kept, threads=threads, **limits)
        rows = list(progress(done, total=len(questions), what="score"))
        rows = [row for _, row in sorted(rows, key=lambda numbered: numbered[0])]
        kept.sort(rows)
    return pd.DataFrame(rows, columns=COLUMNS)


def _scored(
    experts: Experts, questions: Sequence[Question], *, kept: Output, threads: ThreadPoolExecutor, batch: int, max_new_tokens: int | None,
) -> Iterator[tuple[int, dict]]:  # fmt: skip
    """Yield each question's number and its row, once the row is written."""
    lengths: dict[tuple[str, str], int] = {}  # (task, question) -> characters of the last answer
    for window in _ahead(threads, experts, questions, kept=kept, size=WINDOW * batch):
        kept.write([row for _, row, record in window if record is None and row["error"]])
        yield from ((k, row) for k, row, record in window if record is None)
        waiting = [one for one in window if one[2] is not None]
        # Pairs of photos apart, since they fill twice the tokens; then short answers apart from long ones.
        waiting.sort(key=lambda one: (len(one[2]["images"]), lengths.get(_form(one[1]), 0), _form(one[1])))
        for some in _batches(waiting, batch):
            answer_batch(experts, [(row, record) for _, row, record in some], max_new_tokens=max_new_tokens)
            lengths |= {_form(row): len(row["answer"]) for _, row, _ in some}
            kept.write([row for _, row, _ in some])
            yield from ((k, row) for k, row, _ in some)


def _form(row: Mapping) -> tuple[str, str]:
    return row["task"], row["question"]


def _batches(waiting: Sequence["Prepared"], size: int) -> Iterator[list["Prepared"]]:
    """Yield sorted questions in batches; one that is half full ends with its form, as a mixed one takes longer."""
    some: list[Prepared] = []
    for one in waiting:
        if len(some) == size or (2 * len(some) >= size and _form(one[1]) != _form(some[-1][1])):
            yield some
            some = []
        some.append(one)
    if some:
        yield some


Prepared = tuple[int, dict, dict | None]  # the question's number, its row, and its record where it must be asked


def _ahead(
    threads: ThreadPoolExecutor, experts: Experts, questions: Sequence[Question], *, kept: Output, size: int
) -> Iterator[list[Prepared]]:
    """Yield the questions in windows of `size`; the photos of the next window are decoded meanwhile, each once."""
    rest = iter(enumerate(questions))

    def begin() -> list[Future]:
        of_photo: dict[Path | None, list[tuple[int, Question]]] = {}  # by the last photo, the customer's of a pair
        for k, question in islice(rest, size):
            of_photo.setdefault(question.photos[-1] if question.photos else None, []).append((k, question))
        return [threads.submit(_prepare, experts, some, kept) for some in of_photo.values()]

    window = begin()
    while window:
        following = begin()
        yield [prepared for done in window for prepared in done.result()]
        window = following


def _prepare(experts: Experts, questions: Sequence[tuple[int, Question]], kept: Output) -> list[Prepared]:
    """Prepare questions about one photo: the row of an error or of an earlier answer, or a record to ask."""
    prepared, decode = [], cache(partial(prepared_image, max_px=experts.max_px))
    for k, question in questions:
        row = dict.fromkeys(COLUMNS, "") | dict.fromkeys((*NUMBERS, "calibrated"))
        row |= {"id": question.id, "photo": kept.shown(question.photos) or question.photo}
        row |= {"task": question.task, "question": question.text}
        record = None
        try:
            if question.fault:
                raise ValueError(question.fault)
            if not question.task:
                raise ValueError("no task: name one in the column `task`, or by --task")
            expert = experts.expert_of(question.task)
            row["question"] = question.text or task_question(question.task, experts.own)[0]
            row |= {"expert": expert, "photo_hash": _content_of(question.photos)}
            if before := kept.answer(row, calibrated=experts.calibrated(question.task)):
                row = before
            else:
                given = {"question": question.text, "decode": decode, "own": experts.own}
                record = question_record(question.task, question.photos, **given)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a row is that row's error
            row["error"] = in_words(error)
        prepared.append((k, row, record))
    return prepared


def _content_of(photos: Sequence[Path]) -> str:
    """Hash the photos' bytes in their order; "" where one cannot be read, which its decoding reports."""
    try:
        return "+".join(file_sha256(photo)[:16] for photo in photos)
    except (OSError, ValueError):
        return ""


def answer_batch(experts: Experts, asked: Sequence[tuple[dict, dict]], *, max_new_tokens: int | None) -> None:
    """Answer one batch of (row, record); where it fails, ask one by one, so that only the culprit gets an error."""
    try:
        answers = experts.answers([record for _, record in asked], max_new_tokens=max_new_tokens)
    except Exception as error:  # noqa: BLE001 - as in _prepare
        if len(asked) == 1:
            asked[0][0]["error"] = in_words(error)
        for one in asked if len(asked) > 1 else ():
            answer_batch(experts, [one], max_new_tokens=max_new_tokens)
        return
    for (row, _), answer in zip(asked, answers, strict=True):
        found = asdict(answer)
        row |= {"answer": found.pop("text"), **found, "milliseconds": round(answer.milliseconds, 1)}
        row["probability"] = None if answer.probability is None else round(answer.probability, 6)


def main(
    profile: str, source: str, *, output: str, tasks: Sequence[str] = (), batch: int | None = None, server: str = "",
    workers: int = 0,
) -> int:  # fmt: skip
    """Run the command `score`; return 0 if every question is answered, 1 for some errors, 2 if nothing could be done."""
    logging.disable_progress_bar()
    if set(tasks) & set(CASLIE_ARMS):
        from mtive_nb.serve.commerce import main as score_commerce

        if len(tasks) > 1 or server or workers:
            print(f"error: --task {tasks[0]}: expected no other task, server or workers beside it", file=sys.stderr)
            return 2
        return score_commerce(profile, source, output=output, expert=tasks[0], batch=batch)
    try:
        Output(output), read_questions(source, tasks=tasks)  # refuse wrong files before loading a model
        with open_profile(profile, server=server, workers=workers) as experts, redirect_stdout(sys.stderr):
            rows = experts.score(source, tasks=tasks, output=output, batch=batch)
    except (OSError, KeyError, ValueError) as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 2
    errors = rows[rows["error"] != ""]
    for row in errors.head(SHOWN).itertuples():
        print(f"{row.id}, {row.task or 'no task'}: {row.error}", file=sys.stderr)
    more = f", the first {SHOWN} above" if len(errors) > SHOWN else ""
    print(f"{output}: {len(rows) - len(errors)} answers, {len(errors)} errors{more}", file=sys.stderr)
    return 0 if errors.empty and len(rows) else 1 if len(errors) < len(rows) else 2
