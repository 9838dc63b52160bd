"""The questions of each task about one customer photo: the candidates of EMDIV, with answers from the photo's facts.

Every maker receives a photo, a variant and a random generator. It returns candidates, or the reason why the photo has
none. `build.py` chooses and balances among them. Yes/no questions come with both answers where possible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from mtive_nb.data.catalogue import Feedback, Product
from mtive_nb.data.customer_photos import DATES, CustomerPhoto
from mtive_nb.data.emdiv import questions as ask
from mtive_nb.data.emdiv.own import OwnTask
from mtive_nb.data.negatives import NEGATIVES_CONSIDERED, HardNegatives, differing
from mtive_nb.data.rows import PACKAGINGS, PLACEMENTS


@dataclass
class Shop:
    """The makers' input besides the photo: other attribute values, negatives of the photo's split, their photos."""

    values: dict[str, list[str]]  # attribute -> all its values in the catalogue
    coarse_values: dict[tuple[str, str], list[str]]  # (attribute, coarse group) -> its values in the group
    packagings: tuple[str, ...]
    negatives: HardNegatives
    root: Path
    hard_share: float = 1.0
    nearest: dict[str, list[str]] = field(default_factory=dict)

    def other_products(self, photo: CustomerPhoto, rng: np.random.Generator, *, k: int = 1) -> list[Product]:
        """At most `k` products that visibly differ from the photo's: hard, or random with probability 1 - hard_share.

        Hard negatives share the product's coarse group. A product without such a negative gets none, unless no two
        products of the shop share a group.
        """
        own = photo.product.product_id
        if rng.random() < self.hard_share:
            if own not in self.nearest:
                self.nearest[own] = self.negatives.nearest(own, NEGATIVES_CONSIDERED)
            names = self.nearest[own]
            pool = [self.negatives.products[names[int(i)]] for i in rng.permutation(len(names))]
            siblings = [other for other in pool if other.coarse == photo.product.coarse]
            pool = siblings if siblings or self.has_siblings else pool
        else:
            drawn = [name for _ in range(NEGATIVES_CONSIDERED) if (name := self.negatives.random(own, rng))]
            pool = [self.negatives.products[name] for name in dict.fromkeys(drawn)]
        return [other for other in pool if differing(other.attributes, photo.seen)][:k]

    @cached_property
    def has_siblings(self) -> bool:
        """Whether any two products share a coarse group."""
        groups = [product.coarse for product in self.negatives.products.values()]
        return len(set(groups)) < len(groups)

    def catalogue_photo(self, product: Product) -> str:
        return str((self.root / product.images[0]).resolve())


@dataclass(frozen=True)
class Candidate:
    """A possible record. Half of the labels of a `group` are no or none, so that no question reveals its answer."""

    question: str
    answer: str
    asked: dict
    known: dict
    images: tuple[str, ...]
    label: str | None = None
    group: str | None = None


Made = list[Candidate] | str


def ae(
    photo: CustomerPhoto,
    variant: str,
    *,
    rng: np.random.Generator,
    shop: Shop,
    names: Sequence[str] = ask.AE_ATTRIBUTES,
) -> Made:
    """Attribute extraction: all visible `names` as JSON (gen), one of them (aug), or yes/no about a value (bin).

    Training asks for an attribute as often as it has values: asked alike, 48 categories are not learned beside 10 colours.
    """
    if not photo.facts or not photo.seen:
        return "facts name no visible attributes"
    if not photo.recognisable:
        return "no attribute but colour visible (close-up)"
    seen = {name: photo.seen[name] for name in names if photo.seen.get(name)}
    seen = {name: value for name, value in seen.items() if len(shop.values[name]) > 1}
    if not seen:
        return "one value alone in the catalogue: nothing to tell apart"
    known, images = photo.known(), (photo.path,)
    if variant == "gen":
        return [Candidate(ask.AE_GEN, ask.compact_json(seen), seen, known, images)]
    values = np.array([len(shop.values[name]) for name in seen])
    name = str(rng.choice(list(seen), p=values / values.sum() if photo.split == "train" else None))
    value = seen[name]
    if variant == "aug":
        return [Candidate(_pick(ask.AE_AUG[name], rng), value, {name: value}, known, images, label=value)]
    near = [other for other in shop.coarse_values.get((name, photo.product.coarse), []) if other != value]
    pool = near if near and rng.random() < 0.5 else [other for other in shop.values[name] if other != value]
    right, wrong = (ask.AE_BIN[name].format(value=one) for one in (value, _pick(pool, rng)))
    return _yes_no(right, wrong, photo, group=name)


def dd(photo: CustomerPhoto, variant: str, *, rng: np.random.Generator, shop: Shop) -> Made:
    """Damage detection: product and damage in words (gen), yes or no (bin), either that or the kind of damage (aug)."""
    damaged, kind = photo.facts.get("damaged"), photo.facts.get("damage")
    if damaged is None:
        return "facts do not say whether it is damaged"
    known, images, answer = photo.known(), (photo.path,), "yes" if damaged else "no"
    asked = {"damaged": answer} | ({"damage": kind} if damaged and kind else {})
    if variant == "bin":
        return [Candidate(ask.DD_BIN, answer, {"damaged": answer}, known, images, label=answer, group="damaged")]
    if variant == "gen":
        text = f"{ask.describe(photo.seen)} {ask.condition_phrase(kind, damaged=damaged)}"
        return [Candidate(ask.DD_GEN, text, asked, known, images, label=kind or ("damage" if damaged else "none"))]
    if "damage" in known and rng.random() < 0.5:
        kind = known["damage"]
        return [Candidate(_pick(ask.DD_AUG_KIND, rng), kind, {"damage": kind}, known, images, kind, "damage")]
    return [Candidate(_pick(ask.DD_AUG_YES_NO, rng), answer, {"damaged": answer}, known, images, answer, "damaged")]


def pm(photo: CustomerPhoto, variant: str, *, rng: np.random.Generator, shop: Shop) -> Made:
    """Product matching: catalogue photo (or title) against customer photo; one yes and up to two noes per photo."""
    if not photo.recognisable:
        return "product not recognisable in the photo"
    if not photo.product.images:
        return "product has no catalogue photo"
    others = shop.other_products(photo, rng, k=2 if variant == "bin" else 1)
    if not others and variant != "bin":
        return "no other product of the same group is visibly different"
    # A photo without a hard negative still gives a yes: `build.py` balances yes and no over all photos.
    return [_pm(photo, listed, variant=variant, rng=rng, shop=shop) for listed in (photo.product, *others)]


def told_by_title(listed: Product, differs: Sequence[str]) -> bool:
    """Whether a listing's title names a differing attribute: only then can it set its product apart."""
    title = listed.title.lower()
    return any((v := listed.attributes[name].lower()) in title or title in v for name in differs)


