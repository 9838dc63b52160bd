"""Reading exercises: the pocket base's language part learns to look things up in its own context.

The base answers about images and copies words, but it cannot find which of several lines a word stands in, a skill that
large language models have. Here it learns that on lists of random plain words: look up (`recall`), occurs (`member`),
in both (`agree`), the line that a text names X about one context: with one question a context, 600
steps of 48 taught nothing; with eight, the skill comes within 200 steps (LOG.md). No exercise has a word of a shop.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mtive_nb.model.lineage import check_finite
from mtive_nb.model.load import load_vlm
from mtive_nb.model.losses import IGNORE
from mtive_nb.model.resume import weights_sha256
from mtive_nb.pocket.muon import Muon, split_parameters
from mtive_nb.pocket.plain_grammar import vocabulary
from mtive_nb.pocket.plain_grammar import words as plain_words
from mtive_nb.run import progress
from mtive_nb.run.atomic import replacing

Piece = tuple[str, bool]  # text, and whether it is an answer, which is learned
LETTERS = "ABCDEFGH"
LABELS = ("title", "photo", "question", "query", "product", "product 1", "product 2", "document", "review", "text")
LONGEST_TOK = 256  # of an exercise; the rest is cut
WARM_UP, CONSTANT = 50, 0.6  # steps of warm-up; share of the steps before the linear end
KEPT_EVERY = 100  # steps between checkpoints
CARD = """---
license: apache-2.0
pipeline_tag: text-generation
---
# Pocket reader

The language part of the pocket base (2.1 million parameters, a Qwen2), trained further to look things up in its own
context. It stands in for a large language model in chapter 15 (CASLIE), and no more: it saw random lists of plain words,
no shop's text and no photo.

Made by `python -m mtive_nb.pocket.reading FOLDER`: {steps} steps of 32 exercises, Muon, rate 0.003, seed {seed}. Share of
answer tokens right over the last 100 steps, on exercises not seen before:

| exercise | right |
| --- | --- |
{shares}
"""
_CONSONANTS, _VOWELS = "BCDFGHJKLMNPRSTVWXZ", "AEIOUY"


class Words:
    """Draws random phrases of one or two words: plain words, made-up names, numbers."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.plain = rng, sorted(word for word in vocabulary() if 2 < len(word) < 16 and word.isalpha())
        kinds, nouns = plain_words().kinds.values(), plain_words().nouns.values()
        self.colours = sorted({colour for own in kinds for colour in own.get("colours", ()) if colour.isalpha()})
        self.things = sorted({noun.one for own in nouns for noun in own} - {""})

    def pick(self, options: Sequence) -> object:
        """Return one of the options."""
        return options[int(self.rng.integers(len(options)))]

    def one(self) -> str:
        """Return a plain word (three of four), a name in capitals, or a number."""
        draw = self.rng.random()
        if draw < 0.75:
            return str(self.pick(self.plain))
        return self.name() if draw < 0.9 else str(self.rng.integers(10, 99_999))

    def name(self) -> str:
        """Return a made-up name in capitals."""
        return "".join(self.pick(_CONSONANTS) + self.pick(_VOWELS) for _ in range(self.rng.integers(1, 4)))

    def some(self, n: int) -> list[str]:
        """Return n different phrases."""
        found: dict[str, None] = {}
        while len(found) < n:
            found[" ".join(self.one() for _ in range(1 if self.rng.random() < 0.7 else 2))] = None
        return list(found)

    def order(self, items: Sequence) -> list:
        """Return the items in random order."""
        return [items[k] for k in self.rng.permutation(len(items))]

    def chance(self, share: float) -> bool:
        """Return True with this probability."""
        return bool(self.rng.random() < share)


