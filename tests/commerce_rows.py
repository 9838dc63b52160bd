"""Rows of commerce for the tests of captions, votes and fusion, and a local endpoint."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from mtive_nb.data.commerce.rows import CommerceRow

SHAMPOO = {
    "category": "shampoo",
    "brand": "LOZ",
    "colour": "red",
    "packaging": "bottle",
    "damage": "none",
    "damaged": "no",
}
COLA = {"category": "cola", "brand": "PIB", "colour": "blue", "packaging": "can", "damage": "dent", "damaged": "yes"}


def a_row(task: str, input: dict, output: str, folder: Path, **more) -> CommerceRow:  # noqa: A002 - the row's own name
    """A row about the shampoo of photo 0; `more` are further fields."""
    own = {"row_id": f"{task}-1", "instruction": f"Solve {task}.", "split": "test", "product_id": "p1"}
    own |= {"photos": (str(folder / "0.png"),), "facts": (SHAMPOO,), "stratum": "needed"}
    return CommerceRow(task=task, input=input, output=output, **(own | more))


def seven(folder: Path) -> dict[str, CommerceRow]:
    """One row a task."""
    two = {"photos": (str(folder / "0.png"), str(folder / "1.png")), "facts": (SHAMPOO, COLA)}
    titles = ["1st: LOZ shampoo", "2nd: PIB cola"]
    return {
        "AP": a_row("AP", {"question": "What colour is it?", "document": "It smells nice."}, "yes", folder),
        "CC": a_row("CC", {"title": "LOZ 250 ML"}, "A", folder, options=("A: shampoo", "B: soap")),
        "PRP": a_row(
            "PRP", {"product 1": "LOZ 250 ML", "product 2": "PIB 1 L"}, "C", folder, places=("product 1", "product 2"),
            options=("A: also buy", "B: also view", "C: similar"), **two,
        ),
        "PSI": a_row("PSI", {"query": "blue shampoo", "product title": "LOZ shampoo bottle"}, "yes", folder),
        "MPC": a_row("MPC", {"query": "blue shampoo", "product title": "LOZ shampoo"}, "B", folder, options=("A: exact", "B: substitute")),
        "SA": a_row("SA", {"review": "It came on Monday."}, "E", folder, options=("A: very positive", "E: very negative")),
        "SR": a_row(
            "SR", {"purchase history": titles}, "B", folder, options=("A: ZARN tea", "B: LOZ soap"),
            places=("1st", "2nd", "A", "B"), photos=tuple(str(folder / f"{k}.png") for k in range(4)), facts=(SHAMPOO, COLA) * 2,
        ),
    }  # fmt: skip


class Server:
    """A local endpoint: `reply(prompt)` is the content of its answer, or (status, text); keeps every request."""

    def __init__(self, reply: Callable[[str], str | tuple[int, str]], *, latency_s: float = 0.0) -> None:
        self.reply, self.bodies, self.busy, self.most_busy, self.lock = reply, [], 0, 0, threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.bodies.append(body)
                    server.busy += 1
                    server.most_busy = max(server.most_busy, server.busy)
                time.sleep(latency_s)
                found = server.reply(body["messages"][0]["content"][-1]["text"])
                status, text = found if isinstance(found, tuple) else (200, found)
                answer = {"choices": [{"message": {"content": text}}], "usage": {"total_tokens": 10}}
                with server.lock:
                    server.busy -= 1
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode() if status == 200 else text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
