"""Votes on captions: which captions are used, how often, and how far judges agree (CASLIE's CQE, section 4.2).

The paper says "majority voting": `majority` counts readable votes and does not use a caption on a tie. The released code
takes the commonest raw reply instead, unreadable ones too. The judges are those of judge/captions.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binom

from mtive_nb.data.commerce.replies import Kept, resumed
from mtive_nb.data.commerce.rows import CommerceRow
from mtive_nb.evaluate.intervals import bootstrap_interval
from mtive_nb.evaluate.judge.agreement import kappa
from mtive_nb.evaluate.judge.captions import Ballot, CaptionJudge
from mtive_nb.evaluate.reading import yes_no

SIZES = (1, 3, 5, 7)  # judges of a vote


def vote_all(ballots: Sequence[Ballot], judges: Sequence[CaptionJudge], path: str | Path) -> pd.DataFrame:
    """Return a row per ballot and judge: row_id, product_id, task, split, place, judge, reply, fault, vote.

    vote: yes, no, or "" for a reply that says neither. path: file of finished replies, so that an interrupted run
    resumes; a fault is asked again by the next run.
    """
    rows, kept = [], Kept(path)
    for judge in judges:
        keys = [judge.key(ballot) for ballot in ballots]
        said = resumed(dict(zip(keys, ballots, strict=True)), judge.replies, kept, what=judge.name, cost=judge.cost)
        for ballot, key in zip(ballots, keys, strict=True):
            row, reply = ballot.row, said[key]
            about = (row.row_id, row.product_id, row.task, row.split, ballot.place)
            rows.append((*about, judge.name, reply.text, reply.fault, yes_no(reply.text) or ""))
    names = ["row_id", "product_id", "task", "split", "place", "judge", "reply", "fault", "vote"]
    return pd.DataFrame(rows, columns=names)


def majority(replies: Sequence[str]) -> bool:
    """Return whether most readable votes are yes; on a tie, and without any, the caption is not used."""
    votes = Counter(map(yes_no, replies))
    return votes["yes"] > votes["no"]


def decide(rows: Iterable[CommerceRow], votes: pd.DataFrame, judges: Sequence[str]) -> dict[str, tuple[bool, ...]]:
    """Return whether each photo's caption is used, {row_id: one a photo}; a photo without ballot is not.

    votes: `vote_all`'s table. judges: names of those who count. Errors: ValueError for a judge without votes.
    """
    if absent := set(judges) - set(votes["judge"]):
        raise ValueError(f"decide: found no vote of {sorted(absent)}; expected some of {sorted(set(votes['judge']))}")
    counted = votes[votes["judge"].isin(judges)]
    said = {key: list(part) for key, part in counted.groupby(["row_id", "place"], sort=False)["reply"]}
    return {row.row_id: tuple(majority(said.get((row.row_id, k), [])) for k in range(len(row.photos))) for row in rows}


def share_used(rows: Iterable[CommerceRow], used: Mapping[str, Sequence[bool]], *, seed: int = 0) -> pd.DataFrame:
    """Return the share of photos whose caption is used, by domain and task: T4's row "caption used", for `run.metrics`.

    Columns: row, column (IND/AP ...), value in percent, low, high (95%, products drawn), n photos, unit, better.
    """
    found: dict[str, list[tuple[bool, str]]] = {}
    for row in rows:
        column = f"{'OOD' if row.split == 'ood' else 'IND'}/{row.task}"
        found.setdefault(column, []).extend((use, row.product_id) for use in used[row.row_id])
    table = []
    for column, pairs in found.items():
        if pairs:
            values, groups = 100.0 * np.array([use for use, _ in pairs]), [product for _, product in pairs]
            one = bootstrap_interval(values, groups=groups, seed=seed)
            table.append({"row": "caption used", "column": column} | one.row() | {"unit": "percent", "better": "none"})
    return pd.DataFrame(table)


def agreement_of_judges(votes: pd.DataFrame, *, seed: int = 0, resamples: int = 2000) -> pd.DataFrame:
    """Return Cohen's kappa of each two judges on the ballots that both voted on readably.

    Columns: judge, other, value, low, high (95%, products drawn), agreement (share of equal votes), n, unit, better.
    Kappa is NaN where no ballot is common to both.
    """
    wide = votes[votes["vote"] != ""].pivot(index=["row_id", "product_id", "place"], columns="judge", values="vote")
    table = []
    for one, other in combinations(dict.fromkeys(votes["judge"]), 2):
        both = wide.reindex(columns=[one, other]).dropna()
        pairs = (both == "yes").to_numpy(dtype=float)  # (n, 2)
        row = {"judge": one, "other": other, "n": len(pairs), "unit": "kappa, -1 to 1", "better": "none"}
        ends = dict.fromkeys(("value", "low", "high", "agreement"), float("nan"))
        if len(pairs):
            groups = list(both.index.get_level_values("product_id"))
            found = bootstrap_interval(pairs, statistic=kappa, groups=groups, seed=seed, resamples=resamples)
            ends = found.row() | {"agreement": float((pairs[:, 0] == pairs[:, 1]).mean())}
        table.append(row | ends)
    names = ["judge", "other", "value", "low", "high", "agreement", "n", "unit", "better"]
    return pd.DataFrame(table, columns=names)  # of one judge: no row


def majority_accuracy(n: int, accuracy: float, *, correlation: float = 0.0) -> float:
    """Return the accuracy of the majority of n judges, n odd, under the model of `simulated_judges`.

    Independent judges: P(more than n / 2 of n are right), binomial (Condorcet). Errors: ValueError for an even n.
    """
    if n % 2 == 0:
        raise ValueError(f"majority_accuracy: found n={n}, expected an odd number of judges")
    return correlation * accuracy + (1 - correlation) * float(binom.sf(n // 2, n, accuracy))


def accuracy_of_votes(
    ballots: Sequence[Ballot], votes: pd.DataFrame, judges: Sequence[str], useful: Callable[[Ballot], bool],
    *, sizes: Sequence[int] = SIZES, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Return how often the first 1, 3, 5, 7 judges decide rightly; one row a size.

    Columns: judges (how many), value (share of ballots), low, high (95%, products drawn), n, unit, better, "useful
    dropped" (share of the useful captions), "others kept" (share of the others); NaN for a share of none.
    """
    truth = np.array([bool(useful(ballot)) for ballot in ballots])
    groups, table = [ballot.row.product_id for ballot in ballots], []
    rows = list({ballot.row.row_id: ballot.row for ballot in ballots}.values())
    for size in sizes:
        used = decide(rows, votes, judges[:size])
        kept = pd.Series([used[ballot.row.row_id][ballot.place] for ballot in ballots], dtype=float)
        one = bootstrap_interval((truth == kept).to_numpy(dtype=float), groups=groups, seed=seed)
        shares = {"useful dropped": 1 - kept[truth].mean(), "others kept": kept[~truth].mean()}
        table.append({"judges": size} | one.row() | {"unit": "share", "better": "higher"} | shares)
    return pd.DataFrame(table)
