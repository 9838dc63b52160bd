"""A profile's experts in a running vLLM, asked and scored as those of this process (serve/answer.py).

The server names a version ("DD@1"), not its weights. Where its folder, with stack.json beside it, can be read here, the
hash is known, and with it the temperature of chapter 07; elsewhere probabilities are not calibrated.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import httpx
import openai

from mtive_nb.model.lineage import MANIFEST, LineageError, line_of, read_files
from mtive_nb.run.content import read_json
from mtive_nb.run.graph import Project, find_project, find_run
from mtive_nb.serve.answer import Answer, Experts, answer_limits, profile_tasks
from mtive_nb.serve.chances import Chances, read_calibration
from mtive_nb.serve.vllm import VllmClient

LIKELIEST = 20  # tokens at each place, the most that vLLM gives by default
END = -1  # the end of an answer, which is no token of a reply


class ServedProfile(Experts):
    """The experts of a profile behind the address of a vLLM. Errors: ConnectionError where none answers."""

    def __init__(self, name: str, url: str, *, project: Project | None = None) -> None:
        folder = (project or find_project()).outputs / name
        trained = find_run(folder, "06")
        model = read_json(trained / "stack" / MANIFEST).get("model", {}) if trained else {}
        self.name, self.max_px, self.own = name, model.get("max_px"), profile_tasks(folder)
        self.longest = answer_limits(folder)["max_new_tokens"]
        self.client = VllmClient(url, max_px=self.max_px)
        try:
            self.client.find_experts()
        except openai.APIError as error:
            raise ConnectionError(f"{url}: {error}; start a server, e.g. python -m mtive_nb.serve.vllm") from None
        self.chances = Chances(
            lambda names: {n: [*self.client.tokens_of(n), END] for n in names}, read_calibration(folder), self.own
        )
        self._threads = ThreadPoolExecutor(64)
        self._hash = cache(self._hash)

    def close(self) -> None:
        """Close the connections; the server goes on."""
        self._threads.shutdown()
        self.client.client.close()

    @property
    def tasks(self) -> list[str]:
        """The tasks that have an expert on the server."""
        return list(self.client.current)

    def expert_of(self, task: str) -> str:
        if task not in self.client.current:
            raise KeyError(f"no expert {task!r} in service; there are {sorted(self.client.current)}")
        return self._label(self.client.current[task])

    def _hash(self, version: str) -> str:
        """Return the hash of a version's lineage, or "" where its folder or stack.json cannot be read from here."""
        folder = Path(self.client.folders.get(version) or "")
        try:
            line = line_of(folder.parent, folder.name)
            read_files(folder, line)
        except LineageError:
            return ""
        return line.sha256

    def _label(self, version: str) -> str:
        return f"{version} {self._hash(version)[:8]}".strip()

    def answers(self, records: Sequence[dict], *, max_new_tokens: int | None = None) -> list[Answer]:
        """Answer records, all requests at once, as the server batches them; each record's task selects its expert."""
        started = time.perf_counter()
        given = {"max_new_tokens": max_new_tokens or self.longest, "likeliest": LIKELIEST}
        try:
            replies = list(self._threads.map(lambda r: self.client.ask(r, r["task"], **given), records))
        except (openai.APIError, httpx.HTTPError, RuntimeError) as error:
            raise ConnectionError(f"{self.client.url}: {error}") from error
        milliseconds, answers = 1000 * (time.perf_counter() - started) / len(records), []
        for record, reply in zip(records, replies, strict=True):
            logits = [_Floored(place) for place in reply.likeliest]
            found = {"text": reply.text, "tokens": reply.tokens, "logits": logits}
            chance = self.chances.of(record["task"], self._hash(reply.version), **found)
            answers.append(Answer(reply.text, *chance, self._label(reply.version), milliseconds))
        return answers


class _Floored(dict):
    """Log-probabilities of the likeliest tokens; any other token is at most as likely as the last of them."""

    def __missing__(self, token: int) -> float:
        return min(self.values())
