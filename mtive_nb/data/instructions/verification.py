"""Visual verification: which of a listing's aspects follow from a caption of its main photo (eBay, section 3.2.1).

The work is cut into shards, files of JSON lines under one folder. A run that was interrupted, or that got more listings,
asks only for what is missing, changed or failed: a caption is kept while captioner and photo are the same, a verdict
while caption, verifier and aspects are. Shards can be spread over processes or a Ray cluster (`each`).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import pandas as pd

from mtive_nb.data.commerce.listings import Listing, aspect_fault, truth_of
from mtive_nb.data.endpoint import cost_in_words
from mtive_nb.data.instructions.roles import (
    CAPTION_PROMPT,
    OUTCOMES,
    VERIFY_PROMPT,
    Captioner,
    EndpointCaptioner,
    EndpointVerifier,
    Verifier,
)
from mtive_nb.data.photos import file_sha256
from mtive_nb.run import progress
from mtive_nb.run.atomic import write_atomic

COLUMNS = ("listing_id", "photo", "aspect", "value", "outcome", "reason", "truth", "caption")
WINDOW = 1000  # shards that are handed out together, so that listings may be more than memory holds
Roles = tuple[Captioner, Verifier]


@dataclass
class Verified:
    """What a run did. kept, dropped, failed count aspects; `faults` counts listings without any verdict, by reason.

    asked: listings for which a role was asked in this run; seconds: the time of this run.
    """

    listings: int = 0
    kept: int = 0
    dropped: int = 0
    failed: int = 0
    asked: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def listings_s(self) -> float:
        """Listings asked for per second, 0 where none was."""
        return self.asked / self.seconds if self.asked else 0.0


def in_order(model: Roles, work: Callable, items: Sequence[tuple], *, workers: int = 1, what: str = "") -> list:
    """Return [work(model, *item) for item in items], in this process; `workers` is not used."""
    return [work(model, *item) for item in (progress(items, what=what) if what else items)]


def verify_listings(
    listings: Iterable[Listing],
    captioner: Captioner,
    verifier: Verifier,
    *,
    folder: str | Path,
    shard: int = 256,
    each: Callable = in_order,
    workers: int = 1,
    what: str = "",
) -> Verified:
    """Caption every photo, verify every aspect against the caption, write the shards; `verdict_table` reads them.

    listings: any iterable, read as far as needed; for a sequence, `cost_of` is printed first. each: `in_order`,
    `by_processes` (model/parallel.py) or `by_ray` (serve/cluster.py), where roles can be pickled; roles behind an endpoint
    send several requests at once by themselves. A listing without photo or aspects, and an aspect that is no pair, gets
    its reason and stops nothing.
    Errors: ValueError for a shard below 1, EndpointError if an endpoint refuses for good.
    """
    if shard < 1:
        raise ValueError(f"shard: found {shard}, expected 1 listing or more")
    if isinstance(listings, Sequence) and (cost := cost_of(listings, (captioner, verifier))):
        print(f"{what or 'verify'}: {cost}", flush=True)
    folder, total, started = Path(folder), Verified(), time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    shards = ((some, folder / f"{k:06d}.jsonl") for k, some in enumerate(_cut(listings, shard)))
    written = 0
    while window := list(islice(shards, WINDOW)):
        for rows, asked in each((captioner, verifier), _verify_shard, window, workers=workers, what=what):
            _count(total, rows, asked)
        written += len(window)
    for path in folder.glob("[0-9]*.jsonl"):
        if int(path.stem) >= written:  # of an earlier run with more listings
            path.unlink()
    total.seconds = time.perf_counter() - started
    return total


def cost_of(listings: Sequence[Listing], roles: Roles) -> str:
    """Return how many requests the roles behind an endpoint make at most, and their cost, in words; "" for none."""
    seen = [one.photo for one in listings if one.photo] if isinstance(roles[0], EndpointCaptioner) else []
    read = len(listings) if isinstance(roles[1], EndpointVerifier) else 0
    if not (n := len(seen) + read):
        return ""
    text_tok = (len(seen) * len(CAPTION_PROMPT) + read * len(VERIFY_PROMPT)) / 4 / n
    return f"at most {n:,} requests before retries, {cost_in_words(n, seen, text_tok=text_tok)}"


def _cut(listings: Iterable[Listing], size: int) -> Iterator[list[Listing]]:
    rest = iter(listings)
    while some := list(islice(rest, size)):
        yield some


def _count(total: Verified, rows: Sequence[tuple[str, Counter]], asked: int) -> None:
    total.asked += asked
    for fault, outcomes in rows:
        total.listings += 1
        total.faults.update([fault] if fault else [])
        for outcome in OUTCOMES:
            setattr(total, outcome, getattr(total, outcome) + outcomes[outcome])


def _verify_shard(roles: Roles, listings: Sequence[Listing], path: Path) -> tuple[list[tuple[str, Counter]], int]:
    """Write one shard; returns each listing's fault and outcomes, and for how many listings a role was asked."""
    captioner, verifier = roles
    before, rows = _rows_by_id(path), [_new_row(listing, captioner) for listing in listings]
    for row in rows:
        old = before.get(row["listing_id"], {})
        if row["caption_key"] and row["caption_key"] == old.get("caption_key"):
            row["caption"] = old["caption"]
        row["key"] = _hash(row["caption_key"], verifier.name, row["pairs"]) if row["caption_key"] else ""
        row["verdicts"] = old["verdicts"] if row["key"] and row["key"] == old.get("key") else []
    blind = [k for k, row in enumerate(rows) if not row["fault"] and not row["caption"]]
    for k, caption in zip(blind, captioner.captions([listings[k] for k in blind]) if blind else (), strict=True):
        rows[k] |= {"caption": caption.text, "fault": caption.fault and f"no caption: {caption.fault}"}
    waiting = [row for row in rows if not row["fault"] and not row["verdicts"]]
    found = verifier.verdicts([(row["caption"], row["pairs"]) for row in waiting]) if waiting else ()
    for row, verdicts in zip(waiting, found, strict=True):
        row["verdicts"] = [[v.outcome, v.reason] for v in verdicts]
        row["key"] *= all(v.outcome != "failed" for v in verdicts)  # a failure is asked for again
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    asked = {rows[k]["listing_id"] for k in blind} | {row["listing_id"] for row in waiting}
    return [(row["fault"], _outcomes(row)) for row in rows], len(asked)


