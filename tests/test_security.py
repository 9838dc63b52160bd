"""What SECURITY.md says: pages listen on the loopback with a token, and text of others stays text."""

import json
import os
import re
import subprocess
from pathlib import Path

import httpx
import pytest
from markdown_it import MarkdownIt

from mtive_nb.serve.vllm import KEY_ENV, VllmClient, VllmServer
from mtive_nb.show import as_text

ROOT = Path(__file__).parents[1]


def recipe(target: str, *settings: str) -> str:
    """What make would run for a target, with the environment taken as installed."""
    command = ["make", "--dry-run", "--assume-old=.venv/.installed", target, *settings]
    own = {name: value for name, value in os.environ.items() if name not in ("HOST", "MAKEFLAGS")}
    return subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("target", ["lab", "demo"])
def test_pages_listen_on_this_machine_unless_told_otherwise(target: str) -> None:
    assert re.search(r"\.ip=127\.0\.0\.1\b", recipe(target)) and ".ip=0.0.0.0" in recipe(target, "HOST=0.0.0.0")


def test_a_server_listens_on_this_machine_alone(tmp_path: Path) -> None:
    assert "-m mtive_nb.serve.vllm" in recipe("serve", "--assume-old=serve-env")  # whose main starts a VllmServer
    (tmp_path / "config.json").write_text('{"dtype": "float32", "model_type": "qwen2_5_vl"}')
    server = VllmServer(tmp_path, python="python", log=tmp_path / "log")
    command = server.command()
    assert command.count("--host") == 1 and command[command.index("--host") + 1] == "127.0.0.1"
    assert server.url.startswith("http://127.0.0.1:")


def test_no_page_is_without_its_token() -> None:
    assert re.search(r"voila \S+ --token(?=\s)", recipe("demo"))  # JupyterLab makes one unless it is set to none
    assert "token=" not in recipe("lab") and "password" not in recipe("lab")


def test_a_client_sends_the_server_s_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, "secret")
    sent = []

    def post(url: str, **given: object) -> httpx.Response:
        sent.append(given["headers"])
        return httpx.Response(200, text="ok")

    monkeypatch.setattr(httpx, "post", post)
    client = VllmClient("http://127.0.0.1:1")
    client._post("load_lora_adapter", {})
    assert sent == [{"Authorization": "Bearer secret"}] and client.client.api_key == "secret"


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x onerror=alert(1)> & <b>bold</b>",
        "[a link](http://example.org) ![photo](http://example.org/a.png)",
        "**bold** _slanted_ `code` ~~gone~~ | a | b |",
        "# heading",
        "1. list - item + other",
        "costs $5 and $6",
        "back\\slash \\[x\\]",
        "one\n\n<script>two</script>",
    ],
)
def test_text_of_others_is_shown_as_it_is(text: str) -> None:
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(f"- {as_text(text)}")
    (inline,) = (token for token in tokens if token.type == "inline")
    assert {child.type for child in inline.children} <= {"text", "text_special"}
    assert "".join(child.content for child in inline.children) == " ".join(text.split())
    assert not re.search(r"(?<!\\)\$", as_text(text))  # no formula


def test_no_notebook_makes_markdown_of_a_customer_s_words() -> None:
    cells = json.loads((ROOT / "notebooks/01_catalogue_and_emdiv.ipynb").read_text(encoding="utf-8"))["cells"]
    (cell,) = ("".join(c["source"]) for c in cells if 'p["visible"]' in "".join(c["source"]))
    assert cell.count("p['text']") == cell.count("as_text(p['text'])") == 2


def test_no_code_of_a_model_hub_and_no_pickle_of_others_runs() -> None:
    for path in (ROOT / "mtive_nb").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "trust_remote_code" not in text and "import pickle" not in text, path
        assert text.count("torch.load(") == text.count("weights_only=True"), path
        assert "cloudpickle" not in text or path.name == "cluster.py", path
