"""The folder that goes to a hub, its model card, and the upload against a fake of the hub."""

import json
from dataclasses import asdict
from pathlib import Path

import huggingface_hub
import pytest
import yaml

from mtive_nb.__main__ import main
from mtive_nb.model.lineage import (
    AdapterSpec,
    Lineage,
    LineageError,
    line_of,
    read_files,
    read_manifest,
    sha256_of,
    signature,
    write_manifest,
)
from mtive_nb.run.atomic import write_atomic
from mtive_nb.serve.hub import model_card, write_hub_folder
from mtive_nb.serve.versions import Versions


def save(folder: Path, name: str, parent: Lineage | None = None, parent_name: str | None = None, base: str = "b1") -> Lineage:  # fmt: skip
    """Write an adapter's files and its signed entry, as a stack does."""
    write_atomic(folder / name / "adapter_model.safetensors", f"weights of {name}".encode())
    write_atomic(folder / name / "README.md", "PEFT's empty card")
    files = {"adapter_model.safetensors": sha256_of(folder / name / "adapter_model.safetensors")}
    row = asdict(Lineage(parent_name, parent and parent.sha256, "", asdict(AdapterSpec(4, 8.0, ("language",))), files))
    row = json.loads(json.dumps(row))
    try:
        manifest = read_manifest(folder)
    except LineageError:
        manifest = {"base": base, "model": {"name": "pocket", "min_px": None, "max_px": 140, "attention": "sdpa"}, "adapters": {}}  # fmt: skip
    row["sha256"] = signature(manifest, "adapters", name, row)
    manifest["adapters"][name] = row
    write_manifest(folder, manifest)
    return line_of(folder, name)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MTIVE_HOME", str(tmp_path))
    (tmp_path / "notebooks").mkdir()
    mine = tmp_path / "outputs" / "mine"
    stage_1 = save(mine / "04_stage1" / "stack", "PT")
    stage_2 = save(mine / "05_stage2" / "stack", "IT", stage_1, "PT")
    for task in ("AE", "DD"):
        save(mine / "06_experts" / "stack", task, stage_2, "IT")
    write_atomic(
        mine / "06_experts" / "settings.json", json.dumps({t: {"steps": 40, "rate": 0.01} for t in ("AE", "DD")})
    )
    write_atomic(
        mine / "06_experts" / "drawn.json", json.dumps(["AE-gen/a/0", "AE-gen/a/0", "AE-bin/b/0", "DD-bin/c/0"])
    )
    write_atomic(mine / "06_experts" / "run.json", json.dumps({"seed": 7}))
    write_atomic(mine / "01_shop" / "run.json", json.dumps({"parameters": {"SOURCE": "shop"}, "notes": {"stand_in": ["a drawn shop"]}}))  # fmt: skip
    about = {"table": "T1", "unit": "points 0-100", "better": "higher", "n": 240, "low": 60.2, "high": 70.4}
    rows = [about | {"row": row, "column": f"{task}/Acc", "value": value} for row, task, value in (("MTIVE_MTL", "AE", 65.5), ("Base_SL", "AE", 1.5), ("MTIVE_MTL", "DD", 33.5))]  # fmt: skip
    write_atomic(mine / "07_evaluation" / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_the_folder_is_a_stack_with_its_stages_and_a_card(home: Path, tmp_path: Path) -> None:
    folder = write_hub_folder(home / "outputs" / "mine", tmp_path / "hub", tasks=["AE"])
    found = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert found == [*(f"{name}/adapter_model.safetensors" for name in ("AE", "IT", "PT")), "README.md", "stack.json"]
    for name in ("PT", "IT", "AE"):  # each entry is as it was signed, and fits its files
        assert read_files(folder / name, line_of(folder, name))["adapter_model.safetensors"] == f"weights of {name}".encode()  # fmt: skip
    card = (folder / "README.md").read_text()
    assert "| AE/Acc | 65.5 | 60.2 to 70.4 | points 0-100 | 240 | higher |" in card
    assert "DD/Acc" not in card and "| 1.5 |" not in card
    assert line_of(folder, "AE").sha256 in card and "Stand-in: a drawn shop" in card and '"AE"' in card
    assert "- AE: 3 records (2 different), 40 steps, seed 7, rate 0.01\n" in card and "- DD:" not in card
    head = yaml.safe_load(card.split("---")[1])  # the hub's own form
    assert head["license"] == "apache-2.0" and head["base_model"] == "pocket"


def test_the_card_of_a_later_version_says_what_it_learned_from(home: Path) -> None:
    mine = home / "outputs" / "mine"
    versions, trunk = Versions(mine), line_of(mine / "05_stage2" / "stack", "IT")
    save(folder := versions.next_folder("AE"), "AE_2", trunk, "IT")
    versions.add("AE", folder, "AE_2", about={"over": 1, "records": 1200, "corrections": 30})
    assert "version 2" not in model_card(mine)  # not in force
    versions.put_in_force("AE", 2)
    card = model_card(mine)
    assert "- AE: version 2, trained on 1,200 records with 30 corrections, rate 0.01" in card
    assert line_of(folder, "AE_2").sha256 in card and "| AE/Acc |" not in card and "| DD/Acc |" in card


def test_push_uploads_the_folder_to_a_private_repository(home: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    calls = []

    class Hub:
        def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
            calls.append((repo_id, private, exist_ok))
            return f"https://hub/{repo_id}"

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
            calls.append((repo_id, sorted(p.name for p in folder_path.iterdir()), commit_message))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert main(["push", "mine", "me/experts"]) == 0
    inside = ["AE", "DD", "IT", "PT", "README.md", "stack.json"]
    assert calls == [("me/experts", True, True), ("me/experts", inside, "Experts of profile mine")]
    assert "https://hub/me/experts" in capsys.readouterr().out


def test_an_edited_adapter_or_one_of_another_base_goes_nowhere(home: Path, tmp_path: Path, capsys) -> None:
    mine = home / "outputs" / "mine"
    write_atomic(mine / "06_experts" / "stack" / "AE" / "adapter_model.safetensors", b"other weights")
    with pytest.raises(LineageError):
        write_hub_folder(mine, tmp_path / "hub", tasks=["AE"])
    assert main(["push", "mine", "me/experts", "--task", "ZZ", "-o", str(tmp_path / "hub")]) == 2
    assert "task 'ZZ': found no expert, expected one of AE, DD" in capsys.readouterr().err
    manifest = mine / "06_experts" / "stack" / "stack.json"
    manifest.unlink()
    save(mine / "06_experts" / "stack", "DD", line_of(mine / "05_stage2" / "stack", "IT"), "IT", base="b2")
    with pytest.raises(LineageError, match="b2"):
        write_hub_folder(mine, tmp_path / "hub", tasks=["DD"])
