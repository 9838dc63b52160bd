"""A local Ray cluster of two workers gives what one process gives, also when a worker is killed midway."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from mtive_nb.evaluate.grounding.attention import score_records
from mtive_nb.evaluate.predict import answers_of_systems
from mtive_nb.model.experts import AdapterPlan, train_adapters
from mtive_nb.model.load import load_vlm
from mtive_nb.model.stack import AdapterSpec, LoraStack
from mtive_nb.model.train import Training, train_adapter
from mtive_nb.run.graph import Project
from mtive_nb.serve.answer import open_profile

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[scale]'")
from mtive_nb.serve.cluster import by_ray, stage_training_of, train_adapter_by_ray, workers_of  # noqa: E402

SPEC = AdapterSpec(4, 8, ("vision.attention", "connector", "language.attention"))


@pytest.fixture(scope="module", autouse=True)
def cluster():
    os.environ |= {"RAY_TRAIN_V2_ENABLED": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    ray.init(num_cpus=3, include_dashboard=False, configure_logging=False, log_to_driver=False,
             runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}})  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture
def stack(tiny_folder):
    torch.manual_seed(0)
    made = LoraStack(load_vlm(str(tiny_folder), dtype="float32", device="cpu"))
    made.add("PT", SPEC)
    for weight in made.adapter_weights("PT").values():
        torch.nn.init.normal_(weight, 0, 0.1)
    made.activate("PT")
    return made


def test_the_engine_is_chosen_by_name():
    assert workers_of("ray") is by_ray and stage_training_of("ray") is train_adapter_by_ray
    with pytest.raises(ValueError, match="ENGINE: found 'dask', expected local or ray"):
        workers_of("dask")


def test_answers_are_those_of_one_process(stack, records, photo_folder, tmp_path):
    tasks = {r["task"] for r in records}
    systems = {"zero-shot": dict.fromkeys(tasks), "MTIVE_PT": dict.fromkeys(tasks, "PT")}
    found = {}
    for each, given in ((None, {}), (by_ray, {"each": by_ray, "processes": 2})):
        (cache := tmp_path / str(each)).mkdir()
        given |= {"cache": cache, "batch": 2, "max_new_tokens": 4}
        found[each] = answers_of_systems(stack, systems, records, **given)
    assert found[None] == found[by_ray] and found[None]["zero-shot"] != found[None]["MTIVE_PT"]


def test_experts_are_those_of_one_process(stack, records, photo_folder, tmp_path):
    weights = {}
    for name, given in (("here", {}), ("there", {"each": by_ray, "processes": 2})):
        three = Training(3, 1e-2, 2)
        plans = [AdapterPlan(f"{t}_{name}", SPEC, "PT", records[k:], three) for k, t in enumerate(("AE", "DD"))]
        train_adapters(stack, plans, checkpoints=tmp_path / name, **given)
        weights[name] = [list(stack.adapter_weights(plan.name).values()) for plan in plans]
    for here, there in zip(*weights.values(), strict=True):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(here, there, strict=True))


def test_scores_are_those_of_one_process(stack, records, photo_folder, tmp_path):
    given = {"shard": 2, "batch": 2}
    here = score_records(stack.vlm, records, tmp_path / "here", **given)
    there = score_records(stack.vlm, records, tmp_path / "there", each=by_ray, processes=2, **given)
    pd.testing.assert_frame_equal(here, there)


def test_verdicts_are_those_of_one_process(tmp_path):
    from mtive_nb.data.commerce.listings import Listing
    from mtive_nb.data.instructions.roles import AskingCaptioner, RuleVerifier
    from mtive_nb.data.instructions.verification import verdict_table, verify_listings

    (photo := tmp_path / "photo.jpg").write_bytes(b"any")
    eye = AskingCaptioner(lambda asked: [f"a {r['id']} box" for r in asked], name="echo", question="What is it?")
    listings = [Listing(str(k), "", "", (("size", str(k % 3)),), str(photo)) for k in range(9)]
    verify_listings(listings, eye, RuleVerifier(), folder=tmp_path / "here", shard=2)
    verify_listings(listings, eye, RuleVerifier(), folder=tmp_path / "there", shard=2, each=by_ray, workers=2)
    pd.testing.assert_frame_equal(verdict_table(tmp_path / "here"), verdict_table(tmp_path / "there"))


def die_once(stack: LoraStack, k: int, folder: Path) -> int:
    """The third item kills its worker the first time it is tried."""
    mark = folder / f"{k}"
    mark.write_text(mark.read_text() + "x" if mark.exists() else "x")
    time.sleep(0.2)
    if k == 2 and mark.read_text() == "x":
        os.kill(os.getpid(), signal.SIGKILL)
    return k * len(stack.specs)


def test_a_killed_workers_item_is_done_by_another(stack, tmp_path):
    assert by_ray(stack, die_once, [(k, tmp_path) for k in range(6)]) == list(range(6))
    assert (tmp_path / "2").read_text() == "xx"


def test_a_stage_in_shares_is_that_of_one_process(stack, records, photo_folder, tmp_path):
    training = Training(4, 1e-2, 1, accumulate=2)
    for name in ("here", "there"):
        torch.manual_seed(1)
        stack.add(name, SPEC, parent="PT")
    log = train_adapter(stack, "here", records[:4], training, checkpoints=tmp_path / "here")
    other = train_adapter_by_ray(stack, "there", records[:4], training, checkpoints=tmp_path / "there")
    here, there = (list(stack.adapter_weights(name).values()) for name in ("here", "there"))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(here, there, strict=True))
    assert log["loss"].tolist() == pytest.approx(other["loss"].tolist(), abs=1e-3) and stack.active == ("PT", "there")
    with pytest.raises(ValueError, match="found 3 batches a step; expected a multiple of 2"):
        train_adapter_by_ray(stack, "there", records, Training(1, accumulate=3), checkpoints=tmp_path)


@pytest.fixture
def home(tmp_path, tiny_folder):
    """A project whose profile `mine` has the stacks that chapters 04 to 06 leave, with random experts."""
    (tmp_path / "notebooks").mkdir()
    folders = {n: tmp_path / "outputs" / "mine" / f"{n}_chapter" / "stack" for n in ("04", "05", "06")}
    stack = LoraStack(load_vlm(str(tiny_folder), dtype="float32", device="cpu"))
    torch.manual_seed(3)
    for name, parent, number in (("PT", None, "04"), ("IT", "PT", "05"), ("DD", "IT", "06"), ("AE", "IT", "06")):
        stack.add(name, SPEC, parent=parent)
        for weight in stack.adapter_weights(name).values():
            weight.normal_(0, 0.2)
        stack.save(folders[number], name)
    (folders["06"].parent / "settings.json").write_text(json.dumps({"DD": {}, "AE": {}}))
    return tmp_path


def test_photos_scored_by_workers_are_scored_as_by_one_process(home, photo_folder, tmp_path):
    (tmp_path / "photos").mkdir()
    for photo in sorted(photo_folder.glob("*.png"))[:5]:
        shutil.copy(photo, tmp_path / "photos")
    (tmp_path / "photos" / "broken.png").write_bytes(b"no photo")
    tables = {}
    for workers in (0, 2):
        with open_profile("mine", project=Project(home), workers=workers) as experts:
            given = {"tasks": ["DD", "AE", "XX"], "batch": 4, "max_new_tokens": 4}
            tables[workers] = experts.score(tmp_path / "photos", output=tmp_path / f"{workers}.csv", **given)
    columns = ["id", "photo", "task", "answer", "probability_of", "expert", "error", "photo_hash"]
    pd.testing.assert_frame_equal(tables[0][columns], tables[2][columns])
    assert (tables[2]["error"] == "").sum() == 10 and tables[2]["error"].str.contains("no expert 'XX'").sum() == 6
