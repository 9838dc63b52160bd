"""What a person decides about prefilled answers, and the training records that come of it.

MTIVE, s4.1: the instruction-tuned model prefills an answer, a person accepts or corrects it.
The store is a file of JSON lines that only grows: one line a decision, on the disk before `decide` returns. A decision
is taken back by a further line, so the file also tells what was undone. One person writes to a file at a time.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from mtive_nb.data.records import assistant_turn

ACCEPTED, CORRECTED, SKIPPED, UNDONE = DECISIONS = ("accepted", "corrected", "skipped", "undone")
SIMULATED = "simulated"  # the annotator's name where no person decided


class AnnotationError(ValueError):
    """An answer that cannot be kept, or a line of the file that is no decision."""


@dataclass(frozen=True)
class Annotation:
    """One decision. `answer` is the final one, None where skipped; `seconds` it took; `time` is UTC in ISO 8601."""

    record_id: str
    prefill: str
    answer: str | None
    decision: str
    seconds: float
    annotator: str
    time: str


class AnnotationStore:
    """The decisions in one file; `annotations` holds those in force by record id, the latest last."""

    def __init__(self, path: str | Path, *, annotator: str) -> None:
        """Open a file of decisions and go on where it stopped; a file that is not there yet is empty.

        A half line, left by a killed process or a full disk, is dropped with a warning.
        Errors: AnnotationError for a whole line that is no decision.
        """
        self.path, self.annotator = Path(path), annotator
        self.annotations: dict[str, Annotation] = {}
        content = self.path.read_bytes() if self.path.is_file() else b""
        self._torn = content[-1:] not in (b"", b"\n")  # the next line then begins with the end of this one
        for number, line in enumerate(content.split(b"\n"), start=1):
            if line.strip():
                self._read(line, where=f"{self.path}, line {number}")

    def decide(self, record_id: str, *, prefill: str, answer: str | None, seconds: float) -> Annotation:
        """Keep one decision: None skips the record, the prefill accepts it, any other answer corrects it.

        Spaces around a text do not count. A record that was decided before is decided anew.
        Errors: AnnotationError for an empty answer; OSError where the file cannot be written: nothing is kept then.
        """
        prefill, answer = prefill.strip(), None if answer is None else answer.strip()
        if answer == "":
            raise AnnotationError(
                f"record {record_id}: found an empty answer, expected a text; skip the record instead"
            )
        decision = SKIPPED if answer is None else ACCEPTED if answer == prefill else CORRECTED
        annotation = Annotation(record_id, prefill, answer, decision, round(seconds, 2), self.annotator, _now())
        self._append(annotation)
        return annotation

    def undo(self, record_id: str) -> Annotation:
        """Take back the decision on a record and return it. Errors: KeyError where there is none; OSError."""
        taken_back = self.annotations[record_id]
        self._append(replace(taken_back, decision=UNDONE, annotator=self.annotator, time=_now()))
        return taken_back

    def _append(self, annotation: Annotation) -> None:
        line = ("\n" if self._torn else "") + json.dumps(asdict(annotation), ensure_ascii=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            self._torn = True
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self._torn = False
        self._keep(annotation)

    def _read(self, line: bytes, *, where: str) -> None:
        try:
            fields = json.loads(line)
        except ValueError:
            warnings.warn(f"{where}: dropped half a line; decide on that record again", stacklevel=3)
            return
        if not isinstance(fields, dict) or set(fields) != set(Annotation.__dataclass_fields__):
            raise AnnotationError(
                f"{where}: found {fields!r:.120}, expected {', '.join(Annotation.__dataclass_fields__)}"
            )
        if fields["decision"] not in DECISIONS:
            raise AnnotationError(
                f"{where}, field 'decision': found {fields['decision']!r}, expected one of {DECISIONS}"
            )
        self._keep(Annotation(**fields))

    def _keep(self, annotation: Annotation) -> None:
        self.annotations.pop(annotation.record_id, None)
        if annotation.decision != UNDONE:
            self.annotations[annotation.record_id] = annotation


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def sft_records(records: Sequence[dict], annotations: Mapping[str, Annotation]) -> list[dict]:
    """The records that were accepted or corrected, with their final answers; label and facts stay as they came."""
    decided = ((record, annotations.get(record["id"])) for record in records)
    return [_with_answer(record, a.answer) for record, a in decided if a and a.answer is not None]


def preference_pairs(records: Sequence[dict], annotations: Mapping[str, Annotation]) -> list[dict]:
    """A pair a correction: the record with the corrected answer, and beside its fields `chosen` and `rejected`.

    `chosen` is the corrected answer, `rejected` the prefill; messages without their last turn are the prompt. An empty
    prefill makes no pair: there is nothing to prefer the correction to.
    """
    decided = ((record, annotations.get(record["id"])) for record in records)
    return [
        _with_answer(record, a.answer) | {"chosen": a.answer, "rejected": a.prefill}
        for record, a in decided
        if a and a.decision == CORRECTED and a.prefill
    ]


def _with_answer(record: dict, answer: str) -> dict:
    return record | {"messages": [*record["messages"][:-1], assistant_turn(answer)], "answer": answer}


def simulated_annotator(record: dict, prefill: str, *, is_right: Callable[[dict, str], bool]) -> str:
    """A STAND-IN for a person: the answer of one who knows the truth, and accepts every prefill that is right."""
    return prefill if is_right(record, prefill) else record["answer"]
