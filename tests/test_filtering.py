from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mtive_nb.data.catalogue import Feedback
from mtive_nb.data.phrases import phrase_records, pilot_phrases, swapped_records
from mtive_nb.evaluate.grounding.attention import AnswerAttention
from mtive_nb.evaluate.grounding.filtering import funnel
from mtive_nb.show.grounding import grounding_figure


def test_the_funnel_drops_the_lowest_by_each_column_and_counts_a_row_once():
    scores = pd.DataFrame({"clip": np.arange(100), "length": np.arange(100)[::-1], "attention": np.arange(100) % 10})
    kept, steps = funnel(scores, {"clip": 0.2, "length": 0.05, "attention": 0.3})
    assert not kept[:20].any() and not kept[95:].any()
    assert (scores["attention"][kept] >= 3).all() and kept.sum() == 75 - (scores["attention"][20:95] < 3).sum()
    assert list(steps["left"]) == [100, 80, 75, int(kept.sum())] and list(steps["dropped"])[1:3] == [20, 5]
    with pytest.raises(ValueError, match="drop: found 2, expected a share"):
        funnel(scores, {"clip": 2})


class Photo:
    """A customer's photo as far as phrases need it."""

    def __init__(self, text, phrases):
        self.feedback = Feedback("F1", "P1", text, ("a.jpg",), {"phrases": phrases})
        self.product, self.path, self.split = type("Product", (), {"product_id": "P1"}), "/a.jpg", "test"

    @property
    def facts(self):
        return self.feedback.facts


def test_phrases_keep_their_places_in_the_text():
    said = [{"text": "red", "visible": True, "about": "colour"}, {"text": "red tin", "visible": False, "about": "name"}]
    records, phrases = phrase_records([Photo("a red, red tin!", said), Photo("nothing", [])], source="mart")
    assert len(records) == 1 and records[0]["answer"] == "a red, red tin!"
    assert [(p.span, p.visible) for p in phrases] == [((2, 5), True), ((7, 14), False)]
    assert all(records[p.record]["answer"][slice(*p.span)] == p.text for p in phrases)
    photo = Photo("blue", said)
    photo.feedback = replace(photo.feedback, text="blue")
    with pytest.raises(ValueError, match="feedback F1: phrases: found 'red', expected a part of the text"):
        phrase_records([photo], source="mart")


def test_the_figure_shows_every_word(photo_folder, records):
    found = AnswerAttention(
        ["a", " red", " tin"], [(0, 1), (1, 5), (5, 9)], np.ones((2, 3, 1)), (4,), ((2, 2),), np.ones((3, 4))
    )
    figure = grounding_figure([([photo_folder / records[0]["images"][0]], "a red tin", found)], title="Words")
    assert [t.get_text() for t in figure.axes[1].texts] == ["a", "red", "tin"] and len(figure.axes[0].images) == 2


def test_without_texts_half_of_the_attributes_are_stated_wrongly():
    def shot(colour, brand):
        photo = Photo("", [])
        photo.seen = {"colour": colour, "brand": brand}
        return photo

    shots = [shot(c, b) for c in ("red", "blue") for b in ("LOZ", "ZEV", "LOZ")] * 20
    records, phrases = swapped_records(shots, source="real", seed=0)
    assert len(records) == len(shots) and len(phrases) == 2 * len(shots)
    assert 0.4 < sum(p.visible for p in phrases) / len(phrases) < 0.6
    for phrase in phrases:
        text, seen = records[phrase.record]["answer"], shots[phrase.record].seen
        assert text[slice(*phrase.span)] == phrase.text
        assert phrase.text.endswith(seen[phrase.about]) == phrase.visible
    assert swapped_records(shots[:1], source="real") == ([], [])  # one photo: nothing to swap with


def test_the_pilot_keeps_the_first_phrases_and_their_records():
    said = [{"text": "red", "visible": True, "about": "colour"}, {"text": "tin", "visible": False, "about": "name"}]
    photos = [Photo("a red tin", said), Photo("red, no tin", said), Photo("red tin", said)]
    records, phrases = pilot_phrases(photos, source="mart", n=3)
    assert [p.record for p in phrases] == [0, 0, 1] and [r["answer"] for r in records] == ["a red tin", "red, no tin"]
    assert pilot_phrases(photos, source="mart", n=0) == ([], [])
    silent = [Photo("", []), Photo("", [])]
    for photo, colour in zip(silent, ("red", "blue"), strict=True):
        photo.seen = {"colour": colour}
    assert pilot_phrases(silent, source="real", n=9, seed=3) == swapped_records(silent, source="real", seed=3)
