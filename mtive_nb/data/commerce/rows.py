"""The row of e-commerce benchmarks: a question with texts, photos, ready captions and one right label.

MMECInstruct (CASLIE, section 4) and EcomMMMU (eBay's T5) are read into it (`mmec.py`), Pocket Mart's seven tasks and real
photos are made as it (`mart_tasks.py`, `real.py`), and `fuse.py` turns it into a record for a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
    photos: absolute paths; captions: one ready caption a photo, or (). places: the name of the input that each photo
    belongs to ("product 1"), or () where all belong to the row. facts: what each photo shows, where it is known (one
    mapping a photo, or ()). known: further truth of the row, for oracles and analysis. stratum: one of STRATA, or "".
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
    product_id: str = ""  # rows of one product, or of one user in SR, stand in one split
    facts: tuple[Mapping[str, str], ...] = ()
    known: Mapping[str, Any] = field(default_factory=dict)
    stratum: str = ""
    source: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the options: "A" of "A: exact match"; an option without a colon is its own label."""
        return tuple(option.partition(":")[0].strip() for option in self.options)
