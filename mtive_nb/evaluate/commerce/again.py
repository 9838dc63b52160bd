"""Claims of CASLIE and eBay that do not hold, decided again with a single change, on adapters that 15 and 16 saved.

Each function returns rows of chapter 26's table `why`: the claim as it stands, then with the change. The changes are
registered in `evaluate/design.yaml`, under `further`; nothing is trained.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mtive_nb.data.commerce.by_facts import FactCaptioner
from mtive_nb.data.commerce.captions import caption_all
from mtive_nb.data.commerce.ebay_benches import BENCHES
from mtive_nb.data.commerce.fuse import ANSWER_TOK, fuse, labels_said
from mtive_nb.data.commerce.mmec import load_written
from mtive_nb.data.commerce.values import mentions
from mtive_nb.data.records import load_records
from mtive_nb.evaluate.claims import measured
from mtive_nb.evaluate.commerce.aspects import answer_points
from mtive_nb.evaluate.commerce.claims import commerce_claims
from mtive_nb.evaluate.commerce.votes import decide, vote_all
from mtive_nb.evaluate.intervals import paired_difference
from mtive_nb.evaluate.judge.captions import ballots_of, simulated_judges, useful_caption
from mtive_nb.evaluate.metrics import accepted_values
from mtive_nb.evaluate.predict import generate_answers
from mtive_nb.model.stack import open_stack
from mtive_nb.run.stale import read_run

CHOOSING, FREE_FORM = "caslie-choosing-beats-always-using", "ebay-free-form-extraction-not-helped"


def jury_without_errors(folder: Path, *, cache: Path) -> list[dict[str, Any]]:
    """Decide CHOOSING again with captions chosen by a judge who never errs; folder: that of chapter 15.

    CASLIE's adapter of 15 answers; training had the jury of 15. Returns no row where 15 had other rows than Pocket Mart's,
    or no stand-ins to change.
    """
    made = read_run(folder)
    given = made["parameters"]
    if not (folder / "mart" / "images").is_dir() or given["CAPTIONER"] != "facts" or given["JUDGES"]:
        return []
    rows = load_written(folder, given, quarantine=cache / "quarantine.csv")
    captioner = FactCaptioner(rows, error=given["ERROR"], seed=made["seed"], budget_words=given["WORDS"])
    tested = [row for row in rows if row.split in ("test", "ood")]
    captions = caption_all(tested, captioner, context=True, path=cache / "captions.jsonl")
    (judge,) = simulated_judges(1, accuracy=1.0, correlation=0.0, useful=useful_caption)
    votes = vote_all(ballots_of(tested, captions), [judge], cache / "votes.jsonl")
    used = decide(tested, votes, [judge.name])
    records = {arm: _of_test(folder, arm) for arm in ("UIA", "CASLIE")}
    texts = {row_id: [caption.text for caption in of_row] for row_id, of_row in captions.items()}
    chosen = [fuse(r, texts[r.row_id], used[r.row_id], arm="CASLIE", answer=given["ANSWER"]) for r in tested]
    stack = open_stack(*((folder / "stack", arm) for arm in records))

    def ask(arm: str, asked: Sequence[dict]) -> list[str]:
        stack.activate(arm)
        options = {"batch": given["ANSWER_BATCH"], "max_new_tokens": ANSWER_TOK, "what": arm}
        return labels_said(tested, generate_answers(stack, asked, **options))

    every, jury = (ask(arm, records[arm]) for arm in ("UIA", "CASLIE"))
    said = {"as it stands": jury, "a judge who never errs chooses": ask("CASLIE", chosen)}
    boards = {label: commerce_claims(chosen, {"CASLIE": of, "UIA": every}) for label, of in said.items()}
    return [_row(label, next(r for r in board.to_dict("records") if r["claim"] == CHOOSING)) for label, board in boards.items()]  # fmt: skip


def _of_test(folder: Path, arm: str) -> list[dict]:
    return [r for r in load_records(folder / "records" / f"{arm}.jsonl") if r["split"] == "test"]


def values_in_any_form(folder: Path) -> list[dict[str, Any]]:
    """Decide FREE_FORM again by the share of asked values that an answer names in any form; folder: that of chapter 16.

    Returns no row where 16 was left out.
    """
    made = read_run(folder)
    if "left_out" in made["notes"]:
        return []
    verified = pd.read_csv(folder / "tables" / "arms.csv", index_col="arm")["adapter"]["verified"]
    task = BENCHES["DynamicAttributeExtraction/DAE"]
    asked = [r for r in load_records(folder / "records" / "benchmarks.jsonl") if r["task"] == task]
    stack, answers = open_stack((folder / "stack", verified)), []
    for adapter in (verified, None):
        stack.activate(adapter)
        options = {"batch": made["parameters"]["ANSWER_BATCH"], "max_new_tokens": 56, "what": adapter or "zero-shot"}
        answers.append(generate_answers(stack, asked, **options))
    rows, groups = [], [r["product_id"] for r in asked]
    for label, points in {"as it stands": answer_points, "values count in any form": named_values}.items():
        left, right = ([points(r, answer) for r, answer in zip(asked, said, strict=True)] for said in answers)
        rows.append(_row(label, measured(FREE_FORM, {"dae": paired_difference(left, right, groups=groups)})))
    return rows


def named_values(record: Mapping[str, Any], answer: str) -> float:
    """Return the share of the values that a record asks for which an answer names as whole words, 0 to 100."""
    wanted = record["facts"]["asked"].values()
    named = [any(mentions(answer, value) for value in accepted_values(one)) for one in wanted]
    return 100.0 * sum(named) / len(named)


def _row(label: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of `why` from one of the board."""
    names = ("claim", "verdict", "by_task", "gain", "low", "high", "n", "unit")
    return {"changed": label, "on": "all"} | {name: found[name] for name in names}
