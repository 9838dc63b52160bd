"""Stage 1's dialogues: the ten templates of MTIVE's Table 5, drawn with equal probability, and raw image-text pairs.

Six templates are generative, four contrastive. A shop without customers' texts (the grocery photos have none) or with
too few products can fill fewer templates; these stay equally likely.

Customers' texts keep all their noise, as the loss of stage 1 is designed for it (MTIVE, section 3.1). Texts are only
shortened, so that a small model sees all of a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mtive_nb.data.catalogue import Catalogue, Product
from mtive_nb.data.customer_photos import CustomerPhoto, photos_by_split, split_negatives
from mtive_nb.data.negatives import NEGATIVES_CONSIDERED
from mtive_nb.data.records import assistant_turn, make_record, user_turn

FEEDBACK_WORDS, DESCRIPTION_WORDS = 12, 14
RAW = "raw"

ASK_DESCRIPTION = ("Describe this product.", "What does the shop say about it?", "Write the product description.")
ASK_FEEDBACK = ("What does the customer say?", "Write the customer's comment.", "What is the feedback?")
ASK_MATCH = ("Do both images show the same product?", "Is this one product in both photos?")


@dataclass(frozen=True)
class Part:
    """The input of a template: one customer photo and, for contrastive templates, another product's photos.

    All paths are absolute; for generative templates, which have no other product, `other_*` is None.
    """

    photo: CustomerPhoto
    catalogue_photo: str
    other_catalogue: str | None
    other_feedback: str | None

    @property
    def description(self) -> str:
        product = self.photo.product
        return cut_sentences(product.description or product.title, DESCRIPTION_WORDS)

    @property
    def feedback(self) -> str:
        return cut_words(self.photo.feedback.text, FEEDBACK_WORDS)


Filled = tuple[list[dict], list[str]]  # the messages and the paths of their images
Template = Callable[[Part, np.random.Generator], Filled]


def _one_turn(question: str, answer: str, images: list[str]) -> Filled:
    return [user_turn(question, images=len(images)), assistant_turn(answer)], images


def _catalogue_description_feedback(part: Part, rng: np.random.Generator) -> Filled:
    question = f"{part.description} {_pick(ASK_FEEDBACK, rng)}"
    return _one_turn(question, part.feedback, [part.catalogue_photo, part.photo.path])


def _description_then_feedback(part: Part, rng: np.random.Generator) -> Filled:
    messages = [
        user_turn(_pick(ASK_DESCRIPTION, rng), images=1, first=1),
        assistant_turn(part.description),
        user_turn(_pick(ASK_FEEDBACK, rng), images=1, first=2),
        assistant_turn(part.feedback),
    ]
    return messages, [part.catalogue_photo, part.photo.path]


def _description(part: Part, rng: np.random.Generator) -> Filled:
    return _one_turn(_pick(ASK_DESCRIPTION, rng), part.description, [part.catalogue_photo])


def _catalogue_feedback(part: Part, rng: np.random.Generator) -> Filled:
    return _one_turn(_pick(ASK_FEEDBACK, rng), part.feedback, [part.catalogue_photo, part.photo.path])


def _feedback(part: Part, rng: np.random.Generator) -> Filled:
    return _one_turn(_pick(ASK_FEEDBACK, rng), part.feedback, [part.photo.path])


def _shuffled_description(part: Part, rng: np.random.Generator) -> Filled:
    images = [part.catalogue_photo, part.photo.path]
    return _one_turn(_pick(ASK_DESCRIPTION, rng), part.description, [images[int(k)] for k in rng.permutation(2)])


def _match(answer: str, first: str, second: str, rng: np.random.Generator) -> Filled:
    return _one_turn(_pick(ASK_MATCH, rng), answer, [first, second])


def _negative_catalogue(part: Part, rng: np.random.Generator) -> Filled:
    return _match("no", part.catalogue_photo, part.other_catalogue, rng)


def _negative_feedback(part: Part, rng: np.random.Generator) -> Filled:
    return _match("no", part.catalogue_photo, part.other_feedback, rng)


def _matching_feedback(part: Part, rng: np.random.Generator) -> Filled:
    return _match("yes", part.catalogue_photo, part.photo.path, rng)


def _negative_feedback_first(part: Part, rng: np.random.Generator) -> Filled:
    return _match("no", part.other_feedback, part.catalogue_photo, rng)


def _matching_feedback_first(part: Part, rng: np.random.Generator) -> Filled:
    return _match("yes", part.photo.path, part.catalogue_photo, rng)


# Table 5, row by row.
GENERATIVE: dict[str, Template] = {
    "catalogue + description + feedback photo -> feedback": _catalogue_description_feedback,
    "catalogue -> description, feedback photo -> feedback": _description_then_feedback,
    "catalogue -> description": _description,
    "catalogue + feedback photo -> feedback": _catalogue_feedback,
    "feedback photo -> feedback": _feedback,
    "shuffled photos -> description": _shuffled_description,
}
CONTRASTIVE: dict[str, Template] = {
    "catalogue + negative catalogue -> yes/no": _negative_catalogue,
    "catalogue + negative feedback photo -> yes/no": _negative_feedback,
    "catalogue + matching feedback photo -> yes/no": _matching_feedback,
    "negative feedback photo + catalogue -> yes/no": _negative_feedback_first,
}
TEMPLATES = {**GENERATIVE, **CONTRASTIVE}
# With `balance`, these rows show the matching photo half of the time.
_MATCHING = {
    "catalogue + negative feedback photo -> yes/no": _matching_feedback,
    "negative feedback photo + catalogue -> yes/no": _matching_feedback_first,
}


def build_dialogues(
    catalogue: Catalogue,
    n: int,
    *,
    split: str = "train",
    splits: Mapping[str, str] | None = None,
    seed: int = 0,
    contrastive: bool = True,
    negatives: str = "hard",
    raw_share: float = 0.1,
    balance: bool = True,
) -> list[dict]:
    """Build `n` records of stage 1: task PRETRAIN, the template's name as label, "gen", "bin" or "raw" as variant.

    raw_share: share of records with an image and its text but no question ("apart from using raw image-text pairs").
    negatives: "hard" (TF-IDF) or "random". balance: Table 5 prints Yes/No as the output of all four contrastive rows,
    but read literally three of them always answer no. With True, the two rows of negative feedback photos show the
    matching photo half of the time, so that yes and no are equally likely. False follows the table literally.
    """
    if negatives not in ("hard", "random") or not 0 <= raw_share <= 1 or n < 0:
        found = f"negatives={negatives!r}, raw_share={raw_share}, n={n}"
        raise ValueError(f"build_dialogues: found {found}; expected 'hard' or 'random', a share from 0 to 1, n >= 0")
    photos = photos_by_split(catalogue, splits)[split]
    if not photos:
        raise ValueError(f"build_dialogues: no customer photo of {catalogue.name} is in the split {split!r}")
    rng = np.random.default_rng([seed, 11])
    parts = _Parts(catalogue, photos, hard=negatives == "hard")
    names = [name for name in (TEMPLATES if contrastive else GENERATIVE) if parts.pool(name)]
    if not names:
        raise ValueError(f"build_dialogues: {catalogue.name} has neither texts nor other products: no template fits")
    records = []
    for index in range(n):
        # Draw the template first, then one of the photos that can fill it.
        name = RAW if rng.random() < raw_share else str(rng.choice(names))
        part = parts.draw(name, rng)
        if name == RAW:
            messages, images = _raw(part, rng)
        else:
            fill = _MATCHING[name] if balance and name in _MATCHING and rng.random() < 0.5 else TEMPLATES[name]
            messages, images = fill(part, rng)
        records.append(
            make_record(
                f"PRETRAIN/{catalogue.name}/{split}/{index:06d}",
                product_id=part.photo.product.product_id,
                task="PRETRAIN",
                variant=RAW if name == RAW else "bin" if name in CONTRASTIVE else "gen",
                images=images,
                messages=messages,
                answer=messages[-1]["content"],
                label=name,
                source=catalogue.name,
                split=split,
            )
        )
    return records


def with_noisy_text(records: list[dict], *, share: float, seed: int) -> list[dict]:
    """Add known noise: replace the last answer of a `share` of the dialogues by an answer about another product.

    Yes/no dialogues stay unchanged. Errors: ValueError for a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: found {share}, expected a number from 0 to 1")
    rng, noisy = np.random.default_rng([seed, 13]), list(records)
    texts = [k for k, record in enumerate(records) if record["variant"] != "bin"]
    for k in rng.permutation(texts)[: round(share * len(texts))]:
        own = records[k]
        others = [j for j in rng.permutation(texts)[:20] if records[j]["product_id"] != own["product_id"]]
        if others:
            answer = records[others[0]]["answer"]
            noisy[k] = own | {"answer": answer, "messages": [*own["messages"][:-1], assistant_turn(answer)]}
    return noisy


