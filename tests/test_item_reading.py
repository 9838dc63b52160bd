"""Many items are read by several processes, and what is read is kept."""

from pathlib import Path

import pytest
from PIL import Image

from mtive_nb.data.items import reading
from mtive_nb.data.items.items import Item, Region
from mtive_nb.data.items.reading import read_items, seconds_of
from mtive_nb.data.ocr import Line

pytest.importorskip("zxingcpp")


class Engine:
    """Reads the size of an image; `asked` counts."""

    name = "sizes"

    def __init__(self) -> None:
        self.asked = 0

    def read(self, image: Image.Image) -> list[Line]:
        self.asked += 1
        return [Line(f"{image.width} x {image.height}", 0.9, (0.0, 0.0, 9.0, 9.0))]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    found = Engine()
    monkeypatch.setattr(reading, "_engine", lambda side_px: found)
    return found


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    for name, size in (("a", (64, 48)), ("b", (90, 60)), ("c", (56, 56))):
        Image.new("RGB", size, "white").save(tmp_path / f"{name}.png")
    a, b, c = (str(tmp_path / f"{name}.png") for name in "abc")
    return [Item("one", (a, b), {}, (Region(1, "p", "v", (0, 0, 30, 30)),)), Item("two", (c,), {})]


def test_an_interrupted_reading_goes_on(engine: Engine, items: list[Item], tmp_path: Path) -> None:
    (first,) = read_items(items[:1], kept=tmp_path / "kept")
    assert [one.lines[0].text for one in first] == ["64 x 48", "90 x 60"] and engine.asked == 2
    both = read_items(items, kept=tmp_path / "kept")
    assert both[0] == first and engine.asked == 3  # only the second item is read
    assert both[0][0].seconds == first[0].seconds > 0
    assert seconds_of(both) == pytest.approx(sum(one.seconds for of in both for one in of) / 2) and seconds_of([]) == 0


def test_other_photos_arms_budgets_and_sides_are_read_anew(engine: Engine, items: list[Item], tmp_path: Path) -> None:
    read_items(items, kept=tmp_path / "kept")
    (squares,) = read_items(items[:1], kept=tmp_path / "kept", arm="squares", budget_tok=18)
    assert len(squares) == 2 and engine.asked == 5  # the main photo, a square around the region
    read_items(items[:1], kept=tmp_path / "kept", arm="squares", budget_tok=40)
    assert engine.asked == 7
    read_items(items[1:], kept=tmp_path / "kept", side_px=320)
    assert engine.asked == 8
    Image.new("RGB", (100, 100)).save(items[1].photos[0])
    assert read_items(items[1:], kept=tmp_path / "kept")[0][0].lines[0].text == "100 x 100"


def test_processes_read_what_one_reads(items: list[Item], tmp_path: Path) -> None:
    pytest.importorskip("rapidocr")
    one = read_items(items, kept=tmp_path / "one")
    assert read_items(items, kept=tmp_path / "two", processes=2, what="items") == one
