"""Verify the aspects of a catalogue's products against their photos: `mtive-nb verify FOLDER -o OUT --captioner NAME`.

docs/verification.md is its page. OUT gets shards/ (work so far, which a second run continues), verdicts.csv (each
aspect: kept, dropped or failed, and why), verified_products.jsonl (the products with their kept aspects) and
quarantine.csv (rows and photos left out before). Exit status: 0 every aspect has a verdict, 1 some rows or aspects have
none, 2 nothing could be verified.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import pandas as pd

from mtive_nb.data.catalogue import Catalogue, load_catalogue, write_quarantine
from mtive_nb.data.commerce.listings import TRUTHS, listings_of
from mtive_nb.data.emdiv.questions import AE_GEN
from mtive_nb.data.endpoint import Endpoint, EndpointError, request_fields
from mtive_nb.data.instructions.grammar import Sight
from mtive_nb.data.instructions.roles import (
    AskingCaptioner,
    Captioner,
    EndpointCaptioner,
    EndpointVerifier,
    RuleCaptioner,
    RuleVerifier,
    Verifier,
)
from mtive_nb.data.instructions.verification import Verified, in_order, verdict_counts, verdict_table, verify_listings
from mtive_nb.evaluate.commerce.keeping import keeping_scores
from mtive_nb.run.atomic import write_atomic
from mtive_nb.serve.questions import in_words

PROFILE = "profile:"  # the captioner `profile:mine` is the attribute expert of the profile `mine`
FACTS, WORDS = "facts", "words"  # the stand-ins' names


@contextmanager
def captioner_of(
    name: str, catalogue: Catalogue, *, url: str = "", request: Mapping[str, Any] | None = None
) -> Iterator[Captioner]:
    """Yield a captioner by name: "facts", a model behind `url`, "profile:NAME", or a checkpoint as load_vlm takes it.

    request: further fields of every request to `url`.
    """
    if name == FACTS:
        yield RuleCaptioner(Sight(catalogue, error=0.0))
    elif name.startswith(PROFILE):
        from mtive_nb.serve.answer import open_profile

        with open_profile(name.removeprefix(PROFILE)) as experts:

            def answer(records: list[dict]) -> list[str]:
                return [found.text for found in experts.answers(records)]

            yield AskingCaptioner(answer, name=experts.expert_of("AE"), question=AE_GEN, task="AE")
    elif url:
        yield EndpointCaptioner(Endpoint(url, model=name), request=request)
    else:
        from mtive_nb.evaluate.commerce.visual_roles import vlm_captioner
        from mtive_nb.model.load import load_vlm

        yield vlm_captioner(load_vlm(name))


def verifier_of(name: str, *, url: str = "", request: Mapping[str, Any] | None = None) -> Verifier:
    """Return a verifier by name: "words", a model behind `url`, or a checkpoint as load_vlm takes it; request as above."""
    if name == WORDS:
        return RuleVerifier()
    if url:
        return EndpointVerifier(Endpoint(url, model=name), request=request)
    from mtive_nb.evaluate.commerce.visual_roles import vlm_verifier
    from mtive_nb.model.load import load_vlm

    return vlm_verifier(load_vlm(name))


def main(
    folder: str,
    *,
    output: str,
    captioner: str,
    verifier: str = WORDS,
    url: str = "",
    request: str = "",
    shard: int = 256,
    workers: int = 0,
) -> int:
    """Run the command `verify`; returns its exit status. workers: of a Ray cluster, for local checkpoints."""
    each = in_order
    try:
        if workers:
            if url or captioner.startswith(PROFILE):
                raise ValueError("--workers is for local checkpoints: an endpoint gets several requests at once anyway")
            from mtive_nb.serve.cluster import by_ray as each
        if request and not url:
            raise ValueError("--request is for the endpoint of --url: found no --url")
        asked = {"url": url, "request": request_fields(request)}
        catalogue, out = load_catalogue(folder), Path(output)
        listings = listings_of(catalogue)
        with captioner_of(captioner, catalogue, **asked) as eye, redirect_stdout(sys.stderr):
            roles = (eye, verifier_of(verifier, **asked))
            options = {"shard": shard, "each": each, "workers": workers or 1, "what": "verify"}
            done = verify_listings(listings, *roles, folder=out / "shards", **options)
    except (OSError, KeyError, ValueError, ImportError, EndpointError) as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 2
    write_quarantine(catalogue.quarantine, out / "quarantine.csv")
    verdicts = verdict_table(out / "shards") if listings else pd.DataFrame({"outcome": [], "truth": []})
    write_atomic(out / "verdicts.csv", verdicts.to_csv(index=False))
    _write_products(catalogue, verdicts, out / "verified_products.jsonl")
    print("\n".join(_lines(done, verdicts, catalogue, out)))
    whole = not (done.failed or done.faults or catalogue.quarantine)
    return 0 if whole and done.kept + done.dropped else 1 if done.kept + done.dropped else 2


def _write_products(catalogue: Catalogue, verdicts: pd.DataFrame, path: Path) -> None:
    kept: dict[str, set[str]] = {}
    for row in verdicts[verdicts["outcome"] == "kept"].itertuples():
        kept.setdefault(row.listing_id, set()).add(row.aspect)
    rows = [
        dataclasses.asdict(p)
        | {"attributes": {n: v for n, v in p.attributes.items() if n in kept.get(p.product_id, ())}}
        for p in catalogue.products
    ]
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _lines(done: Verified, verdicts: pd.DataFrame, catalogue: Catalogue, out: Path) -> Iterator[str]:
    yield f"{done.listings} listings: {done.kept} aspects kept, {done.dropped} dropped, {done.failed} failed"
    yield f"asked about {done.asked} listings in {done.seconds:.1f} s, {done.listings_s:.1f} listings/s"
    for reason, n in done.faults.most_common():
        yield f"  {n} listing(s) without verdict: {reason}"
    if catalogue.quarantine:
        yield f"  {len(catalogue.quarantine)} row(s) or photo(s) left out before: quarantine.csv"
    if done.kept + done.dropped:
        yield verdict_counts(verdicts).to_string(float_format=lambda share: f"{share:.2f}")
    if (verdicts["truth"].isin(TRUTHS)).any():
        yield "against the facts of the catalogue photos:"
        for row in keeping_scores(verdicts).itertuples():
            yield f"  {row.metric}: {row.value:.3f} [{row.low:.3f}, {row.high:.3f}], n {row.n}"
    yield f"Every aspect with its reason: {out / 'verdicts.csv'}"
