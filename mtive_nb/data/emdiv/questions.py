"""The texts of EMDIV: one canonical question per task, its paraphrases, and the phrases of the answers.

Questions have at most 20 words and answers at most 12, as the pocket model reads capitals and digits letter by letter.
"""

from __future__ import annotations

import json

# The attributes that AE asks for, in the order of its JSON; attributes that are not visible in the photo are left out.
AE_ATTRIBUTES = ("brand", "category", "name", "colour", "packaging")

AE_GEN = "Give the visible attributes of this product as JSON."
AE_AUG: dict[str, tuple[str, ...]] = {
    "brand": (
        "Which brand is this?",
        "What brand name is printed on it?",
        "Read the brand.",
        "Who makes this product?",
        "Name the brand of the product.",
        "brand?",
    ),
    "category": (
        "What kind of product is this?",
        "Which category does it belong to?",
        "What is this?",
        "Name the type of product.",
        "What product does the photo show?",
        "category?",
    ),
    "name": (
        "What is the name of this product?",
        "Which variety is this?",
        "Name the product exactly.",
        "Which product is it, in full?",
        "What exactly does the photo show?",
        "product name?",
    ),
    "colour": (
        "What colour is this product?",
        "Which colour does it have?",
        "Name its main colour.",
        "Tell me the colour of the product.",
        "In which colour does it come?",
        "colour?",
    ),
    "packaging": (
        "What kind of package is it?",
        "How does the product come?",
        "Name the packaging.",
        "Which packaging do you see?",
        "What is it packed in?",
        "packaging?",
    ),
}
AE_BIN = {
    "brand": "Is {value} the brand of this product?",
    "category": "Does this photo show the category {value}?",
    "name": "Does this photo show {value}?",
    "colour": "Is the colour of this product {value}?",
    "packaging": "Is the packaging of this product {value}?",
}

DD_GEN = "Which product is shown and is it damaged?"
DD_BIN = "Is this product damaged?"
DD_AUG_YES_NO = (
    "Is there any damage to be seen?",
    "Did the product arrive damaged?",
    "Does the photo show a defect?",
    "Can you see that it is damaged?",
    "Is something wrong with this item?",
)
DD_AUG_KIND = (
    "Which damage does it show?",
    "What kind of damage is visible?",
    "Name the damage, or say none.",
    "What is wrong with it, if anything?",
    "Which defect can be seen?",
)
# `crush` is the only kind that needs another noun.
_DAMAGE_PHRASES = {"crush": "with a crush mark"}

PM_GEN = "Does the customer photo match the catalogue photo? Say why."
PM_BIN = "Do both images show the same product?"
PM_AUG_PAIR = (
    "Is the product in image 2 the one in image 1?",
    "Is this the same item in both photos?",
    "Did the customer get the product of image 1?",
    "Are image 1 and image 2 of one product?",
    "Does image 2 show what the shop sells in image 1?",
    "Same product?",
)
PM_AUG_TITLE = (
    "Product description: {title}. Does it match the image?",
    "Listing: {title}. Is that what the photo shows?",
    "The customer ordered {title}. Is it in the photo?",
    "Does the photo show {title}?",
)

EX_GEN = "Read the expiry and production dates as JSON."
EX_BIN = {"expiry": "Is an expiry date printed here?", "production": "Is a production date printed here?"}
EX_AUG: dict[str, tuple[str, ...]] = {
    "expiry": (
        "What is the expiry date?",
        "When does this product expire?",
        "Read the best before date.",
        "Until when can it be used?",
        "expiry date?",
    ),
    "production": (
        "What is the production date?",
        "When was this made?",
        "Read the manufacturing date.",
        "On which day was it packed?",
        "production date?",
    ),
    "has expiry": ("Can you see an expiry date?", "Does the package show until when it keeps?"),
    "has production": ("Can you see a production date?", "Does the package show when it was made?"),
}

PT_GEN = "How is the product packed: {options}?"
PT_AUG = (
    "Which packaging type is it: {options}?",
    "Name the packaging type.",
    "What does the product come in?",
    "Classify the package: {options}.",
    "What type of package do you see?",
    "packaging type?",
)
PP_GEN = "Where is the product: {options}?"
PP_AUG = (
    "Where was the photo of the product taken: {options}?",
    "Name the placement of the product.",
    "Where do you see the product?",
    "Classify the placement: {options}.",
    "In which place is the item?",
    "placement?",
)


def compact_json(values: dict[str, str]) -> str:
    """One line of JSON, in the order of `values`."""
    return json.dumps(values, ensure_ascii=False)


def options_text(options: tuple[str, ...]) -> str:
    """The options as a list in words: `bottle, box or can`."""
    return options[0] if len(options) == 1 else f"{', '.join(options[:-1])} or {options[-1]}"


def with_article(words: str) -> str:
    """The words after the article a or an: `a bottle`, `an orange box`."""
    return f"{'an' if words[:1].lower() in 'aeiou' else 'a'} {words}"


def describe(seen: dict[str, str], *, brand: bool = False) -> str:
    """A phrase for a product from its visible attributes: `a blue bottle of LOZ shampoo`; without any, `a product`."""
    maker = seen.get("brand", "") if brand else ""
    noun = seen.get("name") or " ".join(part for part in (maker, seen.get("category", "")) if part)
    colour, packaging = seen.get("colour", ""), seen.get("packaging", "")
    if packaging and packaging != "loose" and "name" not in seen:
        head = with_article(f"{colour} {packaging}".strip())
        return f"{head} of {noun}" if noun else head
    words = f"{colour} {noun or 'product'}".strip()
    return with_article(words) if "category" not in seen and "name" not in seen else words


def condition_phrase(damage: str | None, *, damaged: bool) -> str:
    """`with a dent`, `with damage` when its kind is unknown, or `in good condition`."""
    if not damaged:
        return "in good condition"
    return _DAMAGE_PHRASES.get(damage, f"with {with_article(damage)}") if damage else "with damage"


def packaging_question(value: str) -> str:
    """PT's yes/no question for one class."""
    return (
        "Is the product loose, not packed?" if value == "loose" else f"Is the product packed in {with_article(value)}?"
    )
