"""Can experts be added, updated and removed under load without a failed request or a wrong answer?

    python benchmarks/hot_swap.py [--requests 10000] [--every 0.1] [--clients 16] [--vllm 0] [--tiny]

The pocket base has four experts with random weights (speed does not depend on them; random experts differ clearly).
Clients send requests to experts drawn at random, in a closed loop. Each swap updates an expert, or adds or removes its
guest (the same expert under another name), drawn at random. Each version's answers are computed beforehand, so every
answer is checked; a request to a guest that has left must be refused as unknown. Measured in turn: one request at a time with the stack's own `activate` (the baseline), the engine without swaps, the
engine with a swap every `every` seconds. `--vllm 1000` also sends 1000 requests to vLLM (`make serve-env`), without and
with swaps. Prints latencies, failures, wrong answers, the ratio of throughputs, and by how much this process's memory
grows over the last four fifths of the requests with swaps (`make soak`). `--tiny` serves a model of two narrow layers
instead, for many requests in little time.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import psutil
import torch
from made_up import noise_records, randomise, tiny_vlm

from mtive_nb.evaluate.predict import generate_answers
from mtive_nb.model.load import load_vlm
from mtive_nb.model.stack import AdapterSpec, LoraStack
from mtive_nb.serve.engine import Engine
from mtive_nb.serve.export import export_trunk
from mtive_nb.serve.load_test import Load, Swaps, closed_loop
from mtive_nb.serve.pool import ExpertPool
from mtive_nb.serve.vllm import VllmServer

EXPERTS, TOKENS, PHOTOS = ("AE", "DD", "PM", "EX"), 4, 24
TURNS = [(question, "x") for question in ("Which colour is it?", "What is printed?", "Is it whole? Answer yes or no.")]
SPEC = AdapterSpec(16, 16.0, ("vision.attention", "connector", "language"))


def save_experts(stack: LoraStack, home: Path) -> None:
    """Save two versions of every expert, v1 and v2, as folders."""
    torch.manual_seed(0)
    for training in (1, 2):
        for name in EXPERTS:
            stack.add(name, SPEC)
            randomise(stack, name, spread=0.2)
            stack.save(home / f"v{training}", name)
            stack.unload(name)


def drawn(k: int) -> tuple[str, bool]:
    """Return the expert that request k asks, and whether it asks the expert's guest (one request in five)."""
    draws = random.Random(k)
    return draws.choice(EXPERTS), draws.random() < 0.2


def guest(expert: str) -> str:
    return f"guest_{expert}"


def at_random(
    service: ExpertPool | VllmServer, folder: Callable[[int, str], tuple], last: Callable[[str], int]
) -> Callable[[int], None]:
    """Return a swap of the service. folder(training, expert): where `add` finds it; last: an expert's version."""
    draws, guests = random.Random(0), set()

    def swap(_: int) -> None:
        expert = draws.choice(EXPERTS)
        if draws.random() < 0.5:
            service.update(expert, *folder(1 + last(expert) % 2, expert))  # version 1 is v1, 2 is v2, 3 is v1 ...
        elif expert in guests:
            guests.remove(expert)
            service.remove(guest(expert))
        else:
            guests.add(expert)
            service.add(guest(expert), *folder(1, expert))

    return swap


def through_engine(
    home: Path, stack: LoraStack, records: list[dict], truth: dict, given: argparse.Namespace
) -> dict[str, Load | int]:
    """Measure the engine's loads, without and with swaps."""
    pool = ExpertPool(stack, trunk=None)
    for expert in EXPERTS:
        pool.add(expert, home / "v1")

    swap = at_random(pool, lambda training, e: (home / f"v{training}", e), lambda e: max(pool.experts[e].versions))
    refused: list[int] = []
    with Engine(pool, max_batch=16) as engine:

        def ask(k: int) -> bool:
            expert, as_guest = drawn(k)
            try:
                request = engine.submit(
                    records[k % PHOTOS], guest(expert) if as_guest else expert, max_new_tokens=TOKENS
                )
            except KeyError:  # no expert of that name in service
                refused.append(k)
                return as_guest
            training = 1 if as_guest else 2 - request.version.number % 2
            return request.text() == truth[expert, training][k % PHOTOS]

        return both_ways(ask, swap, requests=given.requests, given=given, refused=refused)


