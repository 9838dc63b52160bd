"""The demo of the experts: what a person at the page sees, with ways whose answers are known."""

import base64
import io
import re
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mtive_nb.data.records import question_of
from mtive_nb.evaluate.grounding.attention import AnswerAttention
from mtive_nb.model.batches import cached_image
from mtive_nb.serve.answer import QUESTIONS, Answer, Experts
from mtive_nb.serve.questions import read_questions
from mtive_nb.serve.score import COLUMNS
from mtive_nb.show.demo import ExpertDemo
from mtive_nb.show.live import record_of


class Slow:
    """An answer in pieces that comes when it is let, and can be cancelled."""

    def __init__(self):
        self.go, self.cancelled, self.outcome, self.expert = threading.Event(), False, None, "DD@2"

    def __iter__(self):
        yield "first "
        self.go.wait(10)
        if not self.cancelled:
            yield "second"

    def cancel(self):
        self.cancelled = True
        self.go.set()


class Pool:
    """Takes experts in and out as serve/pool.py does, without weights."""

    def __init__(self):
        self.experts = {"DD": 1}

    def add(self, name, folder):
        if name in self.experts:
            raise KeyError(f"expert {name!r} is in service already; update it")
        self.experts[name] = 1

    def update(self, name, folder):
        self.experts[name] += 1

    def remove(self, name):
        del self.experts[name]

    def state(self):
        return [{"expert": name, "version": n} for name, n in self.experts.items()]


