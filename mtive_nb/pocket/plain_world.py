"""Text-only turns in plain English about everyday things: what a general model has read before it sees a shop.

The grammar is pocket/plain_grammar.py. Skills: "speak" has a free text as its answer; the answers of "facts" and
"facts yes/no" follow from the question or are common knowledge.
"""

import json
import re

import numpy as np

from mtive_nb.pocket.plain_grammar import (
    DATE_FORMS,
    SLOT,
    Writer,
    parsed,
    random_date,
    sentences,
    tidy,
    with_articles,
    words,
)

TEXTS = ("fact", "short", "description", "description", "listing", "listing", "review", "review", "letter", "list",
         "compare", "date", "request", "howto", "story")  # rules of whole passages, by share  # fmt: skip
TOLD = ("short", "short", "compare", "date", "request", "listing", "letter")  # rules of texts that questions are about
FULL_DATES = 5  # of DATE_FORMS, the first ones that name day, month and year beyond doubt
SHORT_FORMS = {"you": "u", "are": "r", "and": "n", "great": "gr8", "please": "pls", "thanks": "thx", "with": "w",
               "because": "cos", "to": "2", "the": "da", "photo": "foto", "was": "wuz", "really": "rly"}  # fmt: skip
LABELS = {
    "number_word": "number",
    "pack": "container",
    "pack_colour": "container colour",
    "look": "quality",
    "when": "time",
    "act": "activity",
    "noun": "thing",
}
OF_THING = ("colour", "fault", "look", "place")  # words that a thing is said to be
AS_JSON = ("Write {} as JSON.", "Put {} into JSON.", "JSON with {}?")
Turn = tuple[str, str, str]  # question, answer, skill


def roughened(text: str, rng: np.random.Generator, *, slips: float = 0.1) -> str:
    """Return the text as typed in a hurry: short forms, and a share of words with a lost, doubled or swapped letter."""
    typed = []
    for word in text.split(" "):
        k, lot = int(rng.integers(1, max(2, len(word) - 2))), rng.random()
        if word in SHORT_FORMS and lot < 3 * slips:
            word = SHORT_FORMS[word]
        elif len(word) > 3 and word.isalpha() and lot < slips:
            start, end = word[:k], word[k + 2 :]
            slip = (start + word[k + 1] + end, word[: k + 1] + word[k:], start + word[k + 1] + word[k] + end)
            word = slip[int(rng.integers(3))]
        typed.append(word)
    return " ".join(typed)


def _written(rng: np.random.Generator, rule: str) -> tuple[str, Writer]:
    """Return a passage of the rule and its writer, who knows what the passage says; half of the reviews in small letters."""
    for _ in range(1000):
        writer = Writer(rng)
        try:
            text = writer.write(sentences()["rules"][rule])
        except LookupError:  # the thing has no such words: write about another one
            continue
        return (with_articles if rule == "review" and rng.random() < 0.5 else tidy)(text), writer
    raise LookupError(f"plain_sentences.yaml: no line of {rule} fits any kind of thing")


def world_text(rng: np.random.Generator) -> str:
    """Return one passage of up to about 60 words: a sentence, description, offer, message, letter, list or story."""
    rule = TEXTS[int(rng.integers(len(TEXTS)))]
    text, _ = _written(rng, rule)
    return roughened(text, rng) if rule == "review" and rng.random() < 0.5 else text


def _speech(rng: np.random.Generator) -> list[Turn]:
    """Return turns whose answers are texts: one that is asked for, the end of another, one with its spelling corrected."""
    rule = TEXTS[int(rng.integers(len(TEXTS)))]
    text, writer = _written(rng, rule)
    said = [value for slot, value in writer.values.items() if slot in sentences()["questions"] and slot != "noun"]
    wish = tidy(writer.write(sentences()["prompts"][rule]))
    if said and rng.random() < 0.5:  # name some words that the text shall hold
        wish = f"{wish[:-1]}: {', '.join(said[int(i)] for i in rng.permutation(len(said))[:4])}."
    begun = world_text(rng).split(" ")
    half = max(1, int(len(begun) * rng.uniform(0.3, 0.7)))
    clean, _ = _written(rng, "short")
    return [
        (wish, text, "speak"),
        (f"Go on: {' '.join(begun[:half])}", " ".join(begun[half:]), "speak"),
        (f"Correct the spelling: {roughened(clean, rng, slips=0.35)}", clean, "speak"),
    ]


