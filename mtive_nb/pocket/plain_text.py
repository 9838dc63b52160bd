"""Text-only turns for the pocket base: copying words and plain English, changing case, extracting a sentence's fields.

Embeddings are tied and stay frozen under LoRA, so an adapter can only produce tokens that the base has learned to
produce. These turns make the base answer with every token of its vocabulary.
"""

import json
import pydoc_data.topics
import re
from functools import lru_cache

import numpy as np

LONGEST_WORDS = 10  # longest passage
FIELDS = ("name", "kind", "place", "owner", "title", "answer", "code", "label", "topic", "part")


def english_text() -> list[str]:
    """Return English text that ships with Python (its language reference); the tokenizer learns merges from it."""
    return list(pydoc_data.topics.topics.values())


@lru_cache(maxsize=1)
def _sentences() -> tuple[tuple[str, ...], ...]:
    """Return the words of every sentence of `english_text` that reads as prose."""
    prose = re.sub(r"[^A-Za-z0-9 .,;:()'-]+", " ", " ".join(english_text()).replace("\n", " "))
    sentences = (tuple(s.split()) for s in re.split(r"(?<=[a-z]\.) +(?=[A-Z])", prose))
    return tuple(s for s in sentences if 6 <= len(s) <= 60)


def plain_turns(rng: np.random.Generator, words: list[str]) -> list[tuple[str, str, str]]:
    """Return one turn of each form; `words` cover every piece of the vocabulary, so that answers use every piece."""
    sentence = _sentences()[int(rng.integers(len(_sentences())))]
    start = int(rng.integers(max(1, len(sentence) - LONGEST_WORDS)))
    passage = sentence[start : start + LONGEST_WORDS]
    some = [str(w) for w in rng.choice(words, int(rng.integers(1, 6)))]
    few = [str(w) for w in rng.choice(words, 3)]
    capitals = "".join(c for c in few[0] if c.isascii()).upper()[:10]
    fields = [str(f) for f in rng.choice(FIELDS, int(rng.integers(1, 4)), replace=False)]
    values = [str(w) for w in rng.choice(words, len(fields))]
    told = ", ".join(f"{f} {v}" for f, v in zip(fields, values, strict=True))
    asked = int(rng.integers(len(fields)))
    same = "yes" if rng.random() < 0.5 else "no"
    second = some[0] if same == "yes" else few[1]
    return [
        (f"Repeat: {' '.join(some)}", " ".join(some), "copy"),
        (f"Repeat: {' '.join(passage)}", " ".join(passage), "copy"),
        (f"Write in small letters: {capitals}", capitals.lower(), "copy"),
        (f"Write in capitals: {capitals.lower()}", capitals, "copy"),
        (f"{told}. Answer in JSON.", json.dumps(dict(zip(fields, values, strict=True))), "json"),
        (f"{told}. What is the {fields[asked]}?", values[asked], "copy"),
        (f"{some[0]} or {second}: are these the same word? Answer yes or no.", same, "yes/no"),
    ]
