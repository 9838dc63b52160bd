"""Serve the experts with vLLM: start a server, wait for it, query it, and swap its experts while it runs.

Every version has its own name ("DD@2"), so a name always stands for the same weights. An answer proves a swap; the
API's reply does not.
"""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
from openai.types.chat.chat_completion import Choice

from mtive_nb.data.endpoint import photo_part
from mtive_nb.data.photos import cached_by_file
from mtive_nb.data.records import BRACKETS, any_of, plain_chat
from mtive_nb.model.batches import cached_image
from mtive_nb.model.lineage import LineageError
from mtive_nb.model.load import max_px_of
from mtive_nb.serve.export import rank_room
from mtive_nb.serve.parity import Reply
from mtive_nb.serve.pinned import pinned_experts
from mtive_nb.serve.questions import check_question

BASE = "trunk"  # model name of requests without an expert
KEY_ENV = "VLLM_API_KEY"  # where the server and its clients find the key, which no command line shows
WHOLE = ("stop", "length")  # ends of a whole answer; a server that aborts names another
TAIL = 2000  # last characters of the server's log in an error


def serve_python() -> str | None:
    """Return the Python of an environment with vLLM: MTIVE_SERVE_PYTHON, `.venv-serve` (make serve-env), or None."""
    beside = Path(__file__).parents[2] / ".venv-serve"
    whole = (beside / ".installed").is_file()  # the Makefile's stamp, written last
    return os.environ.get("MTIVE_SERVE_PYTHON") or (str(beside / "bin" / "python") if whole else None)


