"""Export for vLLM, and real vLLM where an environment has it: parity with the live stack, hot swap, refusals."""

import base64
import io
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import openai
import pytest
import torch
from conftest import make_record
from PIL import Image

from mtive_nb.data.endpoint import Endpoint
from mtive_nb.data.photos import PhotoError
from mtive_nb.evaluate.judge.llm import JUDGED, LlmJudge
from mtive_nb.evaluate.predict import next_token_logits
from mtive_nb.model.batches import cached_image
from mtive_nb.model.lineage import LineageError, read_manifest
from mtive_nb.model.load import load_vlm
from mtive_nb.model.stack import AdapterSpec, LoraStack, load_stack
from mtive_nb.run.graph import Project
from mtive_nb.serve.answer import open_profile, question_record
from mtive_nb.serve.export import export_expert, export_flat, export_trunk, rank_room
from mtive_nb.serve.load_test import Swaps, closed_loop
from mtive_nb.serve.parity import Reply, compare, live_replies
from mtive_nb.serve.vllm import (
    BASE,
    VllmClient,
    VllmServer,
    _control_of,
    _pixel_bound,
    chat_with_photos,
    serve_python,
)

SPECS = {
    "AE": AdapterSpec(8, 8, ("language", "connector")),
    "DD": AdapterSpec(16, 16, ("vision.attention", "connector", "language.attention")),
}
TOKENS = 6
TOLERANCE = 2e-3  # nats, between two implementations in float32

real = pytest.mark.skipif(serve_python() is None, reason="vLLM: no environment has it; `make serve-env` makes one")


@pytest.fixture(scope="module")
def home(tiny_folder, tmp_path_factory):
    """A stack with experts in two trainings, v1 and v2, and what vLLM is to serve of them."""
    home = tmp_path_factory.mktemp("served")
    stack = LoraStack(load_vlm(str(tiny_folder), dtype="float32"))
    torch.manual_seed(1)  # before the first weights are drawn: what these experts say must not hang on other tests
    stack.add("IT", AdapterSpec(8, 16, ("vision.attention", "connector", "language.attention")))
    for weight in (w for n, w in stack.adapter_weights("IT").items() if "lora_B" in n):
        weight.normal_(0, 0.2)
    stack.save(home / "stack", "IT")
    for training in (1, 2):
        for name, spec in SPECS.items():
            stack.add(name, spec, parent="IT")
            for weight in (w for n, w in stack.adapter_weights(name).items() if "lora_B" in n):
                weight.normal_(0, 0.3)
            stack.save(home / f"v{training}", name)
            stack.unload(name)
    export_trunk(stack, home / "trunk", "IT")
    for training in (1, 2):
        for name in SPECS:
            export_expert(stack, home / f"v{training}", home / f"served{training}", name, trunk="IT")
    return home


@pytest.fixture(scope="module")
def stacks(home, tiny_folder):
    """{training: the live stack with its experts}."""
    base = str(tiny_folder)
    return {
        k: load_stack(load_vlm(base, dtype="float32"), (home / "stack", "IT"), *((home / f"v{k}", n) for n in SPECS))
        for k in (1, 2)
    }


def replies(stack, name, records, root) -> list[Reply]:
    stack.activate(name)
    return live_replies(stack, records, max_new_tokens=TOKENS)


def test_exported_trunk_with_an_expert_is_the_live_stack(home, stacks, some_records, photo_folder):
    served = LoraStack(load_vlm(str(home / "trunk"), dtype="float32"))
    from peft import PeftModel

    for name in SPECS:
        served.peft = PeftModel.from_pretrained(
            load_vlm(str(home / "trunk"), dtype="float32").model, home / "served1" / name
        )
        said = live_replies(served, some_records, max_new_tokens=TOKENS)
        found = compare(replies(stacks[1], name, some_records, photo_folder), said)
        assert found.n == 12 and found.same == 1.0 and found.largest_nats < 1e-4


