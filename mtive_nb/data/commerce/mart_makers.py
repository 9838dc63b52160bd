"""One maker a task: it draws photos of Pocket Mart so that a given label is right and a given stratum holds.

Needed: the text leaves out the fact that decides, and the photo shows it. Redundant: text and photo both have it. Idle:
the text has it, the photo does not show it. A text of the stratum "needed" is drawn in the same way for every label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mtive_nb.data.commerce import mart_words as words
from mtive_nb.data.commerce.drawing import LETTERS, Draw, Made, Maker, Shown, Unavailable
from mtive_nb.data.mart.vocabulary import CATEGORIES

HISTORY = 4  # titles of SR's history; five options follow
# SA: what the photo of a delivery of one piece says about the customer (the facts' own rule, seven damages of Mart).
SEVERITY = {**dict.fromkeys(("crack", "leak", "crush"), "E"), **dict.fromkeys(("dent", "tear"), "D")}
SEVERITY |= dict.fromkeys(("stain", "scratch"), "C")


def title_of(draw: Draw, shown: Shown, *names: str, short: bool = False) -> str:
    """A title that has these attributes of the product and no others."""
    table = words.SHORT_TITLES if short else words.TITLES
    return draw.pick(table[names]).format(**shown.product, number=draw.number)


def partner(draw: Draw, group: str) -> str:
    """The group whose products are bought with those of `group`: the next one in the circle."""
    return draw.groups[(draw.groups.index(group) + 1) % len(draw.groups)]


def ap(draw: Draw, label: str, stratum: str) -> Made:
    """A question, and two sentences of other customers; yes where these or the photo answer it."""
    topics = [str(one) for one in draw.rng.permutation(list(words.UNSEEN))[:3]]
    said = [draw.pick(words.UNSEEN[topic][1]) for topic in topics]
    if stratum == "idle":
        shown = draw.photo("any photo", lambda one: True)
        asked, question = topics[0], words.UNSEEN[topics[0]][0]
        document = said[:2] if label == "yes" else said[1:]
    else:
        asked = draw.pick(list(words.VISIBLE))
        question, stated, unreadable = words.VISIBLE[asked]
        there = label == "yes"
        shown = draw.photo(f"{asked} {'shown' if there else 'hidden'}", lambda one: one.shows(asked) is there)
        document = said[:2]
        if stratum == "redundant":
            document = [(stated if there else unreadable).format(value=shown.product[asked]), said[0]]
    document = [document[k] for k in draw.rng.permutation(2)]
    return Made({"question": f"Offer {draw.number}: {question}", "document": document}, [shown], (asked,))


def cc(draw: Draw, label: str, stratum: str) -> Made:
    """The category among the four of its group."""
    shown = _categorised(draw, stratum)
    shelf = [name for name, category in CATEGORIES.items() if category.coarse == shown.group]
    options = draw.options(shelf, shown.product["category"], label)
    named = ("brand",) if stratum == "needed" else ("brand", "category")
    return Made({"title": title_of(draw, shown, *named)}, [shown], ("category",), options)


def prp(draw: Draw, label: str, stratum: str) -> Made:
    """Two products of the same category (C), of one group (B), or of a group and its partner (A)."""
    one = _categorised(draw, stratum)

    def related(other: Shown) -> bool:
        if other.product["brand"] == one.product["brand"]:
            return False
        if label == "A":
            return other.group == partner(draw, one.group)
        same = other.product["category"] == one.product["category"]
        return other.group == one.group and same is (label == "C")

    other = draw.photo(f"a product in relation {label}", lambda photo: related(photo) and _fits(photo, stratum))
    named = [("brand", "category"), ("brand", "category")]
    if stratum == "needed":  # one of the titles, by chance, lacks the category
        named[int(draw.rng.integers(2))] = ("brand",)
    titles = {f"product {k}": title_of(draw, shown, *named[k - 1]) for k, shown in enumerate((one, other), 1)}
    return Made(titles, [one, other], ("category",), words.OPTIONS["PRP"], tuple(titles))


def mpc(draw: Draw, label: str, stratum: str) -> Made:
    """A query for a category with a colour (idle: brand), and a product: exact (A), substitute, complement, irrelevant."""
    trait = "brand" if stratum == "idle" else "colour"
    hidden = ("category", "brand") if stratum == "idle" else ()
    fits = (lambda one: one.hides(*hidden)) if hidden else (lambda one: one.shows("category", "colour"))
    shown = draw.photo(f"a photo for stratum {stratum}", fits)
    category, value = shown.product["category"], shown.product[trait]
    if label != "A":
        others = sorted({one.product[trait] for one in draw.photos} - {value})
        value = draw.pick(others) if others else None
    if label in "CD":
        groups = [group for group in draw.groups if (partner(draw, group) == shown.group) is (label == "C")]
        group = draw.pick([group for group in groups if group != shown.group])
        category = draw.pick([name for name, one in CATEGORIES.items() if one.coarse == group])
    if value is None:
        raise Unavailable(f"a second {trait}")
    named = {"needed": ("brand",), "redundant": ("brand", "category", "colour"), "idle": ("brand", "category")}[stratum]
    texts = {"query": draw.pick(words.QUERIES).format(value=value, category=category)}
    texts["product title"] = title_of(draw, shown, *named)
    return Made(texts, [shown], ("category", trait), words.OPTIONS["MPC"], known={"relation": label})


def psi(draw: Draw, label: str, stratum: str) -> Made:
    """MPC's relations as yes (substitute) and no; the other three in MPC's shares."""
    relation = "B" if label == "yes" else str(draw.rng.choice(list("ACD"), p=np.array((20, 1, 4)) / 25))
    made = mpc(draw, relation, stratum)
    return Made(made.input, made.photos, made.asked, known=made.known)


def sa(draw: Draw, label: str, stratum: str) -> Made:
    """A review of a delivery. Idle: an opinion on what no photo shows, with any photo. Else the state of what came."""
    shown = draw.photo(
        f"a delivery of feeling {label}",
        lambda one: one.shows("damage") and (stratum == "idle" or feeling(one.facts) == label),
    )
    said = draw.pick(words.NEUTRAL)
    if stratum == "redundant":
        whole = words.EXTRA_SAID if label == "A" else words.WHOLE_SAID
        state = draw.pick(words.DAMAGE_SAID.get(shown.facts["damage"], whole)).format(**shown.facts)
        said = f"On arrival: {state}."
    elif stratum == "idle":
        said = draw.pick(words.OPINIONS[label])
    ordered = draw.pick(words.ORDERED).format(number=draw.number, category=shown.product["category"])
    asked = ("damage", "count") if stratum != "idle" else ("opinion",)
    return Made({"review": f"{ordered} {said}"}, [shown], asked, words.OPTIONS["SA"])


def sr(draw: Draw, label: str, stratum: str) -> Made:
    """A customer who buys one colour (idle: one group), four purchases, five options of which one has it."""
    first = draw.photo(f"a photo for stratum {stratum}", lambda one: stratum != "idle" or one.hides("category"))

    def taste(one: Shown) -> str:
        return one.group if stratum == "idle" else one.product["colour"]

    def usable(one: Shown) -> bool:
        return one.hides("category") if stratum == "idle" else one.shows("colour")

    alike = [one for one in draw.photos if usable(one) and taste(one) == taste(first)]
    others = [one for one in draw.photos if usable(one) and taste(one) != taste(first)]
    history = _several(draw, [one for one in alike if one.product_id != first.product_id], HISTORY)
    if len({one.group if stratum != "idle" else one.product["colour"] for one in history}) < 2:
        raise Unavailable("a history with one taste alone")  # one that both rules would explain
    options = _several(draw, others, len(LETTERS) - 1)
    options.insert(LETTERS.index(label), first)
    named = ("brand", "category", "colour") if stratum == "redundant" else ("brand", "category")
    heads = ("1st", "2nd", "3rd", "4th")
    titles = [f"{head}: {title_of(draw, one, *named, short=True)}" for head, one in zip(heads, history, strict=True)]
    offered = tuple(
        f"{head}: {title_of(draw, one, *named, short=True)}" for head, one in zip(LETTERS, options, strict=True)
    )
    asked = ("category",) if stratum == "idle" else ("colour",)
    return Made({"purchase history": titles}, [*history, *options], asked, offered, (*heads, *LETTERS))


def feeling(facts: Mapping[str, str]) -> str:
    """SA's label of a delivery of one piece: A more than asked for, B whole, C to E by the damage's severity."""
    if facts["damage"] in SEVERITY:
        return SEVERITY[facts["damage"]]
    return "B" if facts.get("count", "1") == "1" else "A"


MAKERS: dict[str, Maker] = {"AP": ap, "CC": cc, "PRP": prp, "PSI": psi, "MPC": mpc, "SA": sa, "SR": sr}


def _fits(one: Shown, stratum: str) -> bool:
    return one.hides("category") if stratum == "idle" else one.shows("category")


def _categorised(draw: Draw, stratum: str) -> Shown:
    return draw.photo(f"a photo for stratum {stratum}", lambda one: _fits(one, stratum))


def _several(draw: Draw, photos: Sequence[Shown], n: int) -> list[Shown]:
    """`n` different photos, of different products as far as there are so many."""
    order = [photos[k] for k in draw.rng.permutation(len(photos))]
    first = {one.product_id: one for one in reversed(order)}
    chosen = [*first.values(), *(one for one in order if first[one.product_id] is not one)][:n]
    if len(chosen) < n:
        raise Unavailable(f"{n} photos of one taste, there are {len(chosen)}")
    return chosen
