"""The texts of Pocket Mart: a listing's title and description, and a customer's informal text about one photo.

Every phrase of a customer's text has a label: `visible` is True only when the photo itself shows what it states.
"""

import numpy as np

from mtive_nb.data.mart.vocabulary import CATEGORIES

_TITLES = (
    "{brand} {category}, {size}",
    "{brand} {colour} {category} {packaging}, {size}",
    "{brand} {category} in a {colour} {packaging} ({size})",
    "{category} by {brand} - {size} {packaging}",
    "{brand} {category} {packaging}, {colour}, {size}",
)
_OPENINGS = (
    "{brand} {category} for every day.",
    "A {colour} {packaging} of {category} from {brand}.",
    "This {packaging} holds {size} of {category}.",
    "The well-known {category} by {brand}.",
    "{brand} brings you {category} in a handy {packaging}.",
)
_DETAILS = (
    "Comes in a {colour} {packaging}.",
    "Content: {size}.",
    "Brand: {brand}. Colour of the {packaging}: {colour}.",
    "The {packaging} is {colour}.",
    "One {packaging} of {size}.",
    "Look for the {colour} {packaging} with {brand} on the front.",
)
_PROMISES = {
    "hair care": ("Leaves hair soft.", "For dry and damaged hair.", "With a light scent."),
    "skin care": ("Tested on sensitive skin.", "Absorbs at once.", "For face and body."),
    "bath": ("Fresh for the whole day.", "For the whole family.", "Kind to the skin."),
    "drinks": ("Best served cold.", "Without added sugar.", "Refreshing at any time."),
    "hot drinks": ("Full of aroma.", "Ready in a minute.", "From small farms."),
    "snacks": ("For in between.", "Crunchy to the last bite.", "Made for sharing."),
    "breakfast": ("A good start to the day.", "Made with care.", "The children's favourite."),
    "sauces": ("Goes with almost everything.", "From a family recipe.", "Full of taste."),
    "tinned food": ("Ready to eat.", "Keeps for a long time.", "Picked and packed the same day."),
    "cleaning": ("Cleans without streaks.", "A little goes a long way.", "Strong on grease."),
    "pet care": ("They will love it.", "Made with vets.", "No artificial colours."),
    "home": ("Simple to use.", "For house and garden.", "Lasts long."),
}

_SEEN = {
    "colour": ("its {colour}", "the {colour} one", "colour is {colour} as ordered", "got the {colour} {packaging}"),
    "category": ("this is the {category}", "ordered {category}, here it is", "{category} again", "my {category} came"),
    "brand": ("brand is {brand}", "{brand} on the front", "its from {brand}", "you can read {brand} on it"),
    "packaging": ("comes in a {packaging}", "its a {packaging}", "nice {packaging}", "the {packaging} as you see"),
    "size": ("says {size} on it", "the {size} one", "{size} is printed on the label"),
    "placement": ("took the pic {placement}", "this is it {placement}", "photo taken {placement}"),
}
_DAMAGE = {
    "dent": ("theres a dent in it", "it has a big dent", "arrived dented"),
    "crack": ("it is cracked", "theres a crack in the {packaging}", "came with cracks all over"),
    "tear": ("it is torn open", "theres a tear in it", "packaging was torn"),
    "leak": ("its leaking", "half of it leaked out", "there is a leak and a puddle"),
    "crush": ("totally crushed", "the {packaging} is crushed", "came crushed on one side"),
    "stain": ("theres a stain on it", "it is stained", "ugly stain on the {packaging}"),
    "scratch": ("its scratched", "scratches on the {packaging}", "full of scratches"),
}
_WHOLE = ("no damage at all", "came in one piece", "nothing broken", "undamaged as you can see")
_COUNT = {
    1: ("just one in the pic", "only one {packaging}"),
    2: ("got two of them", "pack of 2"),
    3: ("three of them", "pack of 3 came"),
}
_UNSEEN = {
    "smell": ("smells great", "the smell is awful", "love the scent", "smell reminds me of my grandma"),
    "price": ("way too expensive", "good price", "paid {price} for it", "cheaper in the other shop"),
    "delivery": ("delivery took 2 weeks", "came a day early", "the courier was rude", "late delivery again"),
    "taste": ("tastes nice", "the taste is too sweet", "no taste at all"),
    "gift": ("was a gift for my sister", "bought it for my mum", "my husband wanted it"),
    "service": ("customer service never answered", "support was helpful", "seller replied quickly"),
    "effect": ("works well", "does not do what it says", "been using it for years"),
}
_EDIBLE = ("drinks", "hot drinks", "snacks", "breakfast", "sauces", "tinned food")
_SHORT = {
    **{"the": "d", "and": "n", "you": "u", "with": "w", "was": "wuz"},
    **{"took": "tuk", "photo": "foto", "great": "gr8", "see": "c"},
}
_NO_DATE = ("cant find any date on it", "there is no date on it")


