import json
import re
import shutil
import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest
import torch
from conftest import make_record
from safetensors.torch import load_file, save_file

from mtive_nb.data.photos import PhotoError
from mtive_nb.evaluate.grounding.attention import read_attention
from mtive_nb.evaluate.predict import generate_answers
from mtive_nb.model.lineage import MANIFEST, WEIGHTS, LineageError, NotFiniteError, sha256_of, signature
from mtive_nb.model.load import load_vlm
from mtive_nb.model.stack import AdapterSpec, LoraStack, load_stack
from mtive_nb.serve.engine import Engine, Overloaded, Request, _Streams
from mtive_nb.serve.pool import MIB, ExpertPool

SPECS = {
    "AE": AdapterSpec(4, 4, ("language.mlp", "connector")),
    "DD": AdapterSpec(2, 4, ("vision.mlp", "language.attention")),
}
TOKENS = 5


@pytest.fixture(scope="module")
def home(tiny_folder, tmp_path_factory):
    """Folders of a trunk, of experts in two trainings ("v1", "v2"), and of one on the bare base."""
    home = tmp_path_factory.mktemp("stacks")
    torch.manual_seed(0)  # the first weights do not hang on the tests that ran before
    stack = LoraStack(load_vlm(str(tiny_folder), dtype="float32"))
    stack.add("IT", AdapterSpec(4, 8, ("vision.attention", "connector", "language.attention")))
    for training in (1, 2):
        for name, spec in SPECS.items():
            stack.add(name, spec, parent="IT")
        torch.manual_seed(training)
        for name, weight in stack.model.named_parameters():
            if "lora_B" in name and (training == 1 or ".IT." not in name):
                weight.data.normal_(0, 0.3)
        stack.save(home / "trunk", "IT")
        for name in SPECS:
            stack.save(home / f"v{training}", name)
            stack.unload(name)
    stack.add("loose", SPECS["AE"])
    stack.add("dead", SPECS["AE"], parent="IT")
    for name in ("loose", "dead"):
        stack.save(home / name, name)
    return home


@pytest.fixture
def stack(home, tiny_folder):
    return load_stack(load_vlm(str(tiny_folder), dtype="float32"), (home / "trunk", "IT"))


@pytest.fixture
def pool(home, stack):
    pool = ExpertPool(stack, trunk="IT")
    for name in SPECS:
        pool.add(name, home / "v1")
    return pool


@pytest.fixture(scope="module")
def alone(home, tiny_folder, photo_folder, some_records):
    """What each version answers by itself: {(expert, version): one answer a record}."""
    stack, said = load_stack(load_vlm(str(tiny_folder), dtype="float32"), (home / "trunk", "IT")), {}
    given = {"max_new_tokens": TOKENS}
    said[None] = generate_answers(stack, some_records, **given)
    for number in (1, 2):
        for name in SPECS:
            stack.load(home / f"v{number}", name, alias=f"{name}@{number}")
            said[f"{name}@{number}"] = generate_answers(stack, some_records, **given)
            stack.unload(f"{name}@{number}")
    assert len({tuple(answers) for answers in said.values()}) == 5
    return said


def test_the_engine_answers_as_each_expert_alone(pool, alone, records, photo_folder):
    with Engine(pool, max_batch=4) as engine:
        asked = [
            (k, e, engine.submit(r, e, max_new_tokens=TOKENS))
            for k, r in enumerate(records)
            for e in ("AE", None, "DD")
        ]
        for k, _, request in asked:
            assert request.text() == alone[request.expert][k]
            assert request.outcome == "done" and 0 < request.first_token_s <= request.seconds
    assert not any(row["requests"] for row in pool.state())


def test_pieces_arrive_while_the_answer_is_made(pool, alone, records, photo_folder):
    said = {(e, k): text for e in (None, "AE@1") for k, text in enumerate(alone[e])}
    expert, k = max(
        said, key=lambda asked: sum(c.isprintable() and c.isascii() for c in said[asked])
    )  # whole characters
    with Engine(pool) as engine:
        pieces = list(engine.submit(records[k], expert and expert.split("@")[0], max_new_tokens=TOKENS))
    assert len(pieces) > 1 and "".join(pieces).strip() == said[expert, k]