def through_vllm(
    home: Path, stack: LoraStack, records: list[dict], truth: dict, given: argparse.Namespace
) -> dict[str, Load | int]:
    """Measure vLLM's loads on this machine's processor, without and with swaps."""
    experts = {expert: home / "v1" / expert for expert in EXPERTS}
    options = ("--enforce-eager", "--max-num-seqs", "16")
    server = VllmServer(export_trunk(stack, home / "trunk", None), experts, log=home / "log", options=options)

    swap = at_random(server, lambda training, e: (home / f"v{training}" / e,), server.versions.__getitem__)

    def ask(k: int) -> bool:
        expert, _ = drawn(k)
        reply = server.ask(records[k % PHOTOS], expert, max_new_tokens=TOKENS)
        return reply.text == truth[expert, 2 - int(reply.version.split("@")[1]) % 2][k % PHOTOS]

    with server:
        return both_ways(ask, swap, requests=given.vllm, given=given)


def both_ways(
    ask: Callable, swap: Callable, *, requests: int, given: argparse.Namespace, refused: list[int] | None = None
) -> dict[str, Load | int]:
    """Run a load without swaps, then a load with a swap every `every` seconds; `refused` grows as `ask` is refused."""
    closed_loop(ask, requests=4 * given.clients, clients=given.clients)  # warm: a server's first requests are slow
    still = closed_loop(ask, requests=max(20, requests // 5), clients=given.clients)
    used_mib: dict[int, float] = {}

    def watched(k: int) -> bool:
        if k in (requests // 5, requests - 1):
            used_mib[k] = psutil.Process().memory_info().rss / 2**20
        return ask(k)

    before = len(refused or ())
    with Swaps(swap, every_s=given.every) as swaps:
        swapping = closed_loop(watched, requests=requests, clients=given.clients)
    for error in {*still.errors, *swapping.errors}:
        print(f"failed: {error}", flush=True)
    growth_mib = used_mib[requests - 1] - used_mib[requests // 5]
    counts = {"swaps": swaps.done, "refused": len(refused or ()) - before, "growth_mib": growth_mib}
    return {"still": still, "swapping": swapping, **counts}


def rows_of(way: str, loads: dict[str, Load | int], one_by_one: float) -> list[tuple[str, float, str, str]]:
    still, swapping = loads["still"], loads["swapping"]
    rows = [
        (f"{way}_requests", len(swapping.seconds), "requests while swapping, answered or refused", "none"),
        (f"{way}_swaps", loads["swaps"], "adds, updates, removals", "none"),
        (f"{way}_refused", loads["refused"], "requests to guests that had left, refused in words", "none"),
        (f"{way}_failed", still.failed + swapping.failed, "requests", "lower"),
        (f"{way}_wrong_expert", still.wrong + swapping.wrong, "requests", "lower"),
        (f"{way}_memory_growth", loads["growth_mib"], "MiB, last four fifths of the requests", "lower"),
        (f"{way}_throughput_ratio", still.rate / one_by_one, "times one at a time", "higher"),
    ]
    for share in (50, 99):
        with_swaps, without = swapping.percentile_s(share), still.percentile_s(share)
        rows.append(
            (f"{way}_p{share}_ratio", with_swaps / without, "latency while swapping over latency without", "lower")
        )
        rows.append((f"{way}_p{share}_s", with_swaps, "s, while swapping", "lower"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--every", type=float, default=0.1)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--vllm", type=int, default=0, help="requests to vLLM; 0 leaves it out")
    parser.add_argument("--tiny", action="store_true", help="two layers of width 64 with random weights")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        home, stack = Path(name), LoraStack(tiny_vlm() if given.tiny else load_vlm("pocket", max_px=140))
        save_experts(stack, home)
        records, truth = noise_records(home, list(islice(cycle(TURNS), PHOTOS)), side_px=140), {}
        options = {"max_new_tokens": TOKENS}
        for training in (1, 2):
            for expert in EXPERTS:
                stack.load(home / f"v{training}", expert)
                truth[expert, training] = generate_answers(stack, records, **options)
                if (expert, training) == (EXPERTS[0], 1):
                    started = time.perf_counter()
                    for record in records:
                        stack.activate(expert)
                        generate_answers(stack, [record], **options)
                    one_by_one = len(records) / (time.perf_counter() - started)
                stack.unload(expert)
        rows = rows_of("engine", through_engine(home, stack, records, truth, given), one_by_one)
        if given.vllm:
            rows += rows_of("vllm", through_vllm(home, stack, records, truth, given), one_by_one)
    for metric, value, unit, better in rows:
        print(json.dumps({"metric": metric, "value": round(value, 4), "unit": unit, "better": better}))


if __name__ == "__main__":
    main()
