"""How long does a user wait at the start: import, help, the check of a catalogue, the first answer?

    python benchmarks/start.py [--rounds 5] [--rows 10000] [--side 32] [--ask PROFILE TASK PHOTO]

Each command runs in a process of its own, once unmeasured (a warm disk) and then `rounds` times, in turn with an empty
Python program. Prints a JSON line each: the median of its seconds and of those that processors worked (what counts on a
busy machine), those of the first, unmeasured run, and what is allowed.
`--rows` is the length of a made-up catalogue with as many photos of `--side` pixels; `--ask` needs a profile whose chapter 06 has run.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from growth import catalogue

LIMITS_S = {"an empty program": None, "import mtive_nb": 0.2, "mtive-nb --help": 0.5, "check": 10.0, "ask": 5.0}


def processor_seconds() -> float:
    """Return the seconds that processors have worked for the processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=32, help="of the photos, px")
    parser.add_argument("--ask", nargs=3, metavar=("PROFILE", "TASK", "PHOTO"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        catalogue(given.rows, Path(name), side_px=given.side)
        commands = {
            "an empty program": ["-c", ""],
            "import mtive_nb": ["-c", "import mtive_nb"],
            "mtive-nb --help": ["-m", "mtive_nb", "--help"],
            "check": ["-m", "mtive_nb", "check", name],
        }
        if given.ask:
            commands["ask"] = ["-m", "mtive_nb", "ask", *given.ask]
        seconds: dict[str, list[tuple[float, float]]] = {what: [] for what in commands}
        for _ in range(given.rounds + 1):
            for what, words in commands.items():
                started, worked = time.perf_counter(), processor_seconds()
                subprocess.run([sys.executable, *words], check=True, capture_output=True)
                seconds[what].append((time.perf_counter() - started, processor_seconds() - worked))
    for what, (cold, *rounds) in seconds.items():
        took, worked = (round(statistics.median(column), 3) for column in zip(*rounds, strict=True))
        row = {"start": what, "seconds": took, "processor_seconds": worked, "limit": LIMITS_S[what]}
        row |= {"first": round(cold[0], 3), "unit": "s", "better": "lower"}
        print(json.dumps(row | ({"rows": given.rows, "side_px": given.side} if what == "check" else {})), flush=True)


if __name__ == "__main__":
    main()
