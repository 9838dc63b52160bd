import json

import numpy as np
import pytest
import torch

from mtive_nb.evaluate.grounding import attention as grounding
from mtive_nb.evaluate.grounding.attention import (
    read_attention,
    score_records,
    threshold_from_shuffled,
    threshold_of_share,
    with_other_images,
)
from mtive_nb.model.batches import batch_of
from mtive_nb.model.load import load_vlm
from mtive_nb.model.losses import IGNORE


@pytest.fixture
def vlm(tiny_folder):
    return load_vlm(str(tiny_folder), dtype="float32")


def eager_maps(tiny_folder, records):
    """Every layer's attention, (L, B, H, T, T), as transformers itself returns it, with the batch's inputs."""
    vlm = load_vlm(str(tiny_folder), attention="eager", dtype="float32")
    inputs = batch_of(vlm, records, answers=True)
    labels = inputs.pop("labels")
    with torch.inference_mode():
        maps = vlm.model(**inputs, output_attentions=True, use_cache=False).attentions
    return torch.stack(maps), inputs["input_ids"], labels, vlm.model.config.image_token_id


@pytest.mark.parametrize("query", grounding.QUERIES)
def test_scores_equal_those_of_kept_attention_maps(tiny_folder, vlm, records, photo_folder, query):
    found = read_attention(vlm, records[:6], query=query, maps=True, by_head=True)
    maps, ids, labels, image_token = eager_maps(tiny_folder, records[:6])
    assert (ids[:, 0] == ids[0, 0]).any() and len({len(f.tokens) for f in found}) > 1  # of several lengths
    for b, one in enumerate(found):
        rows = torch.where(labels[b] != IGNORE)[0][: len(one.tokens)] - int(query == "predicting")
        image = ids[b] == image_token
        weights = maps[:, b][:, :, rows][..., image]  # (L, H, R, V)
        assert np.allclose(one.token_scores(), weights.mean((0, 1, 3)), atol=1e-5)
        assert np.allclose(one.mass.sum(2), weights.sum(3).mean(1), atol=1e-5)
        assert np.allclose(one.heads.sum(3), weights.sum(3), atol=1e-5)
        assert np.allclose(one.maps, weights.mean((0, 1)), atol=1e-5)
        assert sum(one.image_tokens) == int(image.sum()) and len(one.image_tokens) == len(records[b]["images"])
        assert one.score() == pytest.approx(float(weights.mean()), abs=1e-6)


def test_each_image_has_its_share(tiny_folder, vlm, records, photo_folder):
    two = [r for r in records if len(r["images"]) == 2][:2]
    maps, ids, labels, image_token = eager_maps(tiny_folder, two)
    for b, one in enumerate(read_attention(vlm, two)):
        rows = torch.where(labels[b] != IGNORE)[0][: len(one.tokens)]
        places = torch.where(ids[b] == image_token)[0]
        first = places[: one.image_tokens[0]]
        assert one.mass.shape[2] == 2 and one.image_tokens == tuple(h * w for h, w in one.grids)
        assert np.allclose(one.mass[:, :, 0], maps[:, b][:, :, rows][..., first].sum(3).mean(1), atol=1e-5)


def test_reading_leaves_the_answers_logits_as_they_are(vlm, records, photo_folder):
    inputs = batch_of(vlm, records[:4])
    with torch.inference_mode():
        plain = vlm.model(**inputs).logits
        ids = inputs["input_ids"]
        rows, columns = torch.zeros((4, 3), dtype=torch.long), torch.ones((4, 1, ids.shape[1]))
        with grounding.reading_attention(vlm.model, rows, columns, ids >= 0) as reading:
            read = vlm.model(**inputs).logits
    assert torch.allclose(plain, read, atol=1e-6)
    assert vlm.model.config.get_text_config()._attn_implementation == "sdpa"
    assert len(reading.layers) == vlm.model.config.get_text_config().num_hidden_layers
    assert all(torch.allclose(layer, torch.ones(4, 3, 1)) for layer in reading.layers)  # every column: all of a row


def test_a_segment_is_scored_by_its_own_tokens(vlm, records, photo_folder):
    record = records[2] | {"answer": "red circle"}
    record["messages"] = [*record["messages"][:-1], record["messages"][-1] | {"content": "red circle"}]
    (one,) = read_attention(vlm, [record])
    scores = one.token_scores()
    assert "".join(one.tokens) == "red circle" and one.spans[-1][1] == 10
    inside = [a < 3 for a, _ in one.spans]
    assert one.score((0, 3)) == pytest.approx(scores[inside].mean())
    assert one.score((0, 10)) == pytest.approx(one.score())
    assert one.score(per="answer") == pytest.approx(one.score() * sum(one.image_tokens))
    even = one.token_scores(per="answer", layer_means=one.mass.sum(2).mean(1))
    assert even.mean() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="no token of an answer of 10 characters"):
        one.score((40, 50))


