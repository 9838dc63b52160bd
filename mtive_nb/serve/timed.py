"""Latency of experts behind a server, one request at a time: the engine and vLLM, measured alike.

Times of systems are measured in turn (evaluate/latency.py): on a shared machine only their ratios mean something.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pandas as pd

from mtive_nb.evaluate.latency import ratios_to, times_in_turn
from mtive_nb.serve.engine import Engine
from mtive_nb.serve.export import export_expert, export_trunk
from mtive_nb.serve.pool import ExpertPool
from mtive_nb.serve.vllm import VllmClient, VllmServer

LIMIT_S = 600  # of a timed request


def latency_table(times: Mapping[int, pd.DataFrame], *, reference: str) -> pd.DataFrame:
    """A row a system, from the seconds of answers of one token, `times[1]`, and of the longest answers timed.

    Columns: P50_ms, P99_ms, first token_ms (medians), tokens/s after the first token, and "times `reference`", the median
    over rounds of the time relative to that system's.
    """
    tokens = max(times)
    whole, first = times[tokens] * 1000, times[1] * 1000
    table = pd.DataFrame({"P50_ms": whole.median(), "P99_ms": whole.quantile(0.99), "first token_ms": first.median()})
    table["tokens/s"] = (tokens - 1) * 1000 / (table["P50_ms"] - table["first token_ms"])
    table[f"times {reference}"] = ratios_to(times[tokens], reference).set_index("system")["value"]
    return table


def asker(server: Engine | VllmClient, record: dict, expert: str | None) -> Callable[[int], object]:
    """A function that requests an answer of so many tokens, past its end, from an expert (None: the trunk alone)."""
    if isinstance(server, Engine):
        timed = {"limit_s": LIMIT_S, "past_end": True}
        return lambda tokens: server.submit(record, expert, max_new_tokens=tokens, **timed).text()
    past_the_end = {"ignore_eos": True}
    return lambda tokens: "".join(server.stream(record, expert, max_new_tokens=tokens, extra_body=past_the_end))


def times_through(
    servers: Mapping[str, Engine | VllmServer],
    systems: Mapping[str, tuple[str, str | None]],
    record: dict,
    *,
    tokens: int,
    rounds: int,
) -> dict[int, pd.DataFrame]:
    """Seconds of answers of one token and of `tokens`, {1: frame, tokens: frame}; frames as times_in_turn returns them.

    `systems` names the server and the expert of each (None: the trunk alone). All servers run while one is timed; they
    start and end here.
    """
    with ExitStack() as running:
        for server in servers.values():
            running.enter_context(server)
        asks = {name: asker(servers[where], record, expert) for name, (where, expert) in systems.items()}
        turns = {n: {name: partial(ask, n) for name, ask in asks.items()} for n in (1, tokens)}
        return {n: times_in_turn(of_length, rounds=rounds) for n, of_length in turns.items()}


def request_seconds(pool: ExpertPool, record: dict, *, tokens: int, requests: int) -> pd.Series:
    """Seconds of requests of so many tokens through an engine, to the pool's experts in turn; one before is not timed."""
    experts = list(pool.experts)
    with Engine(pool, gather_s=0.0) as engine:

        def ask(expert: str) -> float:
            request = engine.submit(record, expert, max_new_tokens=tokens, limit_s=LIMIT_S, past_end=True)
            request.text()
            return request.seconds

        ask(experts[-1])
        return pd.Series([ask(experts[k % len(experts)]) for k in range(requests)])


def vllm_over(pool: ExpertPool, folder: Path, *, max_len_tok: int = 512, options: tuple[str, ...] = ()) -> VllmServer:
    """vLLM, not started yet, over a pool's trunk with the newest version of each expert, all exported to `folder`.

    Its prefix cache is off, so that every request pays for its whole question. Errors: as export_expert and VllmServer.
    """
    trunk = export_trunk(pool.stack, folder / "trunk", pool.trunk)
    newest = {name: entry.versions[max(entry.versions)] for name, entry in pool.experts.items()}
    experts = {  # a folder each: two experts may have one name in the folders they come from
        name: export_expert(pool.stack, version.folder, folder / "experts" / name, version.name, trunk=pool.trunk)
        for name, version in newest.items()
    }
    options = ("--no-enable-prefix-caching", *options)
    return VllmServer(trunk, experts, log=folder / "vllm.log", max_len_tok=max_len_tok, options=options)