def _new_row(listing: Listing, captioner: Captioner) -> dict:
    """Return a listing's row before any role is asked: its usable aspects, the faults of the others, their truth."""
    faults = [aspect_fault(aspect) for aspect in listing.aspects]
    usable = [k for k, fault in enumerate(faults) if not fault]
    truths = truth_of(listing)
    row = {"listing_id": listing.listing_id, "photo": listing.photo, "caption": "", "fault": "", "caption_key": ""}
    row |= {"pairs": [list(listing.aspects[k]) for k in usable], "truths": [truths[k] for k in usable]}
    row["no_pairs"] = [[str(listing.aspects[k])[:60], fault] for k, fault in enumerate(faults) if fault]
    if not listing.photo:
        return row | {"fault": "no photo"}
    if not usable:
        return row | {"fault": "no aspects" if not faults else "no usable aspect"}
    try:
        photo = file_sha256(listing.photo)
    except OSError as error:
        return row | {"fault": f"no photo: {error.strerror or error}"}
    facts = json.dumps(listing.facts, sort_keys=True, default=str)  # the rule-based captioner describes them
    return row | {"caption_key": _hash(captioner.name, listing.listing_id, photo, facts)}


def _outcomes(row: Mapping) -> Counter[str]:
    """Count a row's aspects by outcome: where there is a fault all failed, and what is no pair is dropped."""
    found = Counter(outcome for outcome, _ in row["verdicts"])
    found["failed"] += len(row["pairs"]) - len(row["verdicts"])
    found["dropped"] += len(row["no_pairs"])
    return found


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:24]


def _rows_by_id(path: Path) -> dict[str, dict]:
    """Return a shard's rows by listing; a file that does not parse counts as absent, as its rows are then asked for."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        return {row["listing_id"]: row for row in rows}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def verdict_table(folder: str | Path) -> pd.DataFrame:
    """Return the verdicts of a folder of shards: a row per aspect, COLUMNS, in the listings' order.

    truth is one of listings.TRUTHS, "" where it is not known. A listing with a fault has a row per aspect with outcome
    failed and the fault as reason, or one row without aspect. Errors: FileNotFoundError for a folder without shards.
    """
    shards = sorted(Path(folder).glob("[0-9]*.jsonl"))
    if not shards:
        raise FileNotFoundError(f"verdicts {folder}: no shards; first run verify_listings into this folder")
    rows = [row for shard in shards for line in shard.read_text(encoding="utf-8").split("\n") if line
            for row in _table_rows(json.loads(line))]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def _table_rows(row: Mapping) -> list[tuple]:
    fault, place = row["fault"], (row["listing_id"], row["photo"])
    verdicts = row["verdicts"] or [["failed", fault]] * len(row["pairs"])
    rows = [
        (*place, name, value, outcome, reason, truth, row["caption"])
        for (name, value), (outcome, reason), truth in zip(row["pairs"], verdicts, row["truths"], strict=True)
    ]
    rows += [(*place, found, "", "dropped", reason, "", row["caption"]) for found, reason in row["no_pairs"]]
    return rows or [(*place, "", "", "failed", fault, "", "")]


def verified_listings(listings: Iterable[Listing], verdicts: pd.DataFrame) -> list[Listing]:
    """Return the listings with their kept aspects alone; a listing of which none is kept is left out."""
    kept: dict[str, set[tuple[str, str]]] = {}
    for row in verdicts[verdicts["outcome"] == "kept"].itertuples():
        kept.setdefault(row.listing_id, set()).add((row.aspect, row.value))
    return [
        replace(one, aspects=tuple(tuple(a) for a in one.aspects if not aspect_fault(a) and tuple(a) in kept[one.listing_id]))
        for one in listings
        if one.listing_id in kept
    ]  # fmt: skip


def verdict_counts(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return a row per aspect name, commonest first: aspects, kept, dropped, failed, and the share kept of those decided."""
    counts = pd.crosstab(verdicts["aspect"], verdicts["outcome"]).reindex(columns=list(OUTCOMES), fill_value=0)
    counts.insert(0, "aspects", counts.sum(axis=1))
    counts["share kept"] = counts["kept"] / (counts["kept"] + counts["dropped"])
    return counts.sort_values("aspects", ascending=False, kind="stable").rename_axis(columns=None)