def _pm(photo: CustomerPhoto, listed: Product, *, variant: str, rng: np.random.Generator, shop: Shop) -> Candidate:
    match = listed.product_id == photo.product.product_id
    answer = "yes" if match else "no"
    differs = [] if match else differing(listed.attributes, photo.seen)
    known = photo.known() | {"match": answer} | ({"differs": differs} if differs else {})
    asked, images = {"match": answer}, (shop.catalogue_photo(listed), photo.path)
    if variant == "gen":
        why = f"both show {ask.describe(photo.seen, brand=True)}"
        if not match and "name" in differs:
            asked["name"] = photo.seen["name"]
            why = f"the second is {ask.with_article(photo.seen['name'])}"
        elif not match:
            asked["differs"], why = differs[0], f"the {differs[0]} differs"
        return Candidate(ask.PM_GEN, f"{answer}, {why}", asked, known, images, label=answer, group="match")
    question, group = ask.PM_BIN, "match"
    if variant == "aug":
        if (match or told_by_title(listed, differs)) and rng.random() < 0.5:
            question, group = _pick(ask.PM_AUG_TITLE, rng).format(title=listed.title), "title"
            images = (photo.path,)
        else:
            question = _pick(ask.PM_AUG_PAIR, rng)
    return Candidate(question, answer, asked, known, images, label=answer, group=group)


