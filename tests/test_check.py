"""`mtive-nb check FOLDER`: counts, reasons with their places, what goes along, exit status, the CSV, speed, no model."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtive_nb.__main__ import main
from mtive_nb.data.catalogue import load_catalogue
from mtive_nb.data.emdiv.build import build_emdiv


@pytest.fixture
def shop(tmp_path, monkeypatch) -> Path:
    """A folder with 12 products and a damage fact for each of 24 photos; the working directory lies beside it."""
    root = tmp_path / "shop"
    (root / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    products, feedback = [], []
    for k in range(36):
        pixels = np.random.default_rng(k).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 40), Image.Resampling.NEAREST).save(root / f"images/{k}.jpg")
    for k in range(12):
        row = {"product_id": f"P{k}", "title": f"Zevo soap {k}", "category": "soap", "images": f"images/{k}.jpg"}
        products.append(row | {"attributes": {"brand": "Zevo", "colour": ("red", "blue")[k % 2]}})
    for k in range(24):
        row = {"feedback_id": f"F{k}", "product_id": f"P{k % 12}", "images": [f"images/{12 + k}.jpg"]}
        feedback.append(row | {"facts": {"damaged": k >= 12}})
    write(root, products, feedback)
    return root


def write(root: Path, products: list[dict], feedback: list[dict]) -> None:
    for name, rows in (("products", products), ("feedback", feedback)):
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def rows_of(root: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (root / f"{name}.jsonl").read_text().splitlines()]


def test_a_clean_folder_is_told_with_its_questions(shop, capsys):
    assert main(["check", str(shop), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["products"], found["feedback"], found["photos"], found["quarantine"]) == (12, 24, 36, [])
    assert sum(rows for _, rows in found["splits"].values()) == 24
    catalogue = load_catalogue(shop)
    records = build_emdiv(catalogue).records
    asked = {row["task"]: row for row in found["questions"]}
    for task in asked:
        own = [record["split"] for record in records if record["task"] == task]
        assert [asked[task][split] for split in ("train", "val", "test")] == [
            own.count(s) for s in ("train", "val", "test")
        ]
    assert asked["DD"]["train"] > 0 and asked["PM"]["train"] > 0
    assert asked["EX"]["train"] == 0 and "facts name no dates" in asked["EX"]["note"]


def test_faults_are_told_with_their_place_and_what_goes_along(shop, capsys):
    products, feedback = rows_of(shop, "products"), rows_of(shop, "feedback")
    products[7]["title"] = ""
    products[3]["images"] = ["images/3.jpg", "images/none.jpg"]
    feedback[0]["facts"] = {"packaging": "botle"}
    feedback[1]["facts"] = {"damagd": True}
    feedback[2]["stock"] = 3
    write(shop, products, feedback)
    assert main(["check", str(shop)]) == 1
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert "11 of 12 products and 21 of 24 messages of customers are usable, with 32 photos" in lines[0]
    assert "  product P7 (line 8) is left out and takes 2 feedback row(s) with it" in lines
    assert "    line 8, P7: missing or empty; expected text" in lines or "line 8, P7" in said
    assert "line 1, F0: found botle" in said and "did you mean bottle?" in said
    assert "line 4, P3, images[1]: found images/none.jpg" in said
    assert "did you mean damaged?" in said and "stock" in said
    path = Path(lines[-1].rpartition(": ")[2])
    with path.open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert {(row["file"], row["line"], row["row"]) for row in table} == {
        ("products.jsonl", "8", "P7"),
        ("products.jsonl", "4", "P3"),
        ("feedback.jsonl", "1", "F0"),
        ("feedback.jsonl", "8", "F7"),
        ("feedback.jsonl", "20", "F19"),
    }


def test_many_faults_of_a_kind_are_counted_and_the_first_shown(shop, capsys):
    feedback = [row | {"facts": {"damaged": "perhaps"}} for row in rows_of(shop, "feedback")]
    write(shop, rows_of(shop, "products"), feedback)
    assert main(["check", str(shop)]) == 2
    said = capsys.readouterr().out
    assert "facts.damaged: expected true or false or null, found str (24 times)" in said
    assert said.count("found perhaps") == 3 and "and 21 more" in said


@pytest.mark.parametrize("missing", ["folder", "products", "feedback"])
def test_nothing_usable_is_status_2(shop, capsys, missing):
    if missing != "folder":
        (shop / f"{missing}.jsonl").unlink()
    assert main(["check", str(shop) if missing != "folder" else "nowhere"]) == 2
    said = capsys.readouterr().out
    assert {"folder": "no such folder", "products": "no products.jsonl", "feedback": "no customer feedback"}[
        missing
    ] in said


def test_texts_of_others_do_not_drive_the_terminal(shop, capsys):
    products = rows_of(shop, "products")
    products[0] |= {"title": "", "product_id": "\x1b[31mP\r\n"}
    write(shop, products, rows_of(shop, "feedback"))
    main(["check", str(shop)])
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\\x1b[31mP\\r\\n" in said


def test_it_needs_no_model_and_no_torch(shop):
    code = "import sys; from mtive_nb.__main__ import main; main(['check', sys.argv[1]]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(shop)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
