"""How much captions repeat what a row's title says: words in common, and cosine of embeddings (CASLIE, C.3, table A5).

The paper names no embedding model and no rule for words. Here words are lower-cased runs of letters and digits, and a
text's embedding is the mean of the text model's last hidden states, less the mean over all captions, or over all titles:
without that, a caption is like another caption and unlike any title, whatever they say. Shapes: n texts, T tokens, D width.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from mtive_nb.data.commerce.captions import OWN, context_of
from mtive_nb.data.commerce.rows import CommerceRow
from mtive_nb.evaluate.claims import measured
from mtive_nb.evaluate.intervals import bootstrap_interval, paired_difference
from mtive_nb.model.load import Vlm

MEASURES = {"jaccard": "Jaccard Similarity", "semantic": "Semantic Similarity"}  # column -> A5's row


def caption_overlap(
    rows: Iterable[CommerceRow], captions: Mapping[str, Sequence[str]], text_model: Vlm
) -> pd.DataFrame:
    """Return a row per caption: task, product_id, and how alike it is to its title, in percent: jaccard, semantic.

    captions: one text a photo by row_id; an empty one is left out. The title is the text about the photo's own product,
    and where there is none (AP, SA) what the captioner reads. text_model: any model of `model/text.py`.
    """
    pairs = []
    for row in rows:
        for place, caption in enumerate(captions[row.row_id]):
            title = title_of(row, place)
            if caption.strip() and title.strip():
                pairs.append((row.task, row.product_id, caption, title))
    table = pd.DataFrame(pairs, columns=["task", "product_id", "caption", "title"])
    table["jaccard"] = [100 * jaccard(*pair) for pair in zip(table["caption"], table["title"], strict=True)]
    sides = [_centred(text_model, list(table[side])) for side in ("caption", "title")]  # (n, D) each
    table["semantic"] = 100 * (sides[0] * sides[1]).sum(axis=1)
    return table[["task", "product_id", *MEASURES]]


def title_of(row: CommerceRow, place: int) -> str:
    """Return the text about the product of a row's photo number `place`; else all that the captioner reads of the row."""
    context = context_of(row, place)
    return context.get(OWN) or " ".join(context.values())


def jaccard(one: str, other: str) -> float:
    """Return the share of two texts' words that both have, from 0 to 1; 0 where neither has a word."""
    first, second = (set(re.findall(r"\w+", text.casefold())) for text in (one, other))
    return len(first & second) / len(first | second) if first | second else 0.0


@torch.inference_mode()
def embedded(text_model: Vlm, texts: Sequence[str], *, batch: int = 64) -> np.ndarray:
    """Return the mean of each text's last hidden states, (n, D), without padding.

    `output_hidden_states` would leave hooks in the model, with which it cannot be sent to other processes.
    """
    found = []
    for start in range(0, len(texts), batch):
        inputs = text_model.processor(text=list(texts[start : start + batch])).to(text_model.model.device)
        hidden = text_model.model.get_decoder()(**inputs).last_hidden_state.float()  # (B, T, D)
        kept = inputs["attention_mask"].unsqueeze(-1)  # (B, T, 1)
        found.append(((hidden * kept).sum(1) / kept.sum(1)).cpu().numpy())  # (B, D)
    return np.concatenate(found)


def _centred(text_model: Vlm, texts: Sequence[str]) -> np.ndarray:
    """Embeddings of length 1, less the mean over the different texts."""
    if not texts:
        return np.zeros((0, 1))
    names = list(dict.fromkeys(texts))
    whole = embedded(text_model, names)
    apart = whole - whole.mean(axis=0)
    apart /= np.maximum(np.linalg.norm(apart, axis=1, keepdims=True), 1e-9)
    place = {name: k for k, name in enumerate(names)}
    return apart[[place[text] for text in texts]]


def overlap_table(overlap: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Return A5 from `caption_overlap`, as `run.metrics` reads it: row, column, value in percent, low, high, n."""
    rows = []
    for task, of_task in overlap.groupby("task", sort=False):
        for name, measure in MEASURES.items():
            one = bootstrap_interval(of_task[name], groups=list(of_task["product_id"]), seed=seed)
            rows.append({"row": measure, "column": f"{task}_pct", **vars(one), "unit": "percent", "better": "none"})
    return pd.DataFrame(rows)


def overlap_claim(overlap: pd.DataFrame, *, seed: int = 0) -> dict:
    """Return the claims board's row: captions share fewer words with titles than meaning, in percentage points."""
    gains = {
        task: paired_difference(of_task["jaccard"], of_task["semantic"], groups=list(of_task["product_id"]), seed=seed)
        for task, of_task in overlap.groupby("task", sort=False)
    }
    return measured("caslie-captions-add-to-titles", gains)
