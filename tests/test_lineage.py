"""One truth about an adapter: whatever is edited, the stack and the pool refuse it in words."""

import errno
import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

import mtive_nb.model.saved
from mtive_nb.model.lineage import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    LineageError,
    NotFiniteError,
    line_of,
    read_manifest,
    sha256_of,
    signature,
)
from mtive_nb.model.load import base_fingerprint, load_vlm
from mtive_nb.model.saved import saving
from mtive_nb.model.stack import AdapterSpec, LoraStack, load_base, load_stack, open_stack
from mtive_nb.model.train import Training
from mtive_nb.serve.export import export_expert
from mtive_nb.serve.pool import ExpertPool

SPEC = AdapterSpec(4, 8, ("language.attention", "connector"))


def over(tiny_folder, *adapters: tuple[Path, str], change=None) -> LoraStack:
    vlm = load_vlm(str(tiny_folder), dtype="float32", device="cpu", max_px=56)
    if change:
        change(vlm.model)
    return load_stack(vlm, *adapters)


@pytest.fixture(scope="module")
def made(tiny_folder):
    """A stack of a stage, IT, and an expert on it, AE."""
    torch.manual_seed(0)
    stack = over(tiny_folder)
    stack.add("IT", SPEC)
    stack.add("AE", SPEC, parent="IT")
    for weight in (w for name in ("IT", "AE") for w in stack.adapter_weights(name).values()):
        weight.normal_(0, 0.1)
    return stack


@pytest.fixture
def saved(made, tmp_path):
    for name in ("IT", "AE"):
        made.save(tmp_path, name)
    return tmp_path


