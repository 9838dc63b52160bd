"""eBay's instruction mix: questions, attribute extraction, precise instructions and listings (section 3.2.2).

The shares are the paper's. Its counts of variants stand in a picture that is lost (Figure 3), and no prompt is printed:
within a part the variants take turns, in our own words. An instruction is about one listing's main photo, and its
answer states nothing but the listing's aspects, so raw, verified and true aspects give three mixes of equal form.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pandas as pd

from mtive_nb.data.commerce.listings import Listing, aspect_fault
from mtive_nb.data.instructions.ebay_rules import failed_checks
from mtive_nb.data.instructions.ebay_writer import Made, Writer
from mtive_nb.data.ocr import Line, with_print
from mtive_nb.data.records import make_record

SHARES = {"vqa": 0.45, "attributes": 0.30, "precise": 0.125, "listing": 0.125}
PART_TASKS = {part: f"ebay-{part}" for part in SHARES}  # a record's task


@dataclass(frozen=True)
class Variant:
    """A variant of a part: who writes it, and whether title and category (T&C) or the print (OCR) stand before it."""

    write: Callable[[Writer], Made | None]
    context: bool = False
    print: bool = False

    @property
    def name(self) -> str:
        ends = ["T&C"] * self.context + ["OCR"] * self.print
        return " + ".join([self.write.__name__.replace("_", " "), *ends])


VARIANTS: dict[str, tuple[Variant, ...]] = {
    "vqa": (
        *(Variant(write, context) for write, context in product((Writer.free_form, Writer.yes_no, Writer.description), (False, True))),
        Variant(Writer.image_only),
    ),
    "attributes": tuple(
        Variant(write, context, ocr) for write, context, ocr in product((Writer.extraction, Writer.constrained), (False, True), (False, True))
    ),
    "precise": tuple(map(Variant, (Writer.include, Writer.avoid, Writer.length, Writer.form))),
    "listing": tuple(map(Variant, (Writer.listing_lines, Writer.listing_json))),
}  # fmt: skip


def ebay_mix(
    listings: Iterable[Listing], n: int, *, shares: Mapping[str, float] | None = None, lines: Mapping[str, Sequence[Line]] | None = None,
    split: str = "train", source: str = "ebay", seed: int = 0,
) -> list[dict]:  # fmt: skip
    """Return at most `n` records of the mix about the listings of a split, shuffled.

    shares: of SHARES' parts, which sum to 1. lines: what an OCR engine read on each photo (`ocr.read_photos`), for the
    variants with OCR; a photo without an entry gets none of them. The record's variant is the variant's name, its
    `facts["rule"]` is what `ebay_rules.check` wants. A listing without photo or usable aspect is passed over.
    Errors: ValueError for wrong shares.
    """
    amounts = _amounts(n, SHARES if shares is None else shares)
    pool = [one for one in listings if one.split == split and one.photo and not all(map(aspect_fault, one.aspects))]
    values: dict[str, list[str]] = {}
    for name, value in sorted({tuple(a) for one in pool for a in one.aspects if not aspect_fault(a)}):
        values.setdefault(name, []).append(value)
    rng, records = np.random.default_rng([seed, 41]), []
    for part, amount in amounts.items():
        records += _of_part(part, amount, pool, values, lines or {}, rng, source=source)
    return [records[int(k)] for k in rng.permutation(len(records))]


def _amounts(n: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Return the records of each part, by largest remainder."""
    if set(shares) - set(SHARES) or min(shares.values(), default=-1) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"shares: found {dict(shares)}, expected shares of {', '.join(SHARES)} that sum to 1")
    whole = {part: int(n * share + 1e-9) for part, share in shares.items()}
    rest = sorted(shares, key=lambda part: whole[part] - n * shares[part])[: n - sum(whole.values())]
    return {part: amount + (part in rest) for part, amount in whole.items()}


def _of_part(part: str, amount: int, pool: Sequence[Listing], values: Mapping[str, Sequence[str]], lines: Mapping[str, Sequence[Line]],
             rng: np.random.Generator, *, source: str) -> list[dict]:  # fmt: skip
    """Write one part: its variants in turn, each over the listings in an own order; no photo gets a question twice."""
    records: list[dict] = []
    seen: set[tuple[str, str]] = set()
    waiting = {variant: _endless(len(pool), rng) for variant in VARIANTS[part]}
    while waiting and len(records) < amount and pool:
        for variant in list(waiting):
            record = next((r for k in waiting[variant] if (r := _record(part, variant, pool[k], values, lines, rng, seen, source=source))), None)  # fmt: skip
            if record is None:
                del waiting[variant]  # it has nothing new to ask
            elif len(records) < amount:
                records.append(record)
    return records