def test_a_probability_is_read_from_the_answer_s_own_logits(pool, records, photo_folder):
    end = pool.stack.vlm.processor.tokenizer.eos_token_id

    def chance_of(task, sha256, *, text, tokens, logits):
        said = tokens[: tokens.index(end) + 1] if end in tokens else tokens
        greedy = [int(step.argmax()) for step in logits[: len(said)]]
        return None, f"{task} {sha256} {text}", greedy == said

    with Engine(pool, chance_of=chance_of) as engine:
        asked = {e: engine.submit(records[0], e, max_new_tokens=TOKENS) for e in ("AE", None, "DD")}
        texts = {expert: request.text() for expert, request in asked.items()}
    hashes = {e: r.version.sha256 if r.version else "" for e, r in asked.items()}
    assert {e: r.chance for e, r in asked.items()} == {
        e: (None, f"{e or ''} {hashes[e]} {text}", True) for e, text in texts.items()
    }
    assert len(set(texts.values())) > 1, "rows of one batch differ"


def test_experts_are_swapped_under_load_and_no_request_meets_the_wrong_one(pool, alone, records, photo_folder, home):
    stop, swaps, wrong, served = threading.Event(), [], [], []

    def swap():
        while not stop.is_set():
            number = 2 if len(swaps) % 2 == 0 else 1
            pool.update("AE", home / f"v{number}", "AE")
            pool.remove("DD")
            pool.add("DD", home / "v1")
            swaps.append(number)
            time.sleep(0.02)

    # Version numbers go on counting: odd ones of AE are the first training, even ones the second.
    truth = {"AE": {1: alone["AE@1"], 0: alone["AE@2"]}}
    with Engine(pool, max_batch=8, max_waiting=400) as engine:
        swapper = threading.Thread(target=swap)
        swapper.start()
        for k in range(160):
            row = k % len(records)
            request = engine.submit(records[row], "AE" if k % 3 else None, max_new_tokens=TOKENS)
            served.append((row, request))
            time.sleep(0.01)
        for row, request in served:
            wanted = alone[None] if request.version is None else truth["AE"][request.version.number % 2]
            if request.text() != wanted[row]:
                wrong.append((row, request.expert))
        stop.set()
        swapper.join()
    assert not wrong and len(swaps) > 3 and len({r.expert for _, r in served}) > 3
    assert [row["expert"] for row in pool.state()] == ["AE", "DD"]  # old versions are gone
    assert set(pool.stack.specs) == {"IT"}  # the model was never touched


def test_a_request_keeps_the_version_it_started_with(pool, alone, records, photo_folder, home):
    engine = Engine(pool)
    before = engine.submit(records[0], "AE", max_new_tokens=TOKENS)  # waits: the engine has not begun
    pool.update("AE", home / "v2", "AE")
    after = engine.submit(records[0], "AE", max_new_tokens=TOKENS)
    held = engine.submit(records[2], "DD", max_new_tokens=TOKENS)
    pool.remove("DD")
    pool.add("DD", home / "v2")  # the name comes back while the old content is still asked for
    again = engine.submit(records[2], "DD", max_new_tokens=TOKENS)
    pool.remove("DD")
    with engine, pytest.raises(KeyError, match="no expert 'DD' in service; there are"):
        assert before.text() == alone["AE@1"][0] and after.text() == alone["AE@2"][0]
        assert held.text() == alone["DD@1"][2] and again.text() == alone["DD@2"][2]
        engine.submit(records[0], "DD")
    assert [row["version"] for row in pool.state()] == [2] and set(pool.stack.specs) == {"IT"}


def test_no_request_waits_while_a_folder_is_read(pool, alone, records, photo_folder, home, monkeypatch):
    reading, may_end, read, ended = threading.Event(), threading.Event(), pool.stack.read, []

    def slow(folder, name):
        reading.set()
        assert may_end.wait(60)
        return read(folder, name)

    def change(do, *given):
        try:
            ended.append(do(*given).alias)
        except KeyError as error:
            ended.append(str(error))

    monkeypatch.setattr(pool.stack, "read", slow)
    changes = [
        (pool.update, "AE", home / "v2"),
        (pool.add, "new", home / "v1", "DD"),
        (pool.add, "new", home / "v1", "DD"),
    ]
    threads = [threading.Thread(target=change, args=given, daemon=True) for given in changes]
    for thread in threads:
        thread.start()
    assert reading.wait(60)
    with Engine(pool) as engine:  # all three are still being read
        assert engine.submit(records[0], "AE", max_new_tokens=TOKENS, limit_s=30).text() == alone["AE@1"][0]
        assert not ended
        may_end.set()
        for thread in threads:
            thread.join(60)
        assert engine.submit(records[0], "AE", max_new_tokens=TOKENS).text() == alone["AE@2"][0]
        assert engine.submit(records[0], "new", max_new_tokens=TOKENS).text() == alone["DD@1"][0]
    assert sorted(ended)[1:] == ["AE@2", "new@1"] and "in service already" in sorted(ended)[0]


