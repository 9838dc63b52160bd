"""The in-process engine: answers requests for any experts, in batches that mix experts.

One thread collects waiting requests, up to `max_batch`, assigns each row its expert and generates. Each request streams
its text during generation. Decoding is greedy. For demos, tests and small loads; use vLLM in production.

A request ends with a whole answer or with an error. In a batch, a row's logits differ from those of the row alone by
rounding: where its two likeliest tokens lie closer than that, the answer may depend on the batch.
"""

import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from numbers import Integral, Real

import numpy as np
import torch
from torch import nn
from transformers import StoppingCriteria

from mtive_nb.evaluate.grounding.attention import AnswerAttention, read_attention
from mtive_nb.model.batches import batch_of
from mtive_nb.model.mixed import images_of_rows, mixed_experts
from mtive_nb.serve.pool import ExpertPool, Version
from mtive_nb.serve.questions import check_question

END = object()  # closes a request's stream
Chance = tuple[float | None, str, bool]  # as Chances.of returns it (serve/chances.py)


class Overloaded(RuntimeError):
    """The queue is full: retry later."""


@dataclass
class Request:
    """A question in the engine: `text()` waits for the whole answer, iteration yields the answer piece by piece.

    After the end, `outcome` is "done", "cancelled", "timed out" or "failed"; `expert` is the version that answers;
    `chance` is its answer's probability, where the engine reads it.
    Errors of both: CancelledError, TimeoutError, or the error of the answer, where the answer is not whole. An answer
    cut at `max_new_tokens` is whole: the caller chose its length.
    """

    record: dict
    version: Version | None
    max_new_tokens: int
    deadline: float
    past_end: bool = False
    pieces: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)
    said: list[str] = field(default_factory=list)  # the pieces read so far
    outcome: str | None = None
    error: BaseException | None = None
    started: float = field(default_factory=time.monotonic)
    first_token_s: float | None = None
    seconds: float | None = None
    chance: Chance | None = None
    _cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def expert(self) -> str | None:
        return self.version.alias if self.version else None

    def cancel(self) -> None:
        """Cancel the request: before generation if it still waits, else at the next token."""
        self._cancelled.set()

    def __iter__(self) -> Iterator[str]:
        while (piece := self.pieces.get()) is not END:
            self.said.append(piece)
            yield piece
        self.pieces.put(END)  # whoever reads again waits for nothing
        if self.error is not None:
            raise self.error
        if self.outcome == "cancelled":
            raise CancelledError("the request was cancelled before its answer was whole")
        if self.outcome == "timed out":
            limit_s = max(0.0, self.deadline - self.started)
            raise TimeoutError(f"no whole answer within {limit_s:.1f} s; text(partial=True) returns its start")

    def text(self, *, partial: bool = False) -> str:
        """Return the whole answer; with `partial`, also the start of one that was cancelled or timed out."""
        try:
            for _ in self:
                pass
        except (CancelledError, TimeoutError):
            if not partial or self.error is not None:
                raise
        return "".join(self.said).strip()

    def why_end(self) -> str | None:
        """Return the reason to stop before the answer is complete ("cancelled", "timed out"), or None."""
        if self._cancelled.is_set():
            return "cancelled"
        return "timed out" if time.monotonic() > self.deadline else None


class _Streams(StoppingCriteria):
    """Sends every row's new text to its request after each step, and ends rows whose request has ended."""

    def __init__(self, requests: list[Request], tokenizer: object, prompt: int, *, ends: Collection[int]) -> None:
        self.requests, self.tokenizer, self.prompt, self.ends = requests, tokenizer, prompt, ends
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
            # A whole answer waits for the rest of its batch; no time limit ends it any more.
            whole = input_ids.shape[1] - self.prompt >= request.max_new_tokens or int(input_ids[k, -1]) in self.ends
            request.outcome = request.outcome or ("done" if whole else request.why_end())
            ends.append(request.outcome is not None)
        return torch.tensor(ends, device=input_ids.device)


