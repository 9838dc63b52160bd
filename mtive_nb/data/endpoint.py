"""Client for any OpenAI-compatible endpoint: sends one user turn with photos, returns a checked JSON object or a text.

The key comes from an environment variable and goes only into the request's header, never into a file or message.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
from PIL import Image

from mtive_nb.data.photos import PhotoError, data_url, load_image
from mtive_nb.data.records import final_answer

LONGEST_WAIT_S = 60.0
SENT_PX = 2048  # side of the square whose area a sent photo has at most; providers shrink larger photos anyway
_TRY_AGAIN = (408, 429)  # and 5xx
_THIS_REQUEST = (400, 413, 422)  # too large, filtered: the next request may pass
_FORBIDDEN = 403  # a filtered request between answered ones, or a key without rights
PATCH_PX = 28  # a token of Qwen2.5-VL covers a square of this side; other models are of the same order
LOOKED_AT = 32  # photos whose size is looked up for an estimate
SILENT = 8  # requests in a row, each with all its retries, after which an endpoint counts as down
REFUSALS = 8  # in the same words, but for numbers and quotations, before any reply: not a fault of one request

Reply = TypeVar("Reply", dict, str)


class EndpointError(RuntimeError):
    """The endpoint refuses every request (wrong key, model, address or field): trying again would not help."""


class BudgetError(RuntimeError):
    """The budget of requests or tokens is spent."""


_NO_CHAT = "reply is no chat completion"
_NO_SERVER = re.compile(rf"no answer: |HTTP (?:408|429|5\d\d)|{_NO_CHAT}")
_VARIES = re.compile(r"""'[^']*'|"[^"]*"|`[^`]*`|\S*\d\S*""")  # in the words of a refusal: what was sent, ids, times


class Endpoint:
    """Sends `POST {url}/chat/completions`; may be used from several threads at once.

    Timeouts, broken connections, 408, 429, 5xx and replies without the JSON or text asked for are retried `retries` times. The
    wait is `backoff_s` at most and doubles each time, unless `Retry-After` is longer (at most `LONGEST_WAIT_S`).
    budget_requests counts every attempt (None: no limit). Requests in
    flight when the budget is spent still finish.
    After SILENT requests in a row that found no server, each with all its retries, no further one is sent. A 403 refuses
    one request, unless no request was answered before, or REFUSALS in a row get it.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str,
        api_key_env: str = "OPENAI_API_KEY",
        timeout_s: float = 60.0,
        retries: int = 4,
        backoff_s: float = 1.0,
        budget_requests: int | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not url.startswith(("http://", "https://")) or retries < 0:
            raise ValueError(
                f"Endpoint: found url {url!r}, retries {retries}; "
                "expected an address such as http://localhost:8000/v1 and 0 retries or more"
            )
        self.url, self.model = url.rstrip("/") + "/chat/completions", model
        self.retries, self.backoff_s, self._sleep = retries, backoff_s, sleep
        self.budget_requests, self.requests, self.tok = budget_requests, 0, 0
        self._silent, self.down = 0, ""  # requests in a row that found no server, and why no further one is sent
        self._refused, self._answers = Counter(), False  # refusals by their words, until a request is answered
        self._forbidden = 0  # in a row
        self._lock = threading.Lock()
        self._key = os.environ.get(api_key_env, "").strip()
        if not self._key.isascii():
            raise ValueError(
                f"{api_key_env}: found a key with letters outside ASCII, expected it as the provider wrote it"
            )
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx.Client(timeout=timeout_s, headers=headers)

    def ask(
        self, content: list[dict], fault: Callable[[dict], str | None], *, request: Mapping[str, Any] | None = None
    ) -> tuple[dict | None, str]:
        """The reply's JSON object and "", or None and the reason of the last failure.

        content: the parts of one user turn. fault: returns what is wrong with a reply, or None.
        request: further fields of the request, such as temperature.
        Errors: EndpointError when the endpoint refuses permanently, BudgetError when the budget is spent.
        """
        return self._send(content, lambda text: _json_in(text, fault), request)

    def say(self, content: list[dict], *, request: Mapping[str, Any] | None = None) -> tuple[str | None, str]:
        """The reply's text and "", or None and the reason of the last failure; arguments and errors as in `ask`."""
        return self._send(content, _text_in, request)

    def _send(
        self,
        content: list[dict],
        read: Callable[[str], tuple[Reply | None, str]],
        request: Mapping[str, Any] | None,
    ) -> tuple[Reply | None, str]:
        body = {"model": self.model, "messages": [{"role": "user", "content": content}], **(request or {})}
        reason, wait_s = "", 0.0
        if self.down:
            return None, f"not asked: {self.down}"
        for attempt in range(self.retries + 1):
            if attempt:
                # The wait is random, so that many workers do not retry at once.
                self._sleep(max(wait_s, self.backoff_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)))
            self._spend()
            wait_s = 0.0
            try:
                response = self._client.post(self.url, json=body)
            except httpx.RequestError as error:
                reason = f"no answer: {type(error).__name__}"
                continue
            status = response.status_code
            whole = _object_of(response)
            if status == 200 and (text := self._text(whole)) is not None:
                reply, reason = read(text)
                if reply is not None:
                    self._silent = self._forbidden = 0
                    return reply, ""
                continue
            words = self._words(response, whole)
            if status == 200 and whole.get("error"):
                status = _status_of(whole["error"])
            if status in _THIS_REQUEST or self._filtered(status):
                return None, self._count_refusal(f"HTTP {status}: {words}")
            if status == 200:
                reason = f"{_NO_CHAT}: {words}"
            elif status in _TRY_AGAIN or status >= 500:
                reason, wait_s = f"HTTP {status}{words and f': {words}'}", _asked_wait_s(response)
            else:
                raise EndpointError(
                    f"{self.url}: HTTP {status} for model {self.model!r}: {words}. Check address, model and key"
                )
        with self._lock:
            self._silent = self._silent + 1 if _NO_SERVER.match(reason) else 0
            self.down = self.down or (f"{SILENT} requests in a row failed ({reason})" if self._silent >= SILENT else "")
        return None, reason

    def _count_refusal(self, words: str) -> str:
        """Return the words of one request's refusal. Errors: EndpointError at the REFUSALS-th before any answer."""
        with self._lock:
            kind = _VARIES.sub("", words)
            self._refused[kind] += 1
            if self._refused[kind] >= REFUSALS and not self._answers:
                raise EndpointError(
                    f"{self.url}: refuses every request for model {self.model!r}: {words}. "
                    "Check model and fields of the request"
                )
        return words

    def _filtered(self, status: int) -> bool:
        """Count a 403, and return whether it refuses this request alone."""
        if status != _FORBIDDEN:
            return False
        with self._lock:
            self._forbidden += 1
            return self._answers and self._forbidden < REFUSALS

    def _spend(self) -> None:
        with self._lock:
            if self.budget_requests is not None and self.requests >= self.budget_requests:
                raise BudgetError(f"the budget of {self.budget_requests} requests is spent")
            self.requests += 1

    def _text(self, whole: Mapping[str, Any]) -> str | None:
        """Return the text of a chat completion, "" for a message without one; None for anything else."""
        try:
            message = whole["choices"][0]["message"]
            content = message.get("content")
        except (KeyError, IndexError, TypeError, AttributeError):
            return None
        with self._lock:
            self.tok += _total_tok(whole)
            self._answers = True
        if isinstance(content, list):  # parts
            content = "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
        return _writable(final_answer(content)) if isinstance(content, str) else ""

    def _words(self, response: httpx.Response, whole: Mapping[str, Any]) -> str:
        """Return what a server says beside its status: its error's message, or how its reply begins."""
        error = whole.get("error")
        message = error.get("message") if isinstance(error, Mapping) else error
        text = message if isinstance(message, str) and message else response.text
        return _writable(text.replace(self._key, "[key]") if self._key else text)[:200]


