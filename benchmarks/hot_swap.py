"""Can experts be added, updated and removed under load without a failed request or a wrong answer?

    python benchmarks/hot_swap.py [--requests 10000] [--runs 5] [--every 0.1] [--clients 8] [--vllm 0] [--tiny]

The pocket base has four experts with random weights (speed does not depend on them; random experts differ clearly, which
is checked). Clients send requests to experts drawn at random, in a closed loop. Each swap updates an expert, or adds or
removes its guest (the same expert under another name), drawn at random. Each version's answers are computed beforehand,
so every answer is checked; a request must get at least the version of the last update before it, and one to a guest that
has left must be refused as unknown, which counts as no answer. `--runs` times, the engine answers its share of the
requests without swaps and with one `every` seconds, in turn; guests are asked only where experts are swapped. Beside them,
one request at a time with the stack's own `activate`. `--vllm 1000` also sends 1000 requests to vLLM (`make serve-env`).
Prints latencies, failures, wrong answers, the ratio of throughputs, the median of the runs' ratios of latency, and by how
much this process's memory grows over the last four fifths of the requests with swaps (`make soak`). `--tiny` serves a
model of two narrow layers instead. Ends with status 1 after a failed request or a wrong answer.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
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
    service: ExpertPool | VllmServer, folder: Callable[[int, str], tuple], updates: Counter
) -> Callable[[int], None]:
    """Return a swap of the service. folder(training, expert): where `add` finds it; updates: counted once they are done."""
    draws, guests = random.Random(0), set()

    def swap(_: int) -> None:
        expert = draws.choice(EXPERTS)
        if draws.random() < 0.5:
            service.update(expert, *folder(2 - updates[expert] % 2, expert))  # version 1 is v1, 2 is v2, 3 is v1 ...
            updates[expert] += 1
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

    updates: Counter = Counter()
    swap = at_random(pool, lambda training, e: (home / f"v{training}", e), updates)
    with Engine(pool, max_batch=16) as engine:

        def ask(k: int, *, guests: bool) -> bool | None:
            expert, as_guest = drawn(k)
            as_guest, least = as_guest and guests, 1 + updates[expert]
            try:
                request = engine.submit(
                    records[k % PHOTOS], guest(expert) if as_guest else expert, max_new_tokens=TOKENS
                )
            except KeyError:  # no expert of that name in service
                return None if as_guest else False
            training = 1 if as_guest else 2 - request.version.number % 2
            right = request.text() == truth[expert, training][k % PHOTOS]
            return right and (as_guest or request.version.number >= least)

        return both_ways(ask, swap, requests=given.requests, given=given)


def through_vllm(
    home: Path, stack: LoraStack, records: list[dict], truth: dict, given: argparse.Namespace
) -> dict[str, Load | int]:
    """Measure vLLM's loads on this machine's processor, without and with swaps."""
    experts = {expert: home / "v1" / expert for expert in EXPERTS}
    options = ("--enforce-eager", "--max-num-seqs", "16")
    server = VllmServer(export_trunk(stack, home / "trunk", None), experts, log=home / "log", options=options)

    updates: Counter = Counter()
    swap = at_random(server, lambda training, e: (home / f"v{training}" / e,), updates)

    def ask(k: int, *, guests: bool) -> bool:  # noqa: ARG001 - guests are added and removed, and not asked
        expert, _ = drawn(k)
        least = 1 + updates[expert]
        reply = server.ask(records[k % PHOTOS], expert, max_new_tokens=TOKENS)
        number = int(reply.version.split("@")[1])
        return number >= least and reply.text == truth[expert, 2 - number % 2][k % PHOTOS]

    with server:
        return both_ways(ask, swap, requests=given.vllm, given=given)


def both_ways(ask: Callable, swap: Callable, *, requests: int, given: argparse.Namespace) -> dict[str, list | float]:
    """Run `runs` pairs of loads, without swaps and with a swap every `every` seconds; each load has its share of requests."""
    still, swapping, share = partial(ask, guests=False), partial(ask, guests=True), max(20, requests // given.runs)
    closed_loop(still, requests=4 * given.clients, clients=given.clients)  # warm: a server's first requests are slow
    loads: dict[str, list[Load]] = {"still": [], "swapping": []}
    used_mib = []
    for run in range(given.runs):
        for way in ("still", "swapping") if run % 2 == 0 else ("swapping", "still"):
            own = {"requests": share, "clients": given.clients}
            if way == "still":
                loads[way].append(closed_loop(still, **own))
                continue
            with Swaps(swap, every_s=given.every) as swaps:
                loads[way].append(closed_loop(lambda k, of=run: swapping(k + of * share), **own))
            loads[way][-1].swaps = swaps.done
            used_mib.append(psutil.Process().memory_info().rss / 2**20)
    for error in {error for of_way in loads.values() for load in of_way for error in load.errors}:
        print(f"failed: {error}", flush=True)
    return loads | {"growth_mib": used_mib[-1] - used_mib[0]}


def rows_of(way: str, loads: dict[str, list | float], one_by_one: float) -> list[tuple[str, float, str, str]]:
    still, swapping = loads["still"], loads["swapping"]
    every = [*still, *swapping]
    rate = statistics.median(load.rate for load in still)
    rows = [
        (f"{way}_requests", sum(len(load.seconds) for load in swapping), "requests answered while swapping", "none"),
        (f"{way}_swaps", sum(load.swaps for load in swapping), "adds, updates, removals", "none"),
        (f"{way}_refused", sum(load.refused for load in every), "requests to guests that had left, refused in words", "none"),
        (f"{way}_failed", sum(load.failed for load in every), "requests", "lower"),
        (f"{way}_wrong_expert", sum(load.wrong for load in every), "requests", "lower"),
        (f"{way}_memory_growth", loads["growth_mib"], "MiB, from the end of the first run with swaps to the last", "lower"),
        (f"{way}_throughput_ratio", rate / one_by_one, "times one at a time", "higher"),
    ]  # fmt: skip
    for percent in (50, 99):
        pairs = zip(swapping, still, strict=True)
        ratios = [with_swaps.percentile_s(percent) / without.percentile_s(percent) for with_swaps, without in pairs]
        unit = f"latency while swapping over latency without, median of runs {[round(ratio, 2) for ratio in ratios]}"
        rows.append((f"{way}_p{percent}_ratio", statistics.median(ratios), unit, "lower"))
        seconds = statistics.median(load.percentile_s(percent) for load in swapping)
        rows.append((f"{way}_p{percent}_s", seconds, "s, while swapping", "lower"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000, help="without swaps, and as many with swaps")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--every", type=float, default=0.1)
    parser.add_argument("--clients", type=int, default=8)
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
                if truth[expert, training] in [said for key, said in truth.items() if key != (expert, training)]:
                    raise RuntimeError(
                        f"{expert}, version {training} answers as another expert: a mistake would not show"
                    )
                if (expert, training) == (EXPERTS[0], 1):
                    started = time.perf_counter()
                    for record in records:
                        stack.activate(expert)
                        generate_answers(stack, [record], **options, fold=False)
                    one_by_one = len(records) / (time.perf_counter() - started)
                stack.unload(expert)
        rows = rows_of("engine", through_engine(home, stack, records, truth, given), one_by_one)
        if given.vllm:
            rows += rows_of("vllm", through_vllm(home, stack, records, truth, given), one_by_one)
    for metric, value, unit, better in rows:
        print(json.dumps({"metric": metric, "value": round(value, 4), "unit": unit, "better": better}))
    sys.exit(any(value for metric, value, *_ in rows if metric.endswith(("_failed", "_wrong_expert"))))


if __name__ == "__main__":
    main()