def rewrite(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def in_line(folder: Path, name: str, **changes: object) -> None:
    """Change fields of an adapter's entry (None: delete one)."""
    manifest = json.loads((folder / MANIFEST).read_text())
    row = manifest["adapters"][name] | changes
    manifest["adapters"][name] = {k: v for k, v in row.items() if v is not None or k not in changes}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def in_spec(folder: Path, name: str, **changes: object) -> None:
    spec = json.loads((folder / MANIFEST).read_text())["adapters"][name]["spec"]
    in_line(folder, name, spec=spec | changes)


def in_weights(folder: Path, name: str, change) -> None:
    tensors = load_file(folder / name / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / name / WEIGHTS)


def sign_anew(folder: Path, name: str) -> None:
    """What someone does who edits an adapter and knows how its entry is signed."""
    manifest = json.loads((folder / MANIFEST).read_text())
    row = manifest["adapters"][name]
    row["files"] = {file: sha256_of(folder / name / file) for file in row["files"]}
    row["sha256"] = signature(manifest, "adapters", name, row)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def first(tensors: dict) -> str:
    return min(tensors)


TENSORS = {
    "a tensor less": lambda t: t.pop(first(t)),
    "a tensor more": lambda t: t.update(extra=torch.zeros(2)),
    "another shape": lambda t: t.update({first(t): t[first(t)][:, :-1].contiguous()}),
}
CONFIGS = {
    "r": 2, "lora_alpha": 16, "use_dora": True, "use_rslora": True, "rank_pattern": {"q_proj": 2},
    "alpha_pattern": {"q_proj": 99}, "bias": "all", "peft_type": "LOHA",
}  # fmt: skip
EDITS = {
    **{f"config: {k}": lambda f, n, k=k, v=v: rewrite(f / n / CONFIG, **{k: v}) for k, v in CONFIGS.items()},
    "config: targets": lambda f, n: rewrite(f / n / CONFIG, target_modules=["q_proj"]),
    "config: gone": lambda f, n: (f / n / CONFIG).unlink(),
    **{f"weights: {k}": lambda f, n, c=c: in_weights(f, n, c) for k, c in TENSORS.items()},
    "weights: a value": lambda f, n: in_weights(f, n, lambda t: t[first(t)].add_(1e-3)),
    "weights: NaN": lambda f, n: in_weights(f, n, lambda t: t[first(t)].fill_(torch.nan)),
    "weights: gone": lambda f, n: (f / n / WEIGHTS).unlink(),
    "weights: half": lambda f, n: (f / n / WEIGHTS).write_bytes((f / n / WEIGHTS).read_bytes()[:99]),
    "line: alpha": lambda f, n: in_spec(f, n, alpha=99.0),
    "line: rank": lambda f, n: in_spec(f, n, rank=2),
    "line: placement": lambda f, n: in_spec(f, n, placement=["language"]),
    "line: layers": lambda f, n: in_spec(f, n, layers={"language": [0]}),
    "line: another field": lambda f, n: in_spec(f, n, colour="red"),
    "line: parent": lambda f, n: in_line(f, n, parent="PT" if n == "AE" else "IT"),
    "line: parent's hash": lambda f, n: in_line(f, n, parent_sha256="0" * 64),
    "line: hash": lambda f, n: in_line(f, n, sha256="0" * 64),
    "line: files": lambda f, n: in_line(f, n, files={}),
    "line: incomplete": lambda f, n: in_line(f, n, files=None),
    "line: of an earlier version": lambda f, n: in_line(f, n, files=None, weights="0" * 64),
    "file: base": lambda f, n: rewrite(f / MANIFEST, base="0" * 16),
    "file: pixel bound": lambda f, n: rewrite(f / MANIFEST, model={"name": "tiny", "max_px": 9, "min_px": None}),
    "file: no base": lambda f, n: (f / MANIFEST).write_text('{"adapters": {}, "model": {}}'),
    "file: a list": lambda f, n: (f / MANIFEST).write_text("[]"),
    "file: adapters a list": lambda f, n: rewrite(f / MANIFEST, adapters=[]),
    "file: half": lambda f, n: (f / MANIFEST).write_text((f / MANIFEST).read_text()[:200]),
    "file: empty": lambda f, n: (f / MANIFEST).write_text(""),
}


@pytest.fixture(scope="module")
def bare(tiny_folder):
    return over(tiny_folder)


@pytest.mark.parametrize("name", ["IT", "AE"])
@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_is_refused_in_words_by_stack_and_pool(made, bare, saved, edit, name):
    EDITS[edit](saved, name)
    stack = bare if name == "IT" else made
    with pytest.raises(LineageError) as refused:
        stack.load(saved, name, alias="again")
    assert len(str(refused.value)) > 40 and "again" not in stack.specs, "a sentence, and the stack is as it was"
    with pytest.raises(LineageError) as by_pool:
        ExpertPool(stack, trunk="IT" if name == "AE" else None).add(name, saved)
    assert str(by_pool.value) == str(refused.value)


def test_an_entry_is_an_adapter_s_unless_a_mixture_is_asked_for(saved):
    assert line_of(saved, "AE").parent == "IT"
    with pytest.raises(LineageError, match=r"no adapter 'AE'; its mixtures are \[\]"):
        line_of(saved, "AE", kind="mixtures")
    rewrite(saved / MANIFEST, mixtures=[])
    with pytest.raises(LineageError, match=r"found \[\] as 'mixtures'"):
        read_manifest(saved)


SIGNED = {k: e for k, e in EDITS.items() if k.startswith(("config: ", "weights: ")) and k[-4:] not in ("gone", "half")}


@pytest.mark.parametrize("edit", [k for k in SIGNED if k not in ("config: targets", "weights: a value")])
def test_what_disagrees_with_its_own_spec_is_refused_even_if_signed_anew(made, saved, tmp_path, edit):
    EDITS[edit](saved, "AE")
    sign_anew(saved, "AE")
    with pytest.raises(NotFiniteError if "NaN" in edit else LineageError, match="AE"):
        made.load(saved, "AE", alias="again")
    with pytest.raises(NotFiniteError if "NaN" in edit else LineageError, match="AE"):
        export_expert(made, saved, tmp_path / "served", "AE", trunk="IT")
    assert not (tmp_path / "served").exists()


NO_SPECS = [
    {"rank": 4.0}, {"rank": "4"}, {"rank": 0}, {"rank": True}, {"alpha": "8"}, {"alpha": float("inf")}, {"alpha": float("nan")},
    {"placement": []}, {"placement": [5]}, {"placement": None}, {"layers": [0]}, {"layers": {"language": 5}},
    {"layers": {"language": ["x("]}}, {"dora": "yes"}, {"dropout": 1.0}, {"dropout": "a"},
]  # fmt: skip


@pytest.mark.parametrize("change", NO_SPECS, ids=str)
def test_a_spec_of_no_adapter_is_refused_in_words_even_if_signed_anew(made, saved, change):
    spec = read_manifest(saved)["adapters"]["AE"]["spec"]
    in_line(saved, "AE", spec=spec | change)
    sign_anew(saved, "AE")
    for refusing in (
        lambda: made.load(saved, "AE", alias="again"),
        lambda: ExpertPool(made, trunk="IT").add("AE", saved),
    ):
        with pytest.raises(LineageError, match="is none of a AdapterSpec"):
            refusing()
    assert "again" not in made.specs


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rank": 0}, "rank: found 0, expected a whole number from 1"),
        ({"alpha": "8"}, "alpha: found '8', expected a finite number"),
        ({"placement": ()}, "placement: found (), expected names of parts"),
        ({"layers": [0]}, "layers: found [0], expected {part: layer numbers} or None"),
        ({"dora": 1}, "dora: found 1, expected True or False"),
        ({"dropout": -0.1}, "dropout: found -0.1, expected a share from 0 to below 1"),
    ],
)
def test_a_spec_says_what_is_wrong_with_it(change, words):
    with pytest.raises(ValueError, match=re.escape(f"AdapterSpec: {words}") + "$"):
        replace(SPEC, **change)
    assert replace(SPEC, rank=1, dropout=0.5, layers={"language": (0, 1)}).rank == 1


