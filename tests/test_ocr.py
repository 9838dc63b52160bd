"""Print beside photos: the real engine on drawn print, its cache, and what goes into the prompt."""

import numpy as np
import pytest
from conftest import make_record
from PIL import Image

from mtive_nb.data.ocr import Line, RapidOcr, expiry_of_print, load_lines, read_photos, with_print, write_lines
from mtive_nb.pocket.scenes import draw_string

BOX = (0.0, 0.0, 1.0, 1.0)


class Counting:
    """An engine that tells how often it was asked."""

    name = "counting"

    def __init__(self):
        self.asked = 0

    def read(self, image):
        self.asked += 1
        return [Line(f"{image.width} px", 1.0, BOX)]


def test_the_embedded_engine_reads_print_and_nothing_where_there_is_none():
    engine = RapidOcr(threads=1)
    assert engine.name == "rapidocr" != RapidOcr(side_px=448, turned=False, threads=1).name  # each its own cache
    canvas = Image.new("RGB", (560, 240), "white")
    for text, y in (("EXP 12/2026", 35), ("LOT 4711", 85)):
        draw_string(
            canvas,
            text,
            (140, y),
            height_px=18,
            ink=(0, 0, 0),
            rng=np.random.default_rng(0),
            font=0,
            angle=0.0,
            style="ink",
        )
    lines = engine.read(canvas)
    assert [line.text.replace(" ", "") for line in lines] == ["EXP12/2026", "LOT4711"]
    first, second = lines
    assert first.box[1] < 70 < first.box[3] < second.box[3] and 0.5 < first.score <= 1
    assert expiry_of_print(lines).replace(" ", "") == "12/2026"
    assert engine.read(Image.new("RGB", (120, 120), "white")) == []


def test_a_photo_is_read_once(photo_folder, tmp_path):
    engine, paths = Counting(), [photo_folder / f"{k}.png" for k in (0, 1, 0)]
    first = read_photos(engine, paths, cache=tmp_path)
    assert engine.asked == 2 and first[str(paths[1])] == [Line("84 px", 1.0, BOX)]
    assert read_photos(engine, paths, cache=tmp_path) == first and engine.asked == 2


def test_a_photo_replaced_under_its_name_is_read_anew(tmp_path):
    engine, photo, found = Counting(), tmp_path / "photo.png", []
    for width in (40, 60, 40):
        Image.new("RGB", (width, 30)).save(photo)
        found.append(read_photos(engine, [photo], cache=tmp_path / "cache")[str(photo)][0].text)
    assert found == ["40 px", "60 px", "40 px"] and engine.asked == 2


def test_lines_are_kept_and_their_photos_move_with_the_run(tmp_path):
    box = (1.0, 2.0, 3.0, 4.0)
    inside, outside = tmp_path / "run" / "views" / "a.jpg", tmp_path / "shop" / "b.jpg"
    lines = {str(inside): [Line("ONE\u2028TWO", 0.5, box), Line("3", 1.0, box)], str(outside): []}
    written = write_lines(lines, tmp_path / "run" / "records" / "print.jsonl")
    assert load_lines(written) == lines
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = load_lines(tmp_path / "moved" / "records" / "print.jsonl")
    assert moved == {str(tmp_path / "moved" / "views" / "a.jpg"): lines[str(inside)], str(outside): []}


def test_print_stands_before_the_question(photo_folder):
    lines = {
        str(photo_folder / "0.png"): [Line("EXP 1", 1.0, BOX), Line("LOT", 1.0, BOX)],
        str(photo_folder / "1.png"): [],
    }
    one, two, none = (make_record(k, images=n, folder=photo_folder) for k, n in ((0, 1), (0, 2), (1, 1)))
    found = with_print([one, two, none], lines)
    asked = [r["messages"][0]["content"][-1]["text"] for r in found]
    assert asked[0] == "Printed: EXP 1 | LOT. Is it red?"
    assert asked[1] == "Printed: image 1: EXP 1 | LOT; image 2: . Is it red?"
    assert asked[2] == "Printed: nothing. Is it red?"
    assert one["messages"][0]["content"][-1]["text"] == "Is it red?" and found[0]["answer"] == "yes"
    announced = [{"type": "text", "text": "Image 1:"}, *one["messages"][0]["content"]]
    first = one | {"messages": [{"role": "user", "content": announced}, one["messages"][1]]}
    parts = with_print([first], lines)[0]["messages"][0]["content"]
    assert parts[0]["text"] == "Image 1:" and parts[-1]["text"] == asked[0]  # print stands before the question
    short = with_print([one], lines, most_characters=3)
    assert short[0]["messages"][0]["content"][-1]["text"] == "Printed: EXP. Is it red?"


@pytest.mark.parametrize(
    ("texts", "expiry"),
    [
        (["MFG 01/02/2024", "BEST BY FEB/21/26"], "FEB/21/26"),
        (["L 173", "RS 300.00"], "Unanswerable"),
        ([], "Unanswerable"),
    ],
)
def test_the_latest_date_is_the_expiry(texts, expiry):
    assert expiry_of_print([Line(text, 1.0, BOX) for text in texts]) == expiry
