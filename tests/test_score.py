"""Scoring many photos: mixed tasks against one by one, resuming, broken rows, inputs as spreadsheets write them."""

import csv
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import mtive_nb as m
from mtive_nb.__main__ import main
from mtive_nb.evaluate.predict import generate_answers
from mtive_nb.evaluate.probability import option_tokens
from mtive_nb.model.lineage import read_manifest
from mtive_nb.run.graph import Project
from mtive_nb.serve.answer import open_profile, question_record
from mtive_nb.serve.chances import Chances, classes_of
from mtive_nb.serve.questions import read_questions
from mtive_nb.serve.score import COLUMNS, Output

TASKS, TOKENS = ("DD", "PM", "AE"), 5
SPEC = m.AdapterSpec(4, 8.0, ("language",))


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_folder) -> Path:
    """A project whose profile `mine` has the stacks that chapters 04 to 06 leave, with random experts."""
    home = tmp_path_factory.mktemp("home")
    (home / "notebooks").mkdir()
    folders = {n: home / "outputs" / "mine" / f"{n}_chapter" / "stack" for n in ("04", "05", "06")}
    stack = m.LoraStack(m.load_vlm(str(tiny_folder), dtype="float32", device="cpu"))
    torch.manual_seed(3)
    for name, parent, number in (("PT", None, "04"), ("IT", "PT", "05"), *((t, "IT", "06") for t in TASKS)):
        stack.add(name, SPEC, parent=parent)
        for weight in stack.adapter_weights(name).values():
            weight.normal_(0, 0.2)
        stack.save(folders[number], name)
    (folders["06"].parent / "settings.json").write_text(json.dumps(dict.fromkeys(list(TASKS), {})))
    return home


@pytest.fixture(scope="module")
def experts(home):
    with open_profile("mine", project=Project(home)) as experts:
        yield experts


@pytest.fixture
def photos(photo_folder, tmp_path) -> Path:
    return Path(shutil.copytree(photo_folder, tmp_path / "photos"))


@pytest.fixture
def asked(experts, monkeypatch) -> list[str]:
    """The tasks of all records that reach the model."""
    seen, answers = [], type(experts).answers

    def counted(self, records, **options):
        seen.extend(record["task"] for record in records)
        return answers(self, records, **options)

    monkeypatch.setattr(type(experts), "answers", counted)
    return seen


def score(experts, source, **options) -> pd.DataFrame:
    return experts.score(source, max_new_tokens=TOKENS, **options)


def pairs(folder: Path) -> list[dict]:
    one = [{"photo": folder / f"{k}.png", "task": task, "id": f"{k}{task}"} for k in range(4) for task in ("DD", "AE")]
    return one[:5] + [{"photo": folder / "1.png", "photo2": folder / "2.png", "task": "PM"}] + one[5:]


def test_mixed_tasks_are_answered_as_each_expert_alone(home, experts, photos):
    table = score(experts, pairs(photos), batch=4)
    assert list(table.columns) == list(COLUMNS) and (table["error"] == "").all()
    assert list(table["id"][:2]) == ["0DD", "0AE"] and table["photo"][5] == f"{photos / '1.png'}|{photos / '2.png'}"
    folders = [home / "outputs" / "mine" / f"{n}_chapter" / "stack" for n in ("04", "05", "06")]
    stack = m.open_stack((folders[0], "PT"), (folders[1], "IT"), *((folders[2], task) for task in TASKS))
    for row in table.itertuples():
        stack.activate(row.task)
        record = question_record(row.task, row.photo.split("|"))
        assert generate_answers(stack, [record], max_new_tokens=TOKENS) == [row.answer]
        sha256 = read_manifest(folders[2])["adapters"][row.task]["sha256"]
        assert row.expert == f"{row.task}@1 {sha256[:8]}" and row.milliseconds > 0
    assert len(set(table["answer"])) > 3


