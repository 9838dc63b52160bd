"""A load generator: clients send a request, wait for the answer, check it and send the next request."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from mtive_nb.serve.parity import Reply


@dataclass
class Load:
    """Results of a load: seconds of every answered request, and the numbers of failures and of wrong experts.

    refused: requests that were rightly refused; they count as no answer.
    """

    seconds: list[float] = field(default_factory=list)
    failed: int = 0
    wrong: int = 0
    took_s: float = 0.0
    errors: list[str] = field(default_factory=list)
    refused: int = 0
    swaps: int = 0  # swaps done meanwhile

    @property
    def rate(self) -> float:
        """Answered requests per second."""
        return len(self.seconds) / self.took_s

    def percentile_s(self, share: float) -> float:
        """The latency in seconds that `share` percent of the answered requests stay below."""
        return float(np.percentile(self.seconds, share))


def closed_loop(ask: Callable[[int], bool | None], *, requests: int, clients: int) -> Load:
    """Send requests 0 to `requests` - 1 from `clients` threads.

    `ask(k)` returns whether the right expert answered, or None where the request was rightly refused.
    """
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
                if right is None:
                    load.refused += 1
                    continue
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
    """Context that calls `swap(k)` for k = 0, 1, ..., each `every_s` seconds after the end of the last call.

    On exit, raises the error of a failed swap.
    """

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


def loads_under_swaps(
    ask: Callable[[int], Reply],
    swap: Callable[[int], None],
    *,
    questions: int,
    requests: int,
    clients: int,
    every_s: float,
) -> tuple[list[Reply], dict[str, Load]]:
    """The first answers to questions 0 to `questions` - 1, then two loads that repeat them: "no swaps" and "swaps".

    The first load has a quarter of `requests`, but each question at least once. The second has all `requests`, with
    `swap(k)` every `every_s` seconds. An answer is wrong where its text differs from the first answer to its question.
    """
    first = [ask(k) for k in range(questions)]

    def right(k: int) -> bool:
        return ask(k % questions).text == first[k % questions].text

    still = closed_loop(right, requests=max(questions, requests // 4), clients=clients)
    with Swaps(swap, every_s=every_s) as swaps:
        swapping = closed_loop(right, requests=requests, clients=clients)
    swapping.swaps = swaps.done
    return first, {"no swaps": still, "swaps": swapping}
