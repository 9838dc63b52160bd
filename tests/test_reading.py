"""Reading exercises: every answer follows from its own text, and training on them teaches to look up."""

import re

import numpy as np
import pytest
import torch

from mtive_nb.model.lineage import NotFiniteError
from mtive_nb.model.load import load_vlm
from mtive_nb.model.losses import IGNORE
from mtive_nb.pocket import reading
from mtive_nb.pocket.plain_grammar import vocabulary
from mtive_nb.pocket.reading import EXERCISES, LABELS, Words, exercise, train_reading


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
    for before, answer in answers:
        text = [line for line in before.split("\n") if line.partition(": ")[0] in LABELS][-1]
        assert answer in options.values() and answer in text


@pytest.mark.parametrize("seed", range(20))
def test_an_offer_is_related_by_what_it_shares(seed):
    whole, answers = text_and_answers("relate", seed)
    thing, kind = re.search(r"^B: (.+)$", whole, re.M)[1], re.search(r"^C: (.+)$", whole, re.M)[1]
    shared = {"both": (True, True), thing: (True, False), kind: (False, True), "neither": (False, False)}
    for before, answer in answers:
        offer = (
            [line for line in before.split("\n") if line.partition(": ")[0] in LABELS][-1]
            .partition(": ")[2]
            .split(", ")
        )
        there = thing in offer, kind in offer
        asked = before.rsplit("\n", 1)[1]
        assert (
            shared[answer] == there if asked == "Response:" else (answer == "yes") == (asked.removesuffix("?") in offer)
        )


@pytest.mark.parametrize("seed", range(20))
def test_an_offer_fits_by_its_thing_and_its_colour(seed):
    words = Words(np.random.default_rng(seed))
    whole, answers = text_and_answers("fits", seed)
    wish = whole.split("\n")[0].removeprefix("query: ")
    pairs = ((t, c) for t in words.things for c in words.colours)
    thing, colour = next(
        pair for pair in pairs if wish in {sep.join(p) for sep in (", ", " ") for p in (pair, pair[::-1])}
    )
    for before, answer in answers:
        offer = re.split(r"(?:another colour of it\?.*|^query.*)\n", before, flags=re.M)[-1].split("\n")
        named = [
            part for line in offer if line.partition(": ")[0] in LABELS for part in line.partition(": ")[2].split(", ")
        ]
        there = thing in named, colour in named
        right = {
            "the thing?": ("no", "yes")[there[0]],
            "the colour?": ("no", "yes")[there[1]],
            "it has": ("neither", "the colour", "the thing", "both")[2 * there[0] + there[1]],
            "another colour of it?": ("no", "yes")[there == (True, False)],
        }
        assert answer == right[before.rsplit("\n", 1)[1]]


@pytest.mark.parametrize("seed", range(20))
def test_the_next_choice_shares_what_all_lines_share(seed):
    whole, answers = text_and_answers("taste", seed)
    for before, answer in answers:
        lines = re.findall(r"^[1-3]: (.+)$", before, re.M)[-3:]
        if before.endswith("all have"):
            assert all(answer in line for line in lines)
            shared = answer
        else:
            options = [text for _, text in re.findall(r"^([A-D]): (.+)$", before, re.M)[-4:]]
            assert [text for text in options if shared in text] == [answer]


def test_words_are_plain_and_labels_cover_answers_alone():
    tokenizer = load_vlm("pocket-text", device="cpu").processor.tokenizer
    words = Words(np.random.default_rng(0))
    assert set(words.plain) <= vocabulary()
    for _ in range(10):
        _, tokens, labels = exercise(words, tokenizer)
        assert len(tokens) == len(labels) and any(label != IGNORE for label in labels)
        assert all(label in (token, IGNORE) for token, label in zip(tokens, labels, strict=True))


def trained(**options):
    """The log and the weights of four steps."""
    reader = load_vlm("pocket-text", device="cpu")
    log = train_reading(reader.model, reader.processor.tokenizer, steps=4, batch=4, **options)
    return log, reader.model.state_dict()


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """The checkpoint of a training run that ended after two of its four steps."""
    monkeypatch.setattr(reading, "KEPT_EVERY", 2)
    with monkeypatch.context() as cut:
        cut.setattr(reading, "progress", lambda steps, what: list(steps)[:2])
        trained(checkpoint=tmp_path / "ck")
    return tmp_path / "ck"


def same(one, other):
    log, weights = one
    torch.testing.assert_close(torch.tensor(log.to_numpy()), torch.tensor(other[0].to_numpy()), equal_nan=True)
    assert all(torch.equal(weights[name], weight) for name, weight in other[1].items())


def test_training_teaches_and_goes_on_where_it_stopped(interrupted, monkeypatch, capsys):
    whole, weights = trained()
    assert whole.index.tolist() == [1, 2, 3, 4] and whole.max().max() <= 1
    assert not any(w.requires_grad for w in weights.values())
    steps = []
    monkeypatch.setattr(reading, "progress", lambda left, what: steps.extend(left) or left)
    same(trained(checkpoint=interrupted), (whole, weights))
    assert steps == [2, 3] and "anew" not in capsys.readouterr().out


@pytest.mark.parametrize("found", ["another seed", "half-written", "foreign"])
def test_another_or_half_written_checkpoint_is_not_gone_on_from(interrupted, capsys, found):
    if found == "half-written":
        interrupted.write_bytes(interrupted.read_bytes()[:-1000])
    if found == "foreign":
        torch.save({"model": {}, "step": 2}, interrupted)  # as an older version wrote it
    seed = 1 if found == "another seed" else 0
    same(trained(checkpoint=interrupted, seed=seed), trained(seed=seed))
    assert ("another training run" if seed else "half-written or foreign") in capsys.readouterr().out


def test_a_loss_or_a_step_that_is_no_number_ends_training_with_step_and_rate(tmp_path, monkeypatch):
    reader = load_vlm("pocket-text", device="cpu")
    reader.model.get_input_embeddings().weight.data[:] = float("nan")
    with pytest.raises(NotFiniteError, match="step 1 of 4 at a peak rate of 0.003: .* loss"):
        train_reading(reader.model, reader.processor.tokenizer, steps=4, batch=4)
    monkeypatch.setattr(reading, "KEPT_EVERY", 1)
    monkeypatch.setattr(reading.Muon, "step", lambda self: self.param_groups[0]["params"][0].data.fill_(float("inf")))
    with pytest.raises(NotFiniteError, match="step 1 of 4 at a peak rate of 0.003: 1 of "):
        trained(checkpoint=tmp_path / "ck")
    assert not list(tmp_path.iterdir())


def test_what_ships_looks_things_up():
    vlm = load_vlm("pocket-reader", device="cpu")
    words, right = Words(np.random.default_rng(1)), []
    for _ in range(4):
        said = ""
        for text, learned in EXERCISES["member"](words):
            if learned:
                tokens = torch.tensor([vlm.processor.tokenizer(said, add_special_tokens=False)["input_ids"]])
                wanted = vlm.processor.tokenizer(text, add_special_tokens=False)["input_ids"][0]
                with torch.inference_mode():
                    right.append(int(vlm.model(input_ids=tokens).logits[0, -1].argmax()) == wanted)
            said += text
    assert len(right) == 32 and sum(right) >= 28