def ex(photo: CustomerPhoto, variant: str, *, rng: np.random.Generator, shop: Shop) -> Made:
    """Expiry detection: both dates as printed (gen), one of them (aug), or whether each is printed (aug, bin)."""
    if photo.facts.get("dates") is None:
        return "facts name no dates"
    dates, known, images = photo.facts["dates"], photo.known(), (photo.path,)
    # If a date is known but not its printed form, the answer has the ISO date and `asked` leaves the date out.
    printed = {name: known[name] for name in DATES if dates.get(f"{name}_text") or not dates.get(name)}
    if variant == "gen":
        answer = ask.compact_json({name: known[name] for name in DATES})
        return [Candidate(ask.EX_GEN, answer, printed, known, images)] if printed else "prints of dates unknown"
    there = {name: "yes" if dates.get(name) or dates.get(f"{name}_text") else "no" for name in DATES}
    if variant == "bin":
        return [
            Candidate(ask.EX_BIN[name], there[name], {f"has_{name}": there[name]}, known, images, there[name], name)
            for name in DATES
        ]
    name = str(rng.choice(DATES))
    if name in printed and rng.random() < 0.7:
        value = printed[name]
        return [Candidate(_pick(ask.EX_AUG[name], rng), value, {name: value}, known, images)]
    asked = {name: _pick(ask.EX_AUG[f"has {name}"], rng) for name in DATES}
    return [
        Candidate(asked[name], there[name], {f"has_{name}": there[name]}, known, images, there[name], f"has {name}")
        for name in DATES
    ]


def own(
    photo: CustomerPhoto,
    variant: str,
    *,
    rng: np.random.Generator,
    shop: Shop,
    task: OwnTask,
    asking: Callable[[str], str] | None = None,
) -> Made:
    """A task written as data: one fact as yes or no, as one of several answers, or openly.

    asking: a choice's yes/no question about an answer; default: the task's.
    """
    value, reason = task.read(photo.facts)
    if not value:
        return reason
    known, images, polar = photo.known(), (photo.path,), task.kind == "yes/no"
    if variant == "bin" and not polar:
        wrong = _pick([answer for answer in task.answers if answer != value], rng)
        asking = asking or task.asking
        return _yes_no(asking(value), asking(wrong), photo)
    question = task.worded(_pick(task.questions[1:], rng) if variant == "aug" else task.questions[0])
    label, group = None if task.kind == "open" else value, task.fact if polar else None
    return [Candidate(question, value, {task.fact: value}, known, images, label, group)]


PT = OwnTask("PT", "choice", "packaging", (ask.PT_GEN, *ask.PT_AUG), PACKAGINGS)
PP = OwnTask("PP", "choice", "placement", (ask.PP_GEN, *ask.PP_AUG), PLACEMENTS, "Is the product {answer}?")
pp = partial(own, task=PP)
_FACTS = {
    **{"AE": ask.AE_ATTRIBUTES, "DD": ("damaged", "damage"), "PM": (), "EX": DATES},
    **{task.name: (task.fact,) for task in (PT, PP)},
}


def facts_of_tasks(names: Sequence[str], own_tasks: Mapping[str, OwnTask] | None = None) -> set[str]:
    """The facts that tasks ask about, as `known_truth` names them; `own_tasks` are the catalogue's.

    Errors: ValueError for a name of no task.
    """
    facts = _FACTS | {name: (task.fact,) for name, task in (own_tasks or {}).items()}
    if strange := [name for name in names if name not in facts]:
        raise ValueError(f"tasks: found {strange[0]!r}, expected some of {', '.join(facts)}")
    return {fact for name in names for fact in facts[name]}


def pt(photo: CustomerPhoto, variant: str, *, rng: np.random.Generator, shop: Shop) -> Made:
    """Packaging type, one of PACKAGINGS (a shop of real food adds `loose`)."""
    task = replace(PT, answers=shop.packagings)
    return own(photo, variant, rng=rng, shop=shop, task=task, asking=ask.packaging_question)


def packagings_of(feedback: list[Feedback]) -> tuple[str, ...]:
    """The classes of PT in a catalogue, in the order of PACKAGINGS, then any others."""
    found = {(row.facts or {}).get("packaging") for row in feedback} - {None}
    extra = tuple(sorted(found - set(PACKAGINGS)))
    # Without other classes, all PACKAGINGS count, even those missing from the photos; else only those that occur.
    return tuple(p for p in PACKAGINGS if p in found or not extra) + extra


def _yes_no(right: str, wrong: str, photo: CustomerPhoto, *, group: str | None = None) -> list[Candidate]:
    """Without a group, yes and no are balanced for each question: a common answer would make yes likelier."""
    known = photo.known()
    pairs = ((right, "yes"), (wrong, "no"))
    return [Candidate(q, a, {"answer": a}, known, (photo.path,), label=a, group=group or q) for q, a in pairs]


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
