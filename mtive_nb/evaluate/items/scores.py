"""Scores of item intelligence (eBay, T3) by exact truth: F1, precision, recall, and the verdict on each value.

An answer is compared as its set of (path, value) pairs, values normalised as `schema.normalise` does. Each score is
averaged over items, so that the mean F1 may lie below both mean precision and mean recall, as in T3's row 27. The paper
prints neither the judge's prompt nor the verdicts' rule. Here verdicts are shares of all values given, over all items:
- correct: the truth has the value at that path;
- incorrect: photos show other values at that path, and not this one;
- unverifiable: no photo shows anything at that path.
`evaluate/items/judge.py` lets a model that sees the photos decide instead.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from mtive_nb.data.dates import dates_in
from mtive_nb.data.items.items import Item
from mtive_nb.data.items.readers import Reading
from mtive_nb.data.items.rules import extract
from mtive_nb.data.items.schema import Pair, fields_of
from mtive_nb.evaluate.intervals import resampled_sums

CORRECT, INCORRECT, UNVERIFIABLE = VERDICTS = ("correct", "incorrect", "unverifiable")
T3 = ("f1", "precision", "recall", "verifiable-correct", "verifiable-incorrect", "unverifiable")


def verdicts(answer: Mapping, item: Item) -> dict[Pair, str]:
    """Return the verdict on each value of a valid answer; of an incomplete truth, only values at its own paths count."""
    true = fields_of(dict(item.truth))
    shown = {path for path, _ in true}
    given = {pair for pair in fields_of(dict(answer)) if item.complete or pair[0] in shown}
    return {
        pair: CORRECT if pair in true else INCORRECT if pair[0] in shown else UNVERIFIABLE for pair in sorted(given)
    }


def score_items(answers: Sequence[Mapping], items: Sequence[Item]) -> pd.DataFrame:
    """Return one row an item: `item_id`, `precision`, `recall`, `f1`, all in [0, 1], and counts of values.

    Counts: `given`, `expected`, and one for each verdict. An empty answer to an item without truth scores 1, any other
    empty answer 0. Errors: ValueError where the numbers of answers and items differ.
    """
    rows = []
    for answer, item in zip(answers, items, strict=True):
        found = pd.Series(verdicts(answer, item), dtype=object).value_counts()
        counts = {name: int(found.get(name, 0)) for name in VERDICTS}
        given, expected = sum(counts.values()), len(fields_of(dict(item.truth)))
        right, empty = counts[CORRECT], float(given == expected == 0)
        rows.append(
            {
                "item_id": item.item_id,
                "precision": right / given if given else empty,
                "recall": right / expected if expected else empty,
                "f1": 2 * right / (given + expected) if given + expected else empty,
                "given": given,
                "expected": expected,
            }
            | counts
        )
    return pd.DataFrame(rows, columns=["item_id", "precision", "recall", "f1", "given", "expected", *VERDICTS])


def fields_read(
    items: Sequence[Item],
    readings: Sequence[Sequence[Reading]],
    *,
    dates: Mapping[str, Collection[str]],
    answers: Sequence[Mapping] | None = None,
) -> pd.DataFrame:
    """Return a row per true field of items with an incomplete truth: source, item, field, value, read.

    readings: what engines read from each item's images. answers: of a model that was told these; by default of the rules.
    dates: the ISO dates that count as an item's printed date, by its id; the field "printed date" is read where one of
    them stands in the print, whatever the answers.
    """
    rows = []
    for k, (item, found) in enumerate(zip(items, readings, strict=True)):
        given = fields_of(dict(answers[k])) if answers is not None else fields_of(extract(found))
        rows += [(item.source, item.item_id, *pair, pair in given) for pair in sorted(fields_of(dict(item.truth)))]
        if true := dates.get(item.item_id):
            stated = {date.iso for date in dates_in("\n".join(line.text for one in found for line in one.lines))}
            rows.append(
                (item.source, item.item_id, "printed date", " or ".join(sorted(true)), bool(stated & set(true)))
            )
    return pd.DataFrame(rows, columns=["source", "item", "field", "value", "read"])


def table3(scores: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Return the columns of T3 in percent, with intervals over items, from rows of `score_items`.

    A row per column of T3: column, value, low, high, n, unit, better. NaN where no item, or no value, was given.
    """
    means = 100 * scores[["f1", "precision", "recall"]].to_numpy(float)
    counts = scores[list(VERDICTS)].to_numpy(float)
    cells = np.hstack([means, counts, np.ones((len(scores), 1))])
    sums = np.vstack([cells.sum(axis=0), resampled_sums(cells, seed=seed)])  # first the sample itself
    with np.errstate(invalid="ignore"):
        drawn = np.hstack([sums[:, :3] / sums[:, -1:], 100 * sums[:, 3:6] / sums[:, 3:6].sum(axis=1, keepdims=True)])
    ends, known = np.full((2, len(T3)), np.nan), ~np.isnan(drawn[0])
    ends[:, known] = np.nanquantile(drawn[:, known], (0.025, 0.975), axis=0)
    better = ["higher"] * 4 + ["lower"] * 2
    found = {"column": list(T3), "value": drawn[0], "low": ends[0], "high": ends[1], "n": len(scores)}
    return pd.DataFrame({**found, "unit": "percent", "better": better})


def verdict_shares(counts: Mapping[str, int]) -> list[float]:
    """Return the share in percent of each of VERDICTS; NaN where there are none."""
    total = sum(counts.values())
    return [100 * counts[name] / total if total else np.nan for name in VERDICTS]
