"""What teaches the pocket base real photos: which photos, views with a teacher, questions by its names, probes."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mtive_nb as m
from mtive_nb.data.sources import load_grocery
from mtive_nb.model import imagenet
from mtive_nb.pocket import distill, probe
from mtive_nb.pocket.photo_questions import SAME, Mixed, NamedPhoto, PhotoQuestions, plain_name
from mtive_nb.pocket.pretrain import IGNORE, BaseTrainer, SceneCollator, SceneDataset, TeacherHeads, prepare_base

DATA = os.environ.get("MTIVE_DATA")
needs_photos = pytest.mark.skipif(not DATA, reason="MTIVE_DATA names no folder of real photos")


@pytest.fixture
def photos(tmp_path):
    """Twelve noisy photos of three colours, as files."""
    rng = np.random.default_rng(0)
    for k in range(12):
        colour = np.eye(3)[k % 3] * 120
        pixels = rng.integers(0, 120, (90, 120, 3)) + colour
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{k:02d}.jpg")
    return sorted(tmp_path.glob("*.jpg"))


class FakeTargets:
    """Stands in for a teacher: means of grid cells, no network."""

    def of(self, views):
        cells = np.repeat(views.mean((1, 2, 3))[:, None] / 255, 25 * 256, 1).reshape(len(views), 25, 256)
        return cells.astype(np.float32), np.zeros((len(views), 1280), np.float32)


@needs_photos
def test_the_base_sees_no_photo_that_anything_is_chosen_or_tested_on():
    data = Path(DATA)
    seen = {
        hashlib.sha256(p.read_bytes()).hexdigest() for part in distill.unlabelled_photos(data).values() for p in part
    }
    assert len(seen) > 5000
    shop = load_grocery(data / "GroceryStoreDataset")
    kept_apart = [shop.root / f.images[0] for f in shop.feedback if shop.splits[f.feedback_id] != "train"]
    kept_apart += [shop.root / p.images[0] for p in shop.products]
    for folder in ("clothing-dataset-small/validation", "cookies", "expiry-photos", "packages", "abo-samples"):
        kept_apart += sorted((data / folder).rglob("*.jpg"))
    hashes = {hashlib.sha256(p.read_bytes()).hexdigest() for p in kept_apart}
    assert len(hashes) > 700 and not seen & hashes


def test_a_missing_folder_of_photos_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="GroceryStoreDataset/dataset/train: found no JPEG"):
        distill.unlabelled_photos(tmp_path)


def test_views_stand_beside_scenes_and_come_again_the_same(photos):
    data = distill.WithViews(SceneDataset(4, seed=1), photos, FakeTargets(), each=3, seed=2)
    one, again = data[2], data[2]
    assert [v.shape for v in one.views.images] == [(140, 140, 3)] * 3 and one.views.cells.shape == (3, 25, 256)
    assert all((a == b).all() for a, b in zip(one.views.images, again.views.images, strict=True))
    assert one.turns == data.scenes[2].turns and data[3].views.images[0].tolist() != one.views.images[0].tolist()


def test_the_loss_on_views_is_that_of_the_equation():
    torch.manual_seed(0)
    heads, tokens, patches = TeacherHeads(8, 6, components=4, features=5), torch.randn(2, 25, 8), torch.randn(2, 100, 6)
    cells, pooled = torch.randn(2, 25, 4), torch.randn(2, 5)

    def distance(found):
        cosine = (found * pooled).sum(1) / found.norm(dim=1) / pooled.norm(dim=1)
        return ((found - pooled) ** 2).mean() + 1 - cosine.mean()

    by_hand = ((heads.cells(tokens) - cells) ** 2).mean() + distance(heads.pooled(tokens.mean(1)))
    by_hand = by_hand + 0.5 * distance(heads.last(patches.mean(1)))
    assert torch.allclose(heads.loss(tokens, patches, cells, pooled), by_hand, atol=1e-5)


def test_merged_tokens_lie_row_by_row_as_the_cells_of_the_teacher_do():
    vlm = m.load_vlm("pocket")
    plain = np.full((140, 140, 3), 128, np.uint8)
    for row, column in ((0, 4), (3, 1)):
        marked = plain.copy()
        marked[28 * row : 28 * row + 28, 28 * column : 28 * column + 28] = (250, 20, 20)
        given = vlm.processor.image_processor(images=[plain, marked], return_tensors="pt")
        with torch.inference_mode():
            out = vlm.model.model.visual(given["pixel_values"].to(vlm.model.dtype), grid_thw=given["image_grid_thw"])
        tokens = out.pooler_output.float().view(2, 25, -1)
        assert int((tokens[0] - tokens[1]).norm(dim=-1).argmax()) == 5 * row + column


def test_a_step_on_scenes_and_views_moves_the_tower(photos):
    vlm = m.load_vlm("pocket")
    model = vlm.model.float()
    prepare_base(model, phase="language")
    data = distill.WithViews(SceneDataset(2, seed=1), photos, FakeTargets(), each=2, seed=2)
    trainer = BaseTrainer.__new__(BaseTrainer)
    trainer.phase, trainer.dense_weight, trainer.views_weight = "language", 1.0, 1.0
    loss = trainer.compute_loss(model, SceneCollator(vlm.processor)([data[0], data[1]]))
    loss.backward()
    parts = trainer.last["answer_loss"] + trainer.last["dense_loss"] + trainer.last["views_loss"]
    assert float(loss) == pytest.approx(parts, rel=1e-4)
    assert (
        float(model.teacher.cells.weight.grad.norm()) > 0
        and float(model.model.visual.blocks[0].mlp.up_proj.weight.grad.norm()) > 0
    )


def test_names_are_plain_words():
    assert plain_name("jersey, T-shirt, tee shirt") == "t-shirt" and plain_name("lemon") == "lemon"
    assert plain_name("grocery store, grocery, food market, market") == ""


def test_questions_on_named_photos_are_balanced_and_their_patches_unlabelled(photos):
    named = [NamedPhoto(p, ("lemon", "shoe", "coat")[k % 3], ("lemon", "coat")) for k, p in enumerate(photos)]
    samples = [PhotoQuestions(named, n=300, seed=0)[k] for k in range(300)]
    verdicts = [a for s in samples for q, a, _ in s.turns if a in ("yes", "no")]
    assert 0.4 < np.mean([v == "yes" for v in verdicts]) < 0.6 and len(verdicts) == 300
    for sample in samples:
        names = [a for q, a, skill in sample.turns if skill == "shape"]
        assert set(names) <= {"lemon", "shoe", "coat"} and len(sample.dense) == len(sample.images)
        assert all((labels == IGNORE).all() for dense in sample.dense for labels in dense.values())
        both = [a.split(" and ") for q, a, _ in sample.turns if q == "Name both."]
        same = [a for q, a, _ in sample.turns if q in SAME]
        assert all((a == b) == (same[0] == "yes") for a, b in both)


def test_samples_without_a_known_patch_train_without_a_dense_loss(photos):
    vlm = m.load_vlm("pocket")
    prepare_base(vlm.model.float(), phase="language")
    named = [NamedPhoto(p, ("lemon", "shoe", "coat")[k % 3], ()) for k, p in enumerate(photos)]
    batch = SceneCollator(vlm.processor)([PhotoQuestions(named, n=2, seed=0)[k] for k in range(2)])
    trainer = BaseTrainer.__new__(BaseTrainer)
    trainer.phase, trainer.dense_weight, trainer.views_weight = "language", 1.0, 1.0
    assert torch.isfinite(trainer.compute_loss(vlm.model, batch)) and trainer.last["dense_loss"] == 0.0


def test_mixed_data_has_the_share_that_it_says(photos):
    first, second = [("first", k) for k in range(400)], [("second", k) for k in range(50)]
    mixed = Mixed(first, second, share=0.25, seed=0)
    chosen = [mixed[k][0] for k in range(len(mixed))]
    assert 0.18 < chosen.count("second") / 400 < 0.32


@needs_photos
def test_the_compiled_teacher_agrees_with_pytorch():
    pytest.importorskip("openvino", reason="the extra `base` is not installed")
    pytest.importorskip("timm", reason="the extra `base` is not installed")
    paths = distill.unlabelled_photos(Path(DATA))["clothing-dataset-small/train"][:16]
    views = np.stack([np.asarray(imagenet.centre_view(imagenet.open_photo(p))) for p in paths])
    pixels = torch.from_numpy(views.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
    with torch.no_grad():
        cells, pooled = imagenet._Outputs(imagenet.load_tower("lite0"))(pixels)
    fast_cells, fast = imagenet.features_of("lite0", views)  # OpenVINO computes in bfloat16 where the CPU has it
    assert torch.cosine_similarity(pooled, torch.from_numpy(fast)).min() > 0.99
    assert torch.cosine_similarity(cells.flatten(1), torch.from_numpy(fast_cells).flatten(1)).min() > 0.99


@needs_photos
def test_a_probe_finds_what_features_hold_and_nothing_in_noise():
    folder = Path(DATA) / "clothing-dataset-small"

    def of_the_label(paths):
        return np.array([[float(p.parent.name == name) for name in ("dress", "hat", "pants", "shoes")] for p in paths])

    def noise(paths):
        return np.random.default_rng(len(paths)).normal(size=(len(paths), 8))

    found = [probe.clothing_probe(features, folder=folder)[0]["value"] for features in (of_the_label, noise)]
    assert found[0] > 0.4 and found[1] < 0.25