@pytest.fixture
def page(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    (tmp_path / "text.png").write_text("no photo")
    red = str(tmp_path / "a.png")
    samples = [record_of("Is it red?", [red]), record_of("Are they alike?", [red, red])]
    slow, pool = Slow(), Pool()

    def broken(record):
        raise RuntimeError("no <weights>")

    ways = {"trunk": lambda record: [question_of(record), "!"], "DD": lambda record: slow, "broken": broken}
    made = ExpertDemo(lambda: ways | {n: ways["DD"] for n in pool.experts}, samples,
                      uploads=tmp_path / "uploads", pool=pool)  # fmt: skip
    return SimpleNamespace(demo=made, slow=slow, pool=pool, folder=tmp_path, samples=samples)


def sent(name, content):
    """An uploaded file as ipywidgets passes it on."""
    return {"name": name, "type": "image/png", "size": 1, "content": content, "last_modified": datetime.now(UTC)}


def until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    assert true()


def test_answers_come_side_by_side_piece_by_piece_and_an_error_in_words(page):
    demo = page.demo
    demo.ask.click()
    until(lambda: "first" in demo.said.value and "Is it red?!" in demo.said.value)
    assert demo.ask.disabled and not demo.cancel.disabled and "DD@2" in demo.said.value and "answers" in demo.said.value
    assert "RuntimeError: no &lt;weights&gt;" in demo.said.value
    page.slow.go.set()
    demo.wait()
    assert "first second" in demo.said.value and not demo.ask.disabled and demo.cancel.disabled
    assert "first second" in demo.still().data


def test_cancel_ends_what_still_answers_and_keeps_what_was_said(page):
    page.demo.ask.click()
    until(lambda: "first" in page.demo.said.value)
    page.demo.cancel.click()
    page.demo.wait()
    assert page.slow.cancelled and "cancelled" in page.demo.said.value and "second" not in page.demo.said.value


def test_answers_about_other_photos_go_and_running_ones_are_cancelled(page):
    demo = page.demo
    demo.ask.click()
    until(lambda: "first" in demo.said.value)
    running = list(demo.answers)
    demo.sample.value = 1
    assert demo.said.value == "" and not demo.ask.disabled
    for answer in running:
        answer.thread.join()
    assert page.slow.cancelled and demo.said.value == ""


def test_photos_come_from_samples_uploads_and_paths(page):
    demo = page.demo
    assert demo.question.value == "Is it red?" and demo.photos.value.count("<img") == 1
    demo.sample.value = 1
    assert demo.photos.value.count("<img") == 2 and len(demo.images) == 2
    demo.path.value = str(page.folder / "a.png")
    assert demo.images == [str(page.folder / "a.png")]
    content = (page.folder / "a.png").read_bytes()
    demo.upload.value = (sent("../../mine.png", content),)
    (image,) = map(Path, demo.images)
    assert image.name == "mine.png" and image.is_relative_to(page.folder / "uploads") and image.read_bytes() == content


def test_uploads_of_one_name_are_photos_of_their_own(page):
    seen, ways = [], {"model": lambda record: [seen.append(cached_image(record["images"][0], 40).getpixel((5, 5)))] * 0}
    demo = ExpertDemo(lambda: ways, [], uploads=page.folder / "uploads")
    files = {}
    for colour in ("red", "blue", "lime"):
        packed = io.BytesIO()
        Image.new("RGB", (40, 30), colour).save(packed, "PNG")
        files[colour] = sent("image.jpg", packed.getvalue())
    demo.question.value = "Colour?"
    for colour in ("red", "blue"):
        demo.upload.value = (files[colour],)
        demo.ask.click()
        demo.wait()
    assert seen == [(255, 0, 0), (0, 0, 255)] and demo.photos.value.count("image.jpg") == 1
    demo.upload.value = (files["lime"], files["red"])
    assert [Image.open(image).getpixel((5, 5)) for image in demo.images] == [(0, 255, 0), (255, 0, 0)]
    demo.upload.value = (sent("x" * 5000 + ".png", files["blue"]["content"]),)
    assert not demo.photo_error.value and Image.open(demo.images[0]).getpixel((5, 5)) == (0, 0, 255)


def test_the_path_field_opens_named_folders_alone(page, tmp_path_factory):
    away = tmp_path_factory.mktemp("away")
    Image.new("RGB", (40, 30), "blue").save(away / "b.png")
    (page.folder / "link.png").symlink_to(away / "b.png")
    before = page.demo.images
    for path in (away / "b.png", away / "gone.png", page.folder / "link.png", page.folder / ".." / away.name / "b.png"):
        page.demo.path.value = str(path)
        assert "not in one of the folders" in page.demo.photo_error.value and page.demo.images == before, path
    wider = ExpertDemo(dict, page.samples, uploads=page.folder / "uploads", folders=[away])
    wider.path.value = str(away / "b.png")
    assert wider.images == [str(away / "b.png")]


def test_uploads_belong_to_their_page(page):
    content = (page.folder / "a.png").read_bytes()
    other = ExpertDemo(dict, page.samples, uploads=page.folder / "uploads")
    for demo in (page.demo, other):
        demo.upload.value = (sent("mine.png", content),)
    mine, theirs = Path(page.demo.images[0]), Path(other.images[0])
    own = page.folder / "uploads" / mine.relative_to(page.folder / "uploads").parts[0]
    assert mine != theirs and not theirs.is_relative_to(own) and own.stat().st_mode & 0o077 == 0
    before, other.path.value = other.images, str(mine)
    assert "not in one of the folders" in other.photo_error.value and other.images == before


@pytest.mark.parametrize(
    ("name", "message"), [("text.png", "text.png: not an image"), ("gone.png", "gone.png: no such file")]
)
def test_what_is_no_photo_is_named_and_the_last_one_stays(page, name, message):
    before = page.demo.images
    page.demo.path.value = str(page.folder / name)
    assert message in page.demo.photo_error.value and not page.demo.error.value and page.demo.images == before


def test_one_who_is_not_ticked_is_not_asked_and_stays_unticked_when_others_come(page):
    demo = page.demo
    demo.who.children[1].value = False
    assert demo.who.options == ("trunk", "DD", "broken") and demo.who.value == ("trunk", "broken")
    page.pool.add("EX", page.folder)
    demo._show_all()
    assert demo.who.options == ("trunk", "DD", "broken", "EX") and demo.who.value == ("trunk", "broken")
    demo.ask.click()
    demo.wait()
    assert [answer.name for answer in demo.answers] == ["trunk", "broken"]


def test_nobody_asked_and_nothing_asked_is_said(page):
    page.demo.who.value = ()
    page.demo.ask.click()
    assert "nobody chosen" in page.demo.error.value and not page.demo.ask.disabled
    page.demo.who.value, page.demo.question.value = ("trunk",), "  "
    page.demo.ask.click()
    assert "question: found none" in page.demo.error.value and not page.demo.answers


def test_experts_come_and_go_while_others_answer(page):
    demo = page.demo
    demo.ask.click()
    until(lambda: "first" in demo.said.value)
    demo.expert.value, demo.folder.value = "EX", str(page.folder)
    demo.changes["Add"].click()
    until(lambda: "EX" in demo.who.options and "EX" in demo.state.value)
    assert "answers" in demo.said.value
    demo.changes["Add"].click()
    until(lambda: "in service already" in demo.pool_error.value)
    demo.changes["Remove"].click()
    until(lambda: "EX" not in demo.who.options)
    demo.folder.value = str(page.folder / "nowhere")
    demo.changes["Update"].click()
    until(lambda: "nowhere" in demo.pool_error.value)
    assert not demo.error.value and not demo.photo_error.value
    demo.cancel.click()
    demo.wait()


def test_where_the_words_looked_is_shown_by_answer_and_an_error_is_said(page):
    demo, asked = page.demo, []
    assert demo.look not in demo.buttons.children  # nobody to ask

    def look(record, name):
        asked.append((record["answer"], record["messages"][-1]["content"], name))
        shape = {"image_tokens": (4,), "grids": ((2, 2),), "maps": np.ones((2, 4))}
        return AnswerAttention(["Is it", " red?!"], [(0, 5), (5, 11)], np.ones((3, 2, 1)), **shape)

    demo = ExpertDemo(lambda: {"trunk": lambda record: [question_of(record), "!"], "mute": lambda record: []},
                      page.samples, uploads=page.folder, look=look)  # fmt: skip
    assert demo.look in demo.buttons.children and demo.look.disabled
    demo.ask.click()
    demo.wait()
    until(lambda: not demo.look.disabled)
    demo.look.click()
    demo.wait()
    (only,) = asked  # the mute one has no words
    assert only[0] == "Is it red?!" and "Is it red?!" in str(only[1]) and only[2] == "trunk"
    assert "data:image/png" in demo.looked.value and "data:image/png" in demo.still().data
    demo._look_at = lambda record, name: 1 / 0
    demo.look.click()
    demo.wait()
    assert "ZeroDivisionError" in demo.error.value and not demo.looked.value
    demo.ask.click()
    demo.wait()
    assert not demo.looked.value and not demo.error.value


def test_what_is_asked_is_closed_when_it_is_cancelled(page):
    closed, go = threading.Event(), threading.Event()

    def pieces(record):
        try:
            yield "first"
            go.wait(10)
            yield "second"
        finally:
            closed.set()

    demo = ExpertDemo(lambda: {"server": pieces}, page.samples, uploads=page.folder)
    demo.ask.click()
    until(lambda: "first" in demo.said.value)
    demo.cancel.click()
    go.set()
    demo.wait()
    assert closed.is_set() and demo.answers[0].state == "cancelled"


def test_each_answer_to_a_sample_is_marked_and_one_to_a_question_of_ones_own_is_not(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    sample = record_of("Which colour?", [str(tmp_path / "a.png")]) | {"answer": "<Red>"}
    demo = ExpertDemo(lambda: {"one": lambda _: ["<red", ">"], "other": lambda _: ["blue"]}, [sample], uploads=tmp_path)
    demo.ask.click()
    demo.wait()
    assert "<th>truth</th><td>&lt;Red&gt;</td>" in demo.said.value
    assert demo.said.value.count("✔ right") == demo.said.value.count("✘ not the truth") == 1
    demo.question.value = "Which shape?"
    demo.ask.click()
    demo.wait()
    assert "truth" not in demo.said.value
    facts = sample | {"answer": '{"brand": "UNTAL", "colour": "red"}'}
    demo = ExpertDemo(lambda: {"one": lambda _: ['{"brand": "UNTAL", "colour": "blue"}']}, [facts], uploads=tmp_path)
    demo.ask.click()
    demo.wait()
    assert "1 of 2 facts right" in demo.said.value


def test_a_sample_is_a_button_with_its_photo_and_name(page):
    gone = record_of("Gone?", [str(page.folder / "gone.png")]) | {"task": "DD", "product_id": "P1"}
    demo = ExpertDemo(dict, [*page.samples, gone], uploads=page.folder / "uploads")
    assert [button.description for button in demo.sample.buttons] == ["own demo", "own demo", "DD P1"]
    assert demo.sample.children[0].value.count("url(data:image/jpeg") == 2, "a missing photo has no picture"
    demo.sample.buttons[1].click()
    assert len(demo.images) == 2 and [b.button_style for b in demo.sample.buttons] == ["", "info", ""]
    demo.path.value = str(page.folder / "a.png")
    assert len(demo.images) == 1 and demo.sample.value is None and not demo.sample.buttons[1].button_style
    demo.question.value = "Another?"
    for _ in range(2):
        demo.sample.buttons[1].click()
        assert len(demo.images) == 2 and demo.question.value == "Are they alike?"
    demo.sample.buttons[2].click()
    assert "gone.png: no such file" in demo.photo_error.value and len(demo.images) == 2


class Redness(Experts):
    """Experts that are sure of red photos, and less so of others."""

    name, tasks = "red", ["DD", "PM", "AE", "unknown"]

    def expert_of(self, task):
        return f"{task}@1 abc"

    def calibrated(self, task):
        return True

    def answers(self, records, *, max_new_tokens=64):
        made = []
        for record in records:
            red, calm = record["pixels"][0].getpixel((5, 5))[0] > 200, record["task"] == "DD"
            chance = (0.97 if red else 0.2, "yes", True) if calm else (None, "", False)
            made.append(Answer("yes" if red else "no", *chance, self.expert_of(record["task"]), 1.0))
        return made


def test_photos_are_scored_into_a_table_to_download(page):
    for colour in ("red", "blue"):
        Image.new("RGB", (40, 30), colour).save(page.folder / f"{colour}.png")
    names = dict.fromkeys(["trunk", *Redness.tasks], lambda record: [])
    demo = ExpertDemo(lambda: names, [], uploads=page.folder / "uploads", experts=Redness())
    demo.score.click()
    demo.wait()
    assert "found 0 photos and 2 selected experts" in demo.error.value and not demo.score.disabled
    demo.upload.value = tuple(sent(f"{c}.png", (page.folder / f"{c}.png").read_bytes()) for c in ("red", "blue"))
    demo.who.value = (
        "trunk",
        "DD",
        "PM",
        "unknown",
    )  # a pair of photos, and an expert without a question, are left out
    demo.score.click()
    demo.wait()
    shown = demo.scored.value
    assert "<td>yes 0.97</td>" in shown and "<td>yes 0.20, ask a person</td>" in shown and shown.count("<img") == 2
    table = page.folder / "answers.csv"
    table.write_bytes(base64.b64decode(re.search("base64,([^']+)'>Download", shown)[1]))
    rows = pd.read_csv(table, keep_default_na=False)
    assert list(rows.columns) == list(COLUMNS) and list(rows["answer"]) == ["yes", "no"]
    assert set(rows["task"]) == {"DD"} and set(rows["question"]) == {QUESTIONS["DD"]} and not any(rows["error"])
    assert all(question.photos[0].is_file() for question in read_questions(table)), "beside the user's own photos"
    demo.threshold.value = 0.75
    assert "ask a person" not in demo.scored.value and "<td>yes 0.20</td>" in demo.scored.value


def test_the_question_of_a_task_is_chosen_and_an_answer_shows_its_probability(page):
    class Unsure(list):
        chance = (0.3, "yes", False)

    demo = ExpertDemo(lambda: {"DD": lambda _: Unsure(["no"])}, page.samples, uploads=page.folder, experts=Redness())
    offered = dict(demo.by_task.options)
    assert offered[f"PM: {QUESTIONS['PM']}"] == QUESTIONS["PM"] and offered["own: Is it red?"] == "Is it red?"
    demo.by_task.value = QUESTIONS["DD"]
    assert demo.question.value == QUESTIONS["DD"] and not demo.by_task.value, "the next choice counts, too"
    demo.ask.click()
    demo.wait()
    assert "yes 0.30, not calibrated, ask a person" in demo.said.value
    demo.threshold.value = 0.7
    assert "yes 0.30, not calibrated</i>" in demo.said.value
