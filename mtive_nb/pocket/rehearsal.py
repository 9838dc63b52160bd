"""Rehearsal: the base's own scenes among the records of a stage, so that the stage does not unlearn what the base can do.

MTIVE trains its stages on the shop's data alone; rehearsal deviates from its recipe.
"""

from pathlib import Path

from mtive_nb.data.records import make_record
from mtive_nb.model.load import Vlm
from mtive_nb.pocket.exam import exam_records, has_exam, words_of

REHEARSAL_SEED = 20_000  # the first of streams of scenes that neither the base's training nor its exam uses
TASK = "base-scene"


def rehearsal_records(vlm: Vlm, folder: Path, *, beside: int, share: float, seed: int, processes: int = 1) -> list[dict]:  # fmt: skip
    """Return training records of the base's own scenes, one question each: a `share` of all, `beside` the shop's.

    Writes the scenes' images under `folder`, by so many `processes`. The label is the skill. A model that is no pocket
    base has no scenes: []. Errors: ValueError for a share outside [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"REHEARSAL: found {share}, expected a share from 0 to below 1")
    if not share or not has_exam(vlm):
        return []
    n = round(beside * share / (1 - share))
    return [
        make_record(
            f"{TASK}/{seed}/{k:06d}", product_id=f"scene {k}", task=TASK, variant="gen", images=scene["images"],
            messages=scene["messages"], answer=scene["answer"], label=scene["task"], source=TASK, split="train",
        )
        for k, scene in enumerate(exam_records(folder, n=n, words=words_of(vlm), seed=REHEARSAL_SEED + seed, processes=processes))
    ]  # fmt: skip
