"""The pocket base: how it is built and trained, and what ships."""

import copy
import os
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.utils.data import Dataset
from transformers import AutoModelForImageTextToText, AutoProcessor

from mtive_nb.data.photos import file_sha256
from mtive_nb.data.records import load_records, write_records
from mtive_nb.model.load import POCKET_BASE
from mtive_nb.model.stack import AdapterSpec, LoraStack
from mtive_nb.model.train import Training, train_adapter
from mtive_nb.pocket.base import (
    build_config,
    build_model,
    build_processor,
    build_tokenizer,
    parameter_count,
)
from mtive_nb.pocket.compare import Comparisons, encode_pool
from mtive_nb.pocket.exam import (
    ALL_SKILLS,
    card,
    character_accuracy,
    exam_change,
    exam_records,
    exam_scores,
    has_exam,
    held_out_texts,
    loss_on_texts,
    words_of,
)
from mtive_nb.pocket.muon import Muon, orthogonalise, split_parameters
from mtive_nb.pocket.parallel import AverageGradients, train_base_together
from mtive_nb.pocket.pretrain import (
    BaseTrainer,
    DenseHeads,
    SceneCollator,
    SceneDataset,
    base_arguments,
    encode,
    train_base,
)
from mtive_nb.pocket.rehearsal import TASK, rehearsal_records
from mtive_nb.pocket.scene_questions import Sample, make_sample


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    texts = [t for k in range(60) for q, a, _ in make_sample(k).turns for t in (q, a)]
    tokenizer = build_tokenizer(texts, vocab_size=400)
    return build_model(build_config(tokenizer, vision=(2, 64), language=(2, 64))), build_processor(tokenizer)


def test_capitals_digits_and_marks_are_tokens_of_their_own(parts):
    tokenizer = parts[1].tokenizer
    for text in ("A1B2", "11/04.26", "EXP: 2021-03-04"):
        assert [t for t in tokenizer.tokenize(text) if t != "Ġ"] == [c for c in text if c != " "]
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_labels_cover_every_answer_of_a_conversation_and_no_question(parts):
    _, processor = parts
    sample = next(s for s in (make_sample(k) for k in range(50)) if len(s.turns) >= 3)
    batch = SceneCollator(processor)([sample])
    kept = processor.tokenizer.decode(batch["labels"][0][batch["labels"][0] != -100])
    assert kept == "".join(answer + "<|im_end|>" for _, answer, _ in sample.turns)


def test_dense_labels_lie_in_the_order_of_the_connectors_output(parts):
    """A tower that sees one bright merged patch must change most at that patch's row."""
    model, processor = parts
    import numpy as np

    image = np.zeros((112, 140, 3), np.uint8)
    bright = image.copy()
    bright[56:84, 28:56] = 255  # merged patch in row 2, column 1 of 4 x 5
    collate = processor.image_processor(images=[image, bright], return_tensors="pt")
    with torch.inference_mode():
        patches = model.model.visual.patch_embed(collate["pixel_values"])
    changed = (patches[:80] - patches[80:]).abs().sum(-1).reshape(20, 4).sum(-1)
    assert changed.argmax() == 2 * 5 + 1 and (changed > 0).sum() == 1


def test_patches_lie_in_the_order_of_the_processor(parts):
    """The tower turns its patches into windows; on larger images that is another order."""
    from mtive_nb.pocket.pretrain import _patches_in_order

    model, processor = parts
    import numpy as np

    tower, image = model.model.visual, np.random.default_rng(0).integers(0, 255, (252, 308, 3), dtype=np.uint8)
    big = build_processor(processor.tokenizer, max_px=300).image_processor(images=[image], return_tensors="pt")
    with torch.inference_mode():
        out = tower(big["pixel_values"], grid_thw=big["image_grid_thw"])
        ordered = _patches_in_order(tower, out.last_hidden_state, big["image_grid_thw"])
        merged = tower.merger.mlp(ordered.view(-1, tower.merger.hidden_size))
    assert not torch.allclose(tower.merger.ln_q(out.last_hidden_state), ordered, atol=1e-3)
    assert torch.allclose(merged, out.pooler_output, atol=1e-5)


def test_both_phases_train_and_the_first_leaves_the_language_alone(parts, tmp_path):
    model, processor = parts
    data = SceneDataset(64, seed=1)
    before = model.model.language_model.layers[0].mlp.up_proj.weight.clone()
    for phase in ("dense", "language"):
        arguments = base_arguments(tmp_path / phase, steps=2, batch=4, rate=1e-3, seed=0, save_steps=2)
        log = pd.DataFrame(train_base(model, data, phase=phase, arguments=arguments, processor=processor))
        assert log["train_loss"].notna().any()
        same = torch.equal(before, model.model.language_model.layers[0].mlp.up_proj.weight)
        assert same == (phase == "dense")
    assert isinstance(model.dense, DenseHeads)
    del model.dense


