"""What does another program on the same cores cost training, where torch's threads spin and where they sleep?

    python benchmarks/shared_cores.py [--steps 8] [--rounds 3]

An adapter is trained on the embedded base with a thread a core, alone and beside one busy process a core. While threads
wait for each other they spin (libgomp's default) or sleep (OMP_WAIT_POLICY=PASSIVE). The ways run in turn, each in a process
of its own after a warm step. Prints a JSON line each: the median of seconds a step over rounds, and the ratio of spinning
to sleeping.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

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
    with redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as name:  # progress; lines of JSON go to stdout
        records = noise_records(Path(name), [("What is this?", "a red box of tea")] * 16, side_px=140)
        for adapter, many in (("warm", 1), ("timed", steps)):
            stack.add(adapter, AdapterSpec(16, 16.0, ("connector", "language")))
            started = time.perf_counter()
            train_adapter(stack, adapter, records, Training(many, 0.001, 8, 2))
    return (time.perf_counter() - started) / steps


def timed(way: str, steps: int, *, busy: int) -> float:
    """The seconds of a step in a process of its own, beside `busy` processes that never wait."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
    try:
        # The process is spawned inside the patch: OpenMP reads its variables once, when torch is loaded.
        with patch.dict(os.environ, WAYS[way]), ProcessPoolExecutor(1, get_context("spawn")) as alone:
            return alone.submit(seconds_a_step, steps).result()
    finally:
        for other in others:
            other.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    os.environ.pop("OMP_WAIT_POLICY", None)
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
