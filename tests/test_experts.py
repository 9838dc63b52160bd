"""Adapters trained by several processes are those that one process would have trained."""

import pytest
import torch
from PIL import Image

from mtive_nb.evaluate import predict
from mtive_nb.evaluate.predict import answers_of_systems
from mtive_nb.model.experts import AdapterPlan, train_adapters
from mtive_nb.model.load import load_vlm
from mtive_nb.model.parallel import train_adapter_in_shares
from mtive_nb.model.stack import AdapterSpec, LoraStack
from mtive_nb.model.train import Training, train_adapter

SPEC = AdapterSpec(4, 8, ("vision.attention", "connector", "language.attention"))


def test_processes_give_what_one_process_gives(tiny_folder, records, photo_folder, tmp_path):
    found = {}
    for processes in (1, 2):
        torch.manual_seed(0)
        stack = LoraStack(load_vlm(str(tiny_folder), dtype="float32", device="cpu"))
        stack.add("PT", SPEC)
        for weight in stack.adapter_weights("PT").values():
            torch.nn.init.normal_(weight, 0, 0.1)
        plans = [
            AdapterPlan("AE", SPEC, "PT", records, Training(4, 1e-2, 2)),
            AdapterPlan("DD", SPEC, "PT", records[:3], Training(3, 2e-2, 2)),
            AdapterPlan("Base_AE", SPEC, None, records, Training(3, 1e-2, 2)),
        ]
        logs = train_adapters(stack, plans, processes=processes, checkpoints=tmp_path / str(processes))
        assert list(logs) == ["AE", "DD", "Base_AE"]
        assert all(logs[plan.name]["rate"].max() == pytest.approx(plan.training.rate) for plan in plans)
        assert stack.branch("DD") == ("PT", "DD") and stack.active == ("Base_AE",)
        found[processes] = {p.name: {n: w.clone() for n, w in stack.adapter_weights(p.name).items()} for p in plans}
        assert not any(p.requires_grad for p in stack.model.parameters())
    for name, weights in found[1].items():
        assert all(torch.allclose(w, found[2][name][n], atol=1e-5) for n, w in weights.items())
        assert any(w.abs().max() > 0 for n, w in weights.items() if "lora_B" in n)
    assert not torch.allclose(*(next(iter(found[1][n].values())) for n in ("AE", "DD")))


@pytest.mark.parametrize("balance", ["token", "record"])
def test_a_step_in_shares_is_the_step_of_one_process(tiny_folder, records, photo_folder, tmp_path, balance):
    found, logs = {}, {}
    for processes in (1, 2):
        torch.manual_seed(0)
        stack = LoraStack(load_vlm(str(tiny_folder), dtype="float32", device="cpu"))
        training, kept = Training(4, 1e-2, 1, accumulate=2, beta=0.1, balance=balance), tmp_path / str(processes)
        stack.add("before", SPEC)
        train_adapter(stack, "before", records[:2], Training(4, 1e-2, 1), checkpoints=kept)
        torch.manual_seed(1)
        stack.add("PT", SPEC)
        logs[processes] = train_adapter_in_shares(
            stack, "PT", records[:4], training, processes=processes, checkpoints=kept
        )
        found[processes] = {n: w.clone() for n, w in stack.adapter_weights("PT").items()}
        assert stack.active == ("PT",) and not any(p.requires_grad for p in stack.model.parameters())
    assert all(torch.allclose(w, found[2][n], atol=1e-5) for n, w in found[1].items())
    assert any(w.abs().max() > 0 for n, w in found[1].items() if "lora_B" in n)
    assert logs[1]["loss"].tolist() == pytest.approx(logs[2]["loss"].tolist(), abs=1e-3)
    with pytest.raises(ValueError, match="found 3 batches a step; expected a multiple of 2"):
        train_adapter_in_shares(stack, "PT", records, Training(4, accumulate=3), processes=2)


def test_processes_answer_as_one_does(tiny_folder, records, photo_folder, tmp_path):
    stack = LoraStack(load_vlm(str(tiny_folder), dtype="float32", device="cpu"))
    stack.add("PT", SPEC)
    for weight in stack.adapter_weights("PT").values():
        torch.nn.init.normal_(weight, 0, 0.1)
    tasks = {r["task"] for r in records}
    systems = {"zero-shot": dict.fromkeys(tasks), "MTIVE_PT": dict.fromkeys(tasks, "PT")}
    given = {"batch": 2, "max_new_tokens": 4}
    found = []
    for processes in (1, 2):
        (cache := tmp_path / str(processes)).mkdir()
        found.append(answers_of_systems(stack, systems, records, cache=cache, processes=processes, **given))
        assert len(list(cache.iterdir())) == 2 * len(tasks)
    assert found[0] == found[1] and found[0]["zero-shot"] != found[0]["MTIVE_PT"]


def test_kept_answers_are_those_of_the_same_questions_photos_weights_and_settings(
    tiny_folder, records, tmp_path, monkeypatch
):
    stack, asked = LoraStack(load_vlm(str(tiny_folder), dtype="float32", device="cpu")), []
    stack.add("PT", SPEC)
    photo = tmp_path / "photo.png"
    Image.new("RGB", (56, 56), "red").save(photo)
    records = [r | {"images": [str(photo)] * len(r["images"])} for r in records[:2]]
    monkeypatch.setattr(predict, "generate_answers", lambda *a, **k: asked.append(1) or ["yes"] * len(a[1]))

    def asks(**given):
        before = len(asked)
        limits = {"cache": tmp_path / "cache", "max_new_tokens": 4} | given
        answers_of_systems(stack, {"MTIVE_PT": dict.fromkeys({r["task"] for r in records}, "PT")}, records, **limits)
        return len(asked) - before

    assert asks() == 1 and asks() == 0 and asks(batch=1) == 0
    assert asks(max_new_tokens=5) == 1
    Image.new("RGB", (56, 56), "blue").save(photo)
    assert asks() == 1 and asks() == 0
    next(iter(stack.adapter_weights("PT").values()))[-1, -1] += 1  # trained on, not yet saved
    assert asks() == 1 and asks() == 0
    stack.vlm.max_px = 56
    assert asks() == 1 and asks() == 0
    records[0]["messages"][0]["content"][-1]["text"] += " Now?"
    assert asks() == 1 and asks() == 0
