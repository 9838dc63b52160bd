"""Pairs of photos among stage 2's instruction data: a catalogue photo beside a customer photo, one product or not.

A generator sees one photo at a time, so it cannot write them. The questions are those of EMDIV's product matching, on
training photos, as the grammar's other questions are those of its other tasks; the answers come from the photos' facts.
"""

from collections.abc import Mapping

from mtive_nb.data.catalogue import Catalogue
from mtive_nb.data.emdiv.build import build_emdiv

COMPARISON = "comparison"  # the type of these pairs
_FORMS = {"gen": "detailed", "aug": "short", "bin": "short"}  # variant of the question -> format of the answer


def comparison_records(
    catalogue: Catalogue, n: int, *, split: str = "train", splits: Mapping[str, str] | None = None, seed: int = 0
) -> list[dict]:
    """Build at most `n` records of stage 2 about pairs of photos, half of them of one product; [] without facts."""
    counts = {f"PM/{variant}/{split}": n // len(_FORMS) for variant in _FORMS}
    pairs = build_emdiv(catalogue, splits=splits, counts=counts, seed=seed + 1).records
    return [
        record
        | {"id": f"INSTRUCT/{record['id']}", "task": "INSTRUCT", "variant": COMPARISON, "label": _FORMS[record["variant"]]}
        | {"facts": record["facts"] | {"grounded": True, "type": COMPARISON, "format": _FORMS[record["variant"]]}}
        for record in pairs
    ]  # fmt: skip
