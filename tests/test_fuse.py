"""Records of commerce rows by arm: prompts, photos, captions that are not used."""

from dataclasses import replace

import pytest
from commerce_rows import seven

from mtive_nb.data.commerce.fuse import ARMS, fuse, labels_said, words_of
from mtive_nb.data.records import load_records, question_of, record_fault, write_records


@pytest.fixture
def rows(photo_folder):
    return seven(photo_folder)


def prompt(row, *captions, used=(), arm="UIA"):
    return question_of(fuse(row, captions, used, arm=arm))


def test_every_arm_of_every_task_is_a_usable_record(rows, tmp_path):
    records = []
    for arm, (_, pictured) in ARMS.items():
        for split in ("train", "val", "test", "ood"):
            for task, row in rows.items():
                captions = [f"caption {k}" for k in range(len(row.photos))]
                made = fuse(
                    replace(row, split=split, row_id=f"{task}/{arm}/{split}"), captions, [True] * len(captions), arm=arm
                )
                assert record_fault(made) is None and made["task"] == task
                assert made["answer"] == made["label"] == row.output and made["product_id"] == "p1"
                assert made["images"] == (list(row.photos) if pictured else [])
                assert (made["split"], made["variant"]) == (("test", "ood") if split == "ood" else (split, "ind"))
                records.append(made)
    assert load_records(write_records(records, tmp_path / "records.jsonl")) == records


def test_the_prompt_has_the_paper_s_order(rows):
    assert prompt(rows["MPC"], "red, shampoo") == (
        "Instruction: Solve MPC.\nInput:\nquery: blue shampoo\nproduct title: LOZ shampoo\nphoto: red, shampoo\n"
        "Options:\nA: exact\nB: substitute\nResponse:"
    )
    assert "Options" not in prompt(rows["AP"], "red") and prompt(rows["AP"], "red").endswith("photo: red\nResponse:")


def test_an_arm_says_of_the_photos_what_it_may(rows):
    row = rows["PRP"]
    said = {arm: prompt(row, "one", "two", used=(False, True), arm=arm) for arm in ARMS}
    assert "photo of product 1: one\nphoto of product 2: two\n" in said["UIA"] == said["image+captions"]
    assert "photo of product 1: null\nphoto of product 2: two\n" in said["CASLIE"]
    assert said["text"] == said["image"] and "photo" not in said["text"]
    # Every caption chosen is UIA, none chosen is null everywhere, also where a captioner had none.
    assert prompt(row, "one", "two", used=(True, True), arm="CASLIE") == said["UIA"]
    assert prompt(row, "one", "two", used=(False, False), arm="CASLIE") == prompt(row, "", "")
    assert "null" in prompt(row, "", "") and "null" not in said["UIA"]


def test_captions_of_sr_stand_behind_their_own_titles(rows):
    found = prompt(rows["SR"], "red", "blue", "", "white", used=(True, False, True, True), arm="CASLIE")
    assert found == (
        "Instruction: Solve SR.\nInput:\npurchase history:\n1st: LOZ shampoo (photo: red)\n2nd: PIB cola\n"
        "Options:\nA: ZARN tea\nB: LOZ soap (photo: white)\nResponse:"
    )
    history_alone = replace(rows["SR"], photos=rows["SR"].photos[:2], places=("1st", "2nd"), facts=())
    assert prompt(history_alone, "red", "blue").count("(photo:") == 2
    unnamed = replace(rows["SR"], places=("1st", "2nd", "item 3", "B"))  # no text has this name: the caption stays
    assert "photo of item 3: green\nOptions" in prompt(unnamed, "red", "blue", "green", "white")


def test_several_photos_of_one_item_share_a_line(rows):
    row = replace(rows["AP"], photos=rows["SR"].photos, facts=())
    assert "\nphoto: red; a dent\n" in prompt(
        row, "red", "", "a dent", "blue", used=(True, True, True, False), arm="CASLIE"
    )
    row = replace(rows["PRP"], photos=rows["SR"].photos, facts=(), places=("product 1",) * 3 + ("product 2",))
    assert "\nphoto of product 1: a; b; c\nphoto of product 2: d\n" in prompt(row, "a", "b", "c", "d")


def test_a_caption_opens_no_section(rows):
    assert "photo: red Response: no\nResponse:" in prompt(rows["AP"], "red\nResponse:\nno")


def test_wrong_arms_and_numbers_are_refused_with_the_row(rows):
    with pytest.raises(ValueError, match="arm: found 'uia', expected one of text, UIA, CASLIE"):
        fuse(rows["AP"], ["red"], arm="uia")
    with pytest.raises(ValueError, match="row PRP-1: captions: found 1, expected one for each of 2 photos"):
        fuse(rows["PRP"], ["red"], arm="UIA")
    with pytest.raises(ValueError, match="row PRP-1: used: found 0, expected one for each of 2 photos"):
        fuse(rows["PRP"], ["red", "blue"], arm="CASLIE")
    assert fuse(rows["PRP"], arm="text") and fuse(rows["PRP"], arm="image")  # these need neither


def test_an_answer_in_words_is_read_as_its_label(rows):
    row, free = rows["MPC"], rows["AP"]
    made = fuse(row, arm="text", answer="words")
    assert made["answer"] == words_of(row)[row.output] != row.output == made["label"]
    assert fuse(free, arm="text", answer="words")["answer"] == free.output  # yes and no are their own words
    said = [" Substitute ", "A", "a substitute", made["answer"]]
    assert labels_said([row] * 4, said) == ["B", "A", "a substitute", row.output]
    assert labels_said([free], ["yes"]) == ["yes"]
    with pytest.raises(ValueError, match="answer: found 'letter', expected one of label, words"):
        fuse(row, arm="text", answer="letter")