def test_a_signature_is_of_the_content_and_not_of_the_order_of_fields(saved):
    manifest = read_manifest(saved)
    row = manifest["adapters"]["AE"]
    turned = row | {field: dict(reversed(row[field].items())) for field in ("spec", "files")}
    assert list(turned["spec"]) != list(row["spec"])
    assert signature(manifest, "adapters", "AE", turned) == row["sha256"]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ("weights: a tensor less", r": lacks tensor base_model\S+ \(1 in all\); expected 20$"),
        ("weights: a tensor more", r": has an extra tensor extra \(1 in all\); expected 20$"),
        ("weights: another shape", r": base_model\S+ has the shape \(4, \d+\), its spec expects \(4, \d+\)$"),
    ],
)
def test_tensors_that_are_not_those_of_the_spec_are_named(made, saved, edit, words):
    EDITS[edit](saved, "AE")
    sign_anew(saved, "AE")
    with pytest.raises(LineageError, match=words):
        made.load(saved, "AE", alias="again")


def test_a_changed_file_is_named_with_both_hashes(made, saved):
    expected = read_manifest(saved)["adapters"]["AE"]["files"][CONFIG]
    (saved / "AE" / CONFIG).write_text("{}")
    now = sha256_of(saved / "AE" / CONFIG)
    with pytest.raises(LineageError, match=rf"expected sha256 {expected[:12]}\.\.\., now {now[:12]}\.\.\.\)$"):
        made.load(saved, "AE", alias="again")
    (saved / "AE" / CONFIG).unlink()
    with pytest.raises(LineageError, match=rf"expected sha256 {expected[:12]}\.\.\., no such file\)$"):
        made.load(saved, "AE", alias="again")


def test_numbers_of_a_table_become_python_s():
    spec = AdapterSpec(np.int64(4), np.float32(8), ("language",), dropout=np.float64(0.5))
    assert json.dumps(asdict(spec)) and (type(spec.rank), type(spec.alpha)) == (int, float)
    training = Training(np.int64(4), np.float64(0.01))
    assert (type(training.steps), type(training.rate)) == (int, float)


def test_a_mixture_takes_no_adapter_s_name(made, saved):
    with pytest.raises(LineageError, match="'AE' is one of the adapters already"):
        with saving(made, "mixtures", saved, "AE", parent="IT", spec=SPEC) as folder:
            (folder / "mixture.safetensors").write_bytes(b"")
    made.load(saved, "AE", alias="again")
    made.unload("again")


@pytest.mark.parametrize("files", [{WEIGHTS: 5}, [], "x"], ids=str)
def test_an_entry_without_hashes_of_files_is_refused_in_words(made, saved, files):
    in_line(saved, "AE", files=files)
    with pytest.raises(LineageError, match="other fields than"):
        made.load(saved, "AE", alias="again")


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn], ids=str)
def test_weights_of_another_kind_are_refused_in_words(made, saved, dtype):
    in_weights(saved, "AE", lambda t: t.update({name: weight.to(dtype) for name, weight in list(t.items())}))
    sign_anew(saved, "AE")
    with pytest.raises(LineageError, match="expected floating point of 16 bits or more"):
        made.load(saved, "AE", alias="again")


