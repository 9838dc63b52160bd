"""Records: what is written comes back, what is wrong is named by file, line and field."""

import json
import shutil

import pytest
from PIL import Image

from mtive_nb.data.records import (
    RecordError,
    load_records,
    make_record,
    question_of,
    user_turn,
    write_records,
)


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "run" / "images").mkdir(parents=True)
    photos = [tmp_path / "run" / "images" / f"{name}.png" for name in "ab"]
    for photo in photos:
        Image.new("RGB", (20, 20)).save(photo)
    common = {"product_id": "P1", "source": "test", "split": "train"}
    facts = {"asked": {"match": "yes"}, "known": {"colour": "blue"}}
    return [
        make_record(
            "1", task="PM", variant="bin", images=photos, question="Same?", answer="yes", facts=facts, **common
        ),
        make_record(
            "2", task="AE", variant="aug", images=photos[:1], question="Colour\u2028?", answer="blue", **common
        ),
    ]


def test_what_is_written_comes_back_and_moves_with_its_folder(rows, tmp_path):
    path = write_records(rows, tmp_path / "run" / "records.jsonl")
    assert load_records(path) == rows
    stored = [json.loads(line)["images"] for line in path.open(encoding="utf-8")]
    assert stored[0] == ["images/a.png", "images/b.png"]
    moved = (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert [record["answer"] for record in load_records(moved / "records.jsonl")] == ["yes", "blue"]


def test_photos_of_another_run_folder_move_with_the_outputs_and_others_stay_where_they_are(rows, tmp_path):
    project = tmp_path / "project"
    (project / "notebooks").mkdir(parents=True)
    (home := project / "outputs" / "mine" / "01_catalogue" / "images").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        shutil.copy(tmp_path / "run" / "images" / name, home / name)
    within = rows[0] | {"images": [str(home / "a.png"), str(home / "b.png")]}
    path = write_records([within, rows[1]], project / "outputs" / "mine" / "02_data" / "records" / "all.jsonl")
    shutil.copytree(project / "outputs", tmp_path / "copy" / "outputs")
    shutil.rmtree(project)
    copied = tmp_path / "copy" / path.relative_to(project)
    images = [image for record in load_records(copied) for image in record["images"]]
    elsewhere = tmp_path / "copy" / "outputs" / "mine" / "01_catalogue" / "images"
    assert images == [str(elsewhere / "a.png"), str(elsewhere / "b.png"), rows[1]["images"][0]]


def test_two_images_are_announced_in_order_and_one_is_not(rows):
    parts = rows[0]["messages"][0]["content"]
    assert [part.get("text", "<image>") for part in parts] == ["Image 1:", "<image>", "Image 2:", "<image>", "Same?"]
    assert [part["type"] for part in rows[1]["messages"][0]["content"]] == ["image", "text"]
    assert question_of(rows[0]) == "Same?"
    assert user_turn("", images=1)["content"] == [{"type": "image"}]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task", "XX"),
        ("split", "dev"),
        ("images", ["a.png"]),
        ("answer", "no"),
        ("facts", {"asked": {}}),
        ("messages", []),
        ("colour", "blue"),
        ("label", 3),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_written(rows, tmp_path, field, value):
    rows[0] = rows[0] | {field: value}
    with pytest.raises(RecordError, match=rf"line 1, field '{field}': found .* expected"):
        write_records(rows, tmp_path / "bad.jsonl")
    assert not list(tmp_path.glob("bad.jsonl*"))


def test_missing_fields_duplicate_ids_broken_lines_and_missing_photos_are_named(rows, tmp_path):
    path = tmp_path / "run" / "records.jsonl"
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_records(path)
    with pytest.raises(RecordError, match="line 3, field 'id': found 1, expected an id of its own; line 1"):
        write_records([*rows, rows[0]], path)
    del rows[1]["source"]
    with pytest.raises(RecordError, match="line 2, field 'source'"):
        write_records(rows, path)
    write_records(rows[:1], path)
    path.write_text(path.read_text() + "{oops\n")
    with pytest.raises(RecordError, match="line 2: not a line of JSON"):
        load_records(path)
    write_records(rows[:1], path)
    (tmp_path / "run" / "images" / "b.png").unlink()
    with pytest.raises(RecordError, match=r"line 1, field 'images': found .*b\.png"):
        load_records(path)
