"""Reading exercises: every answer follows from its own text, and training on them teaches to look up."""

import re

import numpy as np
import pytest
import torch

from mtive_nb.model.load import load_vlm
from mtive_nb.model.losses import IGNORE
from mtive_nb.pocket.plain_grammar import vocabulary
from mtive_nb.pocket.reading import EXERCISES, Words, exercise, train_reading


def text_and_answers(name: str, seed: int) -> tuple[str, list[tuple[str, str]]]:
    """The whole text before each answer, and the answers."""
    said, found = "", []
    for text, learned in EXERCISES[name](Words(np.random.default_rng(seed))):
        if learned:
            found.append((said, text.strip()))
        said += text
    return said, found


@pytest.mark.parametrize("seed", range(20))
def test_what_occurs_occurs(seed):
    _, answers = text_and_answers("member", seed)
    for before, answer in answers:
        listed, asked = before.split("\n?", 1)[0], before.rsplit("\n", 1)[1].removesuffix("?")
        there = re.split(r", |; |\n", listed.split(": ", 1)[1].split("?")[0].rsplit("\n", 1)[0])
        assert (answer == "yes") == (asked in there)


@pytest.mark.parametrize("seed", range(20))
def test_the_option_chosen_is_the_one_that_the_text_names(seed):
    whole, answers = text_and_answers("choose", seed)
    options = dict(re.findall(r"^([A-H]): (.+)$", whole.split("Response:")[0], re.M))
    for before, letter in answers:
        text = before.rsplit("\n", 2)[1]
        assert options[letter] in text


@pytest.mark.parametrize("seed", range(20))
def test_the_next_choice_shares_what_all_lines_share(seed):
    whole, answers = text_and_answers("taste", seed)
    for before, answer in answers:
        lines = re.findall(r"^[1-3]: (.+)$", before, re.M)[-3:]
        if before.endswith("all have"):
            assert all(answer in line for line in lines)
            shared = answer
        else:
            options = dict(re.findall(r"^([A-D]): (.+)$", before, re.M)[-4:])
            assert [letter for letter, text in options.items() if shared in text] == [answer]


def test_words_are_plain_and_labels_cover_answers_alone():
    tokenizer = load_vlm("pocket-text", device="cpu").processor.tokenizer
    words = Words(np.random.default_rng(0))
    assert set(words.plain) <= vocabulary()
    for _ in range(10):
        _, tokens, labels = exercise(words, tokenizer)
        assert len(tokens) == len(labels) and any(label != IGNORE for label in labels)
        assert all(label in (token, IGNORE) for token, label in zip(tokens, labels, strict=True))


def test_training_teaches_and_goes_on_where_it_stopped(tmp_path):
    def trained(steps, **options):
        reader = load_vlm("pocket-text", device="cpu")
        log = train_reading(reader.model, reader.processor.tokenizer, steps=steps, batch=4, **options)
        return log, reader.model.state_dict()

    whole, weights = trained(4)
    assert whole.index.tolist() == [1, 2, 3, 4] and whole.max().max() <= 1
    assert not any(w.requires_grad for w in weights.values())
    again, _ = trained(4, checkpoint=tmp_path / "ck")
    torch.testing.assert_close(torch.tensor(again.to_numpy()), torch.tensor(whole.to_numpy()), equal_nan=True)
