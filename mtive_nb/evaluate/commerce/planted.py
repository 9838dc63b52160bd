"""How much planted error visual verification bears: precision and recall of keeping at several rates (eBay, 3.2.1).

eBay prints neither number. The verifier is a stand-in that looks for an aspect's words in the caption; the captioner is
one that misreads a share of the known facts, or a model.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pandas as pd

from mtive_nb.data.commerce.listings import Listing, listings_of, plant_aspects
from mtive_nb.data.instructions.grammar import Sight
from mtive_nb.data.instructions.roles import Captioner, RuleCaptioner, RuleVerifier
from mtive_nb.data.instructions.verification import verdict_table, verify_listings
from mtive_nb.data.shop import read_shop
from mtive_nb.evaluate.commerce.keeping import keeping_scores


def keeping_at_rates(
    shop: str | Path, folder: str | Path, *, wrong: Sequence[float], misread: Sequence[float], invisible: float, seed: int = 0
) -> pd.DataFrame:  # fmt: skip
    """Return `keeping_scores` for each share of `wrong` visible aspects and of facts that the captioner misreads.

    shop: file of `write_shop`, whose first part has the products. folder: where verdicts are kept. invisible: planted
    share of aspects of which the photo says nothing. Columns: wrong, misread, and those of keeping_scores; no row where
    no product's photo has known facts. Errors: ValueError for a share outside [0, 1].
    """
    part, tables = read_shop(shop)[0], []
    listings = [one for one in listings_of(part.catalogue, part.splits) if one.photo and one.facts]
    for share, error in product(wrong, misread) if listings else ():
        captioner = RuleCaptioner(Sight(part.catalogue, error=error), seed=seed)
        kept = Path(folder) / f"{share}-{error}"
        found = keeping_by(captioner, listings, kept, wrong=share, invisible=invisible, seed=seed)
        tables.append(found.assign(wrong=share, misread=error))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["wrong", "misread"])


def keeping_by(
    captioner: Captioner, listings: Sequence[Listing], folder: str | Path, *, wrong: float, invisible: float, seed: int = 0
) -> pd.DataFrame:  # fmt: skip
    """Return `keeping_scores` of verification by a captioner's captions; arguments as of `keeping_at_rates`."""
    planted = plant_aspects(listings, wrong=wrong, invisible=invisible, seed=seed)
    verify_listings(planted, captioner, RuleVerifier(), folder=Path(folder), what="verified")
    return keeping_scores(verdict_table(folder), seed=seed)