def _endless(n: int, rng: np.random.Generator, *, rounds: int = 20) -> Iterable[int]:
    return (int(k) for _ in range(rounds) for k in rng.permutation(n))


def _record(part: str, variant: Variant, listing: Listing, values: Mapping, lines: Mapping, rng: np.random.Generator,
            seen: set[tuple[str, str]], *, source: str) -> dict | None:  # fmt: skip
    if variant.print and listing.photo not in lines:
        return None
    made = variant.write(Writer(listing, values, rng))
    if made is None:
        return None
    if variant.context:
        made = replace(made, question=f"{context_of(listing)} {made.question}")
    key = hashlib.sha256(repr((variant.name, listing.photo, made.question)).encode()).hexdigest()[:16]
    if (listing.photo, key) in seen:
        return None
    seen.add((listing.photo, key))
    record = make_record(
        f"{PART_TASKS[part]}/{source}/{listing.listing_id}/{key}", product_id=listing.product_id or listing.listing_id,
        task=PART_TASKS[part], variant=variant.name, images=[listing.photo], question=made.question, answer=made.answer,
        facts={"asked": dict(made.asked), "known": dict(a for a in listing.aspects if not aspect_fault(a)), "rule": dict(made.rule)},
        source=source, split=listing.split,
    )  # fmt: skip
    if failed_checks(record, made.answer):
        return None  # a value that a rule cannot read, such as one with a full stop where sentences are counted
    return with_print([record], lines)[0] if variant.print else record


def context_of(listing: Listing) -> str:
    """Return title and category as they stand before a question."""
    return f"Title: {listing.title}. Category: {listing.category}."


def listing_texts(listings: Iterable[Listing], *, split: str = "train", source: str = "ebay-listing") -> list[dict]:
    """Return a text-only record a product: from the title, write the listing's category and aspects, a line each.

    With them a decoder learns the shop's language before it sees a photo (section 4.4). A product without a usable aspect
    is passed over.
    """
    products = {one.product_id or one.listing_id: one for one in listings if one.split == split}
    records = []
    for product_id, one in products.items():
        aspects = [f"{name}: {value}" for name, value in (a for a in one.aspects if not aspect_fault(a))]
        if aspects:
            answer = "\n".join(
                [f"category: {one.category}", *(line for line in aspects if not line.startswith("category: "))]
            )
            records.append(make_record(
                f"{source}/{product_id}", product_id=product_id, task="ebay-listing-text", variant="gen", images=[],
                question=f"Write the listing of: {one.title}", answer=answer, source=source, split=split,
            ))  # fmt: skip
    return records


def mix_table(records: Iterable[Mapping]) -> pd.DataFrame:
    """Return a row per part and variant: part, variant, n, share of all."""
    counts = Counter((record["task"].removeprefix("ebay-"), record["variant"]) for record in records)
    rows = [(*key, n, n / counts.total()) for key, n in sorted(counts.items())]
    return pd.DataFrame(rows, columns=["part", "variant", "n", "share"])


def blend(ecommerce: Sequence[dict], general: Sequence[dict], *, share: float, n: int, seed: int = 0) -> list[dict]:
    """Return `n` records, a `share` of e-commerce, the rest general, drawn without repetition and shuffled.

    Errors: ValueError for a share outside [0, 1], or where one side has too few records.
    """
    wanted = round(n * share), n - round(n * share)
    if not 0 <= share <= 1 or wanted[0] > len(ecommerce) or wanted[1] > len(general):
        raise ValueError(
            f"blend: found share={share}, n={n} of {len(ecommerce)} e-commerce and {len(general)} general records; "
            f"expected a share from 0 to 1, and {wanted[0]} and {wanted[1]} records"
        )
    rng = np.random.default_rng([seed, 43])
    sides = zip((ecommerce, general), wanted, strict=True)
    drawn = [side[int(k)] for side, amount in sides for k in rng.permutation(len(side))[:amount]]
    return [drawn[int(k)] for k in rng.permutation(n)]