def test_a_rollback_survives_the_end_of_the_version_that_had_its_number(pool, home):
    first = pool.hold("AE")
    pool.update("AE", home / "v2", number=2)
    back = pool.update("AE", home / "v1", number=1)
    pool.release(first)
    assert pool.hold("AE") is back and pool.in_memory([first, back])[1] is back.adapter


def test_traffic_is_split_by_weight(pool, home):
    first = pool.experts["AE"].versions[1]
    pool.hold("AE")  # keeps version 1 alive through the update
    pool.update("AE", home / "v2", "AE")
    pool.split("AE", {1: 0.25, 2: 0.75})
    drawn = [pool.hold("AE").number for _ in range(400)]
    assert 60 < drawn.count(1) < 140 and first.held == 1 + drawn.count(1)
    with pytest.raises(KeyError, match="expected some of versions"):
        pool.split("AE", {3: 1.0})


def test_what_does_not_fit_the_budget_comes_back_when_asked_for(home, stack, alone, records, photo_folder):
    sizes = ExpertPool(stack, trunk="IT")
    ae, dd = (sizes.add(name, home / "v1").size for name in SPECS)
    for name in SPECS:
        sizes.remove(name)
    pool = ExpertPool(stack, trunk="IT", budget_mib=(max(ae, dd) + 10) / MIB)
    for name in SPECS:
        pool.add(name, home / "v1")
    assert [row["resident"] for row in pool.state()] == [False, True]
    with Engine(pool, max_batch=1) as engine:
        for name in ("AE", "DD", "AE"):
            assert engine.submit(records[1], name, max_new_tokens=TOKENS).text() == alone[f"{name}@1"][1]
    assert [row["resident"] for row in pool.state()] == [True, False]
    pool.pin("AE")
    for _ in range(2):  # what was refused once is not there the second time
        with pytest.raises(MemoryError, match="needed at once, the budget is"):
            pool.in_memory([pool.hold("DD")])
        assert [row["resident"] for row in pool.state()] == [True, False] and "DD@1" not in stack.specs


@pytest.mark.parametrize("change", ["trained again", "weights", "alpha", "gone"])
def test_an_evicted_version_comes_back_as_it_was_or_its_request_fails_in_words(home, stack, tmp_path, change):
    shutil.copytree(home / "v1", tmp_path / "live")
    pool = ExpertPool(stack, trunk="IT", budget_mib=0.3)
    pool.add("AE", tmp_path / "live")
    running = pool.hold("AE")
    kept = running.adapter
    if change == "trained again":
        shutil.rmtree(tmp_path / "live")
        shutil.copytree(home / "v2", tmp_path / "live")
    elif change == "gone":
        shutil.rmtree(tmp_path / "live")
    else:
        file = tmp_path / "live" / "AE" / (WEIGHTS if change == "weights" else "adapter_config.json")
        file.write_bytes(file.read_bytes().replace(b'"lora_alpha": 4', b'"lora_alpha": 9')[:-1] + b"}")
    assert pool.in_memory([running]) == [kept], "what is in memory does not change"
    running.adapter = None  # evicted
    with pytest.raises(LineageError, match="AE@1: .* first held" if change == "trained again" else "live"):
        pool.in_memory([running])
    assert running.adapter is None
    if change == "trained again":
        assert pool.update("AE", tmp_path / "live").sha256 != running.sha256  # asked for, it is served


