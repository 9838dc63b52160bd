"""What stands in two splits of a benchmark: a product, a text, a photo, or a copy of a photo.

CASLIE (section 3) removes test rows that also stand in training; here the rows are named, and the user decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import combinations

import pandas as pd

from mtive_nb.data.commerce.rows import ROW_SPLITS, CommerceRow
from mtive_nb.data.door.shared import print_of, same_photos
from mtive_nb.data.photos import file_sha256

KINDS = ("product", "text", "photo", "copy")
LEAK_COLUMNS = ["kind", "found", "split_a", "row_a", "split_b", "row_b", "rows"]


def leaks(rows: Iterable[CommerceRow], *, copies: bool = True) -> pd.DataFrame:
    """What rows of different splits share, one line (LEAK_COLUMNS) for each shared thing and pair of splits.

    kind: "product" (an id of the row or of `known["products"]`), "text" (all inputs, in any case and spacing), "photo"
    (equal bytes), "copy" (equal pixels, or saved or scaled again; see `same_photos`). found: the id, text or photo;
    row_a, row_b: the first row of each split; rows: how many rows of both splits share it. copies: compare photos by
    what they show as well, which decodes each photo once. Errors: OSError, PhotoError for a photo that is gone.
    """
    rows = list(rows)
    first = {photo: file_sha256(photo) for row in rows for photo in row.photos}
    by_bytes: dict[str, str] = {}
    for photo, digest in first.items():
        by_bytes.setdefault(digest, photo)
    same = {photo: by_bytes[digest] for photo, digest in first.items()}
    alike = same_photos({photo: print_of(photo) for photo in by_bytes.values()}) if copies else {}
    found = [(*thing, row.split, row.row_id) for row in rows for thing in _things(row, same, alike)]
    frame = pd.DataFrame(found, columns=["kind", "found", "split", "row"]).drop_duplicates()
    shared = frame[frame.groupby(["kind", "found"])["split"].transform("nunique") > 1]
    lines, photo_pairs = [], set()
    for (kind, thing), group in shared.groupby(["kind", "found"], sort=False):
        by_split = {split: list(group.loc[group["split"] == split, "row"]) for split in ROW_SPLITS}
        for a, b in combinations([split for split, own in by_split.items() if own], 2):
            lines.append((kind, thing, a, by_split[a][0], b, by_split[b][0], len(by_split[a]) + len(by_split[b])))
            photo_pairs |= {(alike.get(thing, thing), a, b)} if kind == "photo" else set()
    # A copy is named only where its photo is not named already.
    lines = [one for one in lines if one[0] != "copy" or (one[1], one[2], one[4]) not in photo_pairs]
    return pd.DataFrame(sorted(lines, key=lambda one: KINDS.index(one[0])), columns=LEAK_COLUMNS)


def _things(row: CommerceRow, same: dict[str, str], alike: dict[str, str]) -> Iterator[tuple[str, str]]:
    """What a row could share with others, as (kind, what)."""
    for product in dict.fromkeys((row.product_id, *row.known.get("products", ()))):
        if product:
            yield "product", product
    texts = [one for value in row.input.values() for one in (value if isinstance(value, list) else [value])]
    if text := re.sub(r"\s+", " ", " ".join(map(str, texts))).strip().casefold():
        yield "text", text
    for photo in row.photos:
        yield "photo", same[photo]
        if alike:
            yield "copy", alike[same[photo]]