def test_flattened_branch_over_the_bare_base_is_the_live_stack(
    stacks, tiny_folder, tmp_path, some_records, photo_folder
):
    from peft import PeftModel

    stack = stacks[1]
    live = replies(stack, "DD", some_records, photo_folder)
    flat = export_flat(stack, tmp_path, "DD")
    assert stack.active == ("IT", "DD") and not [n for n, _ in stack.model.named_parameters() if ".flat." in n]
    served = LoraStack(load_vlm(str(tiny_folder), dtype="float32"))
    served.peft = PeftModel.from_pretrained(served.vlm.model, flat)
    assert served.peft.peft_config["default"].r == 24
    found = compare(live, live_replies(served, some_records, max_new_tokens=TOKENS))
    assert found.same == 1.0 and found.largest_nats < 1e-4


def test_an_expert_of_another_trunk_or_with_changed_weights_is_not_exported(home, stacks, tmp_path):
    with pytest.raises(ValueError, match="stands on 'IT', the exported trunk is None"):
        export_expert(stacks[1], home / "v1", tmp_path, "DD", trunk=None)
    weights = home / "v2" / "DD" / "adapter_model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + b"?")
    try:
        with pytest.raises(LineageError, match="changed"):
            export_expert(stacks[1], home / "v2", tmp_path, "DD", trunk="IT")
    finally:
        weights.write_bytes(kept)
    assert not list(tmp_path.iterdir())


def test_parity_counts_departures_and_the_largest_difference():
    one = [Reply("yes", (-0.1, -0.2)), Reply("no", (-0.5,))]
    other = [Reply("yes", (-0.1, -0.25, -3.0)), Reply("yes", (-0.9,))]
    found = compare(one, other)
    assert (found.n, found.same) == (2, 0.5) and found.largest_nats == pytest.approx(0.05)


def test_room_for_ranks_is_one_of_vllms():
    assert [rank_room([r]) for r in (1, 4, 16, 24, 65)] == [1, 8, 16, 32, 128]
    with pytest.raises(ValueError, match="512 at most"):
        rank_room([16, 600])


def test_a_load_counts_what_fails_and_what_is_wrong():
    def ask(k: int) -> bool:
        if k == 3:
            raise OSError("gone")
        return k != 5

    load = closed_loop(ask, requests=20, clients=4)
    assert (load.failed, load.wrong, len(load.seconds)) == (1, 1, 19)
    assert load.errors == ["OSError('gone')"] and load.rate > 0 and load.percentile_s(50) >= 0


def test_an_error_of_a_swap_is_not_lost():
    with pytest.raises(ValueError, match="no such"):
        with Swaps(lambda k: (_ for _ in ()).throw(ValueError("no such")), every_s=0.01):
            closed_loop(lambda k: time.sleep(0.01) is None, requests=8, clients=1)


def test_photos_travel_as_the_pipeline_sees_them(some_records, photo_folder):
    turns = chat_with_photos(some_records[1], None)
    kinds = [part["type"] for part in turns[0]["content"]]
    assert kinds.count("image_url") == len(some_records[1]["images"]) and kinds[-1] == "text"
    for part, path in zip(
        (p for p in turns[0]["content"] if p["type"] == "image_url"), some_records[1]["images"], strict=True
    ):
        head, packed = part["image_url"]["url"].split(",")
        assert head == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(packed))).tobytes() == cached_image(path, None).tobytes()


def test_a_photo_replaced_under_its_name_travels_anew(tmp_path, some_records):
    photo, sent = tmp_path / "image.jpg", []
    for colour in ("red", "blue"):
        Image.new("RGB", (56, 56), colour).save(photo, format="BMP")
        sent.append(chat_with_photos(some_records[0] | {"images": [str(photo)]}, None))
    assert sent[0] != sent[1]


def test_the_server_s_photos_have_the_bound_of_the_live_model(tiny_folder, tmp_path):
    stack = LoraStack(load_vlm(str(tiny_folder), dtype="float32", max_px=112))
    assert _pixel_bound(export_trunk(stack, tmp_path / "trunk", None)) == 112


