"""The command that trains one adapter on one device or, by accelerate, on several."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mtive_nb as m
from mtive_nb.model.launch import main

SETTINGS = ["--rank", "4", "--placement", "language", "--steps", "4", "--rate", "0.01"]


@pytest.fixture
def file(records, tmp_path) -> Path:
    return m.write_records(records, tmp_path / "records.jsonl")


def test_it_trains_as_the_package_does_and_over_what_it_made(tiny, tiny_folder, records, file, tmp_path):
    main([str(file), str(tmp_path / "one"), "--name", "PT", "--model", str(tiny_folder), "--batch", "4", *SETTINGS])
    stack = m.LoraStack(tiny)
    torch.manual_seed(0)
    stack.add("PT", m.AdapterSpec(4, 16.0, ("language",)))
    m.train_adapter(stack, "PT", m.load_records(file), m.Training(4, 0.01, 4))
    made = m.open_stack((tmp_path / "one", "PT"))
    for path, weights in stack.adapter("PT").weights.items():
        for ours, theirs in zip(weights, made.adapter("PT").weights[path], strict=True):
            torch.testing.assert_close(ours, theirs)
    over = ["--name", "DD", "--over", f"{tmp_path / 'one'}:PT"]
    main([str(file), str(tmp_path / "two"), *over, "--batch", "4", *SETTINGS])
    assert m.open_stack((tmp_path / "one", "PT"), (tmp_path / "two", "DD")).parents["DD"] == "PT"


def test_several_processes_divide_a_step(tiny_folder, file, tmp_path):
    """Two processes with half a batch each make one process's steps. torchrun starts them, as accelerate does on GPUs."""
    asked = ["--name", "PT", "--model", str(tiny_folder), *SETTINGS]
    main([str(file), str(tmp_path / "one"), *asked, "--batch", "4"])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "mtive_nb.model.launch"]
    words = [*torchrun, str(file), str(tmp_path / "two"), *asked, "--batch", "2"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (m.open_stack((tmp_path / name, "PT")).adapter("PT").weights for name in ("one", "two"))
    for path, weights in one.items():
        for ours, theirs in zip(weights, two[path], strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)
