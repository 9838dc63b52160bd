"""Captions of a row's photos, with and without the row's context (CASLIE's EC3, section 4.1, appendix B).

A *captioner* is a model that writes a photo's caption: `FactCaptioner` from known facts (by_facts.py), `VlmCaptioner`
with the project's own experts (evaluate/commerce/captions.py), `EndpointCaptioner` at any endpoint (by_endpoint.py). The context
is what the paper's prompts insert: the question of AP, the title of CC and SR, both titles of PRP, query and title of
PSI and MPC, the review of SA; other tasks have all their texts. Each photo has its own caption and context.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import pandas as pd

from mtive_nb.data.commerce.replies import Kept, Reply, resumed
from mtive_nb.data.commerce.rows import CommerceRow
from mtive_nb.data.photos import file_sha256

OWN, OTHER = "title", "other product"  # names in a context: the text about the photo's own product, and the other one's
_UNSEEN = {"AP": ("document",)}  # inputs that the captioner does not get
_LABEL = re.compile(r"\s*(\d+(?:st|nd|rd|th)?)\s*:\s*(.*)", re.DOTALL)  # "1st: title"


@dataclass(frozen=True)
class Photo:
    """A photo as a captioner gets it.

    task: a key of COMMERCE_TASKS; context: the row's texts by name. Both are empty for a caption without context.
    facts: what the photo shows, {} where it is not known; only `FactCaptioner` reads them.
    """

    path: str
    task: str = ""
    context: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)

    def key(self, *settings: object) -> str:
        """Return the hash of photo, task, context and a captioner's settings. Errors: OSError for an unreadable photo."""
        about = [*settings, file_sha256(self.path), self.task, dict(self.context)]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


class Captioner(Protocol):
    """A model that writes captions."""

    name: str

    def key(self, photo: Photo) -> str:
        """Return the hash of all that decides the photo's caption."""
        ...

    def captions(self, photos: Sequence[Photo]) -> Iterator[tuple[int, Reply]]:
        """Yield (place in `photos`, caption) in any order, as captions are finished."""
        ...

    def cost(self, photos: Sequence[Photo]) -> str:
        """Return what the captions will cost, in words; "" for nothing."""
        ...


def labelled(value: object, name: str) -> dict[str, str]:
    """Return the texts of an input by label: its name; of a list, "1st" for "1st: title", else the member's number.

    Members count as labelled only where all are, each differently: a review that begins with "5:" is a text.
    """
    if not isinstance(value, list | tuple):
        return {name: str(value)}
    members = [(_LABEL.fullmatch(str(member)), str(member), str(k)) for k, member in enumerate(value, start=1)]
    if len({found[1] for found, *_ in members if found}) < len(members):
        return {number: member for _, member, number in members}
    return {found[1]: found[2] for found, *_ in members}


def context_of(row: CommerceRow, place: int) -> dict[str, str]:
    """Return the context of a row's photo number `place`, {name: text}; the text about its own product is named OWN.

    A photo whose place names no input, member of a list or option has the row's inputs as context.
    """
    texts = dict(zip(row.labels, (option.partition(":")[2].strip() or option for option in row.options), strict=True))
    for name, value in row.input.items():
        texts |= labelled(value, name)
    own = row.places[place] if row.places else None
    if own in texts:
        other = next((texts[name] for name in row.places if name != own and name in texts), None)
        return {OWN: texts[own]} | ({OTHER: other} if row.task == "PRP" and other else {})
    seen = {name: value for name, value in row.input.items() if name not in _UNSEEN.get(row.task, ())}
    return {
        OWN if "title" in name or "product" in name else name: "; ".join(labelled(value, name).values())
        for name, value in seen.items()
    }


def photos_of(row: CommerceRow, *, context: bool) -> list[Photo]:
    """Return a row's photos as a captioner gets them, in the row's order."""
    facts = row.facts or ({},) * len(row.photos)
    if not context:
        return [Photo(path, facts=known) for path, known in zip(row.photos, facts, strict=True)]
    return [
        Photo(path, row.task, context_of(row, place), known)
        for place, (path, known) in enumerate(zip(row.photos, facts, strict=True))
    ]


def caption_all(
    rows: Iterable[CommerceRow], captioner: Captioner, *, context: bool, path: str | Path
) -> dict[str, tuple[Reply, ...]]:
    """Caption every photo of every row: {row_id: one caption a photo}.

    path: file of finished captions, read and extended, so that an interrupted run resumes; one file may serve several
    captioners. Photos in equal contexts are captioned once. A photo without caption has the reason as its fault; a
    warning counts them, and the next run tries again. Number and cost are printed before missing captions are made.
    """
    places: dict[tuple[str, int], str] = {}
    photos, unread, counts = {}, {}, {}
    for row in rows:
        counts[row.row_id] = len(row.photos)
        for place, photo in enumerate(photos_of(row, context=context)):
            try:
                places[row.row_id, place] = key = captioner.key(photo)
                photos[key] = photo
            except OSError as error:
                unread[row.row_id, place] = Reply("", f"photo: {error}")
    said = resumed(photos, captioner.captions, Kept(path), what=captioner.name, cost=captioner.cost)
    of_place = {where: said[key] for where, key in places.items()} | unread
    if lost := [reply.fault for reply in of_place.values() if reply.fault]:
        reasons = "; ".join(f"{n} {reason}" for reason, n in pd.Series(lost).value_counts().head(3).items())
        warnings.warn(
            f"{captioner.name}: {len(lost)} of {len(of_place)} photos are without a caption ({reasons}). Finished captions "
            f"are kept in {path}; run again to ask for the rest. `caption_faults` lists them",
            stacklevel=2,
        )
    return {row_id: tuple(of_place[row_id, place] for place in range(n)) for row_id, n in counts.items()}


def ready_captions(rows: Iterable[CommerceRow]) -> dict[str, tuple[Reply, ...]]:
    """Return the captions that rows came with, as `caption_all` does: {row_id: one a photo}, a reason where one is missing."""
    missing = Reply("", "no caption_info in the row")
    return {
        row.row_id: tuple(Reply(text) if text else missing for text in row.captions or ("",) * len(row.photos))
        for row in rows
    }


def captioned(
    rows: Iterable[CommerceRow],
    captions: Mapping[str, Sequence[Reply]],
    *,
    used: Mapping[str, Sequence[bool]] | None = None,
) -> list[CommerceRow]:
    """Return the rows with these captions as their own; "" where one is missing, or not `used`. `ready_captions` reads them."""
    found = []
    for row in rows:
        own = captions[row.row_id]
        kept = used[row.row_id] if used is not None else [True] * len(own)
        texts = tuple(caption.text if use else "" for caption, use in zip(own, kept, strict=True))
        found.append(replace(row, captions=texts))
    return found


def caption_faults(rows: Iterable[CommerceRow], captions: Mapping[str, Sequence[Reply]]) -> pd.DataFrame:
    """Return the photos without a caption, with columns row_id, task, photo (path), fault."""
    found = [
        (row.row_id, row.task, photo, caption.fault)
        for row in rows
        for photo, caption in zip(row.photos, captions[row.row_id], strict=True)
        if caption.fault
    ]
    return pd.DataFrame(found, columns=["row_id", "task", "photo", "fault"])