def recall(words: Words) -> list[Piece]:
    """A list of keys and values; each value's key and each key's value is asked."""
    n = int(words.rng.integers(3, 8))
    keys, values = (list(LETTERS[:n]) if words.chance(0.7) else words.some(n)), words.some(n)
    between, behind = words.pick((("\n", ": "), (", ", " "), ("\n", " = "), ("; ", ": ")))
    lines = between.join(f"{key}{behind}{value}" for key, value in zip(keys, values, strict=True))
    pairs = words.order([*zip(values, keys, strict=True), *zip(keys, values, strict=True)])
    asked = [piece for given, wanted in pairs[:8] for piece in ((f"{given} ->", False), (f" {wanted}\n", True))]
    return [(f"{words.pick(('Options:', 'List:'))}\n{lines}\n", False), *asked]


def member(words: Words) -> list[Piece]:
    """A text of several phrases; which of eight phrases occur in it?"""
    there = words.some(int(words.rng.integers(2, 7)))
    text = str(words.pick((", ", "\n", "; "))).join(there)
    pieces: list[Piece] = [(f"{words.pick(LABELS)}: {text}\n", False)]
    for _ in range(8):
        asked = str(words.pick(there)) if words.chance(0.5) else words.some(1)[0]
        pieces += [(f"{asked}?", False), (f" {'yes' if asked in there else 'no'}\n", True)]
    return pieces


def agree(words: Words) -> list[Piece]:
    """Two texts; which phrases of the first stand in the second, and which are common?"""
    labels = words.order(LABELS)
    one, other = (words.some(int(words.rng.integers(1, 4))) for _ in range(2))
    for phrase in one:
        if words.chance(0.5):
            other[int(words.rng.integers(len(other)))] = phrase
    pieces: list[Piece] = [(f"{labels[0]}: {', '.join(one)}\n{labels[1]}: {', '.join(other)}\n", False)]
    for phrase in words.order(one):
        pieces += [(f"{phrase} in both?", False), (f" {'yes' if phrase in other else 'no'}\n", True)]
    common = ", ".join(phrase for phrase in one if phrase in other) or "none"
    return [*pieces, ("common:", False), (f" {common}\n", True)]


def choose(words: Words) -> list[Piece]:
    """Options, and texts that name one of them, alone or among other words: which option is it?"""
    options = words.some(int(words.rng.integers(3, 6)))
    listed = "\n".join(f"{letter}: {option}" for letter, option in zip(LETTERS, options, strict=False))
    pieces: list[Piece] = [(f"Options:\n{listed}\n", False)]
    for _ in range(6):
        right = int(words.rng.integers(len(options)))
        text = words.order([*words.some(int(words.rng.integers(0, 4))), options[right]])
        pieces += [(f"{words.pick(LABELS)}: {words.pick((' ', ', ')).join(text)}\n", False)]
        pieces += [("Response:", False), (f" {options[right]}\n", True)]
    return pieces


def relate(words: Words) -> list[Piece]:
    """A wish for a thing of a kind, and offers: have they both, the thing alone, the kind alone or neither?

    Half the time it is asked first whether thing and kind occur.
    """
    kind, thing, *others = words.some(14)
    options = ("both", thing, kind, "neither")
    listed = "\n".join(f"{letter}: {option}" for letter, option in zip(LETTERS, options, strict=False))
    pieces: list[Piece] = [(f"Options:\n{listed}\nquery: {kind} {thing}\n", False)]
    for k in range(6):
        right = int(words.rng.integers(4))
        named = [thing if right in (0, 1) else others[2 * k], kind if right in (0, 2) else others[2 * k + 1]]
        named = words.order([*named, *words.some(int(words.rng.integers(0, 2)))])
        pieces += [(f"{words.pick(LABELS)}: {', '.join(named)}\n", False)]
        if words.chance(0.5):
            pieces += [(f"{thing}?", False), (f" {'yes' if right in (0, 1) else 'no'}\n", True)]
            pieces += [(f"{kind}?", False), (f" {'yes' if right in (0, 2) else 'no'}\n", True)]
        pieces += [("Response:", False), (f" {options[right]}\n", True)]
    return pieces


