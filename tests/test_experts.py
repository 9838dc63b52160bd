"""Adapters trained by several processes are those that one process would have trained."""

import torch

from mtive_nb.model.experts import Job, train_adapters
from mtive_nb.model.load import load_vlm
from mtive_nb.model.stack import AdapterSpec, LoraStack

SPEC = AdapterSpec(4, 8, ("vision.attention", "connector", "language.attention"))


def test_processes_give_what_one_process_gives(tiny_folder, records, photo_folder, tmp_path):
    found = {}
    for processes in (1, 2):
        torch.manual_seed(0)
        stack = LoraStack(load_vlm(str(tiny_folder), dtype="float32", device="cpu"))
        stack.add("PT", SPEC)
        for weight in stack.adapter_weights("PT").values():
            torch.nn.init.normal_(weight, 0, 0.1)
        jobs = [
            Job("AE", SPEC, "PT", records, 4, 1e-2),
            Job("DD", SPEC, "PT", records[:3], 3, 1e-2),
            Job("Base_AE", SPEC, None, records, 3, 1e-2),
        ]
        logs = train_adapters(
            stack, jobs, processes=processes, root=photo_folder, checkpoints=tmp_path / str(processes), batch=2
        )
        assert list(logs) == ["AE", "DD", "Base_AE"] and all(len(log) for log in logs.values())
        assert stack.branch("DD") == ("PT", "DD") and stack.active == ("Base_AE",)
        found[processes] = {j.name: {n: w.clone() for n, w in stack.adapter_weights(j.name).items()} for j in jobs}
        assert not any(p.requires_grad for p in stack.model.parameters())
    for name, weights in found[1].items():
        assert all(torch.allclose(w, found[2][name][n], atol=1e-5) for n, w in weights.items())
        assert any(w.abs().max() > 0 for n, w in weights.items() if "lora_B" in n)
    assert not torch.allclose(*(next(iter(found[1][n].values())) for n in ("AE", "DD")))
