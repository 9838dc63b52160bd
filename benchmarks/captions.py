"""How many captions a second does EndpointCaptioner get, with 1 and with 8 requests in flight?

    python benchmarks/captions.py [--photos 200] [--latency 0.1] [--rounds 3]

The endpoint is a fake one in a process of its own: it answers every request after a fixed latency, without a model, so
that the numbers say what our side costs and nothing of a real endpoint. Beside it stands a plain loop: encode a photo,
post the same request, read the text; no cache, no check, no retry. Methods run in turn, `rounds` times, each round on
an empty file of finished captions; values are medians. The last line is a rerun that finds every caption in the file.
"""

import argparse
import json
import statistics
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
from PIL import Image

from mtive_nb.data.commerce.by_endpoint import REQUEST, EndpointCaptioner, prompt_of
from mtive_nb.data.commerce.captions import caption_all, photos_of
from mtive_nb.data.commerce.rows import CommerceRow
from mtive_nb.data.endpoint import Endpoint, photo_part

CAPTION = "A red bottle of shampoo, without damage."


def serve(latency_s: float, port: Connection) -> None:
    """Answer every request with CAPTION after `latency_s`; send the port that was free."""
    body = json.dumps({"choices": [{"message": {"content": CAPTION}}], "usage": {"total_tokens": 300}}).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections stay open, as real endpoints keep them
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(latency_s)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.send(server.server_port)
    server.serve_forever()


def made_up_rows(home: Path, n: int) -> list[CommerceRow]:
    """Return n rows with a photo of 500 x 500 pixels each, the size of MMECInstruct's, written to `home`."""
    rng, rows = np.random.default_rng(0), []
    for k in range(n):
        small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        small.resize((500, 500), Image.Resampling.BICUBIC).save(home / f"{k}.jpg")
        about = {
            "instruction": "Choose the category.",
            "output": "A",
            "split": "test",
            "photos": (str(home / f"{k}.jpg"),),
        }
        rows.append(CommerceRow(f"r{k}", "CC", input={"title": f"product {k}"}, **about))
    return rows


def plain_loop(url: str, rows: list[CommerceRow]) -> list[str]:
    """Return a caption a row: one request after the other."""
    found = []
    with httpx.Client() as client:
        for row in rows:
            photo = photos_of(row, context=True)[0]
            content = [photo_part(photo.path), {"type": "text", "text": prompt_of(photo)}]
            body = {"model": "fake", "messages": [{"role": "user", "content": content}], **REQUEST}
            reply = client.post(f"{url}/chat/completions", json=body).json()
            found.append(reply["choices"][0]["message"]["content"])
    return found


def ours(url: str, rows: list[CommerceRow], kept: Path, workers: int) -> list[str]:
    """Return a caption a row, by EndpointCaptioner."""
    captioner = EndpointCaptioner(Endpoint(url, model="fake"), workers=workers)
    return [said[0].text for said in caption_all(rows, captioner, context=True, path=kept).values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--latency", type=float, default=0.1, help="seconds until the fake endpoint answers")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    context = get_context("spawn")
    port, theirs = context.Pipe()
    server = context.Process(target=serve, args=(given.latency, theirs), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{port.recv()}/v1"
    try:
        with TemporaryDirectory() as home:
            measure(
                url, made_up_rows(Path(home), given.photos), Path(home), rounds=given.rounds, latency_s=given.latency
            )
    finally:
        server.terminate()


def measure(url: str, rows: list[CommerceRow], home: Path, *, rounds: int, latency_s: float) -> None:
    """Print a line of JSON a method."""
    names = ("plain_loop", "in_flight_1", "in_flight_8", "rerun")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for k in range(rounds):
        calls = {
            "plain_loop": lambda: plain_loop(url, rows),
            "in_flight_1": lambda k=k: ours(url, rows, home / f"one-{k}.jsonl", 1),
            "in_flight_8": lambda k=k: ours(url, rows, home / f"eight-{k}.jsonl", 8),
            "rerun": lambda k=k: ours(url, rows, home / f"eight-{k}.jsonl", 8),
        }
        for name, call in calls.items():
            started = time.perf_counter()
            said = call()
            seconds[name].append(time.perf_counter() - started)
            if said != [CAPTION] * len(rows):
                raise SystemExit(f"{name}: {sum(one != CAPTION for one in said)} captions are wrong")
    for name, found in seconds.items():
        rates = [len(rows) / one for one in found]
        row = {"metric": f"captions_per_second_{name}", "value": round(statistics.median(rates), 2), "better": "higher"}
        row |= {"unit": "captions/s", "n": len(rows), "endpoint": f"fake, {latency_s} s a reply"}
        print(json.dumps(row | {"rounds": [round(rate, 2) for rate in rates]}), flush=True)


if __name__ == "__main__":
    main()
