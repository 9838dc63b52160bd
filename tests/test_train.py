import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import TrainingArguments

from mtive_nb.evaluate.predict import CUT, generate_answers
from mtive_nb.model import resume, train
from mtive_nb.model.batches import batch_of
from mtive_nb.model.lineage import NotFiniteError
from mtive_nb.model.load import load_vlm
from mtive_nb.model.losses import IGNORE, noise_robust_loss
from mtive_nb.model.stack import AdapterSpec, LoraStack
from mtive_nb.model.train import (
    SortedSteps,
    StageTrainer,
    Training,
    Watch,
    answer_losses,
    held_out_loss,
    steps_for,
    train_adapter,
    trainer_arguments,
)

SPEC = AdapterSpec(4, 8, ("vision.attention", "connector", "language.attention"))


def fresh(tiny_folder) -> LoraStack:
    torch.manual_seed(0)
    stack = LoraStack(load_vlm(str(tiny_folder), dtype="float32", device="cpu"))
    stack.add("PT", SPEC)
    return stack


def weights(stack: LoraStack) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in stack.model.named_parameters() if "lora_" in n}


def test_steps_hold_random_records_sorted_by_length():
    lengths = [7, 3, 9, 1, 8, 2, 6, 4, 5, 0]
    sampler = SortedSteps(lengths, size=4, seed=0)
    first = list(sampler)
    assert sorted(first) == list(range(10)) and len(sampler) == 10
    steps = [first[i : i + 4] for i in (0, 4, 8)]
    assert all([lengths[k] for k in step] == sorted(lengths[k] for k in step) for step in steps)
    assert [lengths[k] for k in steps[0]] != [0, 1, 2, 3], "whole steps are not of one length"
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    dealt = list(SortedSteps(lengths, size=4, seed=0, shares=2))
    assert dealt[:4] == [first[k] for k in (0, 2, 1, 3)], "two processes of two records: neither has both long ones"
    of_four = list(SortedSteps(list(range(64)), size=64, seed=0, shares=4, accumulate=4))  # batches of 4
    taken = [[k for b in range(p, 16, 4) for k in of_four[4 * b : 4 * b + 4]] for p in range(4)]  # a batch each in turn
    assert sorted(k for own in taken for k in own) == list(range(64))
    assert max(map(sum, taken)) - min(map(sum, taken)) < 64, "no process has all the long records"


def test_training_lowers_the_loss_and_touches_the_adapter_alone(tiny_folder, records, photo_folder, tmp_path):
    stack = fresh(tiny_folder)
    before = {n: p.detach().clone() for n, p in stack.model.named_parameters() if "lora_" not in n}
    log = train_adapter(stack, "PT", records, Training(30, 2e-2, 4), checkpoints=tmp_path)
    assert isinstance(log, pd.DataFrame) and log["loss"].iloc[-1] < 0.75 * log["loss"].iloc[0]
    assert all(torch.equal(p, before[n]) for n, p in stack.model.named_parameters() if "lora_" not in n)
    stack.assert_alive("PT")
    answers = generate_answers(stack, records, batch=5, max_new_tokens=8)
    assert len(answers) == len(records) and all(isinstance(a, str) for a in answers)


def test_a_training_killed_and_resumed_equals_an_uninterrupted_one(
    tiny_folder, records, photo_folder, tmp_path, interrupted
):
    training = Training(8, 1e-2, 4, save_steps=4)
    whole = fresh(tiny_folder)
    log = train_adapter(whole, "PT", records, training, checkpoints=tmp_path / "whole")

    with interrupted(7):  # after the checkpoint of step 4
        train_adapter(fresh(tiny_folder), "PT", records, training, checkpoints=tmp_path / "cut")
    resumed = fresh(tiny_folder)
    again = train_adapter(resumed, "PT", records, training, checkpoints=tmp_path / "cut")
    columns = ["step", "loss", "rate"]
    pd.testing.assert_frame_equal(again[columns], log[columns], atol=1e-5)
    assert again["seconds"].is_monotonic_increasing
    ended = train_adapter(fresh(tiny_folder), "PT", records, training, checkpoints=tmp_path / "cut")
    pd.testing.assert_frame_equal(ended, again)  # nothing is left to train: the log is there all the same
    for name, weight in weights(whole).items():
        assert torch.allclose(weight, weights(resumed)[name], atol=1e-6), name