def test_an_adapter_of_no_numbers_is_refused(pool, home, tmp_path):
    shutil.copytree(home / "v1", tmp_path / "nan")
    tensors = load_file(home / "v1" / "AE" / WEIGHTS)
    next(iter(tensors.values()))[0, 0] = torch.nan
    save_file(tensors, tmp_path / "nan" / "AE" / WEIGHTS)
    manifest = json.loads((tmp_path / "nan" / MANIFEST).read_text())
    row = manifest["adapters"]["AE"]
    row["files"][WEIGHTS] = sha256_of(tmp_path / "nan" / "AE" / WEIGHTS)
    row["sha256"] = signature(manifest, "adapters", "AE", row)
    (tmp_path / "nan" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(NotFiniteError, match="1 of .* not finite"):
        pool.update("AE", tmp_path / "nan")
    assert pool.hold("AE").number == 1


def test_a_folder_that_does_not_belong_is_refused_and_leaves_nothing(pool, home, tmp_path):
    before = set(pool.stack.specs)
    with pytest.raises(LineageError, match="stands on None, the trunk is 'IT'"):
        pool.add("loose", home / "loose")
    with pytest.raises(RuntimeError, match="changes nothing"):
        pool.add("dead", home / "dead")
    with pytest.raises((LineageError, FileNotFoundError)):
        pool.add("none", tmp_path)
    with pytest.raises(KeyError, match="in service already"):
        pool.add("AE", home / "v1")
    assert set(pool.stack.specs) == before and {row["expert"] for row in pool.state()} == {"AE", "DD"}


def test_cancel_time_limit_and_a_full_queue(pool, records, photo_folder):
    engine = Engine(pool, max_waiting=3)
    cancelled = engine.submit(records[0], "AE", max_new_tokens=400)
    late = engine.submit(records[1], "DD", max_new_tokens=400, limit_s=0.0)
    engine.submit(records[1], None, max_new_tokens=2)
    with pytest.raises(Overloaded, match="3 requests wait already"):
        engine.submit(records[1], "AE")
    cancelled.cancel()
    with engine:
        running = None
        while running is None:
            try:
                running = engine.submit(records[0], "AE", max_new_tokens=4000)
            except Overloaded:
                time.sleep(0.01)
        next(iter(running))
        running.cancel()
        for request in (cancelled, running):
            with pytest.raises(CancelledError, match="before its answer was whole"):
                request.text()
            assert isinstance(request.text(partial=True), str)
        assert running.text(partial=True) == "".join(running.said).strip() != ""
        with pytest.raises(TimeoutError, match="no whole answer within 0.0 s"):
            list(late)
        assert [r.outcome for r in (cancelled, late, running)] == ["cancelled", "timed out", "cancelled"]
    assert not any(row["requests"] for row in pool.state())


def test_a_bad_photo_fails_its_own_request_alone(pool, alone, records, tmp_path):
    engine = Engine(pool, max_batch=8)
    good = engine.submit(records[0], "AE", max_new_tokens=TOKENS)
    (tmp_path / "text.jpg").write_text("no photo")
    bad = engine.submit(records[0] | {"images": [str(tmp_path / "text.jpg")]}, "AE", max_new_tokens=TOKENS)
    with engine:
        assert good.text() == alone["AE@1"][0]
        with pytest.raises(PhotoError, match="text.jpg: not an image"):
            bad.text(partial=True)
    assert (good.outcome, bad.outcome) == ("done", "failed")


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"question": "  "}, ValueError, "question: found none"),
        ({"question": "red? " * 3000}, ValueError, "found 15000 characters, expected 8000 at most"),
        ({"images": ["gone.png"]}, PhotoError, "gone.png: no such file"),
        ({"images": []}, ValueError, "photos: found 0, expected 1"),
        ({"expert": "XX"}, KeyError, "no expert 'XX' in service; there are"),
        ({"question": "\u200b\u2060"}, ValueError, "question: found none"),
        ({"record": {}}, ValueError, "record: found no messages"),
        ({"record": {"messages": []}}, ValueError, "record: found no messages"),
        ({"record": {"messages": "red?"}}, ValueError, "record: found no messages"),
        ({"record": make_record(0, images=17)}, ValueError, "photos: found 17, expected 16 at most"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens: found 0"),
        ({"max_new_tokens": float("nan")}, ValueError, "max_new_tokens: found nan"),
        ({"limit_s": None}, ValueError, "limit_s: found None"),
        ({"limit_s": float("nan")}, ValueError, "limit_s: found nan"),
    ],
)
def test_what_cannot_be_answered_is_refused_before_it_waits(pool, records, changed, error, words):
    engine = Engine(pool)
    record = make_record(0, question=changed["question"]) if "question" in changed else records[0]
    record = changed.get("record", record | {"images": changed.get("images", records[0]["images"])})
    options = {"max_new_tokens": 4} | {k: v for k, v in changed.items() if k in ("max_new_tokens", "limit_s")}
    with pytest.raises(error, match=re.escape(words)):
        engine.submit(record, changed.get("expert", "AE"), **options)
    assert not any(row["requests"] for row in pool.state())


