"""Attention grounding: how much an answer's tokens attend to the image (VIT-Pro, section 3.2, equation 2).

A token's score is its attention weight on an image token, averaged over the image's V tokens, L layers and H heads.
A segment's score (VisAttnScore) is the mean over its tokens. Full attention matrices are never stored: besides the
model's sdpa forward, each layer computes the softmax only for the answer's rows and sums it over the image's columns.

Shapes: B samples, R answer tokens (rows), I images, T tokens, V image tokens, L layers, H heads (K of keys), D width.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_curve
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mtive_nb.data.records import plain, records_sha256
from mtive_nb.model.batches import answer_tokens, batch_of, control_tokens, rough_tokens
from mtive_nb.model.load import Vlm, answering_fingerprint
from mtive_nb.model.losses import IGNORE
from mtive_nb.model.parallel import by_processes
from mtive_nb.run.atomic import write_atomic

KERNEL = "mtive_grounding"
QUERIES = ("own", "predicting")  # the token's own row, as in equation 2, or the row before, which predicts it


@dataclass
class Reading:
    """Attention recorded in one forward: query rows (B, R), image columns (B, I, T), non-padding tokens kept (B, T)."""

    rows: torch.Tensor
    columns: torch.Tensor
    kept: torch.Tensor
    maps: bool = False
    by_head: bool = False
    layers: list[torch.Tensor] = field(default_factory=list)  # (B, R, I) each
    heads: list[torch.Tensor] = field(default_factory=list)  # (B, H, R, I) each, if `by_head`
    total: torch.Tensor | float = 0.0  # sum over layers, (B, R, T), if `maps`

    def add(self, query: torch.Tensor, key: torch.Tensor, scaling: float) -> None:
        """Add one layer's attention: query (B, H, T, D), key (B, K, T, D)."""
        B, H, T, D = query.shape
        K, R = key.shape[1], self.rows.shape[1]
        rows = query.gather(2, self.rows[:, None, :, None].expand(B, H, R, D))
        hidden = ~self.kept[:, None, :] | (torch.arange(T, device=query.device) > self.rows[..., None])  # (B, R, T)
        mean, masses = query.new_zeros((B, R, T), dtype=torch.float32), []
        for h in range(H):  # one at a time: as many heads as share a key would hold as many (B, R, T)
            scores = (rows[:, h] @ key[:, h * K // H].mT).mul_(scaling).masked_fill_(hidden, -torch.inf)
            weights = scores.softmax(-1, dtype=torch.float32)
            if self.by_head:
                masses.append(torch.einsum("brt,bit->bri", weights, self.columns))
            mean += weights
        mean /= H
        self.layers.append(torch.einsum("brt,bit->bri", mean, self.columns))
        if self.by_head:
            self.heads.append(torch.stack(masses, 1))
        if self.maps:
            self.total = self.total + mean


_reading: list[Reading] = []  # the forward in progress, if its attention is recorded


def _kernel(module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
            attention_mask: torch.Tensor | None, scaling: float | None = None, **given: object):  # fmt: skip  # noqa: ANN202
    if _reading:
        _reading[-1].add(query, key, query.shape[-1] ** -0.5 if scaling is None else scaling)
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **given)


AttentionInterface.register(KERNEL, _kernel)
AttentionMaskInterface.register(KERNEL, sdpa_mask)


@contextmanager
def reading_attention(
    model: torch.nn.Module, rows: torch.Tensor, columns: torch.Tensor, kept: torch.Tensor, **options: bool
) -> Iterator[Reading]:
    """Route the language model's attention through the kernel above during a forward, which fills the Reading.

    options: `maps` and `by_head` of the Reading.
    """
    before = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation({"text_config": KERNEL})
    _reading.append(Reading(rows, columns, kept, **options))
    try:
        yield _reading[-1]
    finally:
        _reading.pop()
        model.set_attn_implementation({"text_config": before})


@dataclass(frozen=True)
class AnswerAttention:
    """Attention of one answer's tokens: `mass` (L, R, I) is the share of attention on each image, mean over heads."""

    tokens: list[str]
    spans: list[tuple[int, int]]  # of the tokens, as character positions in the answer
    mass: np.ndarray
    image_tokens: tuple[int, ...]  # V of each image
    grids: tuple[tuple[int, int], ...] = ()  # rows and columns of each image's tokens, if the processor returns them
    maps: np.ndarray | None = None  # (R, V) weights on the image tokens, mean over layers and heads
    heads: np.ndarray | None = None  # (L, H, R, I) the mass of each head alone, if it was asked for

    def token_scores(self, *, per: str = "image token", layer_means: np.ndarray | None = None) -> np.ndarray:
        """Score each token, (R,). `per` "image token" is equation 2; "answer" uses the total mass on all images.

        Each layer's mass is divided by `layer_means` (L,), so layers with high image attention do not dominate.
        Errors: ValueError for another `per`.
        """
        mass = self.mass.sum(2)  # (L, R)
        if per == "image token":
            mass = mass / sum(self.image_tokens)
        elif per != "answer":
            raise ValueError(f"per: found {per!r}, expected 'image token' or 'answer'")
        return (mass if layer_means is None else mass / layer_means[:, None]).mean(0)

    def inside(self, span: tuple[int, int]) -> np.ndarray:
        """Return which tokens overlap characters `span` of the answer, (R,) of bool. Errors: ValueError for none."""
        found = np.array([a < span[1] and b > span[0] for a, b in self.spans])
        if not found.any():
            raise ValueError(f"span: found {span}, no token of an answer of {self.spans[-1][1]} characters lies there")
        return found

    def score(
        self,
        span: tuple[int, int] | None = None,
        *,
        per: str = "image token",
        layer_means: np.ndarray | None = None,
    ) -> float:
        """Return the VisAttnScore of the whole answer, or of the tokens that overlap its characters `span`."""
        scores = self.token_scores(per=per, layer_means=layer_means)
        return float((scores if span is None else scores[self.inside(span)]).mean())


def _image_columns(is_image: torch.Tensor, images: list[int]) -> tuple[torch.Tensor, list[tuple[int, ...]]]:
    """Split the mask of image tokens (B, T) into one mask per image, (B, I, T), and count each image's tokens.

    Each run of image tokens is an image. Where a row's runs and images differ in number (a processor split an image),
    all its runs count as one image.
    """
    starts = is_image & ~torch.nn.functional.pad(is_image, (1, 0))[:, :-1]
    number = torch.where(is_image, starts.cumsum(1), 0)  # (B, T): 1, 2, ... inside the runs
    runs = number.amax(1).tolist()
    for row, (found, shown) in enumerate(zip(runs, images, strict=True)):
        if found != shown:
            number[row] = is_image[row].long()
            runs[row] = 1
    columns = torch.stack([number == i + 1 for i in range(max(runs))], 1)
    counts = columns.sum(2).tolist()
    return columns.float(), [tuple(c[:n]) for c, n in zip(counts, runs, strict=True)]


@torch.inference_mode()
def read_attention(
    vlm: Vlm, records: Sequence[dict], *, query: str = "own", maps: bool = False, by_head: bool = False
) -> list[AnswerAttention]:
    """Record attention for one batch of records, each with its answer and at least one image, in one forward.

    `query` selects the row that represents a token, one of QUERIES. `maps` adds each token's map over image tokens,
    `by_head` the mass of each head alone.
    Errors: ValueError for an unknown query, or for a record without an image or answer.
    """
    if query not in QUERIES:
        raise ValueError(f"query: found {query!r}, expected one of {QUERIES}")
    for record in records:
        if not record["images"] or not record["answer"].strip():
            missing = "images" if not record["images"] else "answer"
            raise ValueError(f"record {record['id']}: {missing}: found none, expected something to ground")
    inputs = batch_of(vlm, records, answers=True)
    labels, ids, kept = inputs.pop("labels"), inputs["input_ids"], inputs["attention_mask"].bool()
    columns, counts = _image_columns(ids == vlm.model.config.image_token_id, [len(r["images"]) for r in records])
    encoded = [_answer_tokens(vlm, record) for record in records]
    R, T = max(len(tokens) for tokens, _ in encoded), ids.shape[1]
    first = (labels != IGNORE).float().argmax(1)  # (B,)
    rows = (first[:, None] + torch.arange(R, device=ids.device) - int(query == "predicting")).clamp(max=T - 1)
    with reading_attention(vlm.model, rows, columns, kept, maps=maps, by_head=by_head) as reading:
        vlm.model(**inputs, use_cache=False, logits_to_keep=1)
    mass = torch.stack(reading.layers, 1).cpu().numpy()  # (B, L, R, I)
    heads = torch.stack(reading.heads, 1).cpu().numpy() if by_head else None  # (B, L, H, R, I)
    found, grids = [], iter(_grids(vlm, inputs))
    for b, (tokens, spans) in enumerate(encoded):
        n, looked = len(tokens), None
        if maps:
            looked = (reading.total[b, :n][:, columns[b].any(0)] / len(reading.layers)).cpu().numpy()
        own = tuple(grid for _ in records[b]["images"] if (grid := next(grids, None)))
        of_images = len(counts[b])
        of_heads = heads[b, :, :, :n, :of_images] if by_head else None
        found.append(AnswerAttention(tokens, spans, mass[b, :, :n, :of_images], counts[b], own, looked, of_heads))
    return found


def _grids(vlm: Vlm, inputs: dict[str, torch.Tensor]) -> list[tuple[int, int]]:
    """Return rows and columns of every image's tokens for a Qwen processor, an empty list for others."""
    if "image_grid_thw" not in inputs:
        return []
    merge = vlm.processor.image_processor.merge_size
    return [(h // merge, w // merge) for _, h, w in inputs["image_grid_thw"].tolist()]


def _answer_tokens(vlm: Vlm, record: dict) -> tuple[list[str], list[tuple[int, int]]]:
    """Return the answer's tokens as text and their character spans, without the end of the turn."""
    answer = plain(record["answer"].strip(), control_tokens(vlm.processor))  # as in the batch
    spans = [span for span in answer_tokens(vlm.processor, record["answer"])[1] if span[0] < len(answer)]
    return [answer[a:b] for a, b in spans], spans


def _score_shard(vlm: Vlm, records: list[dict], path: Path, batch: int, query: str) -> None:
    order = np.argsort(list(map(rough_tokens, records)), kind="stable")  # sorted by length for little padding
    rows: list[dict] = [{}] * len(records)
    for k in range(0, len(records), batch):
        chosen = order[k : k + batch]
        read = read_attention(vlm, [records[i] for i in chosen], query=query)
        for i, found in zip(chosen, read, strict=True):
            rows[i] = _row(records[i]["id"], found)
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


def score_records(
    vlm: Vlm,
    records: Sequence[dict],
    folder: Path,
    *,
    shard: int = 256,
    batch: int = 16,
    query: str = "own",
    processes: int = 1,
    each: Callable = by_processes,
) -> pd.DataFrame:
    """Score every record, shard by shard, and resume an interrupted run.

    `processes` share the shards; `each`: by_processes here, or by_ray of serve/cluster.py on many machines.
    Returns a row per record: id, score (equation 2), mass (share of attention on the images), image_tokens, tokens and
    by_layer (mass of each layer). Errors: ValueError where `folder` holds scores from other records, another model,
    shard size or query.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made_of = {
        "records": len(records),
        "content": records_sha256(records)[:16],
        "shard": shard,
        "query": query,
        "model": answering_fingerprint(vlm),
    }
    about = folder / "about.json"
    if about.is_file() and (found := json.loads(about.read_text())) != made_of:
        other = ", ".join(f"{k} {found.get(k)!r}" for k in made_of if found.get(k) != made_of[k])
        raise ValueError(f"{folder}: found scores of {other}; expected those of this run, or an empty folder")
    write_atomic(about, json.dumps(made_of))
    paths = {start: folder / f"scores_{start:09d}.jsonl" for start in range(0, len(records), shard)}
    missing = [
        (list(records[start : start + shard]), path, batch, query)
        for start, path in paths.items()
        if not path.is_file()
    ]
    each(vlm, _score_shard, missing, workers=processes, what="grounding")
    return pd.concat([pd.read_json(p, lines=True, dtype={"id": str}) for p in paths.values()], ignore_index=True)


def _row(name: str, found: AnswerAttention) -> dict:
    by_layer = found.mass.sum(2).mean(1)
    return {"id": name, "score": found.score(), "mass": float(by_layer.mean()), "image_tokens": sum(found.image_tokens),
            "tokens": len(found.tokens), "by_layer": [round(float(m), 6) for m in by_layer]}  # fmt: skip


def with_other_images(records: Sequence[dict], *, pool: Sequence[dict] | None = None, seed: int = 0) -> list[dict]:
    """Return the records with images of other products, so that no image grounds the answers.

    Each record gets the images of a random record in `pool` (default: `records`) with another product and the same
    number of images. Errors: ValueError where the pool has none.
    """
    images, places = defaultdict(list), defaultdict(list)  # by number of images; a product's places among these
    for record in pool or records:
        shown = len(record["images"])
        places[shown, record["product_id"]].append(len(images[shown]))
        images[shown].append(record["images"])
    rng, changed = np.random.default_rng(seed), []
    for record in records:
        shown = len(record["images"])
        of_all, own = images.get(shown, []), places.get((shown, record["product_id"]), [])
        if len(of_all) == len(own):
            raise ValueError(f"record {record['id']}: no record of another product has {shown} images")
        drawn = int(rng.integers(len(of_all) - len(own)))
        for place in own:  # in order, so that `drawn` counts the others alone
            drawn += place <= drawn
        changed.append(record | {"images": of_all[drawn]})
    return changed


def threshold_of_share(scores: Sequence[float], drop: float) -> float:
    """Return the score below which the share `drop` of all scores lies (the paper drops 0.25).

    Errors: ValueError for a share outside [0, 1).
    """
    if not 0 <= drop < 1:
        raise ValueError(f"drop: found {drop}, expected a share from 0 to below 1")
    return float(np.quantile(scores, drop))


def threshold_from_shuffled(scores: Sequence[float], shuffled: Sequence[float]) -> float:
    """Return the score that best separates answers with their own images from answers with others' (Youden's J)."""
    truth = np.r_[np.ones(len(scores)), np.zeros(len(shuffled))]
    false, true, cuts = roc_curve(truth, np.r_[scores, shuffled])
    return float(cuts[1:][np.argmax(true[1:] - false[1:])])