def test_an_end_mark_in_an_answer_is_scored_as_its_text(vlm, records):
    found = []
    for answer in ("red <|im_end|> circle", "red < |im_end|> circle"):
        messages = [*records[1]["messages"][:-1], {"role": "assistant", "content": answer}]
        found += read_attention(vlm, [records[1] | {"answer": answer, "messages": messages}])
    one, other = found
    assert "".join(one.tokens) == "red < |im_end|> circle" and np.allclose(one.mass, other.mass)


def test_shards_resume_and_are_not_mixed_up(vlm, records, photo_folder, tmp_path, monkeypatch):
    given = {"shard": 5, "batch": 2}
    whole = score_records(vlm, records, tmp_path / "whole", **given)
    assert list(whole["id"]) == [r["id"] for r in records] and (whole["score"] > 0).all()

    read, calls = grounding.read_attention, []

    def dies(*args, **kwargs):
        calls.append(1)
        if len(calls) == 5:  # in the second shard
            raise KeyboardInterrupt
        return read(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(grounding, "read_attention", dies)
        score_records(vlm, records, tmp_path / "cut", **given)
    assert len(list((tmp_path / "cut").glob("scores_*.jsonl"))) == 1
    monkeypatch.setattr(grounding, "read_attention", lambda *a, **k: calls.append(2) or read(*a, **k))
    resumed = score_records(vlm, records, tmp_path / "cut", **given)
    assert calls.count(2) == 3 + 1 and np.allclose(resumed["score"], whole["score"], atol=1e-7)
    with pytest.raises(ValueError, match="found scores of records 12"):
        score_records(vlm, records[:7], tmp_path / "cut", **given)
    records[3]["answer"] = records[3]["messages"][-1]["content"] = "another answer"
    with pytest.raises(ValueError, match="found scores of content"):
        score_records(vlm, records, tmp_path / "cut", **given)


def test_a_batch_scores_as_its_records_alone(vlm, records, photo_folder):
    together = read_attention(vlm, records[:5])
    for record, one in zip(records[:5], together, strict=True):
        assert np.allclose(read_attention(vlm, [record])[0].mass, one.mass, atol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [({"images": []}, "r0: images: found none"), ({"answer": " "}, "r0: answer: found none")],
)
def test_what_cannot_be_grounded_is_named(vlm, records, photo_folder, change, message):
    with pytest.raises(ValueError, match=message):
        read_attention(vlm, [records[0] | change])
    with pytest.raises(ValueError, match="query: found 'next', expected one of"):
        read_attention(vlm, records[:1], query="next")


def test_thresholds():
    scores = np.arange(100) / 100
    assert (scores < threshold_of_share(scores, 0.25)).mean() == 0.25
    with pytest.raises(ValueError, match="drop: found 1.5"):
        threshold_of_share(scores, 1.5)
    cut = threshold_from_shuffled([0.5, 0.6, 0.7, 0.2], [0.1, 0.15, 0.3, 0.05])
    assert 0.3 < cut <= 0.5


def test_other_images_are_of_other_products(records):
    changed = with_other_images(records, seed=1)
    owner = {json.dumps(r["images"]): r["product_id"] for r in records}
    for before, after in zip(records, changed, strict=True):
        assert owner[json.dumps(after["images"])] != before["product_id"]
        assert len(after["images"]) == len(before["images"]) and after["answer"] == before["answer"]
    with pytest.raises(ValueError, match="no record of another product has 1 images"):
        with_other_images([r for r in records if len(r["images"]) == 1][:1])


def test_other_images_are_drawn_evenly_among_all_records_of_other_products():
    pool = [{"id": str(k), "product_id": f"p{k * k % 7}", "images": [f"{k}.png"] * (1 + k % 3)} for k in range(60)]
    rng, wanted = np.random.default_rng(5), []
    for record in pool[:40]:
        own, shown = record["product_id"], len(record["images"])
        others = [r["images"] for r in pool if r["product_id"] != own and len(r["images"]) == shown]
        wanted.append(others[int(rng.integers(len(others)))])
    assert [r["images"] for r in with_other_images(pool[:40], pool=pool, seed=5)] == wanted
