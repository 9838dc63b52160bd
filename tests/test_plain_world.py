"""The plain words of the pocket base: everyday English by a grammar, with nothing of a shop."""

import ast
import itertools
import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import mtive_nb
from mtive_nb.data.mart.render import make_item
from mtive_nb.data.mart.text import customer_text, listing
from mtive_nb.data.mart.vocabulary import BRANDS, CATEGORIES, COLOURS
from mtive_nb.data.rows import DAMAGES, PACKAGINGS, PLACEMENTS
from mtive_nb.pocket.plain_grammar import sentences, templates, vocabulary, words
from mtive_nb.pocket.plain_world import LABELS, world_text, world_turns
from mtive_nb.pocket.scene_questions import SKILLS, make_sample

DATA = Path(mtive_nb.__file__).parent / "data"
SHOP = ("mart/*.py", "emdiv/*.py", "instructions/*.py", "dialogues.py", "phrases.py")
VALUES = {"colour": COLOURS, "packaging": PACKAGINGS, "category": tuple(CATEGORIES), "placement": PLACEMENTS}


@cache
def turns(n: int = 1500) -> list[tuple[str, str, str]]:
    return [turn for k in range(n) for turn in world_turns(np.random.default_rng([11, k]))]


@cache
def passages(n: int = 4000) -> list[str]:
    return [world_text(np.random.default_rng([12, k])) for k in range(n)]


def shop_wordings() -> set[str]:
    """Every text of two words or more in the modules that write a shop's texts and questions, without docstrings."""
    found = set()
    for path in (path for pattern in SHOP for path in DATA.glob(pattern)):
        tree = ast.parse(path.read_text())
        docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
        parts = {id(v) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for v in n.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | parts:
                if len(re.findall(r"[a-z]{2,}", re.sub(r"\{\w*\}", "", node.value))) > 1:
                    found.add(node.value)
    return found


def clauses(text: str) -> set[str]:
    """The text and its clauses, in small letters without marks."""
    parts = [text, *re.split(r"[.,;:!?]+(?:\s|$)|\s-\s", text)]
    return {" ".join(re.sub(r"[^a-z0-9* ]", "", part.lower()).split()) for part in parts} - {""}


def lines() -> set[str]:
    """Every sentence and question of the grammar with its choices made, slots as a star."""
    found = set()
    for line in templates():
        parts = re.split(r"\(([^()]*\|[^()]*)\)", re.sub(r"\{\?\w+\}", "", line))
        options = [part.split("|") if k % 2 else [part] for k, part in enumerate(parts)]
        found |= {re.sub(r"\{\w+\}|<\w+>", "*", "".join(made)) for made in itertools.product(*options)}
    return found


def test_the_same_seed_writes_the_same():
    again = [turn for k in range(20) for turn in world_turns(np.random.default_rng([11, k]))]
    assert again == turns()[: len(again)] and world_text(np.random.default_rng([12, 7])) == passages()[7]
    assert len(set(passages())) > 0.95 * len(passages())


def test_no_line_of_the_grammar_is_one_of_a_shop():
    shop = {clause for text in shop_wordings() for clause in clauses(re.sub(r"\{\w*\}", "*", text))}
    shop = {clause for clause in shop if len(re.findall("[a-z]{2,}", clause)) > 1}
    assert len(shop) > 150 and "do both images show the same product" in shop and "love the scent" in shop
    assert not {clause for line in lines() for clause in clauses(line)} & shop


def test_nothing_that_is_written_is_a_sentence_of_a_shop():
    filled = set()
    for text in shop_wordings():
        slots = re.findall(r"\{(.*?)\}", text)
        if all(slot in VALUES for slot in slots):
            for values in itertools.product(*(VALUES[slot] for slot in slots)):
                filled |= clauses(text.format(**dict(zip(slots, values, strict=True))))
    filled = {clause for clause in filled if len(clause.split()) > 2}
    written = {clause for text in passages() for clause in clauses(text)}
    written |= {clause for question, _, _ in turns() for clause in clauses(question)}
    assert len(filled) > 500 and not written & filled


def test_no_brand_is_named():
    text = " ".join([*vocabulary(), *passages(500)]).lower()
    assert not [brand for brand in BRANDS if re.search(rf"\b{brand.lower()}\b", text)]


def test_most_words_of_a_shop_are_plain_words():
    """The share of Pocket Mart's words that the base may know before it sees the shop, without names and codes."""
    rng, texts = np.random.default_rng(0), []
    for index in range(480):
        item = make_item(index)
        texts += listing(item.attributes, price=item.price, rng=rng)
        kind = str(rng.choice(DAMAGES))
        facts = {"attributes": item.attributes, "placement": str(rng.choice(PLACEMENTS)), "count": 1 + index % 3,
                 "damaged": bool(index % 2), "damage": kind if index % 2 else None}  # fmt: skip
        texts.append(customer_text(item.attributes, facts, price=item.price, ungrounded_share=0.35, rng=rng)[0])
    names = {brand.lower() for brand in BRANDS}
    said = [word for text in texts for word in re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower()) if word not in names]
    known = vocabulary()
    assert len(said) > 10_000 and np.mean([word in known for word in said]) >= 0.95
    seen = {word for text in passages() for word in re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())}
    assert np.mean([word in seen for word in said]) >= 0.9


