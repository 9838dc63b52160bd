"""What does another program on the same cores cost training, where torch's threads spin and where they sleep?

    python benchmarks/shared_cores.py [--steps 8] [--rounds 3]

An adapter is trained on the embedded base with a thread a core, alone and beside one busy process a core. While threads
wait for each other they spin (libgomp's default) or sleep (OMP_WAIT_POLICY=PASSIVE). The ways run in turn, each in a process of its own after a warm step. Prints a JSON line each: the median
of seconds a step over rounds, and the ratio of spinning to sleeping.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from made_up import noise_records

from mtive_nb.model.load import load_vlm
from mtive_nb.model.stack import AdapterSpec, LoraStack
from mtive_nb.model.train import Training, train_adapter

WAYS = {"spins": {}, "sleeps": {"OMP_WAIT_POLICY": "PASSIVE"}}
BUSY = "while True: pass"


def seconds_a_step(steps: int) -> float:
    """Train in this process, once warm; returns the seconds of a step of 16 records."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    stack = LoraStack(load_vlm("pocket", max_px=140))
    with tempfile.TemporaryDirectory() as name:
        records = noise_records(Path(name), [("What is this?", "a red box of tea")] * 16, side_px=140)
        for adapter, many in (("warm", 1), ("timed", steps)):
            stack.add(adapter, AdapterSpec(16, 16.0, ("connector", "language")))
            started = time.perf_counter()
            train_adapter(stack, adapter, records, Training(many, 0.001, 8, 2))
    return (time.perf_counter() - started) / steps


def timed(way: str, steps: int, *, busy: int) -> float:
    """The seconds of a step in a process of its own, beside `busy` processes that never wait."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))} | WAYS[way]
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
    try:
        words = [sys.executable, __file__, "--steps", str(steps), "--here"]
        said = subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout
    finally:
        for other in others:
            other.kill()
    return float(said.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        print(seconds_a_step(given.steps))
        return
    cores = len(os.sched_getaffinity(0))
    for place, busy in (("alone", 0), ("beside a busy process a core", cores)):
        rounds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(given.rounds):
            for way in WAYS:
                rounds[way].append(timed(way, given.steps, busy=busy))
        took = {way: statistics.median(of) for way, of in rounds.items()}
        for way, seconds in took.items():
            row = {"metric": f"step, {place}, a waiting thread {way}", "value": round(seconds, 3), "unit": "s"}
            print(json.dumps(row | {"better": "lower", "rounds": [round(one, 3) for one in rounds[way]]}), flush=True)
        ratio = round(took["spins"] / took["sleeps"], 2)
        row = {
            "metric": f"sleeping against spinning, {place}",
            "value": ratio,
            "unit": "times as fast",
            "better": "higher",
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
