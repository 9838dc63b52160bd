"""The row of e-commerce benchmarks: a question with texts, photos, ready captions and one right label.

MMECInstruct (CASLIE, section 4) and EcomMMMU (eBay's T5) are read into it (`mmec.py`), Pocket Mart's seven tasks and real
photos are made as it (`mart_tasks.py`, `real.py`), and `fuse.py` turns it into a record for a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

# MMECInstruct's seven tasks, then EcomMMMU's own two (complementary products; questions without an answer).
COMMERCE_TASKS = {
    "AP": "answerability prediction",
    "CC": "category classification",
    "PRP": "product relation prediction",
    "PSI": "product substitute identification",
    "MPC": "multiclass product classification",
    "SA": "sentiment analysis",
    "SR": "sequential recommendation",
    "CP": "click prediction",
    "BQA": "binary question answering",
}
# What a photo adds to a row's texts: the right label follows only with it, with or without it, or without it alone.
STRATA = ("needed", "redundant", "idle")
ROW_SPLITS = ("train", "val", "test", "ood")  # test: in domain (IND); ood: out of domain


@dataclass(frozen=True)
class CommerceRow:
    """One question.

    input: the question's texts by name, in the order in which they are shown (`{"query": ..., "product title": ...}`).
    options: as printed ("A: exact match", ...), or () where the row has none; output: the right label ("A", "yes").
    photos: absolute paths; captions: one ready caption a photo, or (). places: what each photo belongs to, or () where
    all belong to the row: a name of the input ("product 1"), in SR the number before a title of the history ("1st") or
    an option's label ("A"). facts: what each photo shows, where it is known (one mapping a photo, or ()). known: further
    truth of the row, for oracles and analysis; `asked` are the names of the facts that decide the label, `products` the
    ids of all products. stratum: one of STRATA, or "".
    """

    row_id: str
    task: str  # a key of COMMERCE_TASKS
    instruction: str
    input: Mapping[str, Any]
    output: str
    split: str  # one of ROW_SPLITS
    options: tuple[str, ...] = ()
    photos: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    product_id: str = ""  # rows of one product (in SR the one bought next, or a user) stand in one split
    facts: tuple[Mapping[str, str], ...] = ()
    known: Mapping[str, Any] = field(default_factory=dict)
    stratum: str = ""
    source: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the options: "A" of "A: exact match"; an option without a colon is its own label."""
        return tuple(option.partition(":")[0].strip() for option in self.options)


def check_splits(rows: Iterable[CommerceRow]) -> None:
    """Check that each task has rows to learn from and rows to be asked. Errors: ValueError that names task and split."""
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row.task, set()).add(row.split)
    for task, there in splits.items():
        if missing := [split for split in ("train", "test") if split not in there]:
            raise ValueError(f"task {task}: found no row of {', '.join(missing)}, only of {', '.join(sorted(there))}")


def questions(rows: Iterable[CommerceRow]) -> pd.DataFrame:
    """Count rows by task, split, stratum and label, with each label's share of its task and split.

    Columns: task, split, stratum, label, rows, photos (in all), share (of the label in task and split, whatever the
    stratum). Tasks, splits and strata stand in the order of COMMERCE_TASKS, ROW_SPLITS and STRATA.
    """
    orders = {"task": list(COMMERCE_TASKS), "split": ROW_SPLITS, "stratum": ("", *STRATA)}
    found = [(row.task, row.split, row.stratum, row.output, len(row.photos)) for row in rows]
    frame = pd.DataFrame(found, columns=["task", "split", "stratum", "label", "photos"])
    for name, order in orders.items():
        frame[name] = pd.Categorical(frame[name], order)
    grouped = frame.groupby(["task", "split", "stratum", "label"], observed=True)["photos"]
    counts = grouped.agg(rows="size", photos="sum").reset_index()
    by_label = counts.groupby(["task", "split", "label"], observed=True)["rows"].transform("sum")
    counts["share"] = by_label / counts.groupby(["task", "split"], observed=True)["rows"].transform("sum")
    return counts.astype(dict.fromkeys(orders, str))
