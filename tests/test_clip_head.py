"""The CLIP arm: heads over labels and over options, on photos and texts whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mtive_nb.data.commerce.rows import CommerceRow
from mtive_nb.evaluate.commerce.clip_head import fit_clip_head
from mtive_nb.evaluate.grounding.clip import build_dual_encoder, clip_scores, embeddings, train_dual_encoder
from mtive_nb.model.load import load_vlm

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (30, 60, 220), "yellow": (240, 220, 40)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """{colour: twelve photos}."""
    folder, rng, made = tmp_path_factory.mktemp("photos"), np.random.default_rng(0), {name: [] for name in COLOURS}
    for k in range(48):
        name = list(COLOURS)[k % 4]
        noise = rng.integers(-20, 20, (40, 40, 3))
        Image.fromarray(np.clip(noise + COLOURS[name], 0, 255).astype(np.uint8)).save(folder / f"{k}.png")
        made[name].append(str(folder / f"{k}.png"))
    return made


@pytest.fixture(scope="module")
def clip(photos, tmp_path_factory):
    torch.manual_seed(0)
    tokenizer = load_vlm("pocket", device="cpu").processor.tokenizer
    clip = build_dual_encoder(tokenizer, image_px=28, width=32, layers=1, longest=16)
    pairs = [(photo, f"a {name} thing") for name, own in photos.items() for photo in own]
    train_dual_encoder(clip, pairs, folder=tmp_path_factory.mktemp("clip"), steps=60, batch=16, rate=3e-3)
    return clip


def asks_yes_no(photos, k):
    """Is the product of the query's colour? Only the photo shows it."""
    colour, asked = list(COLOURS)[k % 4], list(COLOURS)[(k + k // 4 % 2 * (1 + k // 8 % 3)) % 4]
    same = "yes" if colour == asked else "no"
    return CommerceRow(f"PSI{k}", "PSI", "Is it?", {"query": f"a {asked} thing", "product title": "soap"}, same, "train",
                       photos=(photos[colour][k // 4 % 12],))  # fmt: skip


def asks_option(photos, k):
    """Which option has the photo's colour? The options stand in another order in each row."""
    colour, order = list(COLOURS)[k % 4], np.random.default_rng(k).permutation(list(COLOURS))
    options = tuple(f"{'ABCD'[i]}: a {name} thing" for i, name in enumerate(order))
    return CommerceRow(f"CC{k}", "CC", "Which?", {"product title": "soap"}, "ABCD"[list(order).index(colour)], "train",
                       options=options, photos=(photos[colour][k // 4 % 12],))  # fmt: skip


def test_heads_answer_what_only_the_photo_shows(clip, photos):
    rows = [make(photos, k) for make in (asks_yes_no, asks_option) for k in range(96)]
    train, test = [r for k, r in enumerate(rows) if k % 3], [r for k, r in enumerate(rows) if k % 3 == 0]
    head = fit_clip_head(clip, train)
    assert {task: one.ranks for task, one in head.heads.items()} == {"PSI": False, "CC": True}
    right = [said == row.output for said, row in zip(head.answers(test), test, strict=True)]
    by_task = {
        task: np.mean([r for r, row in zip(right, test, strict=True) if row.task == task]) for task in head.heads
    }
    assert by_task["CC"] > 0.85 and by_task["PSI"] > 0.75, by_task
    blind = [replace(row, photos=()) for row in test]
    without = np.mean([said == row.output for said, row in zip(head.answers(blind), blind, strict=True)])
    assert without < np.mean(right) - 0.2


def test_places_keep_two_products_apart(clip, photos):
    """The photo of product 1 decides; the same two photos at each other's place are another question."""
    rows = []
    for k in range(48):
        first, second = (("red", "blue"), ("blue", "red"))[k % 2]
        rows.append(CommerceRow(f"PRP{k}", "PRP", "?", {"product 1": "soap", "product 2": "tea"}, "AB"[k % 2], "train",
                                options=("A: also buy", "B: also view"), places=("product 1", "product 2"),
                                photos=(photos[first][k // 4], photos[second][k // 4])))  # fmt: skip
    head = fit_clip_head(clip, rows[:32])
    assert head.answers(rows[32:]) == [row.output for row in rows[32:]]


def test_an_option_s_own_photo_tells_it_apart(clip, photos):
    """As in SR: a history of one colour, four options with a photo each; the titles are all the same."""
    rows, rng = [], np.random.default_rng(0)
    for k in range(90):
        order = [str(name) for name in rng.permutation(list(COLOURS))]
        taste = order[k % 4]
        shown = [photos[taste][int(i)] for i in rng.integers(12, size=2)] + [photos[name][k % 12] for name in order]
        rows.append(CommerceRow(f"SR{k}", "SR", "?", {"purchase history": ["1st: soap", "2nd: tea"]}, "ABCD"[k % 4], "train",
                                options=tuple(f"{letter}: jam {k}" for letter in "ABCD"), photos=tuple(shown),
                                places=("1st", "2nd", *"ABCD")))  # fmt: skip
    head = fit_clip_head(clip, rows[:60])
    assert head.heads["SR"].parts == (("text", "purchase history"), ("photo", ""))
    right = [said == row.output for said, row in zip(head.answers(rows[60:]), rows[60:], strict=True)]
    assert np.mean(right) > 0.85


def test_embeddings_are_those_of_the_scores(clip, photos):
    pairs = [(photos["red"][0], "a red thing"), (photos["blue"][1], "a red thing")]
    found = embeddings(clip, texts=["a red thing"], photos=[photo for photo, _ in pairs])
    assert np.allclose([found[photo] @ found[text] for photo, text in pairs], clip_scores(clip, pairs), atol=1e-5)


def test_one_class_answers_it_and_bad_input_is_named(clip, photos):
    row = asks_yes_no(photos, 0)
    head = fit_clip_head(clip, [row, replace(row, row_id="b")])
    assert head.answers([row]) == [row.output]
    with pytest.raises(ValueError, match=r"found rows of \['CC'\], expected one of \['PSI'\]"):
        head.answers([asks_option(photos, 1)])
    with pytest.raises(ValueError, match="row CC1: output: found 'Z', expected one of"):
        fit_clip_head(clip, [replace(asks_option(photos, 1), output="Z")])
    with pytest.raises(ValueError, match="no row to train on"):
        fit_clip_head(clip, [])
