"""The words of Pocket Mart's seven tasks: instructions, options, titles, questions, reviews. All in our own words."""

from __future__ import annotations

INSTRUCTIONS = {
    "AP": "Decide whether the document, or what the photo shows, answers the question. Answer yes or no.",
    "CC": "Choose the category of the product.",
    "PRP": "Choose the relation between the two products.",
    "PSI": "Decide whether the product lacks something that the query asks for and can still replace it. "
    "Answer yes or no.",
    "MPC": "Choose how the product fits the query.",
    "SA": "Choose how content the customer is, from the review and its photo.",
    "SR": "Choose the product that the customer buys next.",
}
OPTIONS = {
    "PRP": ("A: buyers of 1 also buy 2", "B: viewers of 1 also view 2", "C: 1 and 2 are similar"),
    "MPC": ("A: fits in full", "B: can replace it", "C: is used with it", "D: has nothing to do with it"),
    "SA": ("A: very positive", "B: positive", "C: neutral", "D: negative", "E: very negative"),
}

# By the attributes that a title names; {number} is the offer's own and says nothing about the product.
TITLES = {
    ("brand",): ("{brand} offer {number}", "offer {number} by {brand}", "{brand}, new in stock, {number}"),
    ("brand", "category"): ("{brand} {category}, offer {number}", "{category} by {brand}, {number}"),
    ("brand", "category", "colour"): (
        "{brand} {category} in {colour}, {number}",
        "{colour} {brand} {category} {number}",
    ),
}
# SR's rows have nine titles, so these are short; they need no number to be told apart.
SHORT_TITLES = {
    ("brand", "category"): ("{brand} {category}",),
    ("brand", "category", "colour"): ("{colour} {brand} {category}",),
}
QUERIES = ("{value} {category}", "{category} {value}", "{category}, {value}")

# What a photo may or may not show: its question, how a document states it, and how it states that it cannot be seen.
VISIBLE = {
    "brand": ("Which brand is on it?", "the front says {value}", "no brand can be read on it"),
    "category": ("What kind of product is it?", "it is {value}", "nothing on it says what it is"),
    "size": ("Which size is printed on it?", "{value} is printed on it", "no size is printed on it"),
}
# What no photo shows: its question, and sentences that answer it.
UNSEEN = {
    "smell": ("How does it smell?", ("it smells of lemon", "the scent is strong")),
    "price": ("What does it cost?", ("I paid 4.99 for it", "it was 7.50 in the sale")),
    "delivery": ("How long does delivery take?", ("it came within two days", "delivery took a week")),
    "keeping": ("How long does it keep once open?", ("it kept for a month", "use it up within a week")),
    "opening": ("Is it easy to open?", ("the lid opens with one hand", "I needed a knife to open it")),
    "gift": ("Is it a good present?", ("my sister liked it as a present", "as a present it was too plain")),
}

# Reviews have more than ten words, as CASLIE keeps only such (A.5).
ORDERED = ("Order {number}: I asked for one pack of {category}.", "I bought one pack of {category}, order {number}.")
NEUTRAL = ("This is how it came, see the photo.", "The photo shows what was in the parcel.")
DAMAGE_SAID = {
    "dent": ("it has a dent in one side", "one side is dented"),
    "crack": ("there is a crack in it", "it came cracked in two places"),
    "tear": ("there is a tear in it", "it was torn at one edge"),
    "leak": ("it had leaked into the parcel", "there is a leak at the bottom"),
    "crush": ("it was crushed in the parcel", "it came totally crushed"),
    "stain": ("there is a stain on it", "it came with a stain"),
    "scratch": ("there are scratches on it", "it came with a scratch"),
}
WHOLE_SAID = ("it came in one piece", "nothing about it is broken")
EXTRA_SAID = ("they sent {count} in place of one, all fine", "I got {count} for the price of one")
OPINIONS = {
    "A": ("I love it, the best one that I ever had.", "Wonderful scent, perfect service, I love it."),
    "B": ("It works well and I like it.", "Good value, and I like the scent."),
    "C": ("It does its job, neither good nor bad.", "It is okay, nothing special about it."),
    "D": ("I do not like how it works.", "Poor value, and I do not like the scent."),
    "E": ("I hate it, the worst one that I ever had.", "Awful scent, terrible service, I hate it."),
}