def _another(writer: Writer, slot: str, text: str) -> str:
    """Return words for the slot that the text does not hold."""
    prefix, name, _ = parsed(slot)
    named = {"noun": "b_noun", "colour": "tint"}.get(name, name)
    for number in "23456789":
        other = named if name == "noun" else (f"{prefix}_" if prefix else "") + named + number
        value = writer.value(other)
        if not re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE):
            return value
    return "none of these"


def _questions(rng: np.random.Generator) -> list[Turn]:
    """Return turns about a short text: one of its words, yes or no, some of its words as JSON."""
    text, writer = _written(rng, TOLD[int(rng.integers(len(TOLD)))])
    asked, names = sentences()["questions"], [parsed(slot)[1] for slot in writer.values]
    known = {slot: said for slot, said in writer.values.items() if parsed(slot)[1] in asked}
    known = {slot: said for slot, said in known.items() if names.count(parsed(slot)[1]) == 1}
    if len(writer.things) > 1:
        known.pop("noun", None)
    if not known:
        return []
    order = [list(known)[int(i)] for i in rng.permutation(len(known))[:4]]
    prefix, name, _ = parsed(order[0])

    def ask(lines: tuple[str, ...], value: str = "") -> str:
        line = writer.pick(lines).replace("{value}", value).replace("{slot}", LABELS.get(name, name))
        line = SLOT.sub(lambda thing: f"{{{prefix}_{thing[1]}}}", line) if prefix else line
        return f"{text} {tidy(writer.fill(line))}"

    true = bool(rng.random() < 0.5)
    answer, value = ("yes", known[order[0]]) if true else ("no", _another(writer, order[0], text))
    verdict = sentences()["yes_no"]["of" if name in OF_THING else "word"]
    told = {LABELS.get(parsed(slot)[1], parsed(slot)[1]): known[slot] for slot in order}
    return [
        (ask(asked[name]), known[order[0]], "facts"),
        (ask(verdict, value), answer, "facts yes/no"),
        (f"{text} {writer.pick(AS_JSON).format(', '.join(told))}", json.dumps(told, ensure_ascii=False), "facts"),
    ]


def _general(rng: np.random.Generator) -> list[Turn]:
    """Return turns on common knowledge: kinds of things, usual colours, plurals, how a date is written."""
    writer, plurals, date = Writer(rng), words().plurals, random_date(rng)
    noun, _ = writer.thing()
    given, name, kinds = with_articles(writer.fill("{art} {noun}")), noun.many or noun.one, plurals[noun.kind]
    is_, true = writer.value("is"), bool(rng.random() < 0.5)
    alike, others = ([writer.value(f"{prefix}_plain") for prefix in pair] for pair in ("bc", "xy"))
    wrong = writer.pick([other for other in plurals.values() if other != kinds])

    def mixed(*items: str) -> str:
        return ", ".join(items[int(i)] for i in rng.permutation(len(items)))

    turns = [
        (f"What {is_} {given}?", with_articles(writer.value("is_kind")).removeprefix(is_ + " "), "facts"),
        (f"Which kind of thing {is_} {given}?", noun.kind, "facts"),
        (f"Name three {kinds}.", ", ".join([name, *alike]), "speak"),
        (f"Which of these belongs to the {kinds}: {mixed(name, *others)}?", name, "facts"),
        (f"Which does not belong to the others: {mixed(name, *alike, others[0])}?", others[0], "facts"),
        (f"Do {name} belong to the {kinds if true else wrong}?", "yes" if true else "no", "facts yes/no"),
        (f"Write {writer.pick(DATE_FORMS[:FULL_DATES])(*date)} as year, month and day.", DATE_FORMS[0](*date), "facts"),
    ]
    if len(noun.colours) == 1:
        turns.append((f"What colour {is_} {given} as a rule?", noun.colours[0], "facts"))
    if noun.one and noun.many:
        turns.append((f"What is the plural of {noun.one}?", noun.many, "facts"))
    return [turns[int(i)] for i in rng.permutation(len(turns))[:3]]


def world_turns(rng: np.random.Generator) -> list[Turn]:
    """Return six to nine turns about text alone."""
    return [*_speech(rng), *_questions(rng), *_general(rng)]
