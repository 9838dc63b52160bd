"""Long runs of requests whose finished replies are kept: captions of photos, votes on captions."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mtive_nb.data.endpoint import BudgetError, Endpoint, EndpointError
from mtive_nb.data.photos import PhotoError
from mtive_nb.run.progress import progress

T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """A model's text on one line, or "" and the reason why it is missing."""

    text: str
    fault: str = ""


class Kept:
    """Texts by key in a file of JSON lines, each appended as soon as it is there.

    A line that a killed writer left unfinished is ignored. Several threads may write.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self._lock, self._texts = Path(path), threading.Lock(), {}
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.is_file() else ""
        self._unfinished = not text.endswith("\n") and text != ""
        for line in text.split("\n"):
            try:
                row = json.loads(line)
                self._texts[row["key"]] = row["text"]
            except (ValueError, KeyError, TypeError):
                continue

    def get(self, key: str) -> str | None:
        """Return the text of a key, None where there is none."""
        return self._texts.get(key)

    def put(self, key: str, text: str) -> None:
        """Keep a text, in memory and in the file."""
        line = json.dumps({"key": key, "text": text}, ensure_ascii=False) + "\n"
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write("\n" * self._unfinished + line)
            self._unfinished, self._texts[key] = False, text


def resumed(
    items: Mapping[str, T],
    work: Callable[[list[T]], Iterable[tuple[int, Reply]]],
    kept: Kept,
    *,
    what: str,
    cost: Callable[[list[T]], str],
) -> dict[str, Reply]:
    """Return the reply of each item: kept ones from the file, the others from `work`, kept as they arrive.

    items: {key of all that decides the reply: item}. work: yields (place in its list, reply) in any order. A fault is
    not kept, so that the next run asks again. what: label of the progress line. cost: words on what the missing
    replies will cost, printed with their number before the work begins; "" for nothing.
    """
    found = {key: Reply(text) for key in items if (text := kept.get(key)) is not None}
    missing = {key: item for key, item in items.items() if key not in found}
    keys, left = list(missing), list(missing.values())
    if left and (words := cost(left)):
        print(f"{what}: {len(left)} replies missing, {len(found)} found in {kept.path.name}; {words}", flush=True)
    for place, reply in progress(work(left), len(left), what=what) if left else ():
        found[keys[place]] = reply
        if not reply.fault:
            kept.put(keys[place], reply.text)
    return found


def said_by(
    endpoint: Endpoint,
    contents: Sequence[Callable[[], list[dict]]],
    *,
    workers: int,
    request: Mapping[str, Any],
) -> Iterator[tuple[int, Reply]]:
    """Yield (place, reply) as an endpoint answers, with `workers` requests in flight.

    contents: functions that build one user turn's parts, called when the request is sent. A request that fails and a
    photo that cannot be used give a reply with the reason. Errors: EndpointError where the endpoint refuses for good, the
    budget is spent or the server counts as down; what has not been sent by then is not sent. Replies to what has been
    sent come first.
    """
    over, unasked = "", 0

    def one(build: Callable[[], list[dict]]) -> Reply | None:
        nonlocal over
        if over or endpoint.down:  # before the photo is read
            return None
        try:
            text, reason = endpoint.say(build(), request=request)
        except (OSError, PhotoError) as error:
            return Reply("", f"photo: {error}")
        except BudgetError as error:
            over = str(error)
            return None
        if text is None:
            return None if reason.startswith("not asked") else Reply("", reason)
        return Reply(" ".join(text.split()))

    with ThreadPoolExecutor(workers) as pool:
        jobs = {pool.submit(one, build): place for place, build in enumerate(contents)}
        try:
            for job in as_completed(jobs):
                if reply := job.result():
                    yield jobs[job], reply
                unasked += not reply
        finally:  # after an error or an interrupt, what has not begun is not sent
            pool.shutdown(cancel_futures=True)
    if unasked:
        raise EndpointError(
            f"{endpoint.model}: {unasked} of {len(contents)} requests were not sent: {over or endpoint.down}. What was answered "
            "is kept; run again to ask for the rest"
        )
