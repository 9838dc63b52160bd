"""A load generator: clients that ask, wait for the answer, check it and ask again."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Load:
    """What a load met: seconds of every answered request, and how many failed or were answered by a wrong expert."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0
    wrong: int = 0
    took_s: float = 0.0
    errors: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answered requests a second."""
        return len(self.seconds) / self.took_s

    def percentile_s(self, share: float) -> float:
        """The latency in seconds that `share` percent of the answered requests stay below."""
        return float(np.percentile(self.seconds, share))


def closed_loop(ask: Callable[[int], bool], *, requests: int, clients: int) -> Load:
    """Requests 0 to `requests` - 1 from `clients` threads; `ask(k)` says whether the answer was the right expert's."""
    load, lock, left = Load(), threading.Lock(), iter(range(requests))

    def client() -> None:
        for k in left:
            started, right, error = time.perf_counter(), True, ""
            try:
                right = ask(k)
            except Exception as problem:  # noqa: BLE001 - counted and shown, whatever it is
                error = repr(problem)
            seconds = time.perf_counter() - started
            with lock:
                load.wrong += not right
                load.failed += bool(error)
                (load.errors if error else load.seconds).append(error or seconds)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.took_s = time.perf_counter() - started
    return load


class Swaps:
    """Inside this context, `swap(k)` for k = 0, 1, ... every `every_s` seconds, as near as it can be done."""

    def __init__(self, swap: Callable[[int], None], *, every_s: float) -> None:
        self.swap, self.every_s, self.done, self.error = swap, every_s, 0, None
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._work)

    def _work(self) -> None:
        try:
            while not self._stop.wait(self.every_s):
                self.swap(self.done)
                self.done += 1
        except Exception as error:  # noqa: BLE001 - raised where the context ends
            self.error = error

    def __enter__(self) -> "Swaps":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.error:
            raise self.error
