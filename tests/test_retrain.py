"""Retraining an expert from corrected answers: what it learns from, when it replaces, going back, followers."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mtive_nb as m
from mtive_nb.__main__ import main
from mtive_nb.data.annotations import AnnotationStore
from mtive_nb.model.lineage import LineageError
from mtive_nb.run.graph import Project
from mtive_nb.serve import retrain as room
from mtive_nb.serve.answer import open_profile, open_stages
from mtive_nb.serve.commerce import CommerceExpert
from mtive_nb.serve.export import export_expert
from mtive_nb.serve.items import item_expert
from mtive_nb.serve.pinned import check_pin, pinned_experts
from mtive_nb.serve.retrain import answered_records, correction_records, retrain, right_answers, write_corrections
from mtive_nb.serve.versions import Versions

QUESTION = "Is this product damaged?"


def photo(folder: Path, k: int) -> Path:
    path = folder / f"photo{k}.png"
    noise = np.random.default_rng(k).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((56, 56), Image.NEAREST).save(path)
    return path


def record(folder: Path, k: int, split: str) -> dict:
    answer = "yes" if k % 2 else "no"
    return m.make_record(
        f"DD-bin/{k}", product_id=f"p{k}", task="DD", variant="bin", images=[photo(folder, k)], question=QUESTION,
        answer=answer, label=answer, facts={"asked": {"damaged": answer}, "known": {}}, source="shop", split=split,
    )  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, tiny_folder: Path) -> Path:
    """A project whose profile `mine` has what retraining reads of chapters 01, 04, 05 and 06; its expert is random."""
    (tmp_path / "notebooks").mkdir()
    folders = {n: tmp_path / "outputs" / "mine" / f"{n}_chapter" for n in ("01", "04", "05", "06")}
    stack = m.LoraStack(m.load_vlm(str(tiny_folder), dtype="float32", device="cpu"))
    torch.manual_seed(3)
    for name, parent, number in (("PT", None, "04"), ("IT", "PT", "05"), ("DD", "IT", "06")):
        stack.add(name, m.AdapterSpec(4, 8.0, ("language",)), parent=parent)
        for weight in stack.adapter_weights(name).values():
            weight.normal_(0, 0.2)
        stack.save(folders[number] / "stack", name)
    (folders["01"] / "records").mkdir(parents=True)
    records = [record(tmp_path, k, "train" if k < 8 else "val") for k in range(12)]
    m.write_records(records, folders["01"] / "records" / "emdiv.jsonl")
    (folders["01"] / "records" / "vocabulary.json").write_text("{}")
    settings = {"DD": {"rank": 4, "alpha": 8.0, "placement": ["language"], "rate": 0.01, "steps": 4}}
    (folders["06"] / "settings.json").write_text(json.dumps(settings))
    (folders["06"] / "drawn.json").write_text(json.dumps([r["id"] for r in records[:8]]))
    parameters = {"BATCH": 2, "ACCUMULATE": 1, "CHECKPOINTING": False, "SEED": 0}
    (folders["06"] / "run.json").write_text(json.dumps({"parameters": parameters}))
    return tmp_path


def save_expert(folder: Path, name: str, base: Path, *, seed: int) -> None:
    """Save a random adapter on the bare base."""
    stack = m.LoraStack(m.load_vlm(str(base), dtype="float32", device="cpu"))
    torch.manual_seed(seed)
    stack.add(name, m.AdapterSpec(2, 2.0, ("language",)))
    stack.save(folder, name)


@pytest.fixture
def answers(home: Path) -> Path:
    """Answers of score about ten new photos, as a person has filled them in: two right, one not looked at."""
    rows = [
        {
            "photo": photo(home, 100 + k).name,
            "task": "DD",
            "question": QUESTION,
            "answer": "no",
            "correct_answer": right,
        }
        for k, right in enumerate(["yes"] * 7 + ["ok", "OK", ""])
    ]
    path = home / "answers.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_filled_in_file_becomes_records(answers: Path) -> None:
    records = correction_records(answers, "DD")
    assert [r["answer"] for r in records] == ["yes"] * 7 + ["no"] * 2
    assert all((r["variant"], r["label"]) == ("bin", r["answer"]) for r in records)
    assert {r["split"] for r in records} == {"train", "val"}
    with pytest.raises(ValueError, match="no corrected answer for EX.*correct_answer"):
        correction_records(answers, "EX")


def test_retraining_makes_a_version_that_learns_the_corrections(home: Path, answers: Path) -> None:
    found = retrain("mine", "DD", answers, force=True, project=Project(home))
    versions = Versions(home / "outputs" / "mine")
    assert found.version.number == 2 and versions.in_force("DD").number == 2
    assert "license:" in (found.version.folder / "README.md").read_text(encoding="utf-8")
    corrections = correction_records(answers, "DD")
    assert found.version.about["corrections"] == sum(r["split"] == "train" for r in corrections)
    held_out = 4 + sum(r["split"] == "val" for r in corrections)
    assert found.gain.n == held_out and found.corrected.n == held_out - 4
    with open_profile("mine", project=Project(home)) as experts:
        assert experts.expert_of("DD").startswith("DD@2 ")


def test_a_worse_version_is_kept_but_does_not_replace(home: Path, answers: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MTIVE_HOME", str(home))
    order = iter([0.0, 1.0])  # of the new version, then of the old
    monkeypatch.setattr(room, "right_answers", lambda records, *_: np.full(len(records), next(order)))
    assert main(["retrain", "mine", "DD", str(answers)]) == 1
    assert "version 2 is worse and not in force" in capsys.readouterr().out
    assert Versions(home / "outputs" / "mine").in_force("DD").number == 1
    assert main(["versions", "mine"]) == 0
    listed = capsys.readouterr().out
    assert "* DD           1" in listed and "-1.000 (-1.000 to -1.000)" in listed
    assert main(["versions", "mine", "DD", "2"]) == 0 and Versions(home / "outputs" / "mine").in_force("DD").number == 2
    assert main(["versions", "mine", "DD", "7"]) == 2 and "no version 7" in capsys.readouterr().err


def test_a_running_profile_follows_without_a_restart(home: Path, answers: Path) -> None:
    with open_profile("mine", project=Project(home)) as experts:
        before = experts.ask("DD", home / "photo0.png", max_new_tokens=4)
        retrain("mine", "DD", answers, force=True, project=Project(home))
        after = experts.ask("DD", home / "photo0.png", max_new_tokens=4)
        Versions(home / "outputs" / "mine").put_in_force("DD", 1)
        back = experts.ask("DD", home / "photo0.png", max_new_tokens=4)
    assert [a.expert[:4] for a in (before, after, back)] == ["DD@1", "DD@2", "DD@1"]
    assert before.expert == back.expert != after.expert and before.text == back.text


def test_versions_of_another_trunk_are_not_in_force(home: Path, answers: Path) -> None:
    retrain("mine", "DD", answers, force=True, project=Project(home))
    manifest = home / "outputs" / "mine" / "05_chapter" / "stack" / "stack.json"
    content = json.loads(manifest.read_text())
    content["adapters"]["IT"]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(content))
    assert Versions(home / "outputs" / "mine").in_force("DD").number == 1
    with pytest.raises(LineageError):
        open_profile("mine", project=Project(home))


def test_a_pinned_profile_serves_nothing_else(home: Path, answers: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MTIVE_HOME", str(home))
    assert main(["versions", "mine", "--pin"]) == 0 and "pinned in params/mine/pinned.json" in capsys.readouterr().out
    with open_profile("mine") as experts:
        before = experts.ask("DD", home / "photo0.png", max_new_tokens=4)
        retrain("mine", "DD", answers, force=True)
        for _ in range(2):  # a version that is not pinned is refused, not only the first time
            with pytest.raises(LineageError, match="DD: found an adapter of sha256 .* is pinned in params/mine"):
                experts.ask("DD", home / "photo0.png", max_new_tokens=4)
        with pytest.raises(LineageError, match="DD: found an adapter"):
            open_profile("mine")
        assert main(["versions", "mine", "DD", "2", "--pin"]) == 0
        assert experts.ask("DD", home / "photo0.png", max_new_tokens=4).expert[:4] == "DD@2" != before.expert[:4]
    with pytest.raises(LineageError, match="XX: found an adapter of sha256 12.*, but none is pinned in params/mine"):
        check_pin(home / "outputs" / "mine", "XX", "12")
    check_pin(home / "outputs" / "another", "XX", "12")  # a profile without pins serves every adapter
    (home / "params" / "mine" / "pinned.json").write_text('{"PT": "0"}')
    with pytest.raises(LineageError, match="PT: found an adapter of sha256 .*, but 0... is pinned"):
        open_profile("mine")
    (home / "params" / "mine" / "pinned.json").write_text("{")
    with pytest.raises(LineageError, match="no JSON object of names and hashes"):
        open_profile("mine")


def test_an_expert_for_packaging_is_pinned_beside_the_stage_of_its_name(home: Path, monkeypatch) -> None:
    monkeypatch.setenv("MTIVE_HOME", str(home))
    outputs, trained = home / "outputs" / "mine", home / "outputs" / "mine" / "06_chapter"
    stack = open_stages(outputs)
    stack.add("PT_expert", m.AdapterSpec(4, 8.0, ("language",)), parent="IT")
    stack.save(trained / "stack", "PT_expert")
    settings = json.loads((trained / "settings.json").read_text())
    (trained / "settings.json").write_text(json.dumps(settings | {"PT": settings["DD"]}))
    pins = json.loads(Versions(outputs).pin().read_text())
    assert set(pins) == {"PT", "IT", "DD", "PT_expert"} and pins["PT"] != pins["PT_expert"]
    open_stages(outputs)  # else refused, as not the pinned stage 1


def test_experts_of_chapters_15_and_17_are_pinned_where_these_have_run(home: Path, tiny_folder, monkeypatch) -> None:
    monkeypatch.setenv("MTIVE_HOME", str(home))
    outputs = home / "outputs" / "mine"
    for number, name in (("15_caslie", "CASLIE"), ("17_items", "ITEM")):
        save_expert(outputs / number / "stack", name, tiny_folder, seed=1)
    (outputs / "17_items" / "run.json").write_text(json.dumps({"parameters": {"BASE": "tiny"}}))
    opened = {"CASLIE": lambda: CommerceExpert("mine", "CASLIE"), "ITEM": lambda: item_expert("mine")[0]}
    assert main(["versions", "mine", "--pin"]) == 0
    pins = json.loads((home / "params" / "mine" / "pinned.json").read_text())
    assert set(pins) == {"PT", "IT", "DD", "CASLIE", "ITEM"}
    for name, expert in opened.items():
        assert expert().expert_of("") == f"{name} {pins[name][:8]}" and not expert().calibrated("")
    for number, name in (("15_caslie", "CASLIE"), ("17_items", "ITEM")):
        save_expert(outputs / number / "stack", name, tiny_folder, seed=2)
        with pytest.raises(LineageError, match=f"{name}: found an adapter of sha256 .* is pinned in params/mine"):
            opened[name]()


def test_an_export_serves_what_is_pinned_alone(home: Path, monkeypatch) -> None:
    monkeypatch.setenv("MTIVE_HOME", str(home))
    outputs, served = home / "outputs" / "mine", home / "outputs" / "mine" / "14_serving"
    stack = open_stages(outputs)
    expert = export_expert(stack, outputs / "06_chapter" / "stack", served / "experts", "DD", trunk="IT")
    assert pinned_experts(served) == {"DD": expert}  # no pins: stack.json beside the experts is none of them
    pins = Versions(outputs).pin()
    assert pinned_experts(served) == {"DD": expert}
    kept = json.loads(pins.read_text())
    for name in ("IT", "DD"):
        pins.write_text(json.dumps(kept | {name: "0"}))
        with pytest.raises(LineageError, match=f"{name}: found an adapter of sha256 .*, but 0... is pinned"):
            pinned_experts(served)
    pins.write_text(json.dumps(kept))
    (expert / "adapter_config.json").write_text("{}")
    with pytest.raises(LineageError, match="adapter_config.json: missing or changed"):
        pinned_experts(served)


def test_corrections_add_up_and_catalogue_photos_keep_their_split(home: Path, answers: Path, tmp_path: Path) -> None:
    first = retrain("mine", "DD", answers, force=True, project=Project(home))
    shop = [
        {"photo": f"photo{k}.png", "task": "DD", "question": QUESTION, "answer": "no", "correct_answer": "yes"}
        for k in (0, 9)
    ]
    later = home / "later.jsonl"
    later.write_text("".join(json.dumps(row) + "\n" for row in shop))
    second = retrain("mine", "DD", later, force=True, project=Project(home))
    kept = {r["images"][0]: r["split"] for r in m.load_records(second.version.folder / "corrections.jsonl")}
    assert kept[str(home / "photo0.png")] == "train" and kept[str(home / "photo9.png")] == "val"
    assert len(kept) == 9 + 2 and second.version.about["corrections"] == first.version.about["corrections"] + 1
    assert second.version.about["over"] == 2 and second.version.about["calibration"]["yes/no"]["n"] >= 4


def test_too_few_corrections_are_refused_before_training(home: Path, answers: Path) -> None:
    rows = [record for record in correction_records(answers, "DD") if record["split"] == "val"][:1]
    name = Path(rows[0]["images"][0]).name
    (home / "one.csv").write_text(f"photo,task,question,answer,correct_answer\n{name},DD,{QUESTION},no,yes\n")
    with pytest.raises(ValueError, match="found 1 corrections of DD, but none to learn from"):
        retrain("mine", "DD", home / "one.csv", project=Project(home))
    assert not (home / "outputs" / "mine" / "versions" / "DD").exists()


def test_an_answer_that_begins_with_no_is_no_yes_no_answer(home: Path) -> None:
    lines = [
        "photo,task,question,answer,correct_answer",
        "photo1.png,DD,Which brand?,x,No Name",
        "photo2.png,DD,Ok?,x,No.",
        'photo3.png,DD,Damaged?,no,"Yes, a dent"',
    ]
    (home / "names.csv").write_text("\n".join(lines) + "\n")
    brand, polar, longer = correction_records(home / "names.csv", "DD")
    assert (longer["answer"], longer["variant"], longer["label"]) == ("yes", "bin", "yes")
    assert (brand["answer"], brand["variant"], brand["label"]) == ("No Name", "aug", None)
    assert (polar["answer"], polar["variant"], polar["label"]) == ("no", "bin", "no")
    (home / "names.csv").write_text(f"photo,task,question,answer,correct_answer\nphoto1.png,DD,{QUESTION},yes,nein\n")
    with pytest.raises(ValueError, match="names.csv, photo1.png: correct_answer: found 'nein', expected yes, no or ok"):
        correction_records(home / "names.csv", "DD")


def test_answers_are_scored_by_label_fact_or_text() -> None:
    base = {"id": "r", "product_id": "p", "task": "AE", "variant": "aug", "messages": [], "label": None}
    records = [
        base | {"answer": "yes", "facts": None},
        base | {"answer": "red", "facts": {"asked": {"colour": "red"}, "known": {"colour": "red"}}},
        base | {"answer": "3 kg", "facts": None},
    ]
    assert list(right_answers(records, ["Yes.", "It is red.", " 3 KG"], {"colour": ["red", "blue"]})) == [1, 1, 1]
    assert list(right_answers(records, ["no", "blue", "4 kg"], {"colour": ["red", "blue"]})) == [0, 0, 0]


def test_annotated_answers_become_a_file_of_corrections(home: Path, answers: Path, tmp_path: Path) -> None:
    records = answered_records(answers)
    store = AnnotationStore(tmp_path / "decisions.jsonl", annotator="me")
    with pytest.raises(ValueError, match="no answer is decided"):
        write_corrections(records, store.annotations, tmp_path / "corrections.jsonl")
    for record, answer in zip(records, ("yes", "no", None), strict=False):
        store.decide(record["id"], prefill=record["answer"], answer=answer, seconds=1)
    made = correction_records(write_corrections(records, store.annotations, tmp_path / "corrections.jsonl"), "DD")
    assert [r["answer"] for r in made] == ["yes", "no"] and made[0]["images"] == records[0]["images"]
