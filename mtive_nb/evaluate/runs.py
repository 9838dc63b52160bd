"""What chapter 07 of a run asked and what each system said, read back: for the claims, and to join several seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from mtive_nb.data.records import load_records
from mtive_nb.run.stale import read_run


def read_answers(shop: Path, evaluation: Path) -> tuple[list[dict[str, Any]], pd.DataFrame, dict[str, list[str]]]:
    """The records that were asked, the table of answers (id, truth, a column a system), and the judge's vocabulary.

    shop, evaluation: run folders of chapters 01 and 07. Records carry their `run`, the seed of the evaluation, so that
    those of several seeds can be pooled. Errors: KeyError for an answer to a record that the shop does not have.
    """
    folder = shop / "records"
    by_id = {record["id"]: record for record in load_records(folder / "emdiv.jsonl")}
    answers = pd.read_csv(evaluation / "tables" / "answers.csv", keep_default_na=False, dtype=str)
    seed = read_run(evaluation)["seed"]
    records = [by_id[i] | {"run": seed} for i in answers["id"]]
    return records, answers, json.loads((folder / "vocabulary.json").read_text())
