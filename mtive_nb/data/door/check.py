"""`mtive-nb check FOLDER`: what a catalogue folder gives, what is left out of it and why; seconds, without a model.

Exit status: 0 every row and photo is usable, 1 some are left out, 2 no question can be made.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mtive_nb.data.catalogue import Catalogue, Quarantined, load_catalogue, write_quarantine
from mtive_nb.data.emdiv.build import MAKERS, build_emdiv, question_table
from mtive_nb.data.splits import SPLITS

SHOWN = 3  # examples of each kind of fault
NAMES = {
    "AE": "AE attributes",
    "DD": "DD damage",
    "PM": "PM matching",
    "EX": "EX expiry",
    "PT": "PT packaging",
    "PP": "PP placement",
}


@dataclass(frozen=True)
class Check:
    """A catalogue, its questions by task and split (columns task, train, val, test, note), and feedback lost with left-out products.

    `taken`: a left-out product's id -> how many rows of feedback are left out with it.
    """

    catalogue: Catalogue
    questions: pd.DataFrame
    taken: dict[str, int]

    @property
    def status(self) -> int:
        """The exit status of the command."""
        asked = self.questions[list(SPLITS)].to_numpy().sum()
        return 2 if not asked else int(bool(self.catalogue.quarantine))


def check_catalogue(folder: str | Path) -> Check:
    """Load a catalogue folder and count the questions that can be made of it. Errors: as `load_catalogue`."""
    catalogue = load_catalogue(folder)
    emdiv = build_emdiv(catalogue, splits=catalogue.splits)
    orphans = (row for row in catalogue.quarantine if row.field == "product_id" and row.file.startswith("feedback"))
    return Check(
        catalogue, question_table(emdiv, [*MAKERS, *catalogue.tasks]), dict(Counter(row.found for row in orphans))
    )


def main(folder: str | Path, *, as_json: bool = False) -> int:
    """Print the check of a folder, as text or as one JSON object; returns the exit status."""
    try:
        found = check_catalogue(folder)
    except FileNotFoundError as error:
        print(json.dumps({"status": 2, "error": str(error)}) if as_json else f"error: {error}")
        return 2
    if as_json:
        print(json.dumps(_summary(found), ensure_ascii=False, default=str))
        return found.status
    print("\n".join(_lines(found)))
    if found.catalogue.quarantine:
        path = Path("outputs", "check", f"{found.catalogue.root.resolve().name}.csv")
        print(f"\nEverything that is left out: {write_quarantine(found.catalogue.quarantine, path)}")
    return found.status


def _summary(check: Check) -> dict:
    catalogue = check.catalogue
    return {
        "status": check.status,
        "folder": str(catalogue.root),
        "products": len(catalogue.products),
        "feedback": len(catalogue.feedback),
        "photos": _photos(catalogue),
        "splits": _split_counts(catalogue),
        "questions": check.questions.to_dict("records"),
        "quarantine": [dataclasses.asdict(row) for row in catalogue.quarantine],
        "warnings": [dataclasses.asdict(row) for row in catalogue.warnings],
        "feedback_of_products_left_out": check.taken,
    }


def _lines(check: Check) -> Iterator[str]:
    catalogue = check.catalogue
    yield f"{catalogue.root}: {_usable(catalogue)}"
    for split, (products, rows) in _split_counts(catalogue).items():
        yield f"  {split:5} {products:6} products {rows:6} messages"
    yield "\nQuestions that can be made"
    yield f"  {'':14} {'train':>6} {'val':>6} {'test':>6}"
    for row in check.questions.itertuples():
        name = NAMES.get(row.task, row.task)
        yield f"  {name:14} {row.train:6} {row.val:6} {row.test:6}  {row.note}".rstrip()
    ready = check.questions[(check.questions["train"] > 0) & (check.questions["test"] > 0)]["task"]
    yield f"An expert can be trained and tested for: {', '.join(ready) or 'no task yet'}"
    yield from _groups("Left out", catalogue.quarantine)
    first = {row.row: row.line for row in reversed(catalogue.quarantine) if row.file.startswith("products")}
    taken = [(product, n) for product, n in check.taken.items() if product in first]
    for product, n in taken[: 3 * SHOWN]:
        yield f"  product {_plain(product)} (line {first[product]}) is left out and takes {n} feedback row(s) with it"
    if more := taken[3 * SHOWN :]:
        yield f"  and {len(more)} more products take {sum(n for _, n in more)} feedback rows with them"
    yield from _groups("Kept, but look at it", catalogue.warnings)


def _usable(catalogue: Catalogue) -> str:
    counts = []
    for kind, rows in (("products", catalogue.products), ("feedback", catalogue.feedback)):
        own_id = f"{kind.rstrip('s')}_id"
        usable = {getattr(row, own_id) for row in rows}
        # A photo that is left out does not leave out its row.
        lost = {
            q.line
            for q in catalogue.quarantine
            if q.file.startswith(f"{kind}.") and q.line and (q.row not in usable or q.field == own_id)
        }
        counts.append(f"{len(rows)} of {len(rows) + len(lost)}")
    return f"{counts[0]} products and {counts[1]} messages of customers are usable, with {_photos(catalogue)} photos"


def _photos(catalogue: Catalogue) -> int:
    return len({image for row in (*catalogue.products, *catalogue.feedback) for image in row.images})


def _split_counts(catalogue: Catalogue) -> dict[str, tuple[int, int]]:
    splits = catalogue.splits or {}
    products = Counter(splits.get(product.product_id) for product in catalogue.products)
    rows = Counter(splits.get(row.feedback_id) or splits.get(row.product_id) for row in catalogue.feedback)
    return {split: (products[split], rows[split]) for split in SPLITS}


def _groups(title: str, rows: Iterable[Quarantined]) -> Iterator[str]:
    """The faults by file, field and kind of reason, each with its first examples."""
    groups: dict[tuple[str, str, str], list[Quarantined]] = defaultdict(list)
    for row in rows:
        kind = re.split(r"[;:(]", row.reason)[0].strip()
        groups[row.file, re.sub(r"\[\d+\]", "", row.field) if row.line else "", kind].append(row)
    if groups:
        yield f"\n{title}"
    for (file, place, kind), own in groups.items():
        yield f"  {file}{f', {_plain(place)}' if place else ''}: {_plain(kind)}{f' ({len(own)} times)' if len(own) > 1 else ''}"
        for row in own[:SHOWN]:
            spot = [f"line {row.line}"] if row.line else []
            spot += [_plain(row.row)] if row.row else []
            spot += [_plain(row.field)] if row.field and not (row.line and row.field == place) else []
            said = [f"found {_plain(row.found)}"] if row.found else []
            said += [_plain(row.reason)] if row.reason != kind else []
            if spot or said:
                yield f"    {': '.join([', '.join(spot), *said] if spot else said)}"
        if len(own) > SHOWN:
            yield f"    and {len(own) - SHOWN} more"


def _plain(text: str) -> str:
    """A text without characters that move a terminal's cursor or change its colours."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
