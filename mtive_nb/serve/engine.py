"""The in-process engine: answers requests for any experts, in batches that mix experts.

One thread collects waiting requests, up to `max_batch`, assigns each row its expert and generates. Each request streams
its text during generation. Decoding is greedy. For demos, tests and small loads; use vLLM in production.
"""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import StoppingCriteria

from mtive_nb.evaluate.grounding.attention import AnswerAttention, read_attention
from mtive_nb.model.batches import batch_of
from mtive_nb.model.mixed import images_of_rows, mixed_experts
from mtive_nb.serve.pool import ExpertPool, Version

END = object()  # closes a request's stream


class Overloaded(RuntimeError):
    """The queue is full: retry later."""


@dataclass
class Request:
    """A question in the engine: `text()` waits for the whole answer, iteration yields the answer piece by piece.

    After the end, `outcome` is "done", "cancelled", "timed out" or "failed"; `expert` is the version that answers.
    """

    record: dict
    version: Version | None
    max_new_tokens: int
    deadline: float
    pieces: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)
    outcome: str | None = None
    error: BaseException | None = None
    started: float = field(default_factory=time.monotonic)
    first_token_s: float | None = None
    seconds: float | None = None
    _cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def expert(self) -> str | None:
        return self.version.alias if self.version else None

    def cancel(self) -> None:
        """Cancel the request: before generation if it still waits, else at the next token."""
        self._cancelled.set()

    def __iter__(self) -> Iterator[str]:
        while (piece := self.pieces.get()) is not END:
            yield piece
        if self.error is not None:
            raise self.error

    def text(self) -> str:
        return "".join(self).strip()

    def why_end(self) -> str | None:
        """Return the reason to stop before the answer is complete ("cancelled", "timed out"), or None."""
        if self._cancelled.is_set():
            return "cancelled"
        return "timed out" if time.monotonic() > self.deadline else None


class _Streams(StoppingCriteria):
    """Sends every row's new text to its request after each step, and ends rows whose request has ended."""

    def __init__(self, requests: list[Request], tokenizer: object, prompt: int) -> None:
        self.requests, self.tokenizer, self.prompt = requests, tokenizer, prompt
        self.said, self.texts = [""] * len(requests), [""] * len(requests)

    def flush(self) -> None:
        """Send the rest of every answer, even an incomplete character."""
        for request, said, text in zip(self.requests, self.said, self.texts, strict=True):
            if text[len(said) :]:
                request.pieces.put(text[len(said) :])

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        self.texts = self.tokenizer.batch_decode(input_ids[:, self.prompt :], skip_special_tokens=True)
        now, ends = time.monotonic(), []
        for k, (request, text) in enumerate(zip(self.requests, self.texts, strict=True)):
            request.first_token_s = request.first_token_s or now - request.started
            if not text.endswith("\ufffd"):  # an incomplete character waits for its other bytes
                if text[len(self.said[k]) :]:
                    request.pieces.put(text[len(self.said[k]) :])
                self.said[k] = text
            request.outcome = request.outcome or request.why_end()
            tokens = input_ids.shape[1] - self.prompt
            ends.append(request.outcome is not None or tokens >= request.max_new_tokens)
        return torch.tensor(ends, device=input_ids.device)