class Engine:
    """Answers records (question and photos, see data/records.py) with the experts of a pool. A context manager."""

    def __init__(
        self,
        pool: ExpertPool,
        *,
        max_batch: int = 16,
        max_waiting: int = 256,
        gather_s: float = 0.005,
        max_chars: int = 8000,
        max_photos: int = 16,
        chance_of: Callable[..., Chance] | None = None,
    ) -> None:
        """`max_chars`, `max_photos`: of a question, so that one request cannot fill the memory of its batch.

        `chance_of`: reads each answer's probability (Chances.of), from logits that are kept until its batch is done.
        """
        self.pool, self.vlm, self.max_batch, self.gather_s = pool, pool.stack.vlm, max_batch, gather_s
        self.max_chars, self.max_photos, self.chance_of = max_chars, max_photos, chance_of
        self._waiting: queue.SimpleQueue[Request | object] = queue.SimpleQueue()  # no put waits inside the door
        self.max_waiting = max_waiting
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._closed, self._door = False, threading.Lock()  # no request enters the queue after END
        self._fault: BaseException | None = None  # what ended the thread

    def __enter__(self) -> "Engine":
        if self._thread.ident is not None:
            raise RuntimeError("the engine has been started before; make another one")
        self.pool.stack.model.eval()
        stack = self.pool.stack  # which a profile may serve already (serve/answer.py)
        self._serving = nullcontext() if stack.held else stack.serving(self.pool.trunk)  # a request costs its expert
        self._serving.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._door:
            self._closed = True
            self._waiting.put(END)
        self._thread.join()
        with self.pool.forward:
            self._serving.__exit__(None, None, None)

    def submit(
        self,
        record: dict,
        expert: str | None,
        *,
        max_new_tokens: int = 64,
        limit_s: float = 60.0,
        past_end: bool = False,
    ) -> Request:
        """Queue a question for an expert (None: the trunk alone).

        past_end: write on to `max_new_tokens`, for timings; it holds where all requests of a batch ask for it.
        Errors: ValueError for an empty or too long question, or too many photos, PhotoError for a missing photo, KeyError for an unknown
        expert; Overloaded if the queue is full; RuntimeError after the end of the engine or of its thread.
        """
        check_question(record, max_chars=self.max_chars, max_photos=self.max_photos)
        if not (isinstance(max_new_tokens, Integral) and max_new_tokens >= 1):
            raise ValueError(f"max_new_tokens: found {max_new_tokens!r}, expected a whole number from 1")
        if not (isinstance(limit_s, Real) and limit_s >= 0):
            raise ValueError(f"limit_s: found {limit_s!r}, expected seconds")
        with self._door:
            if self._closed:
                raise RuntimeError(f"the engine is closed{f': {self._fault!r}' if self._fault else ''}")
            if self._waiting.qsize() >= self.max_waiting:
                raise Overloaded(f"{self.max_waiting} requests wait already")
            request = Request(record, self.pool.hold(expert), max_new_tokens, time.monotonic() + limit_s, past_end)
            self._waiting.put(request)
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
        batch, ending = [], False
        try:
            while not ending:
                batch, ending = self._gather()
                if live := [r for r in batch if not self._ended_waiting(r)]:
                    self._answer(live)
        except BaseException as error:  # noqa: BLE001 - nobody may wait for a thread that has ended
            self._give_up(batch, error)

    def _give_up(self, batch: list[Request], error: BaseException) -> None:
        """Fail every request that waits for an answer, and refuse new ones."""
        with self._door:
            self._closed, self._fault = True, error
            while not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
        for request in batch:
            if request is not END and request.seconds is None:
                request.error, request.outcome = RuntimeError(f"the engine's thread ended: {error!r}"), "failed"
                self._finish(request)

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
        ends = np.atleast_1d(self.vlm.model.generation_config.eos_token_id or []).tolist()
        streams = _Streams(requests, self.vlm.processor.tokenizer, inputs["input_ids"].shape[1], ends=ends)
        with self._answering(records, [r.version for r in requests], inputs) as model:
            made = model.generate(
                **inputs,
                max_new_tokens=longest,
                min_new_tokens=longest if all(r.past_end for r in requests) else None,
                do_sample=False,
                stopping_criteria=[streams],
                output_logits=self.chance_of is not None,
                return_dict_in_generate=True,
            )
        streams.flush()
        for k, request in enumerate(requests) if self.chance_of else ():
            tokens, logits = made.sequences[k, streams.prompt :].tolist(), [step[k] for step in made.logits]
            expert = (request.version.expert, request.version.sha256) if request.version else ("", "")
            request.chance = self.chance_of(*expert, text=streams.texts[k].strip(), tokens=tokens, logits=logits)

    @contextmanager
    def _answering(self, records: list[dict], versions: list[Version | None], inputs: dict) -> Iterator[nn.Module]:
        """Inside, the model answers a batch of these records, each with its version; no other thread uses the model."""
        experts = self.pool.in_memory(versions)
        shown = images_of_rows(records, inputs)
        with self.pool.forward, mixed_experts(self.pool.stack, experts, trunk=self.pool.trunk, **shown) as model:
            yield model

    def _finish(self, request: Request) -> None:
        request.outcome, request.seconds = request.outcome or "done", time.monotonic() - request.started
        self.pool.release(request.version)
        request.pieces.put(END)
