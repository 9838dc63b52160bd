"""The examples of docs/catalogue.md load as the page says."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtive_nb.data.catalogue import Catalogue, load_catalogue
from mtive_nb.data.door.tables import find_table
from mtive_nb.data.rows import DATE_FIELDS, FACT_TYPES, FEEDBACK_FIELDS, PRODUCT_FIELDS
from mtive_nb.report.executed import with_runs

PAGE = (Path(__file__).parents[1] / "docs/catalogue.md").read_text(encoding="utf-8")
PAGES = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))
BLOCKS = {name: text for _, name, text in re.findall(r"^```(\w+) (\S+)\n(.*?)^```$", PAGE, re.M | re.S)}


def load(folder: Path, *names: str) -> Catalogue:
    for name in names:
        (folder / name).write_text(BLOCKS[name], encoding="utf-8")
    (folder / "images").mkdir()
    for k, image in enumerate(sorted(set(re.findall(r"images/([\w.-]+)", "".join(BLOCKS[name] for name in names))))):
        pixels = np.random.default_rng(k).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((60, 60), Image.Resampling.NEAREST).save(folder / "images" / image)
    return load_catalogue(folder)


def test_the_page_s_json_lines_load_whole(tmp_path: Path) -> None:
    shop = load(tmp_path, "products.jsonl", "feedback.jsonl", "splits.json")
    assert shop.quarantine == shop.warnings == []
    assert [len(row.images) for row in (*shop.products, *shop.feedback)] == [1, 2, 1, 1, 1, 1]
    assert shop.splits["P1"] == "train" and shop.splits["F3"] == "test"


def test_the_page_s_csv_gives_the_same_shop(tmp_path: Path) -> None:
    shop = load(tmp_path, "products.csv", "feedback.csv", "columns.yaml")
    assert shop.quarantine == [] and [row.field for row in shop.warnings] == ["stock"]
    assert shop.products[1].title == "Lumi soap\nfor hands" and len(shop.products[1].images) == 2
    assert shop.products[0].attributes == {"brand": "Zevo", "colour": "blue", "category": "shampoo"}
    assert [row.facts for row in shop.feedback] == [
        {"damaged": True, "damage": "crack"},
        {"damaged": False},
        {"dates": {"expiry": "2027-03-31"}},
    ]


def test_json_lines_go_before_csv_and_say_so(tmp_path: Path) -> None:
    shop = load(tmp_path, "products.csv", "products.jsonl", "feedback.jsonl")
    assert find_table(tmp_path, "products").name == "products.jsonl"
    assert [(row.file, row.reason.split(":")[0]) for row in shop.warnings] == [("products.csv", "not read")]


@pytest.mark.parametrize("name", [*PRODUCT_FIELDS, *FEEDBACK_FIELDS, *FACT_TYPES, *DATE_FIELDS])
def test_every_field_and_fact_stands_on_the_page(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_the_command_is_the_page_s(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from mtive_nb.__main__ import main

    load(tmp_path, "products.jsonl", "feedback.jsonl")
    assert main(["check", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "2 of 2 products and 4 of 4 messages" in said and "Left out" not in said
    shutil.rmtree(tmp_path / "images")
    assert main(["check", str(tmp_path), "--json"]) == 2


def test_the_list_of_chapters_has_the_times_of_the_committed_results() -> None:
    page = (PAGES[0].parent / "chapters.md").read_text(encoding="utf-8")
    assert page == with_runs(page, PAGES[0].parents[1] / "outputs/reference/pocket")
    rows = re.findall(r"^\| \[(\d\d)_.*\|$", page, re.M)
    notebooks = sorted((PAGES[0].parents[1] / "notebooks").glob("*.ipynb"))
    assert rows == [path.name[:2] for path in notebooks]
    assert re.search(
        r"^\| \[07_evaluation\].* \| \d+\.\d \| CPU, .* \| \[executed\]\(.*07_evaluation.ipynb\) \|$", page, re.M
    )


def test_every_command_of_the_pages_exists() -> None:
    from mtive_nb.__main__ import parser

    (known,) = (action.choices for action in parser()._actions if action.choices)
    pages = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    assert set(re.findall(r"`(?:python -m mtive_nb|mtive-nb) ([a-z]+)", pages)) <= set(known)


def test_every_link_of_the_pages_arrives() -> None:
    for path in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists(), f"{path.name}: {link}"
