"""How CASLIE's released code counts votes on a caption, beside the majority of `votes.py`.

The paper says "majority voting". The code compares raw replies by their first three characters in lower case and takes
the commonest: "no", "no." and "no," are three replies, an unreadable one may win, and a tie goes to the first judge.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from mtive_nb.data.commerce.rows import CommerceRow
from mtive_nb.evaluate.commerce.votes import decide


def plurality(replies: Sequence[str]) -> bool:
    """Return whether yes is the commonest of the judges' replies, the first judge's first; False without any."""
    return Counter(reply.lower()[:3] for reply in replies).most_common(1)[0][0] == "yes" if replies else False


def two_rules(rows: Iterable[CommerceRow], votes: pd.DataFrame, juries: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return for each jury how many captions each rule uses: jury, captions, majority, released, apart.

    votes: `vote_all`'s table. juries: {name: its judges, the first of them first}. majority, released: shares of the
    captions that were voted on; apart: share on which the rules differ. Errors: as `decide`.
    """
    rows, table = list(rows), []
    for name, judges in juries.items():
        used = decide(rows, votes, judges)
        order = {judge: k for k, judge in enumerate(judges)}
        counted = votes[votes["judge"].isin(judges)].sort_values("judge", key=lambda of: of.map(order), kind="stable")
        pairs = [
            (used[row_id][place], plurality(list(replies)))
            for (row_id, place), replies in counted.groupby(["row_id", "place"], sort=False)["reply"]
        ]
        shares = pd.DataFrame(pairs, columns=["majority", "released"], dtype=float)
        apart = (shares["majority"] != shares["released"]).mean()
        table.append({"jury": name, "captions": len(pairs), **shares.mean(), "apart": apart})
    return pd.DataFrame(table)