class VllmClient:
    """Client of a running vLLM server: queries, adds, updates and removes its experts, as a pool does.

    Requests to "DD" go to its newest version. A server that this package did not start may use any adapter names: a
    name without a version counts as version 1 and stays as it is. Several threads may share a client.
    The server's key, if it has one, is read from the variable VLLM_API_KEY.
    Errors: openai.APIError if the address does not answer.
    """

    def __init__(self, url: str, *, max_px: int | None = None) -> None:
        """`max_px`: the served model's bound on a photo; much larger photos are shrunk before they are sent."""
        self.max_px = max_px
        self.url = url.rstrip("/").removesuffix("/v1")
        key = os.environ.get(KEY_ENV) or "none"
        self._headers = {"Authorization": f"Bearer {key}"}
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=120)
        self.trunk_name = BASE  # model name of requests without an expert
        self.control = BRACKETS  # control tokens of the server's chat template
        self.current: dict[str, str] = {}  # expert -> model name of its requests
        self.versions: dict[str, int] = {}  # expert -> last version number
        self._held, self._retired, self._books = Counter(), set(), threading.Lock()
        self.folders: dict[str, str | None] = {}  # model name -> its folder on the server's machine

    def __enter__(self) -> "VllmClient":
        self.find_experts()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def find_experts(self) -> None:
        """Read the names of the server's models: the first is its trunk, every other name an expert."""
        trunk, *others = models = list(self.client.models.list())
        self.trunk_name, self.control = trunk.id, _control_of(getattr(trunk, "root", None))
        self.folders = {model.id: getattr(model, "root", None) for model in models}
        for name in (model.id for model in others):
            expert, mark, number = name.rpartition("@")
            expert, number = (expert, int(number)) if mark and number.isdigit() else (name, 1)
            if number >= self.versions.get(expert, 1):
                self.versions[expert], self.current[expert] = number, name

    def add(self, expert: str, folder: Path) -> str:
        """Put a new expert into service; returns its versioned name. Errors: KeyError if it is in service already."""
        if expert in self.current:
            raise KeyError(f"expert {expert!r} is in service already; update it")
        return self._load(expert, folder)

    def update(self, expert: str, folder: Path) -> str:
        """Serve the expert's next version without an interruption; returns the versioned name.

        New requests to the expert get the new version. The old version is unloaded as soon as its last request has
        ended; `update` does not wait for it.
        For one expert, only one thread at a time may call `update`.
        """
        old = self._name(expert)
        name = self._load(expert, folder)
        self._retire(old)
        return name

    def remove(self, expert: str) -> None:
        """Take an expert out of service; its running requests finish, then it is unloaded."""
        with self._books:
            name = self._name(expert)
            del self.current[expert]
        self._retire(name)

    def state(self) -> list[dict]:
        """Return a row per expert: expert, version (its name on the server), this client's running requests."""
        with self._books:
            return [{"expert": e, "version": name, "requests": self._held[name]} for e, name in self.current.items()]

    def leaving(self) -> dict[str, int]:
        """Return the versions out of service that are not unloaded yet, and how many requests each one waits for."""
        with self._books:
            return {name: self._held[name] for name in sorted(self._retired)}

    def _name(self, expert: str | None) -> str:
        if expert is not None and expert not in self.current:
            raise KeyError(f"no expert {expert!r} in service; there are {sorted(self.current)}")
        return self.trunk_name if expert is None else self.current[expert]

    def _load(self, expert: str, folder: Path) -> str:
        number = self.versions.get(expert, 0) + 1
        self.versions[expert] = number  # never reused, even if loading fails
        name = f"{expert}@{number}"
        self._post("load_lora_adapter", {"lora_name": name, "lora_path": str(Path(folder).resolve())})
        with self._books:
            self.current[expert] = name
        return name

    def _retire(self, name: str) -> None:
        """Unload a version now, or at the end of its last request: a reader may keep a stream open for hours."""
        with self._books:
            self._retired.add(name)
        self._unload_if_free(name)

    def _unload_if_free(self, name: str) -> None:
        with self._books:
            free = name in self._retired and not self._held[name]
            self._retired -= {name} if free else set()
        if free:
            self._post("unload_lora_adapter", {"lora_name": name})

    def _post(self, what: str, body: dict, *, version: str = "v1/") -> dict:
        reply = httpx.post(f"{self.url}/{version}{what}", json=body, headers=self._headers, timeout=120)
        if reply.status_code != 200:
            raise RuntimeError(f"vLLM, {what} {body}: HTTP {reply.status_code}: {reply.text[:300]}")
        return reply.json() if what == "tokenize" else {}

    @contextmanager
    def _holding(self, expert: str | None) -> Iterator[str]:
        """Yield the model name for a request to the expert; the name stays in service until the request has ended."""
        with self._books:
            name = self._name(expert)
            self._held[name] += 1
        try:
            yield name
        finally:
            with self._books:
                self._held[name] -= 1
            try:
                self._unload_if_free(name)
            except (RuntimeError, httpx.HTTPError) as error:  # the request itself has its answer
                warnings.warn(f"{name} stays loaded on the server: {error}", stacklevel=4)

    def ask(self, record: dict, expert: str | None = None, *, max_new_tokens: int = 64, likeliest: int = 0) -> Reply:
        """Return the greedy answer of an expert's newest version (None: the trunk alone) to a record's question.

        `likeliest`: number of tokens whose log-probabilities the reply has at each place, 20 at most.
        Errors: KeyError for an expert that is not in service, ValueError or PhotoError for a question that no model can
        answer (`check_question`), openai.APIError, ConnectionError for an answer that the server broke off.
        """
        check_question(record)
        turns = chat_with_photos(record, self.max_px, control=self.control)
        more = {"top_logprobs": likeliest, "extra_body": {"return_tokens_as_token_ids": True}} if likeliest else {}
        request = {"messages": turns, "max_tokens": max_new_tokens, "temperature": 0, "logprobs": True} | more
        try:
            name, said = self._answer(expert, request)
        except openai.NotFoundError:  # another client has put a new version in this one's place
            self.find_experts()
            name, said = self._answer(expert, request)
        self._check_whole(said.finish_reason, name)
        text, places = said.message.content.strip(), said.logprobs.content
        logprobs = tuple(place.logprob for place in places)
        if not likeliest:
            return Reply(text, logprobs, name)
        tops = tuple({_token_id(top.token): top.logprob for top in place.top_logprobs} for place in places)
        return Reply(text, logprobs, name, tuple(_token_id(place.token) for place in places), tops)

    def _answer(self, expert: str | None, request: dict) -> tuple[str, Choice]:
        with self._holding(expert) as name:
            return name, self.client.chat.completions.create(model=name, **request).choices[0]

    def _check_whole(self, end: str | None, name: str) -> None:
        if end not in WHOLE:
            raise ConnectionError(
                f"{self.url}: the server ended the answer of {name} before it was whole (finish_reason {end})"
            )

    def tokens_of(self, text: str) -> list[int]:
        """Return the token ids of a text as the server's model reads it. Errors: RuntimeError if the server refuses."""
        body = {"model": self.trunk_name, "prompt": text, "add_special_tokens": False}
        return self._post("tokenize", body, version="")["tokens"]

    def stream(
        self,
        record: dict,
        expert: str | None = None,
        *,
        max_new_tokens: int = 64,
        extra_body: Mapping[str, object] | None = None,
    ) -> Iterator[str]:
        """Yield the answer of `ask` piece by piece; closing the iterator disconnects, and the server stops generating.

        `extra_body`: vLLM's own fields of a request, such as ignore_eos.
        Errors: those of `ask`.
        """
        check_question(record)
        turns = chat_with_photos(record, self.max_px, control=self.control)
        with self._holding(expert) as name:
            with self.client.chat.completions.create(
                model=name,
                messages=turns,
                max_tokens=max_new_tokens,
                temperature=0,
                stream=True,
                extra_body=dict(extra_body or {}),
            ) as pieces:
                end = None
                for piece in pieces:
                    if piece.choices and piece.choices[0].delta.content:
                        yield piece.choices[0].delta.content
                    end = piece.choices[0].finish_reason or end if piece.choices else end
            self._check_whole(end, name)


