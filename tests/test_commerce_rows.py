"""MMECInstruct's and EcomMMMU's rows: read, written, read back equal; each fault with its reason; leaks."""

import csv
import dataclasses
import io
import json
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtive_nb.data.commerce.leaks import leaks
from mtive_nb.data.commerce.mmec import load_rows, write_rows
from mtive_nb.data.commerce.mmec_row import JSON_TEXTS, OWN_FIELDS
from mtive_nb.data.commerce.photo_store import PhotoStore
from mtive_nb.data.commerce.rows import COMMERCE_TASKS, ROW_SPLITS, CommerceRow, questions

URL = "https://m.media-amazon.com/images/I/{}"
SA_OPTIONS = ["A: very positive", "B: positive", "C: neutral", "D: negative", "E: very negative"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(9):
        save(folder / f"{k}.jpg", k)
    return folder


def save(path: Path, seed: int, *, side_px: int = 60) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((side_px, side_px), Image.Resampling.NEAREST).save(path)


def urls(*numbers: int) -> list[str]:
    return [URL.format(f"{k}.jpg") for k in numbers]


def mmec(task: str = "sentiment_analysis", **fields: object) -> dict:
    """A row as MMECInstruct has it: four of its fields are texts of JSON."""
    row = {"instruction": "Choose.", "input": {"review": "nice handles"}, "options": SA_OPTIONS, "output": "B"}
    row |= {"task": task, "split": "train", "images": urls(0), "caption_info": ["a kitchen"]} | fields
    texts = ("input", "options", "images", "caption_info")
    return row | {name: json.dumps(row[name]) for name in texts if not isinstance(row[name], str)}


def read(rows: list[dict] | str, photos: Path, *, file: str = "dataset.json", **options) -> tuple[list, list[dict]]:
    """The rows that are usable, and the lines of the quarantine."""
    path, quarantine = photos.parent / file, photos.parent / "quarantine.csv"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
    found = load_rows(path, photos=photos, quarantine=quarantine, **options)
    return found, list(csv.DictReader(quarantine.open(encoding="utf-8")))


SR_INPUT = ["1st: Hammer: the small one", "2nd: saw"]
EVERY_TASK = [
    mmec("answerability_prediction", input={"question": "How long?", "document": ["fine", "good"]}, options="", output="yes"),
    mmec("category_classification", input={"title": "Saw"}, options=["A: saws", "B: axes"], output="A: saws"),
    mmec("product_relation_prediction", input={"product 1": "saw", "product 2": "axe"}, options=["A: x", "B: y", "C: z"],
         images=urls(1, 2), caption_info=["a saw", "an axe"]),
    mmec("product_substitute_identification", input={"query": "saw", "title": "axe"}, options="", output="no", split="val"),
    mmec("multi-class_product_classification", input={"query": "saw"}, options=["A: x", "B: y", "C: z", "D: w"], split="IND"),
    mmec(),
    mmec("sequential_recommendation", input=SR_INPUT, options=["A: nail", "B: axe"], images=urls(1, 2, 3, 4), split="OOD",
         caption_info=list("abcd")),
]  # fmt: skip


def test_the_seven_tasks_are_read(photos: Path) -> None:
    rows, left_out = read(EVERY_TASK, photos)
    assert left_out == [] and [row.task for row in rows] == ["AP", "CC", "PRP", "PSI", "MPC", "SA", "SR"]
    assert [row.split for row in rows] == ["train", "train", "train", "val", "test", "train", "ood"]
    assert [row.output for row in rows] == ["yes", "A", "B", "no", "B", "B", "B"]
    assert rows[2].places == ("product 1", "product 2") and rows[2].captions == ("a saw", "an axe")
    assert rows[6].places == ("1st", "2nd", "A", "B") and rows[6].input == {"purchase history": SR_INPUT}
    assert rows[5].photos == (str((photos / "0.jpg").resolve()),) and rows[5].labels == tuple("ABCDE")
    assert rows[0].input["document"] == ["fine", "good"] and rows[0].options == ()


def test_lines_and_parsed_fields_are_read_as_the_array_is(photos: Path) -> None:
    parsed = [row | {k: json.loads(row[k]) for k in ("input", "images") if row[k]} for row in EVERY_TASK]
    lines = "\n".join(map(json.dumps, parsed))
    assert read(lines, photos)[0] == read(EVERY_TASK, photos)[0]


def test_rows_of_ecommmmu(photos: Path) -> None:
    several = {"options": "", "caption_info": "", "is_vc": True}
    rows, left_out = read(
        [
            mmec("binary_question_answering", input={"question": "?"}, images=[urls(*range(8))], output="cannot answer", **several),
            mmec("product_relation_prediction", input={"a": "x", "b": "y"}, images=[urls(0, 1, 2), urls(3)], **several),
            mmec("sequential_recommendation", input=SR_INPUT, images=[urls(0, 1), urls(2)], output="T", **several),
            mmec("CP", input={"title": "x"}, images=[urls(1, 2)], output="Yes", **several | {"is_vc": False}),
        ],
        photos,
    )  # fmt: skip
    assert left_out == [] and [len(row.photos) for row in rows] == [8, 4, 3, 2]
    assert [row.places for row in rows] == [(), ("a", "a", "a", "b"), ("1st", "1st", "2nd"), ()]
    assert [row.output for row in rows] == ["cannot answer", "B", "T", "yes"]
    assert [row.known for row in rows] == [{"is_vc": True}] * 3 + [{"is_vc": False}]
    again = load_rows(write_rows(rows, photos.parent / "b.json"), photos=photos, quarantine=photos.parent / "q.csv")
    assert [dataclasses.replace(row, row_id="") for row in again] == [
        dataclasses.replace(row, row_id="") for row in rows
    ]


@pytest.mark.parametrize("file", ["written.json", "written.jsonl"])
def test_what_is_written_is_read_back_equal(photos: Path, file: str) -> None:
    rows, _ = read(EVERY_TASK, photos)
    facts = ({"colour": "red"},)
    rows[5] = dataclasses.replace(rows[5], stratum="needed", known={"asked": ["colour"]}, facts=facts, product_id="P")
    path = write_rows(rows, photos.parent / file)
    assert load_rows(path, photos=photos, quarantine=photos.parent / "q.csv") == rows
    assert load_rows(path, quarantine=photos.parent / "q.csv") == rows  # photos below the file's folder
    stored = json.loads(path.read_text()) if file.endswith(".json") else list(map(json.loads, path.open()))
    theirs = ("instruction", "input", "options", "output", "task", "split", "images", "caption_info")
    assert all(isinstance(one[name], str) for one in stored for name in theirs)
    assert [json.loads(one["input"]) for one in stored] == [json.loads(one["input"]) for one in EVERY_TASK]
    assert (
        json.loads(stored[0]["images"]) == ["photos/0.jpg"] and stored[4]["task"] == "multiclass_product_classification"
    )


def test_rows_outlive_a_move_of_their_outputs_and_read_nothing_beyond(tmp_path: Path, photos: Path) -> None:
    home, where = tmp_path / "home", {"quarantine": tmp_path / "q.csv"}
    (home / "notebooks").mkdir(parents=True)
    run = home / "outputs" / "p" / ".15_caslie.partial"
    (run / "mart").mkdir(parents=True)
    for name, folder in (("a.jpg", run / "mart"), ("b.jpg", home / "outputs" / "p"), ("secret.jpg", home)):
        save(folder / name, 1)
    inside = (str(run / "mart" / "a.jpg"), str(home / "outputs" / "p" / "b.jpg"))
    rows = [dataclasses.replace(read(EVERY_TASK, photos)[0][5], photos=inside, captions=("", ""))]
    (run / "records").mkdir()
    write_rows(rows, run / "records" / "rows.jsonl")
    assert load_rows(run / "records" / "rows.jsonl", **where) == rows
    run.rename(run.with_name("15_caslie"))
    home.rename(tmp_path / "elsewhere")
    outputs = tmp_path / "elsewhere" / "outputs"
    file = outputs / "p" / "15_caslie" / "records" / "rows.jsonl"
    moved = (str(outputs / "p" / "15_caslie" / "mart" / "a.jpg"), str(outputs / "p" / "b.jpg"))
    assert [row.photos for row in load_rows(file, **where)] == [moved]
    file.write_text(json.dumps(mmec(images=["../../../../secret.jpg"])))
    with pytest.raises(ValueError, match="no usable row.*no files of records have the name secret.jpg"):
        load_rows(file, **where)


FAULTS = [
    (mmec(images=""), "images", "one photo or more"),
    (mmec(images=urls(77)), "images[0]", "no files of photos have the name 77.jpg"),
    (mmec(output="F"), "output", "expected one of A, B, C, D, E"),
    (mmec(output=None), "output", "the right label"),
    (mmec("answerability_prediction", options="", output="maybe"), "output", "expected one of yes, no"),
    (mmec(options=["A: x", "A: y"]), "options", "a label of its own"),
    (mmec(images=urls(0, 1)), "caption_info", "expected 2 captions"),
    (mmec(input="{'review': 'x'}"), "input", "not a text of JSON"),
    (mmec(images="['0.jpg']"), "images", "not a text of JSON"),
    (mmec(input={"a": 1}), "input.a", "expected text"),
    (mmec(input=[]), "input", "an object"),
    (mmec("apple_pie"), "task", "expected one of answerability prediction"),
    (mmec("sentiment_analyses"), "task", "did you mean sentiment analysis?"),
    (mmec(split="later"), "split", "expected one of train, val, test, ood"),
    (
        mmec("product_relation_prediction", input={"a": "x", "b": "y"}, options="", images=urls(0)),
        "images",
        "expected 2",
    ),
    (mmec("sequential_recommendation", input=SR_INPUT, images=urls(1, 2, 3), caption_info=""), "images", "1st, 2nd, A"),
    (mmec(input='{"review": "\\ud800"}'), "input.review", "not valid Unicode"),
    (mmec() | {"stratum": "some"}, "stratum", "expected one of needed"),
    (mmec() | {"row_id": "good"}, "row_id", "an id of its own"),
    ("text", "", "expected a JSON object, found str"),
]


@pytest.mark.parametrize(
    ("bad", "field", "reason"), FAULTS, ids=[f"{field}-{k}" for k, (_, field, _) in enumerate(FAULTS)]
)
def test_a_bad_row_goes_to_quarantine_and_no_other(photos: Path, bad: object, field: str, reason: str) -> None:
    rows, left_out = read([mmec() | {"row_id": "good"}, bad, mmec()], photos)
    assert [row.row_id for row in rows] == ["good", "dataset-000003"]
    assert (left_out[0]["file"], left_out[0]["line"], left_out[0]["field"]) == ("dataset.json", "2", field)
    assert reason in left_out[0]["reason"]


def test_a_broken_object_of_an_array_costs_only_itself(photos: Path) -> None:
    good = json.dumps(mmec(input={"review": 'a }, {"b": "c"} inside'}))
    rows, left_out = read(f"[{good},\n{good[:-40]}}},\n{good}, {good}]", photos)
    assert len(rows) == 3 and [row["line"] for row in left_out] == ["2"] and "not an object" in left_out[0]["reason"]
    rows, left_out = read(f"[{good},\n{good},\n{good[:50]}", photos)
    assert len(rows) == 2 and left_out[-1]["reason"].startswith("the array has no end")


def test_photos_that_do_not_decode_are_left_out_with_their_captions(photos: Path) -> None:
    (photos / "1.jpg").write_bytes(b"no photo")
    rows, left_out = read([mmec(images=urls(0, 1, 2), caption_info=list("abc")), mmec(images=urls(1))], photos)
    assert len(rows) == 1 and rows[0].captions == ("a", "c") and len(rows[0].photos) == 2
    assert [(row["line"], row["field"]) for row in left_out] == [
        ("1", "images[1]"),
        ("2", "images[0]"),
        ("2", "images"),
    ]


def test_other_names_are_mapped_and_nothing_usable_is_an_error(photos: Path) -> None:
    rows, _ = read([mmec("mood", split="dev_b")], photos, names={"mood": "SA", "dev_b": "val"})
    assert (rows[0].task, rows[0].split) == ("SA", "val")
    with pytest.raises(ValueError, match="no usable row, 1 faults in .*quarantine.csv; the first: task"):
        read([mmec("mood")], photos)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_rows(photos / "x.json", photos=photos, quarantine=photos.parent / "q.csv")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_serves_as_its_folder_does_and_is_unpacked_once(photos: Path, kind: str) -> None:
    archive = photos.parent / f"all.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            for path in photos.iterdir():
                zipped.write(path, f"deep/{path.name}")
            zipped.writestr("../../escaped.jpg", b"x")
    else:
        with tarfile.open(archive, "w:gz") as tape:
            tape.add(photos, "deep")
    store = PhotoStore(archive, cache=photos.parent / "cache")
    path, fault = store.find(URL.format("3.jpg"))
    assert fault is None and Path(path).read_bytes() == (photos / "3.jpg").read_bytes()
    assert not list(photos.parents[1].glob("escaped.jpg")) and len(list((photos.parent / "cache").iterdir())) == 1
    Path(path).write_bytes(b"kept")
    assert Path(PhotoStore(archive, cache=photos.parent / "cache").find("3.jpg")[0]).read_bytes() == b"kept"


def test_an_archive_that_leads_out_or_is_broken_is_refused(photos: Path) -> None:
    evil = photos.parent / "evil.tar"
    with tarfile.open(evil, "w") as tape:
        tape.addfile(tarfile.TarInfo("../escaped.jpg"), io.BytesIO())
    (photos.parent / "broken.zip").write_bytes(b"PK\3\4 nothing")
    for name, reason in (("evil.tar", "outside"), ("broken.zip", "neither a zip nor a tar")):
        with pytest.raises(ValueError, match=f"{name}: cannot be unpacked: .*{reason}"):
            PhotoStore(photos.parent / name)
    with pytest.raises(FileNotFoundError, match="expected a folder of photos"):
        PhotoStore(photos.parent / "none")


def test_photos_of_one_name_are_told_apart_by_their_folders(photos: Path) -> None:
    for folder in ("a", "b"):
        (photos / folder).mkdir()
        save(photos / folder / "front side.jpg", 1)
    store = PhotoStore(photos)
    assert store.find("http://x.org/a/front%20side.jpg")[0].endswith("/a/front side.jpg")
    assert store.find("b\\front side.jpg")[0].endswith("/b/front side.jpg")
    assert store.find("front side.jpg") == ("", "2 files of photos have the name front side.jpg; expected one")
    (photos / "link.jpg").symlink_to("/etc/hostname")
    assert "leads out" in PhotoStore(photos).find("x/link.jpg")[1]


def row(k: int, split: str, photo: Path, **fields: object) -> CommerceRow:
    given = {"input": {"title": f"title {k}"}, "output": "A", "photos": (str(photo),), "product_id": f"P{k}"} | fields
    return CommerceRow(f"r{k}", "CC", "", split=split, **given)


def test_leaks_name_what_two_splits_share(photos: Path) -> None:
    Image.open(photos / "3.jpg").save(photos / "again.png")
    copied = photos / "copied.jpg"
    copied.write_bytes((photos / "4.jpg").read_bytes())
    rows = [
        row(0, "train", photos / "0.jpg", product_id="same"),
        row(1, "test", photos / "1.jpg", known={"products": ["other", "same"]}),
        row(2, "train", photos / "2.jpg", input={"a": "A  text", "b": ["of words"]}),
        row(3, "ood", photos / "3.jpg", input={"title": "a text of\nWORDS"}),
        row(4, "val", photos / "again.png"),
        row(5, "train", photos / "4.jpg"),
        row(6, "test", copied),
        row(7, "test", photos / "5.jpg", product_id="P5x"),
        row(8, "test", photos / "5.jpg", product_id="P5x"),  # within one split
    ]
    found = leaks(rows)
    assert found[["kind", "split_a", "row_a", "split_b", "row_b", "rows"]].to_numpy().tolist() == [
        ["product", "train", "r0", "test", "r1", 2],
        ["text", "train", "r2", "ood", "r3", 2],
        ["photo", "train", "r5", "test", "r6", 2],
        ["copy", "val", "r4", "ood", "r3", 2],
    ]
    assert set(leaks(rows, copies=False)["kind"]) == {"product", "text", "photo"}
    assert leaks(rows[:1]).empty and list(leaks([]).columns) == list(found.columns)


def test_questions_count_rows_and_photos(photos: Path) -> None:
    table = questions(
        [row(0, "ood", photos, output="B"), row(1, "train", photos, photos=("x", "y")), row(2, "train", photos)]
    )
    assert table.to_dict("records") == [
        {"task": "CC", "split": "train", "stratum": "", "label": "A", "rows": 2, "photos": 3, "share": 1.0},
        {"task": "CC", "split": "ood", "stratum": "", "label": "B", "rows": 1, "photos": 1, "share": 1.0},
    ]


PAGE = (Path(__file__).parents[1] / "docs/commerce.md").read_text(encoding="utf-8")


def test_the_page_s_example_runs_as_it_stands(tmp_path: Path, monkeypatch, capsys) -> None:
    lines = re.search(r"^```jsonl mine.jsonl\n(.*?)^```$", PAGE, re.M | re.S)[1]
    (tmp_path / "mine.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "photos").mkdir()
    for name in set(re.findall(r"p\d+\.jpg", lines)):
        save(tmp_path / "photos" / name, int(name[1:-4]))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(re.search(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)[1], names)
    assert [row.task for row in names["rows"]] == ["AP", "CC", "PRP", "PSI", "MPC", "SA", "SR", "BQA"]
    assert (tmp_path / "quarantine.csv").read_text().splitlines() == ["file,line,field,found,reason,row"]
    assert names["rows"][4].captions == ("a white bar of soap",) and names["rows"][7].known == {"is_vc": True}
    found = names["leaks"](names["rows"])[["kind", "row_a", "row_b"]].to_numpy().tolist()
    assert found == [["photo", "mine-000008", "mine-000006"]] and "needed" in capsys.readouterr().out


@pytest.mark.parametrize("name", [*COMMERCE_TASKS, *OWN_FIELDS, *JSON_TEXTS, "task", "split", "output", *ROW_SPLITS])
def test_every_field_task_and_split_stands_on_the_page(name: str) -> None:
    assert f"`{name}`" in PAGE
