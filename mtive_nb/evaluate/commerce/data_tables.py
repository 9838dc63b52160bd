"""What CASLIE prints of its data, of rows of ours: T1 to T3, sources (A1), product groups (A2), labels (A.5)."""

from collections.abc import Sequence

import pandas as pd

from mtive_nb.data.commerce.rows import COMMERCE_TASKS, CommerceRow, questions
from mtive_nb.evaluate.commerce.scores import MAIN

# Where the rows of this project come from, by `source`: name and licence.
SOURCES = {
    "mart": ("Pocket Mart", "Apache-2.0, drawn by this package"),
    "grocery": ("GroceryStoreDataset", "MIT"),
    "clothing": ("clothing-dataset-small", "CC0 1.0"),
}

# T3's rows of tasks, and its columns.
EACH = {"AP/CC/PRP/SA/SR (each)": ["AP", "CC", "PRP", "SA", "SR"], "PSI/MPC (each)": ["PSI", "MPC"]}
SPLITS = {"train": "Training", "val": "Validation", "test": "IND", "ood": "OOD"}


def task_table(rows: Sequence[CommerceRow]) -> pd.DataFrame:
    """Return a row a task and source: task, name, instruction (of one row), main metric, source."""
    some = {(row.task, row.source): row for row in rows}
    found = [
        (task, COMMERCE_TASKS[task], row.instruction, MAIN.get(task, ("Acc", "Acc"))[1], _source(source)[0])
        for (task, source), row in some.items()
    ]
    return pd.DataFrame(found, columns=["task", "name", "instruction", "main metric", "source"])


def source_table(rows: Sequence[CommerceRow]) -> pd.DataFrame:
    """Return a row a source: source, licence, rows."""
    counts = pd.Series([row.source for row in rows]).value_counts()
    return pd.DataFrame([(*_source(of), n) for of, n in counts.items()], columns=["source", "licence", "rows"])


def data_metrics(rows: Sequence[CommerceRow]) -> pd.DataFrame:
    """Return rows for `run.metrics`: T1's sizes, T3's splits, A2's product groups, shares of labels in training.

    Columns: paper, table, row, column, value, unit, better, n. A row without `known["group"]` counts in no group.
    """
    groups = pd.Series([row.known["group"] for row in rows if "group" in row.known], dtype=str)
    counts = questions(rows)
    labels = counts[counts["split"] == "train"].drop_duplicates(["task", "label"])
    sizes = counts.pivot_table(index="task", columns="split", values="rows", aggfunc="sum", fill_value=0)
    means = {name: sizes.reindex(tasks).mean() for name, tasks in EACH.items()} | {"MMECInstruct (total)": sizes.sum()}
    found = [
        ("caslie", "T1", one.source, "Size", one.rows, "count", len(rows)) for one in source_table(rows).itertuples()
    ]
    for name, mean in means.items():
        found += [("caslie", "T3", name, SPLITS[split], n, "count", len(rows)) for split, n in mean.dropna().items()]
    for group, share in groups.value_counts(normalize=True).items():
        found.append(("caslie", "A2", group, "Percentage", 100 * share, "percent", len(groups)))
    for one in labels.itertuples():
        n = sum(row.task == one.task and row.split == "train" for row in rows)
        found.append(("own", "shares of labels", one.task, one.label, one.share, "share", n))
    names = ["paper", "table", "row", "column", "value", "unit", "n"]
    return pd.DataFrame(found, columns=names).assign(better="none")


def _source(source: str) -> tuple[str, str]:
    return SOURCES.get(source, (source or "rows of the user", "not stated"))