@pytest.mark.parametrize("file", [MANIFEST, f"AE/{CONFIG}"])
def test_deeply_nested_json_is_refused_in_words(made, saved, file):
    (saved / file).write_text("[" * 200_000)
    if file != MANIFEST:
        sign_anew(saved, "AE")
    with pytest.raises(LineageError, match="half-written or edited|not the JSON object"):
        made.load(saved, "AE", alias="again")


def test_magnitudes_that_are_no_numbers_are_found(tiny_folder):
    stack = over(tiny_folder)
    stack.add("D", AdapterSpec(4, 8, ("language.attention",), dora=True))
    for name, weight in stack.adapter_weights("D").items():
        weight.fill_(torch.nan) if "magnitude" in name else weight.normal_(0, 0.1)
    with pytest.raises(NotFiniteError, match="magnitude"):
        stack.assert_alive("D")


def test_an_export_is_the_signed_files_alone(made, saved, tmp_path):
    (saved / "AE" / "note.txt").write_text("of somebody else")
    copy = export_expert(made, saved, tmp_path / "served", "AE", trunk="IT")
    assert {file.name: sha256_of(file) for file in copy.iterdir()} == line_of(saved, "AE").files
    assert line_of(tmp_path / "served", "AE") == line_of(saved, "AE")


def test_a_parent_that_was_edited_and_signed_anew_is_refused_by_its_children(tiny_folder, saved):
    in_weights(saved, "IT", lambda t: t[first(t)].add_(1e-3))
    sign_anew(saved, "IT")
    with pytest.raises(LineageError, match=r"'AE' was trained over 'IT' \(sha256 .*it holds {'IT': "):
        over(tiny_folder, (saved, "IT"), (saved, "AE"))


def test_stack_pool_and_peft_scale_an_adapter_alike(made, tiny_folder, saved):
    again = over(tiny_folder, (saved, "IT"), (saved, "AE"))
    layers = [m for m in again.peft.modules() if isinstance(m, LoraLayer) and "AE" in m.scaling]
    assert layers and {m.scaling["AE"] for m in layers} == {2.0} == {again.read(saved, "AE").scale}
    assert json.loads((saved / "AE" / CONFIG).read_text())["lora_alpha"] == 8


def test_the_same_adapter_saved_twice_has_the_same_files_and_hash(made, saved, tmp_path):
    hashes, files = dict(made.hashes), {n: sha256_of(saved / n / CONFIG) for n in ("IT", "AE")}
    for name in ("IT", "AE"):
        made.save(tmp_path / "again", name)
        config = json.loads((tmp_path / "again" / name / CONFIG).read_text())
        assert config["target_modules"] == sorted(config["target_modules"]), "PEFT writes a set in any order"
    assert made.hashes == hashes and files == {n: sha256_of(tmp_path / "again" / n / CONFIG) for n in ("IT", "AE")}


def test_a_parent_trained_on_must_be_saved_again_before_its_child(made, saved, tmp_path):
    before = made.hashes["IT"]
    made.activate("IT", trainable=True)
    with pytest.raises(LineageError, match="save its parent 'IT' first"):
        made.save(tmp_path / "later", "AE")
    made.activate("AE")
    made.save(tmp_path / "later", "IT")
    assert made.hashes["IT"] == before
    made.put_weights("IT", {n: w + 1 for n, w in made.adapter_weights("IT").items()})
    with pytest.raises(LineageError, match="save its parent 'IT' first"):
        made.save(tmp_path / "later", "AE")
    made.put_weights("IT", {n: w - 1 for n, w in made.adapter_weights("IT").items()})


