"""Experts timed behind servers, and loads under swaps: each request goes to the right expert, and none is left out."""

import sys
import time

import pandas as pd
import pytest
import torch

from mtive_nb.evaluate.predict import generate_answers
from mtive_nb.model.lineage import WEIGHTS, sha256_of
from mtive_nb.model.load import load_vlm
from mtive_nb.model.stack import AdapterSpec, LoraStack, load_stack
from mtive_nb.serve.engine import Engine
from mtive_nb.serve.load_test import loads_under_swaps
from mtive_nb.serve.parity import Reply
from mtive_nb.serve.pool import ExpertPool
from mtive_nb.serve.timed import asker, latency_table, request_seconds, times_through, vllm_over

SPEC = AdapterSpec(4, 8, ("connector", "language"))
EXPERTS = ("AE", "DD")
TOKENS = 5


@pytest.fixture(scope="module")
def saved(tiny_folder, tmp_path_factory):
    """A folder with a trunk IT and two experts on it, all of which change the model."""
    torch.manual_seed(1)  # a fixture of a module runs before the seed of a test is set
    folder, stack = tmp_path_factory.mktemp("timed"), LoraStack(load_vlm(str(tiny_folder), dtype="float32"))
    for name in ("IT", *EXPERTS):
        stack.add(name, SPEC, parent="IT" if name in EXPERTS else None)
        for weight in (w for n, w in stack.adapter_weights(name).items() if "lora_B" in n):
            weight.normal_(0, 0.3)
        stack.save(folder, name)
    return folder


@pytest.fixture
def pool(saved, tiny):
    pool = ExpertPool(load_stack(tiny, (saved, "IT")), trunk="IT")
    for name in EXPERTS:
        pool.add(name, saved)
    return pool


class Server:
    """Stands in for vLLM: notes what is streamed from it while it runs."""

    def __init__(self):
        self.streamed, self.running = [], False

    def __enter__(self):
        self.running = True
        return self

    def __exit__(self, *_):
        self.running = False

    def stream(self, record, expert, *, max_new_tokens, extra_body):
        assert self.running and extra_body == {"ignore_eos": True}
        self.streamed.append((record["id"], expert, max_new_tokens))
        yield from ("a", "b")


def test_latency_is_computed_from_first_and_whole_answers():
    whole = pd.DataFrame({"one": [0.1, 0.2, 0.3], "other": [0.2, 0.4, 0.9]})
    table = latency_table({1: whole / 2, 6: whole}, reference="one")
    assert table["P50_ms"].tolist() == [200.0, 400.0] and table["first token_ms"].tolist() == [100.0, 200.0]
    assert table["P99_ms"].tolist() == pytest.approx([298.0, 890.0])
    assert table["tokens/s"].tolist() == pytest.approx([50.0, 25.0])  # five tokens in 0.1 s and in 0.2 s
    assert table["times one"].tolist() == pytest.approx([1.0, 2.0])  # the median of 2, 2 and 3


def test_an_engine_and_a_server_are_timed_alike_and_end(pool, records):
    server, engine = Server(), Engine(pool)
    systems = {"here": ("engine", "AE"), "there": ("server", "DD"), "trunk alone": ("server", None)}
    times = times_through({"engine": engine, "server": server}, systems, records[0], tokens=TOKENS, rounds=3)
    assert list(times) == [1, TOKENS]
    for frame in times.values():
        assert list(frame) == list(systems) and frame.shape == (3, 3) and (frame > 0).all().all()
    wanted = {(records[0]["id"], expert, n): 4 for expert in ("DD", None) for n in (1, TOKENS)}  # one is not timed
    assert {request: server.streamed.count(request) for request in server.streamed} == wanted
    assert not server.running
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(records[0], None)


def test_a_timed_request_is_answered_by_the_expert_it_names(pool, saved, records):
    with Engine(pool) as engine:
        said = {name: asker(engine, records[0], name)(TOKENS) for name in (*EXPERTS, None)}
    alone, stack = {}, pool.stack
    alone[None] = generate_answers(stack, records[:1], max_new_tokens=TOKENS)[0]
    for name in EXPERTS:
        stack.load(saved, name)
        alone[name] = generate_answers(stack, records[:1], max_new_tokens=TOKENS)[0]
        stack.unload(name)
    assert said == alone and len(set(said.values())) == 3


def test_requests_go_to_the_experts_of_a_pool_in_turn(pool, records, monkeypatch):
    asked, hold = [], pool.hold
    monkeypatch.setattr(pool, "hold", lambda expert: asked.append(expert) or hold(expert))
    seconds = request_seconds(pool, records[0], tokens=2, requests=3)
    assert asked == ["DD", "AE", "DD", "AE"] and len(seconds) == 3 and (seconds > 0).all()


def test_vllm_serves_the_trunk_and_the_newest_experts_of_a_pool(pool, saved, tmp_path, monkeypatch):
    monkeypatch.setenv("MTIVE_SERVE_PYTHON", sys.executable)
    pool.add("guest", saved, "DD")
    pool.update("guest", saved, "AE")
    server = vllm_over(pool, tmp_path, max_len_tok=64, options=("--enforce-eager",))
    assert list(server.first) == ["AE@1", "DD@1", "guest@1"]
    hashes = {name: sha256_of(folder / WEIGHTS) for name, folder in server.first.items()}
    assert hashes["guest@1"] == hashes["AE@1"] == sha256_of(saved / "AE" / WEIGHTS) != hashes["DD@1"]
    assert {"--enforce-eager", "--no-enable-prefix-caching", str(tmp_path / "trunk")} <= set(server.command())
    assert (tmp_path / "trunk" / "model.safetensors").is_file()


def test_an_answer_that_changes_under_swaps_is_counted_as_wrong():
    done = []

    def ask(k: int) -> Reply:
        time.sleep(0.002)
        return Reply(f"{k % 3} {'late' if done and k % 3 == 2 else ''}", ())

    first, loads = loads_under_swaps(ask, done.append, questions=3, requests=60, clients=2, every_s=0.005)
    still, swapping = loads["no swaps"], loads["swaps"]
    assert [reply.text for reply in first] == ["0 ", "1 ", "2 "]
    assert (len(still.seconds), still.failed, still.wrong, still.swaps) == (15, 0, 0, 0)
    assert len(swapping.seconds) == 60 and 0 < swapping.wrong <= 20
    assert swapping.swaps == len(done) > 0
