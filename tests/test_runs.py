"""A run's answers: kept as a table, read back with their records, pooled over runs."""

import json

import pandas as pd
import pytest

from mtive_nb.evaluate.runs import answer_rows, pooled, read_answers


@pytest.fixture
def two_runs(tmp_path, records, photo_folder):
    """Folders of two runs by seed: a shop's, and a chapter's that kept answers; only the first asked `oracle`."""
    found = {}
    records = [r | {"images": [str(photo_folder / image) for image in r["images"]]} for r in records]
    for seed, some in ((0, records[:3]), (1, records[3:5])):
        shop, chapter = tmp_path / f"{seed}" / "shop", tmp_path / f"{seed}" / "chapter"
        (shop / "records").mkdir(parents=True)
        (chapter / "tables").mkdir(parents=True)
        (shop / "records" / "emdiv.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        (shop / "records" / "vocabulary.json").write_text(json.dumps({"brand": ["NA"]}))
        (chapter / "run.json").write_text(json.dumps({"seed": seed}))
        answers = {"silent": ["" for _ in some], "sure": ["NA" for _ in some]}
        answers |= {"oracle": [r["answer"] for r in some]} if seed == 0 else {}
        answer_rows(some, answers).to_csv(chapter / "tables" / "answers.csv", index=False)
        found[seed] = shop, chapter
    return found


def test_answers_come_back_to_the_letter(two_runs, records):
    read, table, vocabulary = read_answers(*two_runs[0])
    assert [r["id"] for r in read] == [r["id"] for r in records[:3]] and {r["run"] for r in read} == {0}
    # An empty answer and one that says NA are answers, not missing values.
    assert list(table["silent"]) == [""] * 3 and list(table["sure"]) == ["NA"] * 3
    assert list(table["oracle"]) == list(table["truth"]) == [r["answer"] for r in records[:3]]
    assert vocabulary == {"brand": ["NA"]}


def test_runs_pool_the_systems_that_all_of_them_asked(two_runs):
    records, answers, _ = pooled(read_answers(*folders) for folders in two_runs.values())
    assert [r["run"] for r in records] == [0, 0, 0, 1, 1]
    assert set(answers) == {"silent", "sure"} and all(len(said) == 5 for said in answers.values())


def test_an_answer_to_another_shop_s_record_is_refused(two_runs):
    shop, chapter = two_runs[1]
    path = chapter / "tables" / "answers.csv"
    pd.read_csv(path, dtype=str, keep_default_na=False).assign(id="AE-gen/other/1/0").to_csv(path, index=False)
    with pytest.raises(KeyError, match="AE-gen/other"):
        read_answers(shop, chapter)
