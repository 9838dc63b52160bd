"""Are experts served, added, updated and removed under load without a failed or a wrongly answered request?

    python benchmarks/hot_swap.py [--requests 10000] [--every 0.1] [--clients 16]

The pocket base with four experts of random weights (speed does not depend on them; random ones differ clearly). Clients
ask in a closed loop; what each version answers by itself is known beforehand, so that every answer is checked. In turn:
without swaps, with a swap every `every` seconds, and, the plain way, one request at a time with the stack's own
`activate`. Prints latencies, failures, wrong answers and the ratio of throughputs.
"""

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mtive_nb.data.records import make_record
from mtive_nb.evaluate.predict import generate_answers
from mtive_nb.model.load import load_vlm
from mtive_nb.model.stack import AdapterSpec, LoraStack
from mtive_nb.serve.engine import Engine
from mtive_nb.serve.pool import ExpertPool

EXPERTS, TOKENS, PHOTOS = ("AE", "DD", "PM", "EX"), 4, 24
SPEC = AdapterSpec(16, 16.0, ("vision.attention", "connector", "language"))


def save_experts(stack: LoraStack, home: Path) -> None:
    """Two trainings of every expert, v1 and v2, as folders."""
    torch.manual_seed(0)
    for training in (1, 2):
        for name in EXPERTS:
            stack.add(name, SPEC)
            for parameter, weight in stack.adapter_weights(name).items():
                if "lora_B" in parameter:
                    weight.normal_(0, 0.2)
            stack.save(home / f"v{training}", name)
            stack.unload(name)


def make_records(home: Path) -> list[dict]:
    rng, records = np.random.default_rng(0), []
    for k in range(PHOTOS):
        path = home / f"{k}.png"
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        small.resize((140, 140), Image.Resampling.BICUBIC).save(path)
        question = ("Which colour is it?", "What is printed?", "Is it whole? Answer yes or no.")[k % 3]
        given = {"product_id": f"p{k}", "task": "AE", "variant": "gen", "source": "bench", "split": "test"}
        records.append(make_record(f"r{k}", images=[path], question=question, answer="x", **given))
    return records


def load(engine: Engine, records: list[dict], truth: dict, *, requests: int, clients: int) -> dict:
    """Requests in a closed loop; returns latencies and counts."""
    seconds, wrong, failed, lock, left = [], 0, 0, threading.Lock(), iter(range(requests))

    def client() -> None:
        nonlocal wrong, failed
        for k in left:
            row, expert = k % PHOTOS, EXPERTS[k % len(EXPERTS)]
            try:
                request = engine.submit(records[row], expert, max_new_tokens=TOKENS)
                text = request.text()
                right = text == truth[expert, 2 - request.version.number % 2][row]
            except Exception as error:  # noqa: BLE001 - counted and shown, whatever it is
                print(f"failed: {error!r}", flush=True)
                right, text = True, None
            with lock:
                failed += text is None
                wrong += not right
                if text is not None:
                    seconds.append(request.seconds)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - started
    return {"seconds": seconds, "wrong": wrong, "failed": failed, "rate": requests / took}


def swap_until(stop: threading.Event, pool: ExpertPool, home: Path, every: float, count: list[int]) -> None:
    """Update the experts in turn, from one training to the other, and add and remove a fifth in between."""
    k = 0
    while not stop.wait(every):
        expert, number = EXPERTS[k % len(EXPERTS)], pool.experts[EXPERTS[k % len(EXPERTS)]].versions
        pool.update(expert, home / f"v{1 + max(number) % 2}", expert)  # version 1 is v1, 2 is v2, 3 is v1 ...
        if k % 2 == 0:
            pool.add("guest", home / "v1", "DD")
        else:
            pool.remove("guest")
        count[0] += 2
        k += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--every", type=float, default=0.1)
    parser.add_argument("--clients", type=int, default=16)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        home, stack = Path(name), LoraStack(load_vlm("pocket", max_px=140))
        save_experts(stack, home)
        records, truth = make_records(home), {}
        for training in (1, 2):
            for expert in EXPERTS:
                stack.load(home / f"v{training}", expert)
                truth[expert, training] = generate_answers(
                    stack, records, root=home, max_new_tokens=TOKENS, side_px=140
                )
                if training == 1 and expert == EXPERTS[0]:
                    started = time.perf_counter()
                    for record in records:
                        stack.activate(expert)
                        generate_answers(stack, [record], root=home, max_new_tokens=TOKENS, side_px=140)
                    one_by_one = len(records) / (time.perf_counter() - started)
                stack.unload(expert)
        pool = ExpertPool(stack, trunk=None)
        for expert in EXPERTS:
            pool.add(expert, home / "v1")
        swaps, stop = [0], threading.Event()
        with Engine(pool, root=home, side_px=140, max_batch=16) as engine:
            still = load(engine, records, truth, requests=given.requests // 5, clients=given.clients)
            swapper = threading.Thread(target=swap_until, args=(stop, pool, home, given.every, swaps))
            swapper.start()
            swapped = load(engine, records, truth, requests=given.requests, clients=given.clients)
            stop.set()
            swapper.join()
    rows = [("requests", given.requests, "requests while swapping", "none"), ("swaps", swaps[0], "adds, updates, removals", "none"),
            ("failed", still["failed"] + swapped["failed"], "requests", "lower"),
            ("wrong_expert", still["wrong"] + swapped["wrong"], "requests", "lower"),
            ("throughput_ratio", still["rate"] / one_by_one, "times one at a time", "higher")]  # fmt: skip
    for share in (50, 99):
        a, b = (float(np.percentile(x["seconds"], share)) for x in (still, swapped))
        rows.append((f"p{share}_ratio", b / a, "latency while swapping over latency without", "lower"))
        rows.append((f"p{share}_s", b, "s, while swapping", "lower"))
    for metric, value, unit, better in rows:
        print(json.dumps({"metric": metric, "value": round(value, 4), "unit": unit, "better": better}))


if __name__ == "__main__":
    main()