def fits(words: Words) -> list[Piece]:
    """A wish for a thing in a colour, and offers in two lines: what fits, and could an offer replace what is wished?

    Half the time it is asked first whether it is the thing, and whether it is the colour.
    """
    things, colours = words.order(words.things)[:7], words.order(words.colours)[:7]
    labels = [label for label in LABELS if label != "query"]
    wish = words.pick((", ", " ")).join(words.order([things[0], colours[0]]))
    pieces: list[Piece] = [(f"query: {wish}\n", False)]
    for k in range(1, 6):
        same_thing, same_colour = words.chance(0.6), words.chance(0.5)
        said = words.order([things[0 if same_thing else k], colours[0 if same_colour else k], words.name()])
        at = int(words.rng.integers(1, 4))
        lines = [", ".join(part) for part in (said[:at], said[at:]) if part]
        pieces += [
            ("".join(f"{label}: {line}\n" for label, line in zip(words.order(labels), lines, strict=False)), False)
        ]
        if words.chance(0.5):
            pieces += [("the thing?", False), (f" {'yes' if same_thing else 'no'}\n", True)]
            pieces += [("the colour?", False), (f" {'yes' if same_colour else 'no'}\n", True)]
        what = ("neither", "the colour", "the thing", "both")[2 * same_thing + same_colour]
        pieces += [("it has", False), (f" {what}\n", True)]
        pieces += [("another colour of it?", False), (f" {'yes' if what == 'the thing' else 'no'}\n", True)]
    return pieces


def taste(words: Words) -> list[Piece]:
    """Lines that share one word, and options of which one has it too; several times over."""
    pieces: list[Piece] = []
    for _ in range(2):
        shared, *others = words.some(16)
        history = [f"{k}: {' '.join(words.order([shared, others.pop()]))}" for k in range(1, 4)]
        options = [f"{others.pop()} {others.pop()}" for _ in range(4)]
        right = int(words.rng.integers(4))
        options[right] = " ".join(words.order([shared, others.pop()]))
        listed = "\n".join(f"{letter}: {option}" for letter, option in zip(LETTERS, options, strict=False))
        text = "\n".join(history)
        pieces += [(f"{text}\nall have", False), (f" {shared}\n", True)]
        pieces += [(f"Options:\n{listed}\nResponse:", False), (f" {options[right]}\n", True)]
    return pieces


EXERCISES: dict[str, Callable[[Words], list[Piece]]] = {
    one.__name__: one for one in (recall, member, agree, choose, relate, fits, taste)
}


def exercise(words: Words, tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[int], list[int]]:
    """Return the name of a random exercise, its tokens, and its labels, IGNORE where nothing is to be learned."""
    name = str(words.pick(list(EXERCISES)))
    tokens: list[int] = []
    labels: list[int] = []
    for text, learned in EXERCISES[name](words):
        own = tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens += own
        labels += own if learned else [IGNORE] * len(own)
    return name, tokens[:LONGEST_TOK], labels[:LONGEST_TOK]


