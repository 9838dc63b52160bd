"""Shared pieces: a tiny Qwen2.5-VL with random weights, and photos of coloured noise to ask it about."""

import copy
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image

from mtive_nb.run.graph import find_run
from mtive_nb.run.imported import keep_imported


@pytest.fixture(autouse=True, scope="session")
def frozen() -> None:
    """As in a chapter: what the imports made is left out of later collections."""
    import mtive_nb.model.train  # noqa: F401

    keep_imported()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test's random weights are its own: they do not hang on the tests that ran before it in the same process."""
    import torch

    torch.manual_seed(0)


ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory) -> Callable[..., Path]:
    """`smoke_run("06")` has the chapter run with the smoke parameters, with what it rests on, and returns outputs/smoke.

    All processes of a test run share one copy of the project's frame, so that no chapter runs twice; a developer's outputs
    stay as they are. Chapters run beside each other, since their chain is the longest part of a test run.
    """
    home = tmp_path_factory.getbasetemp()
    home = (home.parent if "PYTEST_XDIST_WORKER" in os.environ else home) / "smoke"
    home.mkdir(exist_ok=True)
    for name in ("notebooks", "params", "pyproject.toml"):
        try:
            (home / name).symlink_to(ROOT / name)
        except FileExistsError:  # another process was first
            pass
    environment = {k: v for k, v in os.environ.items() if k != "MTIVE_DATA"} | {"MTIVE_HOME": str(home)}

    def run(*numbers: str) -> Path:
        command = [sys.executable, "-m", "mtive_nb", "run", "smoke", *numbers, "--jobs", "2"]
        outputs = home / "outputs" / "smoke"
        while not all(find_run(outputs, number) for number in numbers):
            done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=2400)
            if "another runner" in done.stderr:  # of another process; what is asked for may be ready before it ends
                time.sleep(5)
                continue
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return outputs

    return run


def script(name: str) -> ModuleType:
    """A script of benchmarks/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def search() -> ModuleType:
    return script("search_rates")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A tiny checkpoint in the hub's own format: what a user's local folder looks like."""
    import torch

    from mtive_nb.pocket.base import build_config, build_model, build_processor, build_tokenizer

    torch.manual_seed(0)
    texts = [
        "Is the large shape red? yes no",
        '{"shape": "circle", "colour": "blue"} what is printed here and there',
    ] * 20
    tokenizer = build_tokenizer(texts, vocab_size=400)
    model = build_model(build_config(tokenizer, vision=(2, 64), language=(2, 64)))
    with torch.no_grad():
        for weight in model.parameters():  # random weights near their usual size, so that logits differ clearly
            if weight.ndim > 1:
                weight.normal_(0, 0.06)
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_folder(tiny_folder, tmp_path_factory):
    """The language part of `tiny_folder` as a text model, in the hub's format."""
    from mtive_nb.model.load import load_vlm, text_model_of

    text = text_model_of(load_vlm(str(tiny_folder), dtype="float32", device="cpu"))
    folder = tmp_path_factory.mktemp("text")
    text.model.save_pretrained(folder)
    text.processor.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(tiny_folder):
    from mtive_nb.model.load import load_vlm

    return load_vlm(str(tiny_folder), dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory):
    """Eight small photos, 0.png to 7.png."""
    folder = tmp_path_factory.mktemp("photos")
    for k in range(8):
        rng = np.random.default_rng(k)
        small = rng.integers(0, 256, (4, 4 + k % 2 * 2, 3), dtype=np.uint8)
        Image.fromarray(small).resize((56 + k % 2 * 28, 56), Image.NEAREST).save(folder / f"{k}.png")
    return folder


def make_record(k: int, *, images: int = 1, question: str = "Is it red?", answer: str = "yes", folder=Path()) -> dict:
    """A record with `images` photos of `folder`, which is that of `photo_folder`."""
    content = [{"type": "image"}] * images + [{"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return {
        "id": f"r{k}", "product_id": f"p{k}", "task": "DD", "variant": "bin", "messages": messages,
        "images": [str(folder / f"{(k + i) % 8}.png") for i in range(images)], "answer": answer, "label": answer, "facts": None,
        "source": "test", "split": "train",
    }  # fmt: skip


def randomise(stack, *, scale: float = 0.05, seed: int = 1) -> None:
    """B starts at 0; give every adapter something to say."""
    import torch

    torch.manual_seed(seed)
    for name, weight in stack.model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, scale)


@pytest.fixture(scope="session")
def some_records(photo_folder):
    questions = ["Is it red?", "What is printed here and there?", "Which shape is the large shape here?"]
    answers = ["yes", "no", '{"shape": "circle"}', "A 1"]
    return [
        make_record(k, images=1 + k % 2, question=questions[k % 3], answer=answers[k % 4], folder=photo_folder)
        for k in range(12)
    ]


@pytest.fixture
def records(some_records):
    """Twelve records over the photos, the test's own copy."""
    return copy.deepcopy(some_records)


@pytest.fixture
def batch(tiny, records):
    """The first five records as questions, in the processor's form."""
    from mtive_nb.model.batches import batch_of

    return batch_of(tiny, records[:5])


@pytest.fixture
def interrupted(monkeypatch):
    """`with interrupted(n):` a training in which is cut short when its n-th batch begins, as by Ctrl-C."""
    from mtive_nb.model.train import StageTrainer

    @contextmanager
    def at_batch(number: int):
        step, calls = StageTrainer.training_step, []

        def dies(self, *args, **kwargs):
            calls.append(1)
            if len(calls) == number:
                raise KeyboardInterrupt
            return step(self, *args, **kwargs)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(StageTrainer, "training_step", dies)
            yield

    return at_batch