def test_what_cannot_be_answered_is_a_row_and_the_rest_is_answered(experts, photos):
    (photos / "broken.png").write_bytes(b"no photo")
    rows = [
        ({"photo": "0.png", "task": "DD"}, ""),
        ({"photo": "broken.png", "task": "DD"}, "broken.png: not an image"),
        ({"photo": "none.png", "task": "DD"}, "none.png: no such file"),
        ({"photo": "0.png", "task": "PM"}, "photos: found 1, expected 2"),
        ({"photo": "0.png|1.png|2.png", "task": "PM"}, "photos: found 3, expected 2"),
        ({"photo": "0.png", "task": "XX"}, "no expert 'XX' in service; there are ['AE', 'DD', 'PM']"),
        ({"photo": "0.png"}, "no task"),
        ({"photo": "", "task": "AE"}, "line 8: found no photo"),
        ({"photo": "a\0b", "task": "AE"}, "embedded null byte"),
        ({"photo": None, "task": float("nan")}, "line 10: not a line of JSON: NaN"),
        ({"photo": ["0.png", "1.png"], "task": "PM", "id": 7}, ""),
    ]
    file = photos / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row, _ in rows))
    table = score(experts, file)
    for said, (_, expected) in zip(table["error"], rows, strict=True):
        assert expected in said and bool(expected) == bool(said), said
    assert table["id"].iloc[-1] == "7" and (table["answer"] != "").sum() >= 1


def test_a_question_that_no_model_can_answer_is_refused_in_words(experts, photos):
    long, said = "red?" * 30_000, "found 120000 characters, expected 100000 at most"
    with pytest.raises(ValueError, match=said):
        experts.ask("DD", photos / "0.png", question=long, max_new_tokens=TOKENS)
    row = {"photo": photos / "0.png", "task": "DD"}
    table = score(experts, [row | {"question": long}, row])
    assert said in table["error"][0] and table["error"][1] == ""
    record = question_record("DD", [photos / "0.png"])
    record["messages"][0]["content"][-1]["text"] = " "
    with pytest.raises(ValueError, match="question: found none"):
        experts.answers([record], max_new_tokens=TOKENS)


