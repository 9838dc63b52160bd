"""What the makers of commerce rows share: photos with known facts, a draw among them, the plan of labels and strata."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mtive_nb.data.commerce.rows import CommerceRow

LETTERS = "ABCDE"
TRIES = 20


class Unavailable(LookupError):
    """No photo of the split fits; the message says which was looked for."""


@dataclass(frozen=True)
class Shown:
    """A customer's photo: its absolute path, its product's id, group and attributes, and the facts that it shows."""

    path: str
    product_id: str
    group: str
    product: Mapping[str, str]
    facts: Mapping[str, str]

    def shows(self, *names: str) -> bool:
        return all(name in self.facts for name in names)

    def hides(self, *names: str) -> bool:
        return not any(name in self.facts for name in names)


@dataclass(frozen=True)
class Made:
    """A row without its label: texts, options, the photos with their places, and the facts that decide the label."""

    input: dict[str, Any]
    photos: Sequence[Shown]
    asked: tuple[str, ...]
    options: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    known: dict[str, Any] = field(default_factory=dict)


@dataclass
class Draw:
    """Draws photos of one split and words for one row; `number` is the row's own.

    In a text, the number makes the row unlike all others and says nothing about the product.
    """

    photos: Sequence[Shown]
    rng: np.random.Generator
    number: int = 0
    groups: Sequence[str] = ()  # of the split, in a circle

    def photo(self, wanted: str, fits: Callable[[Shown], bool]) -> Shown:
        """A random photo that fits. Errors: Unavailable, naming what was wanted."""
        for k in self.rng.permutation(len(self.photos)):
            if fits(self.photos[k]):
                return self.photos[k]
        raise Unavailable(wanted)

    def pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def options(self, values: Sequence[str], right: str, label: str) -> tuple[str, ...]:
        """At most five of the values in chance order behind letters, the right one behind `label`. Errors: Unavailable."""
        others = [values[k] for k in self.rng.permutation(len(values)) if values[k] != right][: len(LETTERS) - 1]
        if len(others) < LETTERS.index(label):
            raise Unavailable(f"{LETTERS.index(label)} options beside the right one")
        others.insert(LETTERS.index(label), right)
        return tuple(f"{letter}: {value}" for letter, value in zip(LETTERS, others, strict=False))


Maker = Callable[[Draw, str, str], Made]  # of a draw, a label and a stratum


def plan_rows(
    n: int, strata: Mapping[str, float], labels: Mapping[str, float], rng: np.random.Generator
) -> Iterator[tuple[str, str]]:
    """Stratum and label of each of `n` rows in chance order; every stratum has the labels in their shares."""
    cells = [(s, label, strata[s] * labels[label]) for s in strata for label in labels]
    exact = np.array([share for *_, share in cells]) * n / sum(share for *_, share in cells)
    amounts = exact.astype(int)
    amounts[np.argsort(amounts - exact, kind="stable")[: n - amounts.sum()]] += 1  # the largest remainders
    planned = [cell[:2] for cell, amount in zip(cells, amounts, strict=True) for _ in range(amount)]
    return (planned[k] for k in rng.permutation(n))


def make_row(maker: Maker, draw: Draw, row_id: str, *, label: str, stratum: str, **fields: str) -> CommerceRow:
    """One row by `maker`; fields: task, split, instruction, source. Errors: ValueError naming what no photo gives."""
    why: Counter[str] = Counter()
    for _ in range(TRIES):  # a first photo may have no partner; another one may
        try:
            made = maker(draw, label, stratum)
            break
        except Unavailable as error:
            why[str(error)] += 1
    else:
        raise ValueError(
            f"{row_id}, stratum {stratum}, label {label}: none of {len(draw.photos)} photos of the split gives "
            f"{why.most_common(1)[0][0]}; take a shop with more products and photos, or ask for fewer tasks"
        )
    ids = list(dict.fromkeys(shown.product_id for shown in made.photos))
    asked = made.photos[made.places.index(label) if label in made.places else 0]  # in SR what is bought next
    return CommerceRow(
        row_id=row_id,
        input=made.input,
        output=label,
        options=made.options,
        photos=tuple(shown.path for shown in made.photos),
        places=made.places,
        product_id=asked.product_id,
        facts=tuple(shown.facts for shown in made.photos),
        known={"asked": list(made.asked), "products": ids, "group": made.photos[0].group, **made.known},
        stratum=stratum,
        **fields,
    )