def test_a_save_that_fails_leaves_what_was_saved_before(tiny_folder, tmp_path, monkeypatch):
    stack = over(tiny_folder)
    stack.add("IT", SPEC)
    for weight in stack.adapter_weights("IT").values():
        weight.data.normal_(0, 0.1)
    stack.save(tmp_path, "IT")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for weight in stack.adapter_weights("IT").values():
        weight.data.mul_(2)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(mtive_nb.model.saved, "write_manifest", full)
        stack.save(tmp_path, "IT")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    over(tiny_folder, (tmp_path, "IT"))
    stack.save(tmp_path, "IT")
    assert over(tiny_folder, (tmp_path, "IT")).hashes == stack.hashes


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_save_drops_no_entry_in_silence(made, saved, capsys):
    (saved / MANIFEST).write_text((saved / MANIFEST).read_text()[:-20])
    with pytest.raises(LineageError, match="half-written or edited"):
        made.save(saved, "AE")
    (saved / MANIFEST).unlink()
    made.save(saved, "AE")
    rewrite(saved / MANIFEST, base="another")
    made.save(saved, "IT")
    assert "AE stand on another base or other pixel bounds: dropped" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        {"name": 5},
        {"name": ""},
        {"name": ["pocket"]},
        {"attention": 3},
        {"max_px": "abc"},
        {"max_px": -4},
        {"min_px": 1.5},
    ],
)
def test_a_model_that_stack_json_cannot_mean_is_refused_in_words(saved, change):
    manifest = read_manifest(saved)
    rewrite(saved / MANIFEST, model=manifest["model"] | change)
    with pytest.raises(LineageError, match=f"its model has .* as '{next(iter(change))}'"):
        load_base(saved)


@pytest.mark.parametrize(
    ("stated", "given", "loaded"),
    [
        ({}, {}, {"attention": "eager", "quantize": ""}),
        ({"quantize": "nf4"}, {}, {"attention": "eager", "quantize": "nf4"}),
        ({"quantize": "nf4"}, {"attention": "sdpa", "quantize": ""}, {"attention": "sdpa", "quantize": ""}),
    ],
)
def test_a_stack_opens_over_the_model_that_it_names_or_that_is_asked_for(
    made, saved, monkeypatch, stated, given, loaded
):
    stated = {"name": "shop/model", "attention": "eager", "min_px": 28, "max_px": 56} | stated
    rewrite(saved / MANIFEST, model=stated)
    asked = []
    monkeypatch.setattr("mtive_nb.model.stack.load_vlm", lambda name, **options: asked.append({"name": name} | options))
    monkeypatch.setattr("mtive_nb.model.stack.load_stack", lambda vlm, *adapters: adapters)
    assert open_stack((saved, "IT"), (saved, "AE"), **given) == ((saved, "IT"), (saved, "AE"))
    assert asked == [{"name": "shop/model", "min_px": 28, "max_px": 56} | loaded]


def test_a_saved_configuration_names_the_model_and_no_place_of_this_machine(made, saved):
    config = json.loads((saved / "AE" / CONFIG).read_text())
    assert config["base_model_name_or_path"] == made.vlm.name
    assert config["target_modules"] == sorted(config["target_modules"])


def test_every_value_of_the_base_counts(tiny_folder, saved):
    stack = over(tiny_folder)
    before = base_fingerprint(stack.vlm.model)
    for name, weight in stack.vlm.model.state_dict().items():
        last = weight.view(-1)[-1].clone()
        weight.view(-1)[-1] += 1e-3
        assert base_fingerprint(stack.vlm.model) != before, name
        weight.view(-1)[-1] = last
    assert base_fingerprint(stack.vlm.model) == before
    with pytest.raises(LineageError, match=f"trained over base {before}, but .* is "):
        over(tiny_folder, (saved, "IT"), change=lambda m: m.lm_head.weight.data[-1, -1].add_(1e-3))


def test_a_bfloat16_checkpoint_is_the_same_base_in_float32():
    wide, narrow = (load_vlm("pocket", dtype=dtype, device="cpu") for dtype in ("float32", "bfloat16"))
    assert base_fingerprint(wide.model) == base_fingerprint(narrow.model)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_refused_by_probe_save_and_put(made, saved, tmp_path, value):
    weight = next(w for n, w in made.adapter_weights("AE").items() if "lora_B" in n)
    before = weight[0, 0].item()
    weight[0, 0] = value
    try:
        with pytest.raises(NotFiniteError, match=r"adapter 'AE'.*'(language|connector)'"):
            made.assert_alive("AE")
        with pytest.raises(NotFiniteError, match="adapter 'AE': 1 of"):
            made.save(tmp_path / "new", "AE")
        assert not (tmp_path / "new").exists()
        with pytest.raises(NotFiniteError):
            made.put_weights("AE", made.adapter_weights("AE"))
    finally:
        weight[0, 0] = before
