"""`mtive-nb items`: folders to rows, by rules, an expert, an endpoint; resumed; an error is a row."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from commerce_rows import Server
from PIL import Image

import mtive_nb.serve.items as serve
from mtive_nb.__main__ import main
from mtive_nb.data.endpoint import Endpoint, EndpointError
from mtive_nb.data.items.inputs import PROMPTS, item_record
from mtive_nb.data.items.items import Item
from mtive_nb.data.items.readers import Reading
from mtive_nb.data.items.schema import Parsed, flat, parse_answer
from mtive_nb.data.ocr import Line
from mtive_nb.evaluate.items.judge import ItemJudge

ROOT = Path(__file__).parents[1]
FIELDS = {"attributes": {"brand_name": "LOZ"}}


def photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST).save(path)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Item a of two photos, b of one good and one broken photo, c of a broken photo, d of 43 photos."""
    folder = tmp_path / "shop"
    for k in range(2):
        photo(folder / "a" / f"{k}.png", k)
    photo(folder / "sub" / "b" / "0.png", 2)
    (folder / "sub" / "b" / "1.jpg").write_bytes(b"broken")
    (folder / "c").mkdir()
    (folder / "c" / "0.jpg").write_bytes(b"")
    for k in range(43):
        photo(folder / "d" / f"{k:02d}.png", 100 + k)
    (folder / "notes.txt").write_text("no photo")
    return folder


class Counted:
    """A reader that counts, and fails for the items in `broken`."""

    def __init__(self, *broken: str) -> None:
        self.broken, self.read = broken, []

    def __call__(self, item: Item) -> Parsed:
        self.read.append((item.item_id, len(item.photos)))
        if item.item_id in self.broken:
            raise RuntimeError("no luck")
        return Parsed(FIELDS)


def test_every_item_is_a_row_and_faults_stop_nothing(shop: Path, tmp_path: Path) -> None:
    out, reader = tmp_path / "items.jsonl", Counted("a")
    rows = serve.read_items(serve.find_items(shop), reader, by="test", output=out)
    assert [row["item_id"] for row in rows] == ["a", "c", "d", "sub/b"]
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows
    a, c, d, b = rows
    assert a["error"] == "no luck" and "none of 1 usable" in c["error"] and c["faults"] == ["0.jpg: empty file"]
    assert len(d["photos"]) == 43 and d["fields"] == FIELDS and d["error"] == ""
    assert re.fullmatch(r"photos: found 43, left out \d+ that look like earlier ones and \d+ beyond 9", d["faults"][0])
    assert b["fields"] == FIELDS and "not an image" in b["faults"][0]
    assert reader.read == [("a", 2), ("d", 9), ("sub/b", 1)]


def test_hidden_files_and_folders_are_no_photos(shop: Path) -> None:
    before = serve.find_items(shop)
    photo(shop / "a" / ".@__thumb" / "1.png", 1)
    (shop / "a" / "folder.png").mkdir()
    assert serve.find_items(shop) == before


def test_a_second_run_reads_only_what_is_new_changed_or_failed(shop: Path, tmp_path: Path) -> None:
    out, items = tmp_path / "items.jsonl", serve.find_items(shop)
    first = serve.read_items(items, Counted("a"), by="test", output=out)
    out.write_text(out.read_text() + '{"item_id": "cut sh')  # a writer that was killed
    photo(shop / "sub" / "b" / "0.png", 9)
    again = Counted()
    rows = serve.read_items(items, again, by="test", output=out)
    assert [name for name, _ in again.read] == ["a", "sub/b"] and rows[2] == first[2]
    assert [json.loads(line)["item_id"] for line in out.read_text().splitlines()] == ["a", "c", "d", "sub/b"]
    other = Counted()
    serve.read_items(items, other, by="another", output=out)
    assert len(other.read) == 3
    out.write_text('{"id": "answers of score"}\n')
    with pytest.raises(ValueError, match="line 1"):
        serve.read_items(items, other, by="test", output=out)


class Engine:
    name = "fixed"

    def read(self, image: Image.Image) -> list[Line]:
        return [Line("Brand: LOZ", 1.0, (0.0, 0.0, 9.0, 9.0))]