class VllmServer(VllmClient):
    """vLLM's OpenAI-compatible server of an exported trunk. A context manager: inside, the server is healthy.

    `experts` {name: folder} are in service from the start, each as its version 1, "DD@1". Default `dtype`: the trunk's
    own. `max_len_tok`: of prompt and answer together; `limit_s`: until the server is healthy. `options` go to the command
    line unchanged.
    Errors: FileNotFoundError if no environment has vLLM; RuntimeError with the end of the log if it does not start.
    """

    def __init__(self, trunk: Path, experts: Mapping[str, Path] | None = None, *, python: str | None = None, log: Path,
                 max_loras: int = 8, max_rank: int | None = None, max_len_tok: int = 512, dtype: str | None = None,
                 limit_s: float = 300.0, options: tuple[str, ...] = ()) -> None:  # fmt: skip
        self.trunk, self.log, self.limit_s = Path(trunk), Path(log), limit_s
        self.first = {f"{name}@1": Path(folder) for name, folder in (experts or {}).items()}  # served from the start
        self.python = python or serve_python()
        if self.python is None:
            raise FileNotFoundError("no environment with vLLM: run `make serve-env`, or set MTIVE_SERVE_PYTHON")
        ranks = [json.loads((Path(f) / "adapter_config.json").read_text())["r"] for f in self.first.values()]
        self.max_rank = max_rank or rank_room(ranks or [16])
        self.dtype = dtype or json.loads((self.trunk / "config.json").read_text())["dtype"]
        self.max_loras, self.max_len_tok, self.options = max_loras, max_len_tok, options
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        super().__init__(f"http://127.0.0.1:{self.port}", max_px=_pixel_bound(self.trunk))
        self.process: subprocess.Popen | None = None

    def command(self) -> list[str]:
        """Return the exact command of the server, as a user would type it."""
        modules = [f"{name}={folder.resolve()}" for name, folder in self.first.items()]
        return [
            self.python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.trunk.resolve()),
            "--served-model-name", BASE, "--host", "127.0.0.1", "--port", str(self.port), "--dtype", self.dtype,
            "--max-model-len", str(self.max_len_tok), "--enable-lora", "--enable-tower-connector-lora",
            "--max-loras", str(self.max_loras), "--max-lora-rank", str(self.max_rank), *self.options,
            *(["--lora-modules", *modules] if modules else []),
        ]  # fmt: skip

    def environment(self) -> dict[str, str]:
        """Return the server's environment variables: experts can be loaded while it runs, and no hub is contacted."""
        own = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        return os.environ | own | {"VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1")}

    def __enter__(self) -> "VllmServer":
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self.command(), env=self.environment(), stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._wait_until_healthy()
            return super().__enter__()
        except BaseException:
            self.__exit__()
            raise

    def _wait_until_healthy(self) -> None:
        until = time.monotonic() + self.limit_s
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise RuntimeError(f"vLLM ended with {self.process.returncode}; the end of {self.log}:\n{self._tail()}")
            try:
                if httpx.get(f"{self.url}/health", timeout=2).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        raise RuntimeError(f"vLLM is not healthy after {self.limit_s:.0f} s; the end of {self.log}:\n{self._tail()}")

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-TAIL:]

    def __exit__(self, *_: object) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        super().__exit__()