def _object_of(response: httpx.Response) -> dict:
    """Return a reply's JSON object, {} where it is none."""
    try:
        whole = response.json()
    except (ValueError, RecursionError):
        return {}
    return whole if isinstance(whole, dict) else {}


def _status_of(error: object) -> int:
    """Return the status that an error with status 200 has by its own words, 400 without one."""
    code = error.get("code") if isinstance(error, Mapping) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 400


def _total_tok(whole: Mapping[str, Any]) -> int:
    try:
        return int(whole["usage"]["total_tokens"])
    except (KeyError, TypeError, ValueError, OverflowError):  # not every server counts
        return 0


def _writable(text: str) -> str:
    """Return a text that a file can hold: half a surrogate pair, as a cut-off reply has, becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _json_in(text: str, fault: Callable[[dict], str | None]) -> tuple[dict | None, str]:
    """The object that the model wrote; a code fence or words around the JSON are tolerated."""
    try:
        reply = json.loads(text[text.index("{") : text.rindex("}") + 1])
        reply = json.loads(_writable(json.dumps(reply, ensure_ascii=False)))  # escapes hide halves of pairs
    except (ValueError, RecursionError):
        return None, "reply is not the JSON asked for"
    found = fault(reply)
    return (None, found) if found else (reply, "")


def _text_in(text: str) -> tuple[str | None, str]:
    return (text.strip(), "") if text.strip() else (None, "empty reply")


def request_fields(text: str) -> dict[str, Any] | None:
    """Return the further fields of every request from a JSON text, such as `{"max_completion_tokens": 500}`; None for "".

    Errors: ValueError for a text that is no JSON object, or that sets model or messages.
    """
    if not text.strip():
        return None
    try:
        fields = json.loads(text)
    except json.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict) or {"model", "messages"} & set(fields):
        raise ValueError(f"REQUEST: found {text!r}, expected a JSON object of fields other than model and messages")
    return fields


def photo_part(photo: str | Path | Image.Image, *, kind: str = "JPEG") -> dict:
    """A photo as a part of a turn, encoded as `kind`: an image as it is, a file as `load_image` reads it, at most SENT_PX.

    Errors: PhotoError for an unusable file.
    """
    image = photo if isinstance(photo, Image.Image) else load_image(photo, side_px=SENT_PX)
    return {"type": "image_url", "image_url": {"url": data_url(image, kind=kind)}}


def cost_in_words(requests: int, photos: Sequence[str | Path | Image.Image], *, text_tok: float) -> str:
    """Return what `requests` will cost, to be printed before a long run: "about 1.2 million tokens".

    photos: those sent, of which the first LOOKED_AT give a photo's size; text_tok: tokens of text in one request.
    """
    some = photos[:LOOKED_AT]
    of_photos = len(photos) * sum(map(_photo_tok, some)) / max(len(some), 1)
    mtok = (of_photos + requests * text_tok) / 1e6
    return f"about {mtok:.2g} million tokens"


def _photo_tok(photo: str | Path | Image.Image) -> float:
    try:
        image = photo if isinstance(photo, Image.Image) else load_image(photo, side_px=SENT_PX)
    except (OSError, PhotoError):  # its request will have the fault
        return 0.0
    return image.width * image.height / PATCH_PX**2


def _asked_wait_s(response: httpx.Response) -> float:
    asked = response.headers.get("Retry-After", "")
    return min(float(asked), LONGEST_WAIT_S) if asked.isdecimal() else 0.0