def test_the_command_of_the_page(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    page = (ROOT / "docs/items.md").read_text(encoding="utf-8")
    words = re.search(r"^mtive-nb (items \S+ -o \S+)$", page, re.M)[1].split()
    shop.rename(tmp_path / words[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(serve, "RapidOcr", Engine)
    monkeypatch.setattr(serve, "read_photos", lambda photos, ocr: {p: Reading(tuple(ocr.read(None))) for p in photos})
    assert main(words) == 1  # item c has no usable photo
    rows = [json.loads(line) for line in Path(words[3]).read_text().splitlines()]
    assert [row["fields"] for row in rows] == [FIELDS, {}, FIELDS, FIELDS] and {row["by"] for row in rows} == {"rules"}
    assert "3 items, 1 errors" in capsys.readouterr().err
    assert all(f"`{name}`" in page for name in serve.COLUMNS)
    code = re.search(r"^```python\n(.*?)^```$", page, re.M | re.S)[1]
    names: dict = {}
    exec(code, names)  # the page's own example
    assert names["scores"]["f1"].iloc[0] == pytest.approx(2 / 3)


def test_wrong_words_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = str(tmp_path / "o.jsonl")
    (tmp_path / "empty").mkdir()
    assert main(["items", str(tmp_path / "empty"), "-o", out]) == 2
    assert "found no photos" in capsys.readouterr().err
    photo(tmp_path / "p" / "0.png", 0)
    assert main(["items", str(tmp_path / "p"), "-o", out, "--endpoint", "http://localhost:1/v1"]) == 2
    said = capsys.readouterr().err
    assert "--model" in said and len(said.splitlines()) == 1


def test_an_endpoint_is_held_to_the_schema_or_asked_without(shop: Path, tmp_path: Path) -> None:
    item = serve.find_items(shop)[0]
    server = Server(lambda prompt: f"```json\n{json.dumps(FIELDS | {'price': 3})}\n```")
    refused = []

    def picky(prompt: str) -> str | tuple[int, str]:
        if "response_format" in strict.bodies[-1]:
            refused.append(prompt)
            return 400, "unknown field response_format"
        return json.dumps(FIELDS)

    strict = Server(picky)
    try:
        found = serve.by_endpoint(Endpoint(server.url, model="m"))(item)
        assert found.answer == FIELDS and "'price'" in found.faults[0]
        body = server.bodies[0]
        assert body["response_format"]["json_schema"]["schema"]["properties"].keys() >= {"identifiers", "attributes"}
        assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url", "image_url", "text"]
        reader = serve.by_endpoint(Endpoint(strict.url, model="m"))
        assert [reader(item).answer for _ in range(3)] == [FIELDS] * 3 and len(refused) == 1
    finally:
        server.close()
        strict.close()


def test_the_command_sets_the_fields_of_each_request(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    server, out = Server(lambda _: json.dumps(FIELDS)), tmp_path / "o.jsonl"
    words = ["items", str(shop / "a"), "-o", str(out), "--request", '{"max_completion_tokens": 9}']
    try:
        assert main([*words, "--endpoint", server.url, "--model", "m"]) == 0
        assert server.bodies[0].keys() == {"model", "messages", "response_format", "max_completion_tokens"}
        assert main([*words[:4], "--endpoint", server.url, "--model", "m"]) == 0
        assert len(server.bodies) == 2 and server.bodies[1]["temperature"] == 0  # rows by other fields are not kept
        assert main(words) == 2 and "--request is for the endpoint" in capsys.readouterr().err
    finally:
        server.close()


def test_an_endpoint_s_failure_is_a_row_and_its_refusal_a_stop(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    items = serve.find_items(shop)[:1]
    server, closed = Server(lambda _: "no JSON"), Server(lambda _: (401, "who are you"))
    try:
        reader = serve.by_endpoint(Endpoint(server.url, model="m", retries=0))
        (row,) = serve.read_items(items, reader, by="m", output=tmp_path / "o.jsonl")
        assert "not the JSON" in row["error"]
        words = ["items", str(shop), "-o", str(tmp_path / "p.jsonl"), "--endpoint", closed.url, "--model", "m"]
        assert main(words) == 2
        assert "items: at most 4 requests before retries, about" in capsys.readouterr().err
        with pytest.raises(EndpointError, match="401"):
            serve.by_endpoint(Endpoint(closed.url, model="m"))(items[0])
    finally:
        server.close()
        closed.close()


@pytest.mark.parametrize("form", ["schema", "flat"])
def test_an_expert_sees_the_main_photo_and_is_told_what_all_say(
    shop: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    asked = []

    class Experts:
        def answers(self, records: list[dict], *, max_new_tokens: int) -> list[SimpleNamespace]:
            asked.extend(records)
            return [SimpleNamespace(text=flat(FIELDS) if form == "flat" else json.dumps(FIELDS)) for _ in records]

    def told(photos: tuple[str, ...], ocr: object) -> dict[str, Reading]:
        return {name: Reading((Line(Path(name).stem, (0, 0, 1, 1), 1.0),)) for name in photos}

    monkeypatch.setattr(serve, "read_photos", told)
    found = serve.by_expert(Experts(), None, form=form)(serve.find_items(shop)[0])
    assert found == Parsed(FIELDS)
    (record,) = asked
    assert record["task"] == "ITEM" and [Path(path).name for path in record["images"]] == ["0.png"]
    question = record["messages"][0]["content"][-1]["text"]
    assert question == f"Printed: 0 | 1. {PROMPTS[form]['short']}"


def test_the_expert_of_chapter_17_reads_items_in_its_form(
    tiny, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from mtive_nb.model.adapter import AdapterSpec
    from mtive_nb.model.stack import LoraStack

    chapter, forms, sides = tmp_path / "outputs" / "mine" / "17_items", [], []
    words = ["items", str(shop), "-o", str(tmp_path / "items.jsonl"), "--profile", "mine"]
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("MTIVE_HOME", str(tmp_path))
    assert main(words) == 2 and "mtive-nb run mine 17" in capsys.readouterr().err
    stack = LoraStack(tiny)
    stack.add("ITEM", AdapterSpec(2, 2.0, ("language",)))
    stack.save(chapter / "stack", "ITEM")
    monkeypatch.setattr(serve, "read_photos", lambda photos, ocr: {})
    monkeypatch.setattr(serve, "RapidOcr", lambda *, side_px: sides.append(side_px))
    monkeypatch.setattr(serve, "item_record", lambda item, **how: forms.append(how["form"]) or item_record(item, **how))
    for number, own in enumerate(({}, {"FORM": "flat", "OCR_SIDE": 320}), 1):  # an older run had neither
        (chapter / "run.json").write_text(json.dumps({"parameters": {"BASE": "tiny"} | own}))
        (tmp_path / "items.jsonl").unlink(missing_ok=True)
        assert main(words) == 1, capsys.readouterr().err  # one item has no usable photo
        rows = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
        assert [row["item_id"] for row in rows if row["error"]] == ["c"]
        assert {row["by"].split()[0] for row in rows} == {"ITEM"} and len(forms) == 3 * number
    assert forms == ["schema"] * 3 + ["flat"] * 3 and sides == [736, 320]


def test_a_stack_answers_about_an_item_of_four_photos(tiny, shop: Path) -> None:
    from mtive_nb.evaluate.predict import generate_answers
    from mtive_nb.model.adapter import AdapterSpec
    from mtive_nb.model.stack import LoraStack

    stack = LoraStack(tiny)
    stack.add("ITEM", AdapterSpec(2, 2.0, ("language",)))
    stack.activate("ITEM")
    item = next(one for one in serve.find_items(shop) if one.item_id == "d")
    few = Item("d", item.photos[:4], FIELDS)
    (text,) = generate_answers(stack, [item_record(few)], max_new_tokens=4)
    assert isinstance(text, str) and parse_answer(text).answer == {}  # untrained


def test_the_judge_sees_the_photos_and_keeps_its_reply(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    server = Server(lambda _: json.dumps({"verdicts": {"0": "correct", "1": "unverifiable"}}))
    try:
        item = serve.find_items(shop)[0]
        answer = {"attributes": {"brand_name": "LOZ", "colors": ["red"]}}
        judge = ItemJudge(Endpoint(server.url, model="m"), cache=tmp_path / "cache")
        expected = [("attributes.brand_name", "LOZ", "correct"), ("attributes.colors", "red", "unverifiable")]
        assert [judge.verdicts(item, answer) for _ in range(2)] == [(expected, "")] * 2
        assert judge.verdicts(item, {}) == ([], "") and len(server.bodies) == 1
        assert [p["type"] for p in server.bodies[0]["messages"][0]["content"]] == ["image_url"] * 2 + ["text"] * 2
        lost = judge.verdicts(item, FIELDS)
        assert lost[0] == [] and "each number" in lost[1]
        known = [Item("a", item.photos, {"attributes": {"brand_name": "loz"}}), Item("b", item.photos, FIELDS)]
        rows = judge.table(known, [answer, FIELDS])
        assert capsys.readouterr().out.startswith("m: at most 2 requests before retries, about ")
        assert rows[["path", "value", "verdict", "truth"]].to_numpy().tolist()[:2] == [
            ["attributes.brand_name", "LOZ", "correct", "correct"], ["attributes.colors", "red", "unverifiable", "unverifiable"]
        ]  # fmt: skip
        assert rows["item_id"].tolist() == ["a", "a", "b"] and "each number" in rows["fault"].iloc[2]
    finally:
        server.close()