class Doubled(Dataset):
    """Each scene twice, so that two processes see what one would see alone; or a scene and the one 8 further on."""

    def __init__(self, apart: int) -> None:
        self.scenes, self.apart = SceneDataset(16, seed=1), apart

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int):
        return self.scenes[index // 2 + self.apart * (index % 2)]


def test_two_processes_take_the_mean_of_their_gradients(parts, tmp_path):
    model, processor = parts
    torch.manual_seed(0)
    model.dense = DenseHeads(64, 64)

    def trained(data, processes):
        mine = copy.deepcopy(model)
        arguments = base_arguments(tmp_path / str(len(list(tmp_path.iterdir()))), steps=2, batch=4, rate=1e-3, seed=0)
        train_base_together(mine, data, phase="dense", arguments=arguments, processor=processor, processes=processes)
        return mine.dense.heads["colour"].weight.detach()

    alone = trained(SceneDataset(8, seed=1), 1)
    assert torch.allclose(trained(Doubled(0), 2), alone, atol=1e-6)
    assert not torch.allclose(trained(Doubled(8), 2), alone, atol=1e-6)
    del model.dense


def average_two(rank: int, folder: Path) -> None:
    """Three weights: with a gradient in both processes, in the first alone, in none."""
    model = torch.nn.ModuleList(torch.nn.Linear(2, 1, bias=False) for _ in range(3))
    model[0].weight.grad = torch.full((1, 2), 1.0 + rank)
    model[1].weight.grad = None if rank else torch.full((1, 2), 4.0)
    average = AverageGradients(rank, 2, folder / "meet")
    average.on_train_begin(None, None, None)
    average.on_pre_optimizer_step(None, None, None, model)
    average.on_train_end(None, None, None)
    torch.save([layer.weight.grad for layer in model], folder / f"{rank}.pt")


def test_a_weight_that_one_batch_does_not_reach_has_half_the_others_gradient(tmp_path):
    torch.multiprocessing.spawn(average_two, args=(tmp_path,), nprocs=2)
    for rank in range(2):
        both, one, none = torch.load(tmp_path / f"{rank}.pt")
        assert both.tolist() == [[1.5, 1.5]] and one.tolist() == [[2.0, 2.0]] and none is None


def test_a_training_ends_with_the_process_that_started_it(parts, tmp_path, monkeypatch):
    average = AverageGradients(0, 1, tmp_path / "meet")
    average.on_train_begin(None, None, None)
    parts[0].lm_head.weight.grad = torch.ones_like(parts[0].lm_head.weight)
    average.on_pre_optimizer_step(None, None, None, parts[0])
    assert (parts[0].lm_head.weight.grad == 1).all()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    with pytest.raises(SystemExit, match="started this training is gone"):
        average.on_pre_optimizer_step(None, None, None, parts[0])
    average.on_train_end(None, None, None)
    parts[0].lm_head.weight.grad = None


def test_the_answer_loss_equals_the_models_own(parts, tmp_path):
    """The trainer writes out the forward pass to share the vision tower; n tokens of a sample weigh sqrt(n)."""
    model, processor = parts
    model.dense = DenseHeads(64, 64)
    plain = [make_sample(k, seed=5, words=["bolan", "kiv"], shares={"plain": 1.0}) for k in range(2)]
    trainer = BaseTrainer(model, base_arguments(tmp_path, steps=1, batch=1, rate=1e-3, seed=0), phase="language")
    model.eval()
    for samples in ([make_sample(k, seed=5) for k in range(4)] + plain, plain):  # with images, and without any
        batch = SceneCollator(processor)(samples)
        with torch.inference_mode():
            trainer.compute_loss(model, dict(batch))
            logits, labels = model(**{k: v for k, v in batch.items() if k != "dense"}).logits, batch["labels"]
        losses = [
            float(model.loss_function(a[None], b[None], vocab_size=len(a[0])))
            for a, b in zip(logits, labels, strict=True)
        ]
        weights = [float((row != -100).sum()) ** 0.5 for row in labels]
        own = sum(loss * weight for loss, weight in zip(losses, weights, strict=True)) / sum(weights)
        assert trainer.last["answer_loss"] == pytest.approx(own, abs=1e-4)
    del model.dense


def test_an_encoded_image_is_what_the_tower_gives(parts, tmp_path):
    model, processor = parts
    model.dense = DenseHeads(64, 64)
    samples = [make_sample(k, seed=5, shares=shares) for shares in ({"pair": 1.0}, {"text": 1.0}) for k in range(3)]
    stored = [Sample(encode(model, processor, s.images), s.turns, []) for s in samples]
    trainer = BaseTrainer(model, base_arguments(tmp_path, steps=1, batch=1, rate=1e-3, seed=0), phase="compare")
    model.eval()
    losses = []
    for given in (samples, stored):
        with torch.inference_mode():
            trainer.compute_loss(model, SceneCollator(processor)(given))
        losses.append(trainer.last["answer_loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)  # features are kept in float16
    del model.dense


def test_pairs_are_learned_one_respect_after_another_and_leave_the_tower_alone(parts, tmp_path):
    model, processor = parts
    pool = encode_pool(model, processor, groups=12, kept=6, seed=3, words=["bolan", "kiv"])
    pairs = Comparisons(pool, n=400, seed=0)
    assert len(pool.looks) == 48 and len(pool.kept) == 6
    asked = [" ".join(q for q, _, _ in pairs[k].turns) for k in range(0, 400, 2)]
    assert all("colour" in q for q in asked[:30]) and not any("print" in q for q in asked[:60])
    assert any("both images show the same thing" in q for q in asked[90:]) and not any(
        "thing?" in q for q in asked[:90]
    )
    verdicts = [a for k in range(180) for _, a, skill in pairs[k].turns if skill == "compare"]
    assert 0.35 < verdicts.count("yes") / len(verdicts) < 0.65
    assert any(len(pairs[k].images) < 2 for k in range(300, 400))
    tower, language = model.model.visual.merger.mlp[0], model.model.language_model.layers[0].mlp.up_proj
    before = tower.weight.clone(), language.weight.clone()
    arguments = base_arguments(tmp_path / "compare", steps=2, batch=4, rate=1e-3, seed=0)
    train_base(model, pairs, phase="compare", arguments=arguments, processor=processor)
    assert torch.equal(before[0], tower.weight) and not torch.equal(before[1], language.weight)
    del model.dense


def test_orthogonalise_flattens_the_singular_values():
    torch.manual_seed(0)
    for shape in ((20, 50), (50, 20), (32, 32)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert 0.5 < values.min() and values.max() < 1.4


def test_muon_takes_the_inner_matrices_alone(parts):
    model, _ = parts
    model.requires_grad_(True)
    matrices, others = split_parameters(model)
    assert all(p.ndim == 2 for p in matrices) and len(matrices) + len(others) == len(list(model.parameters()))
    layer = torch.nn.Linear(8, 8)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    optimizer = Muon([layer.weight], [layer.bias], lr=0.1, weight_decay=0.0)
    layer(torch.randn(16, 8)).square().sum().backward()
    optimizer.step()
    step = (weight - layer.weight.detach()) / (0.2 * 8**0.5 * 0.1)
    assert 0.5 < torch.linalg.svdvals(step).max() < 1.4  # an orthogonal step of the stated length
    assert (layer.bias.detach() - bias).abs().max() == pytest.approx(0.1, rel=1e-3)  # Adam's first step is the rate


def test_muon_goes_on_from_its_saved_state():
    def steps(optimizer, layer, n, start=0):
        for k in range(start, start + n):
            optimizer.zero_grad()
            layer(torch.ones(2, 6) * (k + 1)).square().mean().backward()
            optimizer.step()

    def fresh():
        torch.manual_seed(0)
        layer = torch.nn.Linear(6, 4)
        return layer, Muon([layer.weight], [layer.bias], lr=0.05)

    whole, optimizer = fresh()
    steps(optimizer, whole, 4)
    cut, first = fresh()
    steps(first, cut, 2)
    resumed, second = fresh()
    resumed.load_state_dict(cut.state_dict())
    second.load_state_dict(first.state_dict())
    steps(second, resumed, 2, start=2)
    assert torch.allclose(whole.weight, resumed.weight, atol=1e-6) and torch.allclose(
        whole.bias, resumed.bias, atol=1e-6
    )


def test_exam_scores_by_hand(tmp_path):
    records = exam_records(tmp_path, n=6, words=["bolan"])
    assert all((tmp_path / name).is_file() for r in records for name in r["images"])
    scores = exam_scores(records, [r["answer"] for r in records])
    assert (scores["exact"] == 1).all() and scores["n"].sum() == 6
    assert (
        character_accuracy("AB1", "AB12") == 0.75
        and character_accuracy("", "X") == 0
        and character_accuracy("AXC", "ABC") == pytest.approx(2 / 3)
    )
    assert "| skill | n |" in card(scores, parameters={"total": 5}, facts={"seed": 0})


def test_the_exam_asks_about_plain_words_after_the_scenes(tmp_path):
    scenes = exam_records(tmp_path, n=4, words=["bolan"])
    records = exam_records(tmp_path, n=4, words=["bolan"], world=30)
    assert records[:4] == scenes and len({r["id"] for r in records}) == 34
    assert {r["task"] for r in records[4:]} == {"facts", "facts yes/no"} and not any(r["images"] for r in records[4:])


def test_the_loss_on_texts_is_the_models_own(tiny):
    texts = held_out_texts(5)
    assert len(set(texts)) == 5 and texts == held_out_texts(5)
    found = loss_on_texts(tiny, texts)
    lengths = [len(tiny.processor.tokenizer(text + "<|im_end|>")["input_ids"]) for text in texts]
    alone = [loss_on_texts(tiny, [text]) for text in texts]
    assert found == pytest.approx(sum(a * n for a, n in zip(alone, lengths, strict=True)) / sum(lengths), rel=1e-4)
    assert 3 < found < 12  # near that of a uniform guess


def test_what_ships_loads_like_a_checkpoint_from_the_hub():
    model = AutoModelForImageTextToText.from_pretrained(POCKET_BASE)
    processor = AutoProcessor.from_pretrained(POCKET_BASE)
    assert model.config.model_type == "qwen2_5_vl" and processor.tokenizer.eos_token == "<|im_end|>"
    assert parameter_count(model)["total"] <= 10_000_000
    assert sum(p.stat().st_size for p in POCKET_BASE.rglob("*") if p.is_file()) <= 20_000_000


def test_what_ships_sees_colours(tmp_path):
    """Far above the commonest answer on held-out scenes: the shipped weights are trained, not random."""
    from mtive_nb.evaluate.predict import generate_answers
    from mtive_nb.model.load import load_vlm

    records = [r for r in exam_records(tmp_path, n=400, words=["bolan"]) if r["task"] == "colour"]
    answers = generate_answers(load_vlm("pocket"), records, max_new_tokens=4)
    right = sum(a == r["answer"] for a, r in zip(answers, records, strict=True))
    assert len(records) >= 15 and right / len(records) > 0.6


def test_rehearsal_is_a_share_of_scenes_that_the_exam_does_not_have(tiny, tmp_path):
    scenes = rehearsal_records(tiny, tmp_path / "scenes", beside=30, share=0.25, seed=0)
    assert len(scenes) == 10 and {r["task"] for r in scenes} == {TASK}
    held_out = exam_records(tmp_path / "exam", n=10, words=words_of(tiny))
    hashes = [{file_sha256(image) for r in rows for image in r["images"]} for rows in (scenes, held_out)]
    assert hashes[0] and not hashes[0] & hashes[1]
    other = rehearsal_records(tiny, tmp_path / "other", beside=30, share=0.25, seed=1)
    assert not hashes[0] & {file_sha256(image) for r in other for image in r["images"]}
    assert load_records(write_records(scenes, tmp_path / "scenes.jsonl")) == scenes
    assert rehearsal_records(tiny, tmp_path, beside=30, share=0.0, seed=0) == []
    with pytest.raises(ValueError, match="REHEARSAL: found 1.0"):
        rehearsal_records(tiny, tmp_path, beside=30, share=1.0, seed=0)


def test_scenes_train_beside_a_shops_records(tiny, records, tmp_path):
    scenes = rehearsal_records(tiny, tmp_path, beside=12, share=0.5, seed=0)
    stack = LoraStack(tiny)
    stack.add("PT", AdapterSpec(2, 2, ("language",)))
    train_adapter(stack, "PT", records + scenes, Training(2, batch=12))
    stack.assert_alive("PT")


def test_the_exam_counts_what_an_adapter_changes(tiny, tmp_path, monkeypatch):
    stack = LoraStack(tiny)
    stack.add("PT", AdapterSpec(2, 2, ("language",)))

    def answers(asked, records, **_):  # the bare base is right but once, the adapter but twice
        wrong = {0} if not asked.active else {1, 2}
        return ["?" if k in wrong else r["answer"] for k, r in enumerate(records)]

    monkeypatch.setattr("mtive_nb.pocket.exam.generate_answers", answers)
    change = exam_change(stack, "PT", folder=tmp_path, n=20).set_index("skill")
    assert change.loc[ALL_SKILLS, ["n", "before", "after", "change"]].tolist() == [20, 95, 90, -5]
    assert change.drop(index=ALL_SKILLS)["n"].sum() == 20 and stack.active == ("PT",)
    assert exam_change(stack, "PT", folder=tmp_path, n=0).empty


def test_a_model_of_another_chat_format_has_no_exam(tiny, tmp_path):
    assert has_exam(tiny)
    tiny.processor.chat_template += " "
    assert not has_exam(tiny)
    assert rehearsal_records(tiny, tmp_path, beside=30, share=0.5, seed=0) == []