def other_photo(records: list[dict], folder: Path) -> list[dict]:
    """The records with a blue photo in place of the last, under the same name as before."""
    Image.new("RGB", (56, 56), "blue").save(folder / "last.png")
    return records


CHANGES = {
    "rate": lambda o: o | {"rate": 1e-1},
    "steps": lambda o: o | {"steps": 3},
    "seed": lambda o: o | {"seed": 1},
    "answer": lambda o: o | {"records": [r | with_answer(r, "maybe") for r in o["records"]]},
    "photo": lambda o: o | {"records": other_photo(o["records"], o["folder"])},
    "alpha": lambda o: o | {"spec": replace(SPEC, alpha=32)},
    "initial weights": lambda o: o | {"drawn": 1},
    "base": lambda o: o | {"scale": 1.5},
    "bounds": lambda o: o | {"max_px": 28},
    "held-out records": lambda o: o | {"held_out": o["records"][:2]},
}


def with_answer(record: dict, answer: str) -> dict:
    return {"answer": answer, "messages": [*record["messages"][:-1], {"role": "assistant", "content": answer}]}


def trained(tiny_folder, kept: Path, *, records, folder, rate=1e-2, steps=4, seed=0, spec=SPEC, drawn=0, scale=1.0, max_px=None, held_out=()):  # fmt: skip
    """The weights of an adapter trained with checkpoints in `kept`."""
    stack = LoraStack(load_vlm(str(tiny_folder), dtype="float32", device="cpu", max_px=max_px))
    stack.vlm.model.lm_head.weight.data *= scale
    torch.manual_seed(drawn)
    stack.add("PT", spec)
    training = Training(steps, rate, 4, seed=seed, save_steps=2)
    train_adapter(stack, "PT", records, training, checkpoints=kept, held_out=list(held_out) or None)
    return weights(stack)


@pytest.mark.parametrize("what", CHANGES)
def test_another_training_in_the_same_folder_starts_anew_and_says_so(tiny_folder, records, tmp_path, capsys, what):
    Image.new("RGB", (56, 56), "red").save(tmp_path / "last.png")
    records[-1]["images"] = [str(tmp_path / "last.png")] * len(records[-1]["images"])
    first = {"records": records, "folder": tmp_path}
    trained(tiny_folder, tmp_path / "kept", **first)
    other = CHANGES[what](first)
    found = trained(tiny_folder, tmp_path / "kept", **other)
    assert "found checkpoints of another training run" in capsys.readouterr().out
    assert list((tmp_path / "kept" / "PT.before").glob("checkpoint-*")), "what was trained before is not lost"
    alone = trained(tiny_folder, tmp_path / "fresh", **other)
    assert all(torch.equal(found[name], weight) for name, weight in alone.items())
    trained(tiny_folder, tmp_path / "fresh", **other)
    assert "starts anew" not in capsys.readouterr().out, "the same run resumes"


