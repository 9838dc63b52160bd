"""CASLIE's experts, served: rows of text and captions to a file, and through the engine."""

import dataclasses

import pytest
from commerce_rows import seven

from mtive_nb.__main__ import main
from mtive_nb.data.commerce.mmec import write_rows
from mtive_nb.evaluate.commerce.arms import training_costs
from mtive_nb.evaluate.predict import generate_answers
from mtive_nb.model.load import load_vlm
from mtive_nb.model.stack import AdapterSpec, LoraStack
from mtive_nb.model.train import Training, train_adapter
from mtive_nb.run.graph import Project
from mtive_nb.serve.commerce import CommerceExpert, commerce_record, score_rows
from mtive_nb.serve.engine import Engine
from mtive_nb.serve.pool import ExpertPool


@pytest.fixture
def rows(photo_folder):
    return [
        dataclasses.replace(row, captions=tuple(f"a red {row.task}" for _ in row.photos))
        for row in seven(photo_folder).values()
    ]


@pytest.fixture
def home(text_folder, rows, tmp_path, monkeypatch):
    """A project in which chapter 15 trained CASLIE on three rows."""
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("MTIVE_HOME", str(tmp_path))
    stack = LoraStack(load_vlm(str(text_folder), device="cpu"))
    stack.add("CASLIE", AdapterSpec(2, 4, ("language",)))
    train_adapter(stack, "CASLIE", [commerce_record(row, "CASLIE") for row in rows[:3]], Training(8, 3e-2, 3))
    stack.save(tmp_path / "outputs" / "small" / "15_caslie" / "stack", "CASLIE")
    return tmp_path


def test_rows_are_scored_as_the_stack_answers_and_resume(home, rows):
    expert = CommerceExpert("small", "CASLIE", project=Project(home))
    records = [commerce_record(row, "CASLIE") for row in rows]
    said = [text.strip() for text in generate_answers(expert.stack, records, max_new_tokens=4)]
    file = home / "answers.csv"
    table = score_rows(expert, rows[:4], output=file, batch=3, max_new_tokens=4)
    assert table["answer"].tolist() == said[:4] and (table["error"] == "").all()
    expert.answers, asked = None, []  # a second run may ask only about what is new

    def counted(some, *, max_new_tokens):
        asked.extend(record["id"] for record in some)
        return CommerceExpert.answers(expert, some, max_new_tokens=max_new_tokens)

    expert.answers = counted
    recaptioned = [dataclasses.replace(rows[0], captions=("a blue one",)), *rows[1:]]
    table = score_rows(expert, recaptioned, output=file, batch=3, max_new_tokens=4)
    assert asked == [rows[0].row_id, *(row.row_id for row in rows[4:])]
    assert table["answer"].tolist()[1:] == said[1:]


def test_an_empty_question_is_refused_in_words(home, rows):
    record = commerce_record(rows[0], "CASLIE")
    record["messages"][0]["content"][-1]["text"] = " "
    with pytest.raises(ValueError, match="question: found none"):
        CommerceExpert("small", "CASLIE", project=Project(home)).answers([record])


def test_an_arm_costs_its_steps_its_weights_and_the_tokens_of_its_rows(text_folder, rows):
    records = [commerce_record(row, "CASLIE") for row in rows[:3]]
    stack = LoraStack(load_vlm(str(text_folder), device="cpu"))
    stack.add("CASLIE", AdapterSpec(2, 4, ("language",)))
    log = train_adapter(stack, "CASLIE", records, Training(2, 1e-3, 3))
    (cost,) = training_costs(stack, {"CASLIE": log}, {"CASLIE": records}).to_dict("records")
    processor = stack.vlm.processor
    chats = [processor.apply_chat_template(record["messages"]).rstrip() for record in records]
    assert cost["tokens a row"] == sum(len(processor.tokenizer(chat)["input_ids"]) for chat in chats) / 3
    assert (cost["arm"], cost["steps"], cost["loss"]) == ("CASLIE", 2, log["loss"].iloc[-1])
    assert cost["weights"] == stack.trainable_parameters("CASLIE") > 0


def test_the_engine_serves_it_beside_the_bare_text_model(home, text_folder, rows):
    records = [commerce_record(row, "CASLIE") for row in rows[:3]]
    stack = LoraStack(load_vlm(str(text_folder), device="cpu"))
    bare = generate_answers(stack, records, max_new_tokens=4)
    pool = ExpertPool(stack, trunk=None)
    pool.add("CASLIE", home / "outputs" / "small" / "15_caslie" / "stack")
    with Engine(pool, max_batch=4) as engine:
        asked = [engine.submit(record, who, max_new_tokens=4) for record in records for who in ("CASLIE", None)]
        got = [request.text().strip() for request in asked]
    own = CommerceExpert("small", "CASLIE", project=Project(home)).answers(records, max_new_tokens=4)
    assert got[::2] == [answer.text for answer in own] and got[1::2] == [text.strip() for text in bare]
    assert got[::2] != got[1::2]


def test_the_command_answers_rows_names_bad_ones_and_missing_chapters(home, rows, tmp_path, capsys):
    (folder := tmp_path / "own").mkdir()
    elsewhere = [
        tuple(f"elsewhere/{k}.jpg" for k in range(len(row.photos))) for row in rows
    ]  # captions are read, no photo
    write_rows(
        [dataclasses.replace(r, photos=own) for r, own in zip(rows, elsewhere, strict=True)], folder / "mine.jsonl"
    )
    with (folder / "mine.jsonl").open("a") as file:
        file.write('{"task": "no task"}\n')
    out = home / "answers.jsonl"
    words = ["score", "small", str(folder / "mine.jsonl"), "-o", str(out), "--task", "CASLIE"]
    assert main(words) == 1
    assert "7 answers, 0 errors; 1 faults" in capsys.readouterr().err and len(out.read_text().splitlines()) == 7
    assert "no task" in (home / "answers.quarantine.csv").read_text()
    assert main([*words[:1], "none", *words[2:]]) == 2 and "mtive-nb run none 15" in capsys.readouterr().err
    assert main([*words, "--task", "DD"]) == 2 and "no other task" in capsys.readouterr().err
    with pytest.raises(KeyError, match="expected one of uniM3"):
        CommerceExpert("small", "nobody", project=Project(home))