def test_a_batch_that_fails_costs_only_the_culprit(experts, photos, monkeypatch):
    answers = type(experts).answers

    def refuses(self, records, **options):
        if any("1.png" in record["images"][0] for record in records):
            raise RuntimeError("out of\nmemory")
        return answers(self, records, **options)

    monkeypatch.setattr(type(experts), "answers", refuses)
    table = score(experts, photos, tasks=["DD"]).set_index("photo")
    assert table["error"]["1.png"] == "out of memory" and (table["error"].drop("1.png") == "").all()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_run_cut_short_is_continued_without_asking_again(experts, photos, tmp_path, asked, suffix):
    (photos / 'a, b "c".png').write_bytes((photos / "0.png").read_bytes())
    rows = [{"photo": p.name, "question": 'What,\nis "it"?'} for p in sorted(photos.iterdir())]
    (photos / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"tasks": ["DD", "AE"], "batch": 3}
    whole = score(experts, photos / "rows.jsonl", output=tmp_path / f"whole{suffix}", **given)
    assert len(asked) == len(whole) == 18
    text, same = (tmp_path / f"whole{suffix}").read_bytes(), ["id", "task", "answer", "probability_of", "photo_hash"]
    for cut in (len(text), len(text) - 1, len(text) - 40, len(text) // 2, 3, 0):
        output = tmp_path / f"cut{suffix}"
        output.write_bytes(text[:cut])
        asked.clear()
        again = score(experts, photos / "rows.jsonl", output=output, **given)
        pd.testing.assert_frame_equal(again[same], whole[same])
        missing = 18 - text[:cut].count(b"AE@1") - text[:cut].count(b"DD@1")
        assert missing <= len(asked) <= missing + 1
        read = pd.read_csv(output) if suffix == ".csv" else pd.read_json(output, lines=True)
        assert list(read["id"]) == list(whole["id"]) and list(read.columns) == list(COLUMNS)
        assert read["probability"].isna().equals(whole["probability"].isna())


def test_rows_are_in_the_file_before_the_run_ends(experts, photos, tmp_path, monkeypatch):
    answers, sizes = type(experts).answers, []

    def looks(self, records, **options):
        sizes.append(len((tmp_path / "out.jsonl").read_text().splitlines()))
        if len(sizes) == 4:
            raise KeyboardInterrupt
        return answers(self, records, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(experts), "answers", looks)
        score(experts, photos, tasks=["DD"], output=tmp_path / "out.jsonl", batch=2)
    assert sizes == [0, 2, 4, 6]
    assert len(score(experts, photos, tasks=["DD"], output=tmp_path / "out.jsonl")) == 8


def test_another_photo_of_the_same_name_and_an_error_are_asked_again(experts, photos, tmp_path, asked):
    output, good = tmp_path / "out.csv", (photos / "2.png").read_bytes()
    (photos / "2.png").write_bytes(b"half a photo")
    first = score(experts, photos, tasks=["DD"], output=output)
    Image.new("RGB", (56, 56), "red").save(photos / "0.png")
    (photos / "2.png").write_bytes(good)
    asked.clear()
    second = score(experts, photos, tasks=["DD"], output=output)
    assert len(asked) == 2 and second["error"].eq("").all() and first["error"].ne("").sum() == 1
    assert (first["photo_hash"] != second["photo_hash"]).sum() == 2
    kept = pd.read_csv(output)
    assert list(kept["photo"]) == list(second["photo"]) and list(kept["photo_hash"]) == list(second["photo_hash"])
    alone = [experts.ask("DD", photos / name, max_new_tokens=TOKENS).text for name in second["id"]]
    assert list(second["answer"]) == alone
    assert all((output.parent / name).is_file() for name in kept["photo"])  # where retrain looks for them


def test_another_version_of_an_expert_answers_again(experts, photos, tmp_path, asked):
    output = tmp_path / "out.csv"
    score(experts, photos, tasks=["DD"], output=output)
    before = output.read_bytes()
    output.write_bytes(before.replace(b"DD@1 ", b"DD@0 ", 3))
    asked.clear()
    score(experts, photos, tasks=["DD"], output=output)
    assert len(asked) == 3 and b"DD@0 " not in output.read_bytes()


def test_what_a_person_wrote_stays_and_old_errors_go(experts, photos, tmp_path, asked):
    for name in ("out.csv", "out.jsonl"):
        output = tmp_path / name
        assert score(experts, photos, output=output)["error"].str.contains("no task").all()  # one error a photo
        score(experts, photos, tasks=["DD"], output=output)
        rows = pd.read_csv(output, dtype=str) if name.endswith("csv") else pd.read_json(output, lines=True, dtype=str)
        assert len(rows) == 8 and (rows["error"].fillna("") == "").all()
        rows.loc[3, "correct_answer"] = "yes"
        rows.to_csv(output, index=False) if name.endswith("csv") else rows.to_json(output, lines=True, orient="records")
        asked.clear()
        again = score(experts, photos, tasks=["DD"], output=output)
        assert not asked and list(again["correct_answer"]) == [*[""] * 3, "yes", *[""] * 4]


def test_answers_to_other_questions_stay_in_the_file(experts, photos, tmp_path):
    output = tmp_path / "out.csv"
    score(experts, photos, tasks=["DD"], output=output)
    score(experts, [{"photo": photos / "0.png", "task": "AE"}], output=output)
    assert list(pd.read_csv(output)["task"]) == ["DD"] * 8 + ["AE"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8", "cp1252", "utf-16"])
@pytest.mark.parametrize("delimiter", [";", ",", "\t"])
def test_tables_are_read_as_spreadsheets_write_them(tmp_path, encoding, delimiter):
    file = tmp_path / "rows.csv"
    with file.open("w", encoding=encoding, newline="") as stream:
        lines = csv.writer(stream, delimiter=delimiter)
        lines.writerow(["Id", "photo", "photo2", "task", "question", "shelf"])
        lines.writerow(["1", "tür.png", "", "DD", "Ist es, ja; beschädigt?", "x"])
        lines.writerow(["", "a.png", "b.png", "", "", ""])
    one, two, three = read_questions(file, tasks=["PM", "AE"])
    assert (one.id, one.task, one.text) == ("1", "DD", "Ist es, ja; beschädigt?")
    assert one.photos == (tmp_path / "tür.png",)
    assert (two.id, two.photo, two.task) == ("a.png|b.png", "a.png|b.png", "PM") and three.task == "AE"


def test_a_folder_gives_its_photos_and_those_below(photos):
    (photos / "notes.txt").write_text("x")
    (photos / ".trash").mkdir()
    for name in (".trash/9.png", "below/8.JPG"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes((photos / "0.png").read_bytes())
    found = read_questions(photos, tasks=["DD", "AE"])
    assert [(q.photo, q.task) for q in found[:2]] == [("0.png", "DD"), ("0.png", "AE")]
    assert len(found) == 18 and found[-1].photo == "below/8.JPG"


def test_probabilities_are_those_of_the_logits(experts, tiny_folder):
    """Yes against no, and a class by each token where the classes part; a temperature only for the same expert."""
    tokenizer = experts.stack.vlm.processor.tokenizer
    entry = {"temperature": 2.0, "n": 60, "expert": "abc"}
    processor = experts.stack.vlm.processor
    chances = Chances(lambda names: option_tokens(processor, names), {"DD": {"yes/no": entry}}, {})
    yes, no = (option_tokens(processor, ["yes", "no"])[word] for word in ("yes", "no"))
    logits = torch.randn(12, len(tokenizer), generator=torch.Generator().manual_seed(1))
    for word, tokens in (("yes", yes), ("no", no)):
        for sha256, scale in (("abc", 2.0), ("abd", 1.0)):
            pair = torch.stack([logits[0, yes[0]], logits[0, no[0]]]) / scale
            found = chances.of("DD", sha256, text=f"{word}, it is", tokens=[*tokens[:-1], 5, 6], logits=logits)
            assert found == (pytest.approx(pair.softmax(0)[0].item(), abs=1e-6), "yes", scale == 2.0)
    options = option_tokens(processor, classes_of({})["PP"])
    total = 0.0
    for name, tokens in options.items():
        chance, of, calibrated = chances.of("PP", "abc", text=name, tokens=tokens, logits=logits)
        by_hand = 1.0
        for t, token in enumerate(tokens):
            rivals = list({o[t] for o in options.values() if len(o) > t and o[:t] == tokens[:t]})
            by_hand *= (logits[t, token].exp() / logits[t, rivals].exp().sum()).item()
        assert chance == pytest.approx(by_hand, rel=1e-5) and of == name and not calibrated
        total += chance
    assert chances.of("PP", "abc", text="a shelf", tokens=[3, 4], logits=logits) == (None, "", False)
    assert chances.of("DD", "abc", text="yesterday", tokens=[*yes[:-1], 9], logits=logits)[0] is None


@pytest.fixture
def vllm(home):
    """The address of a server that speaks as vLLM does: experts DD (its folder is here) and AE (elsewhere)."""
    models = [("trunk", "/srv/trunk"), ("DD@3", str(home / "outputs/mine/06_chapter/stack/DD")), ("AE@1", "/srv/AE")]
    seen = []

    def place(token: int, others: dict[int, float]) -> dict:
        tops = [{"token": f"token_id:{t}", "logprob": p, "bytes": None} for t, p in others.items()]
        return {"token": f"token_id:{token}", "logprob": others[token], "bytes": None, "top_logprobs": tops}

    class Server(BaseHTTPRequestHandler):
        def reply(self, body: dict, status: int = 200) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def do_GET(self) -> None:
            self.reply({"object": "list", "data": [{"id": i, "object": "model", "root": root} for i, root in models]})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/tokenize":
                return self.reply({"tokens": {"yes": [7], "no": [8]}[asked["prompt"]]})
            seen.append(asked)
            if asked["model"] not in dict(models):
                return self.reply({"error": {"message": "no such model"}}, 404)
            if asked["model"] == "AE@1":
                return self.reply({"error": {"message": "too long"}}, 400)
            assert asked["return_tokens_as_token_ids"] and asked["top_logprobs"] == 20
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "no"}}
            choice["logprobs"] = {"content": [place(8, {8: -0.2, 9: -1.0, 7: -2.2})]}
            self.reply({"id": "1", "object": "chat.completion", "created": 0, "model": "x", "choices": [choice]})

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", seen, models
    server.shutdown()
    server.server_close()


def test_an_engine_serves_the_pool_of_an_open_profile(experts, photos):
    def ask():
        return experts.ask("DD", photos / "0.png", max_new_tokens=TOKENS).text

    before, record = ask(), question_record("DD", [photos / "0.png"], max_px=experts.max_px)
    with m.Engine(experts.pool, chance_of=experts.chances.of) as engine:
        request = engine.submit(record, "DD", max_new_tokens=TOKENS)
        assert (ask(), request.text(), ask()) == (before, before, before)
    assert ask() == before and experts.stack.held


def test_a_running_server_is_asked_in_place_of_this_process(home, vllm, photos, tmp_path, monkeypatch, capsys):
    url, seen, _ = vllm
    monkeypatch.setenv("MTIVE_HOME", str(home))
    stack = home / "outputs" / "mine" / "06_chapter" / "stack"
    sha256 = read_manifest(stack)["adapters"]["DD"]["sha256"]
    rows = [{"photo": photos / f"{k}.png", "task": task} for k in range(3) for task in ("DD", "AE", "PM")]
    with open_profile("mine", server=url) as experts:
        table = score(experts, rows, output=tmp_path / "out.csv").set_index("task")
    assert list(table.loc["DD", "answer"]) == ["no"] * 3 and set(table.loc["DD", "expert"]) == {f"DD@3 {sha256[:8]}"}
    assert list(table.loc["DD", "probability"]) == pytest.approx([1 / (1 + np.exp(2.0))] * 3, abs=1e-5)
    assert set(table.loc["DD", "calibrated"]) == {False} and set(table.loc["AE", "expert"]) == {"AE@1"}
    assert all("too long" in said for said in table.loc["AE", "error"])
    assert all("no expert 'PM' in service; there are ['AE', 'DD']" in said for said in table.loc["PM", "error"])
    assert {asked["model"] for asked in seen} == {"DD@3", "AE@1"} and seen[0]["max_tokens"] == TOKENS
    assert main(["ask", "mine", "DD", str(photos / "0.png"), "--server", url]) == 0
    assert capsys.readouterr().out.startswith(f"no  (yes: 0.12, not calibrated)  [DD@3 {sha256[:8]}, ")


def test_a_version_that_another_client_replaced_is_followed(home, vllm, photos):
    url, _, models = vllm
    with open_profile("mine", project=Project(home), server=url) as experts:
        assert experts.ask("DD", photos / "0.png").expert.startswith("DD@3")
        models[1] = ("DD@4", models[1][1])
        assert experts.ask("DD", photos / "0.png").expert.startswith("DD@4")
        del models[1]
        with pytest.raises(ConnectionError, match="no such model"):
            experts.ask("DD", photos / "0.png")


def test_the_temperature_of_chapter_07_counts_for_the_expert_that_it_was_fitted_to(home, vllm, photos, monkeypatch):
    monkeypatch.setenv("MTIVE_HOME", str(home))
    folder = home / "outputs" / "mine" / "07_chapter"
    folder.mkdir()
    sha256 = read_manifest(folder.parent / "06_chapter" / "stack")["adapters"]["DD"]["sha256"]
    try:
        for expert, n, temperature in ((sha256, 60, 4.0), (sha256[::-1], 60, 1.0), (sha256, 9, 1.0)):  # 9 are too few
            entry = {"temperature": 4.0, "n": n, "expert": expert, "options": ["yes", "no"]}
            (folder / "calibration.json").write_text(json.dumps({"DD": {"yes/no": entry}}))
            with open_profile("mine", server=vllm[0]) as experts:
                found = experts.ask("DD", photos / "0.png")
            assert found.probability == pytest.approx(1 / (1 + np.exp(2.0 / temperature)))
            assert found.calibrated == (temperature == 4.0) and found.probability_of == "yes"
    finally:
        shutil.rmtree(folder)


def test_the_command_says_how_it_went(home, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MTIVE_HOME", str(home))
    output, table = tmp_path / "out.csv", tmp_path / "rows.csv"
    assert main(["score", "mine", str(photos), "-o", str(output), "--task", "DD", "--task", "AE"]) == 0
    assert "16 answers, 0 errors" in capsys.readouterr().err
    (photos / "broken.png").write_bytes(b"")
    assert main(["score", "mine", str(photos), "-o", str(output), "--task", "DD"]) == 1
    assert "broken.png: empty file" in capsys.readouterr().err
    assert len(pd.read_csv(output)) == 17
    assert main(["score", "mine", str(photos), "-o", str(tmp_path / "other.csv")]) == 2  # no task: no answer
    capsys.readouterr()
    table.write_text("picture,task\n0.png,DD\n")
    (photos / "text.jsonl").write_text('{"photo": "0.png"}\n{"photo"\n')  # a broken line stops no other
    assert main(["score", "mine", str(photos / "text.jsonl"), "-o", str(tmp_path / "text.csv"), "--task", "DD"]) == 1
    said = capsys.readouterr().err
    assert "line 2, DD: text.jsonl, line 2: not a line of JSON" in said and "1 answers, 1 errors" in said
    (tmp_path / "theirs.csv").write_text("id,answer\n1,yes\n")
    (tmp_path / "empty").mkdir()
    new = str(tmp_path / "new.csv")
    for words, message in [
        (["mine", str(tmp_path / "none"), "-o", new], "none: no such folder or file"),
        (["mine", str(table), "-o", new], "rows.csv: found the columns picture, task, expected one named photo"),
        (["mine", str(tmp_path / "empty"), "-o", new], "found no photo"),
        (["mine", str(photos), "-o", str(tmp_path / "out.xlsx")], "found the suffix '.xlsx', expected .csv or .jsonl"),
        (["mine", str(photos), "-o", str(tmp_path / "theirs.csv")], "holds no answers of `score`"),
        (["yours", str(photos), "-o", new], "outputs/yours/04_*: not found"),
        (["mine", str(photos), "-o", new, "--server", "http://127.0.0.1:9"], "http://127.0.0.1:9: Connection error"),
    ]:
        assert main(["score", *words, "--task", "DD"]) == 2
        said = capsys.readouterr().err
        assert message in said and said.startswith("error: ") and len(said.splitlines()) == 1, said
    assert not Path(new).exists() and (tmp_path / "theirs.csv").read_text() == "id,answer\n1,yes\n"


def test_a_spreadsheet_that_shouts_its_booleans_asks_nothing_again(tmp_path):
    row = dict.fromkeys(COLUMNS, "") | {"id": "1", "expert": "DD@1", "probability": 0.7, "calibrated": True}
    with Output(file := tmp_path / "answers.csv") as kept:
        kept.write([row])
    file.write_text(file.read_text().replace("True", "TRUE"))
    assert Output(file).answer(row, calibrated=True)["calibrated"] is True


def test_an_output_without_a_file_keeps_rows_in_memory():
    row = dict.fromkeys(COLUMNS, "") | {"id": "1", "expert": "DD@1"}
    with Output(None) as kept:
        kept.write([row])
        assert kept.answer(row, calibrated=False) == row
        assert kept.answer(row | {"expert": "DD@2"}, calibrated=False) is None