def test_there_are_many_things_and_each_is_of_one_kind():
    nouns = [noun for nouns in words().nouns.values() for noun in nouns]
    names = [name for noun in nouns for name in {noun.one or noun.many}]
    assert len(nouns) > 500 and len(set(names)) == len(names)
    assert not [noun for noun in nouns if not (noun.one or noun.many)]


def test_texts_read_as_english():
    for text in passages():
        assert not re.search(r"[{}<>|()]|\s\s|\s[.,]|\ba [aeio]\w", text), text
        assert len(text.split()) <= 80, text
    assert {bool(len(text.split()) > 30) for text in passages(200)} == {True, False}


def test_answers_follow_from_the_question():
    seen = set()
    for question, answer, skill in turns():
        assert question and answer and skill in ("speak", "facts", "facts yes/no")
        if "JSON" in question:
            told = json.loads(answer)
            assert all(value.lower() in question.lower() for value in told.values()), question
            assert ", ".join(told) in question
        elif skill == "facts" and re.search(r"\. (What|Which|Who|Where|In what|How|Find|When)\b", question):
            assert answer.lower() in question.lower(), (question, answer)
            seen.add(question.split(". ")[-1].split()[0])
        elif skill == "facts yes/no":
            assert answer in ("yes", "no")
    assert len(seen) > 4


def test_what_a_text_says_decides_a_yes_no_question():
    checked, names = 0, "|".join(sorted({*sentences()["questions"], *LABELS.values()}, key=len, reverse=True))
    for question, answer, skill in turns():
        asked = re.fullmatch(
            rf"(.+[.!?]) (?:Does the text name the ({names}) (.+)|Is the ({names}) of the text (.+))\?", question
        )
        if skill == "facts yes/no" and asked:
            value = asked[3] or asked[5]
            there = re.search(rf"(?<!\w){re.escape(value)}(?!\w)", asked[1], re.IGNORECASE)
            assert bool(there) == (answer == "yes"), question
            checked += 1
    assert checked > 100


def test_yes_and_no_are_equally_likely_whatever_is_asked():
    answers = {"Do": [], "text": []}
    for question, answer, skill in turns():
        if skill == "facts yes/no":
            answers["Do" if question.startswith("Do ") and "belong" in question else "text"].append(answer)
    for given in answers.values():
        assert len(given) > 300 and 0.45 < given.count("yes") / len(given) < 0.55


def test_dates_are_rewritten_right():
    found = 0
    for question, answer, _ in turns():
        if asked := re.fullmatch(r"Write (.+) as year, month and day\.", question):
            assert (
                re.fullmatch(r"\d{4}-\d\d-\d\d", answer)
                and answer[2:4] in asked[1]
                and answer[-2:].lstrip("0") in asked[1]
            )
            found += 1
    assert found > 50


@pytest.mark.parametrize("shares", [{"world": 1.0}, {"world": 0.5, "text": 0.5}])
def test_a_sample_of_plain_words_has_no_image(shares):
    samples = [make_sample(k, seed=5, shares=shares) for k in range(40)]
    plain = [s for s in samples if not s.images]
    assert len(plain) == 40 if "text" not in shares else 5 < len(plain) < 35
    assert all(skill in SKILLS for s in plain for _, _, skill in s.turns) and not any(s.dense for s in plain)