def test_a_training_by_other_code_starts_anew(tiny_folder, records, tmp_path, capsys, monkeypatch):
    given = {"records": records, "folder": tmp_path}
    trained(tiny_folder, tmp_path, **given)
    monkeypatch.setattr(resume, "code_of_chapter", lambda cells: {"model/train.py": "another"})
    trained(tiny_folder, tmp_path, **given)
    assert "other code" in capsys.readouterr().out


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    for at in range(len(content) // 2, len(content) // 2 + 64):
        content[at] ^= 255
    file.write_bytes(content)


def wild_weights(file: Path) -> None:
    save_file({name: weight * float("nan") for name, weight in load_file(file).items()}, file)


def wild_moments(file: Path) -> None:
    saved = torch.load(file, weights_only=True)
    for row in saved["state"].values():
        row["exp_avg"].fill_(float("inf"))
    torch.save(saved, file)


def a_file(at: Path) -> None:
    shutil.rmtree(at)
    at.write_text("not a folder")


HALVES = {
    "weights alone": lambda at: [file.unlink() for file in at.iterdir() if file.name != "trainable.safetensors"],
    "no weights": lambda at: (at / "trainable.safetensors").unlink(),
    "half the weights": lambda at: cut(at / "trainable.safetensors"),
    "half the optimizer": lambda at: cut(at / "optimizer.pt"),
    "half the state": lambda at: cut(at / "trainer_state.json"),
    "an empty state": lambda at: (at / "trainer_state.json").write_text("{}"),
    "no optimizer": lambda at: (at / "optimizer.pt").unlink(),
    "no scheduler": lambda at: (at / "scheduler.pt").unlink(),
    "a damaged optimizer": lambda at: damage(at / "optimizer.pt"),
    "weights that are no numbers": lambda at: wild_weights(at / "trainable.safetensors"),
    "moments that are no numbers": lambda at: wild_moments(at / "optimizer.pt"),
    "a file in its place": a_file,
}


@pytest.mark.parametrize("what", HALVES)
def test_a_half_written_checkpoint_is_passed_over_for_the_last_whole_one(
    tiny_folder, records, tmp_path, interrupted, capsys, what
):
    given = {"records": records, "folder": tmp_path, "steps": 6}
    whole = trained(tiny_folder, tmp_path / "whole", **given)
    with interrupted(4):  # after the checkpoint of step 2
        trained(tiny_folder, tmp_path / "cut", **given)
    folder = tmp_path / "cut" / "PT"
    shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-4")
    shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-2.bak")  # somebody's copy
    HALVES[what](folder / "checkpoint-4")
    found = trained(tiny_folder, tmp_path / "cut", **given)
    assert "checkpoint-4 was half-written or damaged; goes on from checkpoint-2" in capsys.readouterr().out
    assert all(torch.allclose(found[name], weight, atol=1e-6) for name, weight in whole.items())
    shutil.rmtree(folder)
    with interrupted(4):
        trained(tiny_folder, tmp_path / "cut", **given)
    HALVES[what](folder / "checkpoint-2")
    found = trained(tiny_folder, tmp_path / "cut", **given)
    assert "starts anew" in capsys.readouterr().out
    assert all(torch.allclose(found[name], weight, atol=1e-6) for name, weight in whole.items())


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[]", b"null", b"[" * 100_000])
def test_a_broken_key_starts_anew(tiny_folder, records, tmp_path, interrupted, capsys, content):
    with interrupted(4):
        trained(tiny_folder, tmp_path, records=records, folder=tmp_path, steps=6)
    (tmp_path / "PT" / resume.KEY).write_bytes(content)
    (tmp_path / "PT.before").write_text("not a folder")
    trained(tiny_folder, tmp_path, records=records, folder=tmp_path, steps=6)
    assert "starts anew" in capsys.readouterr().out


@pytest.mark.parametrize("last", [4, 1])  # a step after the other run's first checkpoint, or before it
def test_a_run_finds_its_own_checkpoints_again_after_another_run(
    tiny_folder, records, tmp_path, interrupted, capsys, last
):
    given = {"records": records, "folder": tmp_path, "steps": 6}
    whole = trained(tiny_folder, tmp_path / "whole", **given)
    for rate, step in ((1e-2, 4), (2e-2, last)):
        with interrupted(step):
            trained(tiny_folder, tmp_path / "kept", rate=rate, **given)
    capsys.readouterr()
    found = trained(tiny_folder, tmp_path / "kept", **given)
    assert "goes on from its own, which lay there" in capsys.readouterr().out
    assert all(torch.allclose(found[name], weight, atol=1e-6) for name, weight in whole.items())


def test_a_held_out_loss_that_is_no_number_ends_the_training(tiny_folder, records, tmp_path, monkeypatch):
    loss_of = StageTrainer.compute_loss

    def broken(self, model, inputs, return_outputs=False, **more):
        found = loss_of(self, model, inputs, return_outputs=return_outputs, **more)
        if model.training:
            return found
        return (found[0] * float("nan"), found[1]) if return_outputs else found * float("nan")

    monkeypatch.setattr(StageTrainer, "compute_loss", broken)
    with pytest.raises(NotFiniteError, match=r"adapter 'PT': the held-out loss is nan at step \d of 4"):
        train_adapter(fresh(tiny_folder), "PT", records, Training(4, 1e-2, 4), held_out=records[:2])


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"steps": -1}, {"batch": 0}, {"accumulate": 0}, {"rate": float("nan")}, {"rate": -1.0}]
)
def test_settings_that_train_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=f"Training: {next(iter(wrong))}: found "):
        Training(**{"steps": 1} | wrong)