def listing(attributes: dict[str, str], *, price: str, rng: np.random.Generator) -> tuple[str, str]:
    """Title and description of a product, from its attributes."""

    def pick(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))].format(**attributes)

    title, opening = pick(_TITLES), pick(_OPENINGS)
    details = [_DETAILS[int(k)].format(**attributes) for k in rng.permutation(len(_DETAILS))[: int(rng.integers(1, 4))]]
    parts = [opening, *details, pick(_PROMISES[CATEGORIES[attributes["category"]].coarse])]
    if rng.random() < 0.5:
        parts.append(f"Price: {price}.")
    return _capital(title), " ".join(_capital(part) for part in parts)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _seen_phrases(attributes: dict[str, str], facts: dict) -> dict[str, tuple[str, ...]]:
    """True phrases about what this photo shows: topic (`about`) -> phrases."""
    found = {}
    for about, phrases in _SEEN.items():
        known = facts["attributes"] if about != "placement" else {"placement": facts.get("placement")}
        if known.get(about):
            found[about] = tuple(p for p in phrases if "{packaging}" not in p or "packaging" in facts["attributes"])
    if facts.get("dates") is not None:
        dates = facts["dates"]
        if dates["expiry_text"]:
            printed = dates["expiry_text"]
            found["dates"] = (f"exp date is {printed}", f"says {printed} on it", f"best before {printed}")
            if dates["production_text"]:
                found["dates"] += (f"made {dates['production_text']}, good till {printed}",)
        else:
            found["dates"] = _NO_DATE
    if facts.get("damaged") is not None:
        found["damage"] = _DAMAGE[facts["damage"]] if facts["damaged"] else _WHOLE
    if facts.get("count"):
        found["count"] = _COUNT[facts["count"]]
    return found


def _roughen(text: str, keep: set[str], rng: np.random.Generator) -> str:
    """Adds typing errors: swapped or lost letters, short forms. Words that state a value stay unchanged."""
    words = []
    for word in text.split(" "):
        if word.lower().strip(",.") in keep or any(c.isdigit() for c in word):
            words.append(word)
        elif word in _SHORT and rng.random() < 0.2:
            words.append(_SHORT[word])
        elif len(word) > 4 and rng.random() < 0.07:
            k = int(rng.integers(1, len(word) - 2))
            swapped = word[:k] + word[k + 1] + word[k] + word[k + 2 :]
            words.append(swapped if rng.random() < 0.5 else word[:k] + word[k + 1 :])
        else:
            words.append(word)
    return " ".join(words)


def customer_text(
    attributes: dict[str, str], facts: dict, *, price: str, ungrounded_share: float, rng: np.random.Generator
) -> tuple[str, list[dict]]:
    """A customer's text about one photo and its phrases: {"text", "visible", "about"}.

    With probability `ungrounded_share`, a phrase is about something that no photo shows. No two phrases have the same
    topic. The text is the phrases joined.
    """
    seen = _seen_phrases(attributes, facts)
    unseen = {k: v for k, v in _UNSEEN.items() if k != "taste" or CATEGORIES[attributes["category"]].coarse in _EDIBLE}
    first = "dates" if "dates" in seen else "damage"
    keep = {word for value in attributes.values() for word in value.lower().split()} | {facts.get("damage")}
    style = int(rng.integers(4))
    phrases = []
    for _ in range(min(int(rng.integers(2, 5)), len(seen))):  # at most one per visible topic, so that the share holds
        visible = bool(rng.random() >= ungrounded_share)
        pool = seen if visible else unseen
        about = first if visible and first in pool and rng.random() < 0.5 else list(pool)[int(rng.integers(len(pool)))]
        options = pool.pop(about)
        text = options[int(rng.integers(len(options)))]
        text = text.format(**attributes, placement=facts.get("placement", ""), price=price)
        text = _roughen(text, keep, rng)
        text = text.lower() if style < 2 else _capital(text)
        phrases.append({"text": text, "visible": visible, "about": about})
    joint = (", ", " ", ". ", "! ")[style]
    return joint.join(phrase["text"] for phrase in phrases), phrases
