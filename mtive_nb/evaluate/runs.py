"""A chapter's questions and every system's answers: saved, read back for the claims, and pooled over several seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mtive_nb.data.records import load_records
from mtive_nb.run.stale import read_run

# The records, a table with a column of answers per system, and the judge's vocabulary.
Asked = tuple[list[dict[str, Any]], pd.DataFrame, dict[str, list[str]]]


def answer_rows(records: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return a row per record: id, truth, a column of answers per system; read_answers reads tables/answers.csv."""
    return pd.DataFrame({"id": [r["id"] for r in records], "truth": [r["answer"] for r in records], **answers})


def read_answers(shop: Path, evaluation: Path) -> Asked:
    """Return the evaluated records, the table of answers (id, truth, a column per system), and the judge's vocabulary.

    shop: run folder of chapter 01. evaluation: run folder of a chapter that saves its answers (07, 08 or 09). Each
    record gets the field `run`, the evaluation's seed, so that records of several seeds can be pooled. Errors: KeyError
    for an answer to a record that the shop does not have.
    """
    folder = shop / "records"
    by_id = {record["id"]: record for record in load_records(folder / "emdiv.jsonl")}
    answers = pd.read_csv(evaluation / "tables" / "answers.csv", keep_default_na=False, dtype=str, lineterminator="\n")
    seed = read_run(evaluation)["seed"]
    records = [by_id[i] | {"run": seed} for i in answers["id"]]
    return records, answers, json.loads((folder / "vocabulary.json").read_text())


def pooled(runs: Iterable[Asked]) -> tuple[list[dict[str, Any]], dict[str, list[str]], dict[str, list[str]]]:
    """Pool several results of `read_answers`: all records, answers of systems in every run, first run's vocabulary."""
    runs = list(runs)
    table = pd.concat([part for _, part, _ in runs], join="inner", ignore_index=True)
    answers = {system: list(table[system]) for system in table.columns.drop(["id", "truth"])}
    return [record for part, _, _ in runs for record in part], answers, runs[0][2]