def test_an_engine_starts_once(pool):
    with Engine(pool) as engine, pytest.raises(RuntimeError, match="has been started before"):
        engine.__enter__()
    assert pool.stack.held == ()


@pytest.mark.parametrize("weights", [{1: float("nan")}, {1: float("inf")}, {1: 0.0}, {1: -1.0}])
def test_weights_that_share_out_nothing_are_refused(pool, weights):
    with pytest.raises(KeyError, match="found weights"):
        pool.split("AE", weights)
    assert pool.hold("AE") is not None
    with pytest.raises(ValueError, match="budget_mib: found nan"):
        ExpertPool(pool.stack, trunk=pool.trunk, budget_mib=float("nan"))


def test_an_engine_whose_thread_died_refuses_at_once(pool, records, monkeypatch):
    engine = Engine(pool, max_batch=1)
    waiting = [engine.submit(records[0], "AE") for _ in range(3)]

    def dies(requests):
        raise SystemExit("the device is lost")

    monkeypatch.setattr(engine, "_generate", dies)
    with engine:
        for request in waiting:
            with pytest.raises(RuntimeError, match="thread ended: SystemExit.'the device is lost'"):
                request.text()
        with pytest.raises(RuntimeError, match="the engine is closed: SystemExit"):
            engine.submit(records[0], "AE")
    assert not any(row["requests"] for row in pool.state())


def test_an_engine_ends_though_its_thread_dies_with_a_full_queue(pool, records, monkeypatch):
    engine, lost = Engine(pool, max_batch=1, max_waiting=2), threading.Event()

    def dies(requests):
        lost.wait(60)
        raise SystemExit("the device is lost")

    monkeypatch.setattr(engine, "_generate", dies)
    engine.__enter__()
    waiting = [engine.submit(records[0], "AE")]
    while engine._waiting.qsize():  # the thread has it, and the next two fill the queue
        time.sleep(0.01)
    waiting += [engine.submit(records[0], "AE") for _ in range(2)]
    ending = threading.Thread(target=engine.__exit__, daemon=True)
    ending.start()
    while not engine._closed:
        time.sleep(0.01)
    lost.set()
    ending.join(10)
    assert not ending.is_alive()
    for request in waiting:
        with pytest.raises(RuntimeError, match="thread ended: SystemExit"):
            request.text()


def test_a_whole_answer_that_waits_for_its_batch_is_not_timed_out(tiny, records):
    def request(tokens: int) -> Request:
        return Request(records[0], None, tokens, time.monotonic() + 60)

    short, stopped, long = asked = [request(1), request(9), request(9)]
    streams = _Streams(asked, tiny.processor.tokenizer, 2, ends=[7])
    assert streams(torch.tensor([[1, 1, 5], [1, 1, 7], [1, 1, 5]]), None).tolist() == [True, True, False]
    for waiting in asked:
        waiting.deadline = 0.0
    assert streams(torch.tensor([[1, 1, 5, 0], [1, 1, 7, 0], [1, 1, 5, 5]]), None).tolist() == [True] * 3
    assert [r.outcome for r in (short, stopped, long)] == ["done", "done", "timed out"]


@torch.inference_mode()
def test_where_an_answer_looked_is_read_with_its_expert_between_batches(pool, home, tiny_folder, photo_folder, records):
    """Equal to the stack with that expert alone, while the base's weights hold the trunk; afterwards all is as it was."""
    record = records[1]  # of two images
    with Engine(pool) as engine:
        before = engine.submit(records[0], "DD", max_new_tokens=4).text()
        found = {name: engine.look(record, name) for name in ("DD", None)}
        assert engine.submit(records[0], "DD", max_new_tokens=4).text() == before
        with pytest.raises(KeyError, match="no expert 'XX'"):
            engine.look(record, "XX")
    stack = pool.stack
    for name, seen in found.items():
        stack.load(home / "v1", "DD") if name else stack.activate("IT")
        (alone,) = read_attention(stack.vlm, [record], maps=True)
        assert np.allclose(seen.maps, alone.maps, atol=1e-5) and len(seen.grids) == 2
    assert not np.allclose(found["DD"].maps, found[None].maps, atol=1e-4)
    assert [row["requests"] for row in pool.state()] == [0] * len(pool.state())