def cut_words(text: str, limit: int) -> str:
    """The first `limit` words, as one line."""
    return " ".join(text.split()[:limit])


def cut_sentences(text: str, limit: int) -> str:
    """As many whole sentences as fit into `limit` words; a longer first sentence is cut."""
    kept: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+", text.strip()):
        if kept and len(" ".join([*kept, sentence]).split()) > limit:
            break
        kept.append(sentence)
    return cut_words(" ".join(kept), limit)


def _raw(part: Part, rng: np.random.Generator) -> Filled:
    """An image and its text: the shop's photo and title, or the customer's photo and words."""
    if part.photo.feedback.text and rng.random() < 0.5:
        return _one_turn("", part.feedback, [part.photo.path])
    return _one_turn("", cut_words(part.photo.product.title, DESCRIPTION_WORDS), [part.catalogue_photo])


class _Parts:
    """Draws customer photos that can fill a template, and their negatives."""

    def __init__(self, catalogue: Catalogue, photos: list[CustomerPhoto], *, hard: bool) -> None:
        self._root = catalogue.root
        self._all = [photo for photo in photos if photo.product.images]
        self._told = [photo for photo in self._all if photo.feedback.text.strip()]
        self._clear = [photo for photo in self._all if photo.recognisable]
        self._of: dict[str, list[CustomerPhoto]] = {}
        for photo in self._clear:
            self._of.setdefault(photo.product.product_id, []).append(photo)
        # Negatives have a recognisable customer photo, so that both kinds of photo exist for each.
        self._negatives = split_negatives(catalogue, self._clear)
        considered = NEGATIVES_CONSIDERED if hard else len(self._of)
        self._near = {own: self._negatives.nearest(own, considered) for own in self._of}
        self._contrasted = [photo for photo in self._clear if self._near[photo.product.product_id]]

    def pool(self, name: str) -> list[CustomerPhoto]:
        """The photos that can fill a template."""
        if name in CONTRASTIVE:
            return self._contrasted
        if name in (RAW, "catalogue -> description"):
            return self._all
        if name == "shuffled photos -> description":
            return self._clear
        return self._told

    def draw(self, name: str, rng: np.random.Generator) -> Part:
        pool = self.pool(name)
        photo = pool[int(rng.integers(len(pool)))]
        if name not in CONTRASTIVE:
            return Part(photo, self._path(photo.product), None, None)
        near = self._near[photo.product.product_id]
        other = near[int(rng.integers(len(near)))]
        shown = self._of[other][int(rng.integers(len(self._of[other])))]
        return Part(photo, self._path(photo.product), self._path(self._negatives.products[other]), shown.path)

    def _path(self, product: Product) -> str:
        return str((self._root / product.images[0]).resolve())


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
