"""Answer commerce rows with CASLIE's text model: `mtive-nb score PROFILE ROWS -o answers.csv --task CASLIE`.

ROWS is a file in MMECInstruct's form (docs/commerce.md), its photos' captions in `caption_info`; the adapters are those
that chapter 15 saved. As in serve/score.py, one row of COLUMNS stands for each question, a second run keeps earlier
answers of the same expert to the same text, and what cannot be answered is a row with its error. An answer in an option's
words stands as its label.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mtive_nb.data.commerce.fuse import ANSWER_TOK, fuse, labels_said
from mtive_nb.data.commerce.mmec import load_rows
from mtive_nb.data.commerce.rows import CommerceRow
from mtive_nb.data.records import question_of
from mtive_nb.model.stack import open_stack
from mtive_nb.run import progress
from mtive_nb.run.graph import Project, find_project
from mtive_nb.serve.answer import Answer, StackExpert
from mtive_nb.serve.questions import in_words
from mtive_nb.serve.score import CASLIE_ARMS, COLUMNS, NUMBERS, Output, answer_batch
from mtive_nb.serve.versions import run_folder

# Adapters of chapter 15 -> what they read of the photos (`fuse`).
ARMS = dict(zip(CASLIE_ARMS, ("text", "UIA", "CASLIE", "CASLIE"), strict=True))


class CommerceExpert(StackExpert):
    """One adapter of chapter 15's text model, in this process.

    Errors: KeyError for a name outside ARMS, FileNotFoundError where 15 has not run, LineageError for changed files or an
    adapter that is not the pinned one.
    """

    def __init__(self, profile: str, name: str, *, project: Project | None = None) -> None:
        if name not in ARMS:
            raise KeyError(f"task {name!r}: expected one of {', '.join(ARMS)}")
        outputs = (project or find_project()).outputs / profile
        super().__init__(outputs, open_stack((run_folder(outputs, "15") / "stack", name)), name)

    def answers(self, records: Sequence[dict], *, max_new_tokens: int = ANSWER_TOK) -> list[Answer]:
        """Answer records without photos in one batch; no answer has a probability."""
        return super().answers(records, max_new_tokens=max_new_tokens)


def commerce_record(row: CommerceRow, expert: str) -> dict:
    """Return a row as the record that an adapter of ARMS was trained on; a row without captions has its texts alone.

    A caption that is empty counts as not used, as chapter 15's jury decides it.
    """
    captions = row.captions or ("",) * len(row.photos)
    return fuse(row, captions, [bool(text.strip()) for text in captions], arm=ARMS[expert])


def score_rows(
    expert: CommerceExpert, rows: Sequence[CommerceRow], *, output: str | Path | None = None, batch: int | None = None,
    max_new_tokens: int = ANSWER_TOK,
) -> pd.DataFrame:  # fmt: skip
    """Return a row of COLUMNS for each commerce row, in their order. `output`: a file as in `score.Output`.

    Errors: those of Output, and ValueError for a batch below 1.
    """
    batch = expert.batch if batch is None else batch
    if batch < 1:
        raise ValueError(f"batch: found {batch}, expected 1 or more")
    done: list[dict] = []
    with Output(output) as kept:
        waiting: list[tuple[dict, dict, CommerceRow]] = []
        for one in rows:
            record = commerce_record(one, expert.adapter)
            row = dict.fromkeys(COLUMNS, "") | dict.fromkeys((*NUMBERS, "calibrated"))
            row |= {"id": one.row_id, "photo": kept.shown([Path(p) for p in one.photos]), "task": one.task}
            row |= {"question": question_of(record), "expert": expert.expert_of(one.task)}
            before = kept.answer(row, calibrated=False)
            done.append(before or row)
            waiting += [] if before else [(row, record, one)]
        for some in progress([waiting[k : k + batch] for k in range(0, len(waiting), batch)], what="score"):
            answer_batch(expert, [(row, record) for row, record, _ in some], max_new_tokens=max_new_tokens)
            for row, _, one in some:
                row["answer"] = labels_said([one], [row["answer"]])[0]
            kept.write([row for row, _, _ in some])
        kept.sort(done)
    return pd.DataFrame(done, columns=COLUMNS)


def main(profile: str, source: str, *, output: str, expert: str, batch: int | None = None) -> int:
    """Score a file of rows; return 0 if every row is answered, 1 for some faults, 2 if nothing could be done."""
    left_out = Path(output).with_suffix(".quarantine.csv")
    try:
        Output(output)  # refuse a wrong file before loading a model
        rows = load_rows(source, quarantine=left_out, look=False)
        answers = score_rows(CommerceExpert(profile, expert), rows, output=output, batch=batch)
    except (OSError, KeyError, ValueError) as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 2
    errors, faults = int((answers["error"] != "").sum()), len(pd.read_csv(left_out))
    print(f"{output}: {len(answers) - errors} answers, {errors} errors; {faults} faults in {left_out}", file=sys.stderr)
    return 1 if errors or faults else 0