def _halves(words: Words, tokenizer: PreTrainedTokenizerBase, n: int) -> Iterator[tuple[list[str], torch.Tensor, torch.Tensor]]:  # fmt: skip
    """Yield n exercises as two batches of similar length: names, tokens (B, T), labels (B, T)."""
    drawn = sorted((exercise(words, tokenizer) for _ in range(n)), key=lambda one: len(one[1]))
    for half in (drawn[: n // 2], drawn[n // 2 :]):
        longest = max(len(tokens) for _, tokens, _ in half)
        padded = [
            (t + [tokenizer.pad_token_id] * (longest - len(t)), y + [IGNORE] * (longest - len(y))) for _, t, y in half
        ]
        yield [name for name, _, _ in half], *(torch.tensor(rows) for rows in zip(*padded, strict=True))


def train_reading(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, steps: int, batch: int = 32, rate: float = 3e-3,
    seed: int = 0, checkpoint: Path | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Train all weights of a language model on exercises; returns the share of right answer tokens by step and exercise.

    A step is `batch` exercises. rate: peak of Muon, reached after WARM_UP steps, constant, then falling to 0. checkpoint:
    file kept every KEPT_EVERY steps, from which an interrupted run of the same settings and first weights goes on.
    Errors: NotFiniteError naming step and rate.
    """
    model.requires_grad_(True).train()
    optimizer = Muon(*split_parameters(model), lr=rate)
    start, rows = 0, []
    about = {"steps": steps, "batch": batch, "rate": rate, "seed": seed, "start": weights_sha256(model.state_dict())}
    if kept := _kept(checkpoint, about):
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        start, rows = kept["step"], kept["rows"]
    for step in progress(range(start, steps), what="reading"):
        words = Words(np.random.default_rng([seed, step]))
        where = f"reading, step {step + 1} of {steps} at a peak rate of {rate:g}"
        now = rate * min(1.0, (step + 1) / WARM_UP, (steps - step) / ((1 - CONSTANT) * steps))
        for group in optimizer.param_groups:
            group["lr"] = now
        for names, tokens, labels in _halves(words, tokenizer, batch):
            logits, wanted = model(input_ids=tokens).logits[:, :-1], labels[:, 1:]  # (B, T - 1, V), (B, T - 1)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORE)
            check_finite({"loss": loss}, where=where)
            (loss / 2).backward()
            learned = wanted != IGNORE
            right = ((logits.argmax(-1) == wanted) & learned).sum(1) / learned.sum(1).clamp(min=1)
            rows += [{"step": step + 1, "exercise": n, "right": r} for n, r in zip(names, right.tolist(), strict=True)]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        check_finite(dict(model.named_parameters()), where=where)  # no checkpoint keeps what is no number
        if checkpoint is not None and (step + 1) % KEPT_EVERY == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1, "rows": rows}
            with replacing(checkpoint) as part:
                torch.save(state | {"about": about}, part)
    model.requires_grad_(False).eval()
    return pd.DataFrame(rows).groupby(["step", "exercise"])["right"].mean().unstack()


def _kept(checkpoint: Path | None, about: dict) -> dict | None:
    """Return the checkpoint of the training run `about`; None, with a line on what was found, for any other file."""
    if checkpoint is None or not checkpoint.is_file():
        return None
    try:
        kept = torch.load(checkpoint, weights_only=True)
        if kept["about"] == about:
            return kept
        found = "is of another training run"
    except Exception as error:  # noqa: BLE001 - of a half-written or foreign file, torch raises nearly any type
        found = f"is half-written or foreign ({type(error).__name__})"
    print(f"{checkpoint.name} {found}; starts anew")
    return None


def write_reader(folder: str | Path, *, steps: int = 1400, seed: int = 0) -> Path:
    """Train the pocket base's language part on exercises and write it to `folder` in the hub's format, in bf16.

    This is how `pocket-reader` was made (a card beside it says what it learned); notebook 00 makes the base itself.
    """
    folder, reader = Path(folder), load_vlm("pocket-text", device="cpu")
    tokenizer = reader.processor.tokenizer
    checkpoint = folder.with_suffix(".checkpoint")
    right = train_reading(reader.model, tokenizer, steps=steps, seed=seed, checkpoint=checkpoint)
    reader.model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shares = "\n".join(f"| {name} | {share:.2f} |" for name, share in right.tail(100).mean().items())
    (folder / "README.md").write_text(CARD.format(steps=steps, seed=seed, shares=shares), encoding="utf-8")
    checkpoint.unlink(missing_ok=True)
    return folder


if __name__ == "__main__":
    print(write_reader(sys.argv[1]))