def _pixel_bound(trunk: Path) -> int | None:
    """Return load_vlm's max_px of an exported trunk; None if its processor has no upper bound."""
    found = trunk / "processor_config.json"
    size = json.loads(found.read_text())["image_processor"]["size"] if found.is_file() else {}
    return max_px_of(size, family=json.loads((trunk / "config.json").read_text())["model_type"])


def _token_id(token: str) -> int:
    """Return 123 for vLLM's `token_id:123`."""
    return int(token.removeprefix("token_id:"))


def _control_of(model: str | None) -> re.Pattern[str]:
    """Return the pattern of the special tokens of a model's folder; BRACKETS where no such folder is at hand."""
    if model is None or not (found := Path(model) / "tokenizer.json").is_file():
        return BRACKETS
    return any_of(token["content"] for token in json.loads(found.read_text())["added_tokens"] if token["special"])


def chat_with_photos(record: dict, max_px: int | None, *, control: re.Pattern[str] = BRACKETS) -> list[dict]:
    """Return a record's turns before its answer in OpenAI's format; photos are PNG, sized for the model's processor.

    Photos that the record holds decoded (`pixels`) are sent, else those of its paths. `control`: tokens that the
    server's chat template would not read as text; they are broken, as `plain` explains.
    """
    decoded, turns = record.get("pixels"), []
    photos = iter(
        [photo_part(i, kind="PNG") for i in decoded] if decoded else (_photo(i, max_px) for i in record["images"])
    )
    for turn in plain_chat(record["messages"][:-1], control):
        shown = [next(photos) if p["type"] == "image" else p for p in turn["content"]]
        turns.append({"role": turn["role"], "content": shown})
    return turns


@cached_by_file(1024)
def _photo(path: str, max_px: int | None) -> dict:
    return photo_part(cached_image(path, max_px), kind="PNG")


def main() -> None:
    """Serve the export of notebook 14 until Ctrl-C: python -m mtive_nb.serve.vllm outputs/pocket/14_serving.

    Clients need the server's key in the variable VLLM_API_KEY: the one that stands there already, or the one printed.
    """
    made = "" if os.environ.get(KEY_ENV) else secrets.token_urlsafe(24)
    os.environ[KEY_ENV] = made or os.environ[KEY_ENV]
    folder = Path(sys.argv[1])
    try:
        experts = pinned_experts(folder)
    except LineageError as error:
        sys.exit(f"error: {error}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # ends the context, which stops the server
    longest = 512 + 2 * ((_pixel_bound(folder / "trunk") or 1024) // 28) ** 2  # a question on two photos
    with VllmServer(folder / "trunk", experts, log=folder / "vllm.log", max_len_tok=longest) as server:
        print(
            f"{' '.join(server.command())}\n{server.url}/v1 serves {[BASE, *server.first]}; Ctrl-C ends it"
            + (f"\nexport {KEY_ENV}={made}" if made else ""),
            flush=True,
        )
        try:
            server.process.wait()
        except KeyboardInterrupt:
            print("ending")


if __name__ == "__main__":
    main()