@pytest.mark.parametrize("steps", [2, 5])  # the first step of a warm-up has a rate of 0
def test_weights_that_are_no_numbers_end_the_training_with_step_adapter_and_rate(tiny_folder, records, tmp_path, steps):
    stack = fresh(tiny_folder)
    before = weights(stack)
    with pytest.raises(NotFiniteError, match=rf"adapter 'PT': .* step \d of {steps}, at a peak rate of 1e\+39"):
        train_adapter(stack, "PT", records, Training(steps, 1e39, 4, save_steps=1), checkpoints=tmp_path)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(stack).items()), "it is as it was"
    assert all(torch.isfinite(w).all() for f in tmp_path.rglob("trainable.safetensors") for w in load_file(f).values())


def test_a_loss_that_is_no_number_ends_the_training(tiny_folder, records, tmp_path):
    stack = fresh(tiny_folder)
    stack.vlm.model.lm_head.weight.data[3, 3] = torch.nan
    with pytest.raises(NotFiniteError, match=r"adapter 'PT': the loss is nan at step 1 of 5, at a peak rate of 0\.001"):
        train_adapter(stack, "PT", records, Training(5, batch=4), checkpoints=tmp_path)


def test_a_cut_short_training_in_a_notebook_goes_on_when_its_cell_runs_again(
    tiny_folder, records, tmp_path, interrupted, capsys
):
    training = Training(6, 1e-2, 4, save_steps=2)
    whole, stack = fresh(tiny_folder), fresh(tiny_folder)
    train_adapter(whole, "PT", records, training)
    with interrupted(4):
        train_adapter(stack, "PT", records, training, checkpoints=tmp_path)
    capsys.readouterr()
    log = train_adapter(stack, "PT", records, training, checkpoints=tmp_path)
    assert "starts anew" not in capsys.readouterr().out and log["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert all(torch.allclose(weight, weights(stack)[name], atol=1e-6) for name, weight in weights(whole).items())


def test_nothing_to_train_on_is_an_error(tiny_folder, photo_folder, tmp_path):
    with pytest.raises(ValueError, match="found no record"):
        train_adapter(fresh(tiny_folder), "PT", [], Training(1))


def test_answers_do_not_depend_on_the_batch(tiny, records, photo_folder):
    one = generate_answers(tiny, records, batch=1, max_new_tokens=6)
    many = generate_answers(tiny, records, batch=7, max_new_tokens=6)
    assert one == many


def test_an_expert_trained_over_folded_stages_equals_one_trained_live(
    tiny_folder, records, photo_folder, tmp_path, monkeypatch
):
    from contextlib import nullcontext

    def expert(name: str) -> dict[str, torch.Tensor]:
        stack = fresh(tiny_folder)
        for weight in (p for n, p in stack.model.named_parameters() if "lora_B" in n):
            weight.data.normal_(0, 0.05, generator=torch.Generator().manual_seed(3))
        torch.manual_seed(1)
        stack.add("E", SPEC, parent="PT")
        train_adapter(stack, "E", records, Training(6, 1e-2, 4))
        return {n: w for n, w in weights(stack).items() if ".E." in n}

    folded = expert("folded")
    monkeypatch.setattr(LoraStack, "folded", lambda self, **_: nullcontext())
    for name, weight in expert("live").items():
        assert torch.allclose(weight, folded[name], atol=2e-3), name


@pytest.mark.parametrize("balance", ["token", "record"])
def test_a_steps_gradient_does_not_depend_on_how_its_records_are_accumulated(
    tiny_folder, records, photo_folder, monkeypatch, balance
):
    def keep(self: Watch, args, state, control, *, model, **_) -> None:  # noqa: ANN001
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    assert len({len(record["answer"]) for record in records[:8]}) > 1, "of one length, both balances are the same"
    monkeypatch.setattr(Watch, "on_pre_optimizer_step", keep)
    gradients, losses = [], []
    for batch in (8, 4, 2):
        training = Training(1, 1e-2, batch, accumulate=8 // batch, balance=balance)
        losses += train_adapter(fresh(tiny_folder), "PT", records[:8], training)["loss"].tolist()
    assert losses[1:] == pytest.approx([losses[0]] * 2, abs=1e-5)
    largest = max(g.abs().max() for g in gradients[0].values())
    assert all((g - other[n]).abs().max() < 1e-4 * largest for other in gradients[1:] for n, g in gradients[0].items())


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_the_first_loss_of_a_balance_by_record_is_the_mean_of_single_records(tiny_folder, records, photo_folder, beta):
    stack, alone = fresh(tiny_folder), []
    for record in records[:8]:
        with torch.inference_mode():
            batch = batch_of(stack.vlm, [record], answers=True)
            alone.append(noise_robust_loss(stack.model(**batch).logits, batch["labels"], beta=beta).item())
    log = train_adapter(stack, "PT", records[:8], Training(1, 0.0, 4, accumulate=2, beta=beta, balance="record"))
    assert log["loss"].iloc[0] == pytest.approx(sum(alone) / 8, abs=1e-4)


def test_further_loggers_are_those_of_the_environment(tiny, tmp_path, monkeypatch):
    arguments = TrainingArguments(**trainer_arguments(Training(1), tmp_path, base=tiny.model))
    assert arguments.report_to == []
    monkeypatch.setenv("MTIVE_REPORT_TO", "tensorboard,wandb")
    assert trainer_arguments(Training(1), tmp_path, base=tiny.model)["report_to"] == ["tensorboard", "wandb"]


@pytest.mark.parametrize(("asked", "large", "expected"), [(None, 1, True), (None, 10**9, False), (False, 1, False)])
def test_activations_of_a_large_base_are_computed_again_unless_told_otherwise(
    tiny, tmp_path, monkeypatch, asked, large, expected
):
    monkeypatch.setattr(train, "LARGE", large)
    arguments = trainer_arguments(Training(1, checkpointing=asked), tmp_path, base=tiny.model)
    assert arguments["activation_checkpointing"] is expected


@pytest.mark.parametrize(("records", "steps"), [(1600, 100), (16, 8), (17, 9), (1, 1), (0, 1)])
def test_few_records_mean_few_steps(records: int, steps: int) -> None:
    assert steps_for(records, 100, passes=8, a_step=16) == steps


@torch.no_grad()
def test_the_held_out_loss_is_the_models_own_record_by_record(tiny_folder, records):
    stack = fresh(tiny_folder)
    for weight in stack.adapter_weights("PT").values():
        weight.normal_(0, 0.1)
    found = answer_losses(stack, records, batch=5)
    for record, nats, tokens in zip(records, found["nats"], found["tokens"], strict=True):
        alone = batch_of(stack.vlm, [record], answers=True)
        assert tokens == (alone["labels"] != IGNORE).sum()
        assert nats == pytest.approx(stack.model(**alone).loss.item() * tokens, rel=1e-4)
    assert held_out_loss(stack, records) == pytest.approx(found["nats"].sum() / found["tokens"].sum(), rel=1e-4)
    stack.activate(None)
    assert held_out_loss(stack, records) == pytest.approx(held_out_loss(stack.vlm, records), rel=1e-4)
    assert pd.isna(held_out_loss(stack, []))


def test_an_answer_that_the_limit_cut_is_marked(tiny, records):
    ends = tiny.model.generation_config.eos_token_id
    plain = generate_answers(tiny, records, max_new_tokens=3)
    tiny.model.generation_config.eos_token_id = list(range(len(tiny.processor.tokenizer)))  # every token ends an answer
    assert not any(a.endswith(CUT) for a in generate_answers(tiny, records, max_new_tokens=3, mark_cut=True))
    tiny.model.generation_config.eos_token_id = len(tiny.processor.tokenizer) + 1  # no token does
    assert [a for a in generate_answers(tiny, records, max_new_tokens=3, mark_cut=True) if not a.endswith(CUT)] == []
    tiny.model.generation_config.eos_token_id = ends
    assert generate_answers(tiny, records, max_new_tokens=3) == plain


def test_held_out_loss_is_logged_and_changes_nothing(tiny_folder, records):
    training = Training(8, 1e-2, 4)
    plain, watched = fresh(tiny_folder), fresh(tiny_folder)
    log = train_adapter(plain, "PT", records[:8], training)
    seen = train_adapter(watched, "PT", records[:8], training, held_out=records[8:])
    assert "held_out" not in log
    assert seen["held_out"].notna().sum() >= 4 and pd.notna(seen["held_out"].iloc[-1])
    assert seen["held_out"].iloc[-1] == pytest.approx(held_out_loss(watched, records[8:]), rel=1e-3)
    assert all(torch.equal(weight, weights(watched)[name]) for name, weight in weights(plain).items())
