"""The search over rates and passes: no answer of test counts, and a trial draws what its chapter would."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from commerce_rows import seven

from mtive_nb.data.commerce.fuse import fuse
from mtive_nb.data.commerce.mmec import write_rows
from mtive_nb.evaluate.continual import steps_in
from mtive_nb.model.train import Training
from mtive_nb.run.atomic import write_atomic


def records(n: int, *, variant: str = "gen", split: str = "train") -> list[dict]:
    return [{"id": f"{variant}{k}", "task": "AE", "variant": variant, "split": split} for k in range(n)]


def test_passes_of_an_arm_become_steps_and_records(search):
    common = Training(1, batch=4, accumulate=2)
    fixed = search.Arm("PT", None, None, "IT", common, records(80), [])
    assert fixed.at(1) == (fixed.records, 10) and fixed.at(2.5)[1] == 25
    pool = records(100) + records(100, variant="bin")
    drawn = search.Arm("AE", None, None, "IT", common, [], [], draw={"AE": (pool, {"gen": 0.75, "bin": 0.25}, 10)})
    for passes, n in ((1, 80), (0.5, 40)):
        rows, steps = drawn.at(passes)
        assert len(rows) == n and steps == 10 * passes
        assert sum(row["variant"] == "bin" for row in rows) == n / 4
    assert [steps_in(n, passes=1, a_step=16) for n in (800, 10336, 15, 0)] == [50, 646, 1, 1]


def test_questions_of_another_split_are_refused(search):
    arm = search.Arm("AE", SimpleNamespace(), None, "IT", Training(1), [], records(2, split="test"))
    with pytest.raises(ValueError, match="AE: found records of test among those that score, expected val alone"):
        search.scored(arm, {})


def test_the_vlm_arms_of_15_read_photos_or_the_jury_s_captions(search, photo_folder, tmp_path, monkeypatch):
    rows = [replace(row, split=split) for row in seven(photo_folder).values() for split in ("train", "val")]
    rows = [replace(row, row_id=f"{row.row_id}{row.split}") for row in rows]
    write_rows(rows, tmp_path / "records" / "rows.jsonl")
    said = [fuse(r, ["red"] * len(r.photos), [True] * len(r.photos), arm="CASLIE") for r in rows]
    search.m.write_records(said, tmp_path / "records" / "CASLIE.jsonl")
    write_atomic(tmp_path / "stack" / "stack.json", json.dumps({"model": {"name": "pocket", "max_px": 140}}))
    given = {
        "ROWS": str(photo_folder / "mine.jsonl"),
        "PHOTOS": "",
        "ANSWER": "words",
        "RANK": 2,
        "PLACEMENT": ["language"],
        "SEED": 0,
    }
    chapters = SimpleNamespace(parameters=lambda _: given | {"TEXT_MODEL": "a text"}, run=lambda _: tmp_path)
    loaded = []
    monkeypatch.setattr(search.m, "load_vlm", lambda name, **options: loaded.append((name, options)))
    monkeypatch.setattr(search.m, "LoraStack", lambda _: None)
    photos, captions, text = (search.of_15(chapters, name) for name in ("VLM, photos", "VLM, captions", "CASLIE"))
    assert loaded == [("pocket", {"max_px": 140})] * 2 + [("a text", {})] and search.of_15(chapters, "AE") is None
    assert all(r["images"] for r in photos.records) and len(photos.records) == len(photos.held_out) == 7
    assert not any(r["images"] for r in captions.records) and captions.records == text.records
    assert photos.name == "photos" and photos.rows.keys() == {row.row_id for row in rows}