class Engine:
    """Answers records (question and photos, see data/records.py) with the experts of a pool. A context manager."""

    def __init__(
        self, pool: ExpertPool, *, max_batch: int = 16, max_waiting: int = 256, gather_s: float = 0.005
    ) -> None:
        self.pool, self.vlm, self.max_batch, self.gather_s = pool, pool.stack.vlm, max_batch, gather_s
        self._waiting: queue.Queue[Request | object] = queue.Queue(max_waiting)
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._closed, self._door = False, threading.Lock()  # no request enters the queue after END
        self._model = threading.Lock()  # one forward at a time: its hooks belong to one batch

    def __enter__(self) -> "Engine":
        self.pool.stack.model.eval()
        self._serving = self.pool.stack.serving(self.pool.trunk)  # a request costs only its expert
        self._serving.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._door:
            self._closed = True
            self._waiting.put(END)
        self._thread.join()
        with self._model:
            self._serving.__exit__(None, None, None)

    def submit(self, record: dict, expert: str | None, *, max_new_tokens: int = 64, limit_s: float = 60.0) -> Request:
        """Queue a question for an expert (None: the trunk alone).

        Errors: Overloaded if the queue is full; KeyError for an unknown expert; RuntimeError after the engine's end.
        """
        with self._door:
            if self._closed:
                raise RuntimeError("the engine is closed")
            if self._waiting.full():  # every put holds the lock, so that room stays free
                raise Overloaded(f"{self._waiting.maxsize} requests wait already")
            request = Request(record, self.pool.hold(expert), max_new_tokens, time.monotonic() + limit_s)
            self._waiting.put_nowait(request)
        return request

    def look(self, record: dict, expert: str | None) -> AnswerAttention:
        """Return the attention of the record's answer on its photos, as the expert reads them, with maps.

        Answers wait meanwhile, for about one step of a batch. Errors: KeyError for an unknown expert, ValueError for a
        record without an answer.
        """
        version = self.pool.hold(expert)
        try:
            with self._answering([record], [version], batch_of(self.vlm, [record])):
                return read_attention(self.vlm, [record], maps=True)[0]
        finally:
            self.pool.release(version)

    def _work(self) -> None:
        ending = False
        while not ending:
            batch, ending = self._gather()
            live = [r for r in batch if not self._ended_waiting(r)]
            if live:
                self._answer(live)

    def _gather(self) -> tuple[list[Request], bool]:
        """Return the next requests, up to a batch, collected for `gather_s`; and whether the engine ends after them."""
        first = self._waiting.get()
        batch, until = [], time.monotonic() + self.gather_s
        while first is not END:
            batch.append(first)
            if len(batch) == self.max_batch:
                return batch, False
            try:
                first = self._waiting.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return batch, False
        return batch, True

    def _ended_waiting(self, request: Request) -> bool:
        request.outcome = request.why_end()
        if request.outcome:
            self._finish(request)
        return request.outcome is not None

    def _answer(self, requests: list[Request]) -> None:
        try:
            self._generate(requests)
        except Exception as error:  # noqa: BLE001 - a batch that fails must not end the engine
            again = [r for r in requests if r.first_token_s is None] if len(requests) > 1 else []
            for request in requests:
                if request not in again:
                    request.error, request.outcome = error, "failed"
                    self._finish(request)
            for request in again:  # a bad photo fails only its own request
                self._answer([request])
        else:
            for request in requests:
                self._finish(request)

    @torch.inference_mode()
    def _generate(self, requests: list[Request]) -> None:
        records, longest = [r.record for r in requests], max(r.max_new_tokens for r in requests)
        inputs = batch_of(self.vlm, records)
        streams = _Streams(requests, self.vlm.processor.tokenizer, inputs["input_ids"].shape[1])
        with self._answering(records, [r.version for r in requests], inputs) as model:
            model.generate(**inputs, max_new_tokens=longest, do_sample=False, stopping_criteria=[streams])
        streams.flush()

    @contextmanager
    def _answering(self, records: list[dict], versions: list[Version | None], inputs: dict) -> Iterator[nn.Module]:
        """Inside, the model answers a batch of these records, each with its version; no other thread uses the model."""
        experts = self.pool.in_memory(versions)
        shown = images_of_rows(records, inputs)
        with self._model, mixed_experts(self.pool.stack, experts, trunk=self.pool.trunk, **shown) as model:
            yield model

    def _finish(self, request: Request) -> None:
        request.outcome, request.seconds = request.outcome or "done", time.monotonic() - request.started
        self.pool.release(request.version)
        request.pieces.put(END)