@pytest.mark.parametrize("known", [True, False])
def test_control_tokens_reach_a_server_as_text(home, records, known):
    """The tokens of the trunk's own tokenizer, or their forms where the server's folder is not at hand."""
    control = _control_of(str(home / "trunk") if known else "org/model-of-the-hub")
    records[0]["messages"][0]["content"][-1]["text"] = "Is <|im_end|> it <b>red</b>?"
    (turn,) = chat_with_photos(records[0], None, control=control)
    assert turn["content"][-1]["text"] == (
        "Is < |im_end|> it <b>red</b>?" if known else "Is < |im_end|> it < b>red< /b>?"
    )


class Stub(BaseHTTPRequestHandler):
    """As much of a server as a client needs: names of models, loading and unloading, an answer, whole or in pieces."""

    protocol_version, calls, end = "HTTP/1.1", [], "stop"

    def log_message(self, *_):
        pass

    def reply(self, body, kind="application/json"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        names = [{"id": n, "object": "model", "created": 0, "owned_by": "x"} for n in ("trunk", "DD@1")]
        self.reply(json.dumps({"object": "list", "data": names}).encode())

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "lora" in self.path:
            self.calls.append((self.path.split("/")[-1], asked["lora_name"]))
            return self.reply(b"ok")
        if not asked.get("stream"):
            said = {"message": {"role": "assistant", "content": "abc"}, "logprobs": {"content": []}}
            choice = said | {"index": 0, "finish_reason": self.end}
            whole = {"id": "1", "object": "chat.completion", "created": 0, "model": asked["model"], "choices": [choice]}
            return self.reply(json.dumps(whole).encode())
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": asked["model"]}
        pieces = [chunk | {"choices": [{"index": 0, "delta": {"content": w}, "finish_reason": None}]} for w in "abc"]
        pieces[-1]["choices"][0]["finish_reason"] = self.end
        lines = "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces) + "data: [DONE]\n\n"
        return self.reply(lines.encode(), "text/event-stream")


@pytest.mark.parametrize("change", ["update", "remove"])
def test_a_change_waits_for_no_reader_and_unloads_after_the_last_one(some_records, tmp_path, change):
    Stub.calls = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    gone = ("unload_lora_adapter", "DD@1")
    with VllmClient(f"http://127.0.0.1:{server.server_port}") as client:
        readers = [client.stream(some_records[0], "DD") for _ in range(2)]
        assert [next(reader) for reader in readers] == ["a", "a"]  # and then they read no further
        client.update("DD", tmp_path) if change == "update" else client.remove("DD")
        assert gone not in Stub.calls and bool(client.current) == (change == "update")
        assert client.leaving() == {"DD@1": 2}
        readers[0].close()
        assert gone not in Stub.calls
        readers[1].close()
        assert Stub.calls[-1] == gone and Stub.calls.count(gone) == 1 and client.leaving() == {}
        if change == "update":
            assert client.update("DD", tmp_path) == "DD@3" and Stub.calls[-1] == ("unload_lora_adapter", "DD@2")
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("end", [None, "abort", "error"])
def test_an_answer_that_the_server_breaks_off_is_an_error(some_records, monkeypatch, end):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    with VllmClient(f"http://127.0.0.1:{server.server_port}") as client:
        for whole in ("stop", "length"):
            monkeypatch.setattr(Stub, "end", whole)
            assert "".join(client.stream(some_records[0], "DD")) == "abc" == client.ask(some_records[0], "DD").text
        monkeypatch.setattr(Stub, "end", end)
        for ask in (client.ask, lambda *given: list(client.stream(*given))):
            with pytest.raises(ConnectionError, match=f"DD@1 before it was whole .finish_reason {end}"):
                ask(some_records[0], "DD")
        with pytest.raises(ValueError, match="question: found none"):
            next(client.stream(make_record(0, question=" "), "DD"))
        with pytest.raises(PhotoError, match="gone.png: no such file"):
            client.ask(some_records[0] | {"images": ["gone.png"]}, "DD")
    server.shutdown()
    server.server_close()


def test_a_server_that_does_not_start_says_why(home, tmp_path):
    (tmp_path / "vllm").mkdir()  # a `vllm` that is none, for this Python to find
    server = VllmServer(home / "trunk", python=sys.executable, log=tmp_path / "log", limit_s=60)
    with pytest.raises(RuntimeError, match="vLLM ended with 1; the end of .*log"):
        with server:
            pass
    assert server.process.poll() is not None


@pytest.fixture(scope="module")
def server(home, tmp_path_factory):
    experts = {name: home / "served1" / name for name in SPECS}
    log = tmp_path_factory.mktemp("vllm") / "log"
    terse = '{"backend": "xgrammar", "disable_any_whitespace": true}'  # random weights would write blanks for ever
    options = ("--enforce-eager", "--max-num-seqs", "8", "--structured-outputs-config", terse)
    with VllmServer(home / "trunk", experts, log=log, max_len_tok=2048, options=options) as server:
        yield server


def asked(server, expert, records, root) -> list[Reply]:
    return [server.ask(r, expert, max_new_tokens=TOKENS) for r in records]


@real
@pytest.mark.parametrize("name", [None, *SPECS])
def test_vllm_answers_as_the_live_stack(server, stacks, some_records, photo_folder, name):
    live = replies(stacks[1], name or "IT", some_records, photo_folder)
    found = compare(live, asked(server, name, some_records, photo_folder))
    assert found.same == 1.0 and found.largest_nats < TOLERANCE


@real
def test_a_new_version_answers_in_place_of_the_old_one(server, stacks, home, some_records, photo_folder):
    before = asked(server, "DD", some_records, photo_folder)
    assert {reply.version for reply in before} == {"DD@1"}
    assert server.update("DD", home / "served2" / "DD") == "DD@2"
    new = asked(server, "DD", some_records, photo_folder)
    live = compare(replies(stacks[2], "DD", some_records, photo_folder), new)
    assert live.same == 1.0 and live.largest_nats < TOLERANCE and {reply.version for reply in new} == {"DD@2"}
    assert compare(before, new).same < 1.0  # the swap is seen in the answers
    with pytest.raises(openai.NotFoundError):
        server.client.chat.completions.create(model="DD@1", messages=[{"role": "user", "content": "x"}])
    assert server.add("guest", home / "served1" / "DD") == "guest@1"
    guest = asked(server, "guest", some_records, photo_folder)
    assert compare(before, guest).same == 1.0
    server.remove("guest")
    with pytest.raises(KeyError, match="no expert 'guest'"):
        server.ask(some_records[0], "guest")
    assert server.add("guest", home / "served2" / "DD") == "guest@2"  # a name is never given twice


@real
def test_swaps_under_load_fail_no_request(server, home, some_records, photo_folder):
    truth = {}
    for training in (2, 1):
        server.update("AE", home / f"served{training}" / "AE")
        truth[training] = [r.text for r in asked(server, "AE", some_records, photo_folder)]
    first = server.versions["AE"]  # of training 1; the next is of training 2, and so on

    def ask(k: int) -> bool:
        row = k % len(some_records)
        reply = server.ask(some_records[row], "AE", max_new_tokens=TOKENS)
        training = 1 + (int(reply.version.split("@")[1]) - first) % 2
        return reply.text == truth[training][row]

    with Swaps(lambda k: server.update("AE", home / f"served{2 - k % 2}" / "AE"), every_s=0.05) as swaps:
        load = closed_loop(ask, requests=80, clients=4)
    assert (load.failed, load.wrong, len(load.seconds)) == (0, 0, 80), load.errors[:3]
    assert swaps.done > 1 and truth[1] != truth[2]


@real
def test_the_llm_judge_speaks_with_vllm(server, tmp_path, some_records, photo_folder):
    """The protocol of a real server; what random weights judge means nothing."""
    text = {"type": "string", "pattern": "^[a-z]{1,8}$"}
    mark, label = {"type": "integer", "minimum": 1, "maximum": 9}, {"enum": ["accurate", "analysis", "inaccurate"]}
    fields = {"text": text, "justification": text, "label": label, "confidence": mark}
    segment = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    parts = {"jus": text, "rel": mark, "acc": mark, "segments": {"type": "array", "items": segment, "minItems": 1, "maxItems": 2}}  # fmt: skip
    schema = {"type": "object", "properties": parts, "required": list(parts), "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "judgement", "schema": schema}}

    def endpoint():
        return Endpoint(f"{server.url}/v1", model=BASE, retries=0)

    request = {"temperature": 0, "max_tokens": 400, "response_format": form}
    judge = LlmJudge(endpoint(), cache=tmp_path / "cache", request=request)
    record = some_records[1]
    found = judge.judge(record, "yes, it is red")
    assert found.status == JUDGED and 0 <= found.accuracy <= 100 and found.statements in (1, 2)
    assert judge.endpoint.requests == 2 and judge.judge(record, "yes, it is red") == found
    assert judge.endpoint.requests == 2  # a rerun reads the cache
    freely = LlmJudge(endpoint(), cache=tmp_path / "cache", request={"temperature": 0, "max_tokens": 8})
    assert "reply is not the JSON asked for" in freely.judge(record, "no").status
    assert sum(freely.failures.values()) == 2


@real
def test_a_running_server_is_asked_and_changed_by_its_address(server, home, some_records, photo_folder):
    """By someone who did not start it: its experts are found, answers come in pieces, and end where one hangs up."""
    given = {"max_new_tokens": TOKENS}
    with VllmClient(f"{server.url}/v1") as client:
        assert client.current == server.current and client.versions == server.versions
        said = {(r["id"], e): list(client.stream(r, e, **given)) for r in some_records[:4] for e in (None, *SPECS)}
        for (name, expert), pieces in said.items():
            (record,) = (r for r in some_records if r["id"] == name)
            assert "".join(pieces).strip() == server.ask(record, expert, **given).text
        assert client.add("late", home / "served2" / "AE") == "late@1"
        with pytest.raises(KeyError, match="in service already"):
            client.add("late", home / "served2" / "AE")
        assert client.update("late", home / "served1" / "AE") == "late@2"
        record = next(r for r in some_records if len(list(client.stream(r, "late", **given))) > 1)
        begun = client.stream(record, "late", **given)
        next(begun)
        assert {row["expert"]: row["requests"] for row in client.state()}["late"] == 1
        begun.close()
        assert all(row["requests"] == 0 for row in client.state())
        client.remove("late")
        with pytest.raises(KeyError, match="no expert 'late'"):
            client.update("late", home / "served1" / "AE")


@real
def test_a_served_profile_scores_as_the_live_stack(server, stacks, home, photo_folder, tmp_path):
    (tmp_path / "notebooks").mkdir()
    for name in SPECS:
        server.update(name, home / "served1" / name)
    with open_profile("mine", project=Project(tmp_path), server=server.url) as experts:
        table = experts.score(photo_folder, tasks=list(SPECS), max_new_tokens=TOKENS)
        assert experts.client.tokens_of("yes no") == stacks[1].vlm.processor.tokenizer.encode("yes no")
    assert (table["error"] == "").all() and len(table) == 16
    for row in table.itertuples():
        stacks[1].activate(row.task)
        record = question_record(row.task, [photo_folder / row.photo])
        (live,) = live_replies(stacks[1], [record], max_new_tokens=TOKENS)
        sha256 = read_manifest(home / "v1")["adapters"][row.task]["sha256"]
        assert row.answer == live.text and row.expert == f"{server.current[row.task]} {sha256[:8]}"
        reply = server.ask(record, row.task, max_new_tokens=1, likeliest=20)
        logits = next_token_logits(stacks[1], [record])[0].float().log_softmax(-1)
        tokens = list(reply.likeliest[0])
        assert len(tokens) >= 20 and reply.tokens[0] in tokens
        assert max(abs(logits[t].item() - reply.likeliest[0][t]) for t in tokens) < TOLERANCE


@real
def test_a_folder_that_is_no_expert_is_refused_and_nothing_else_changes(server, tmp_path, some_records, photo_folder):
    before = asked(server, "AE", some_records[:3], photo_folder)
    with pytest.raises(RuntimeError, match="load_lora_adapter"):
        server.add("XX", tmp_path)
    assert "XX" not in server.current and "XX@1" not in server.current.values()
    assert asked(server, "AE", some_records[:3], photo_folder) == before
    assert httpx.get(f"{server.url}/health").status_code == 200
