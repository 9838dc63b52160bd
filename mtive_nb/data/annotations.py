"""A person's decisions on prefilled answers, and the training records made from them.

MTIVE, s4.1: the instruction-tuned model prefills an answer, a person accepts or corrects it.
The store is an append-only file of JSON lines: one line per decision, on disk before `decide` returns. Undoing a
decision appends a further line, so the file also records what was undone. One person writes to a file at a time.
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
    """An answer that cannot be stored, or a line of the file that is not a decision."""


@dataclass(frozen=True)
class Annotation:
    """One decision. `answer` is final, None if skipped; `seconds` is its duration; `time` is UTC in ISO 8601."""

    record_id: str
    prefill: str
    answer: str | None
    decision: str
    seconds: float
    annotator: str
    time: str


class AnnotationStore:
    """The decisions in one file; `annotations` maps each record id to its current decision, the latest last."""

    def __init__(self, path: str | Path, *, annotator: str) -> None:
        """Open a file of decisions to append to; a missing file counts as empty.

        An incomplete line, left by a killed process or a full disk, is dropped with a warning.
        Errors: AnnotationError for a complete line that is not a decision.
        """
        self.path, self.annotator = Path(path), annotator
        self.annotations: dict[str, Annotation] = {}
        content = self.path.read_bytes() if self.path.is_file() else b""
        self._torn = content[-1:] not in (b"", b"\n")  # the next write must then end this line first
        for number, line in enumerate(content.split(b"\n"), start=1):
            if line.strip():
                self._read(line, where=f"{self.path}, line {number}")

    def decide(self, record_id: str, *, prefill: str, answer: str | None, seconds: float) -> Annotation:
        """Store one decision. Answer None skips the record, the prefill accepts it, any other answer corrects it.

        Surrounding spaces are ignored. A new decision replaces an earlier decision on the record.
        Errors: AnnotationError for an empty answer; OSError if the file cannot be written, and nothing is stored.
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
        """Undo the decision on a record and return it. Errors: KeyError if there is none; OSError as in `decide`."""
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
    """The records that were accepted or corrected, with their final answers; label and facts are unchanged."""
    decided = ((record, annotations.get(record["id"])) for record in records)
    return [_with_answer(record, a.answer) for record, a in decided if a and a.answer is not None]


def preference_pairs(records: Sequence[dict], annotations: Mapping[str, Annotation]) -> list[dict]:
    """One pair per correction: the record with the corrected answer and two more fields, `chosen` and `rejected`.

    `chosen` is the corrected answer, `rejected` the prefill; the messages without their last turn are the prompt. An
    empty prefill makes no pair, as it leaves nothing to reject.
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
    """STAND-IN for a person who knows the truth: returns the prefill if it is right, else the record's answer."""
    return prefill if is_right(record, prefill) else record["answer"]
