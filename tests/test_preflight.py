"""The preflight: sizes against loaded models and the papers' numbers, and a user's mistakes as findings."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig

from mtive_nb.__main__ import main
from mtive_nb.model import load, sizes
from mtive_nb.model.load import load_vlm
from mtive_nb.pocket.base import parameter_count
from mtive_nb.report import preflight
from mtive_nb.run.graph import Project, find_project

ATTENTION = ["vision.attention", "connector", "language.attention"]
EVERYTHING = ["vision", "connector", "language"]
QWEN = "Qwen/Qwen2.5-VL-{}-Instruct"


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """No network, and nobody's cache."""
    monkeypatch.setattr(sizes, "hub_answers", lambda: False)
    monkeypatch.setattr(sizes, "try_to_load_from_cache", lambda *_: None)


@pytest.fixture(scope="module")
def known():
    """The shipped configurations by size, on the meta device."""
    facts = json.loads(sizes.KNOWN_CONFIGS.read_text())
    return {size: sizes.meta_model(AutoConfig.for_model(**facts[QWEN.format(size)])) for size in ("7B", "3B")}


@pytest.fixture
def project(tmp_path):
    """A copy of the notebooks and parameter files, free to be broken."""
    here = find_project()
    for name in ("notebooks", "params"):
        shutil.copytree(here.home / name, tmp_path / name)
    return Project(tmp_path)


def write(project, name, text, profile="pocket"):
    (project.params / profile / f"{name}.yaml").write_text(text)


def failures(project, profile="pocket"):
    return [text for level, text in preflight.preflight(profile, project=project).findings if level == "fail"]


# The totals are those of the published checkpoints' safetensors.
@pytest.mark.parametrize("size, total", [("7B", 8_292_166_656), ("3B", 3_754_622_976)])
def test_shipped_configurations_have_the_published_number_of_weights(known, size, total):
    assert sum(sizes.part_parameters(known[size]).values()) == total


@pytest.mark.parametrize("size, total", [("4b", 4_300_079_472), ("27b", 27_432_406_640)])
def test_gemma_3_has_the_published_number_of_weights_and_of_image_tokens(size, total):
    model = sizes.meta_model(sizes.find_config(f"google/gemma-3-{size}-it")[0])
    assert sum(sizes.part_parameters(model).values()) == total
    assert (sizes.image_tokens(model.config), sizes.patches_a_token(model.config)) == (256, 16)
    assert sizes.adapter_parameters(model, ["vision.attention", "language"], rank=1) > 0


def test_tiles_of_idefics3_are_counted() -> None:
    """SmolVLM's shape: 512-pixel tiles of 1,024 patches, 64 tokens each; a photo of 4:3 is cut into 4 x 3 of them."""
    vision = {"image_size": 512, "patch_size": 16}
    config = AutoConfig.for_model("idefics3", vision_config=vision, scale_factor=4)
    tokens = [sizes.image_tokens(config, max_px=px) for px in (512, 600, 1024, 0)]
    assert tokens == [64 * tiles for tiles in (1, 5, 5, 13)]
    assert sizes.image_tokens(config) == 13 * 64 and sizes.patches_a_token(config) == 16


# MB at 16 bits and per cent of the base, counted apart from this code
@pytest.mark.parametrize("rank, mb, per_cent", [(32, 57.3, 0.346), (8, 14.3, 0.086)])
def test_adapter_sizes_at_7b(known, rank, mb, per_cent):
    weights = sizes.adapter_parameters(known["7B"], ATTENTION, rank=rank)
    assert (round(2e-6 * weights, 1), round(100 * weights / 8_292_166_656, 3)) == (mb, per_cent)


def test_the_pocket_base_counts_as_it_loads():
    config, _, here = sizes.find_config("pocket")
    vlm = load_vlm("pocket", device="cpu")
    wanted = parameter_count(vlm.model)
    assert here and sizes.part_parameters(sizes.meta_model(config)) | {"total": wanted["total"]} == wanted


@pytest.mark.parametrize("placement", [ATTENTION, EVERYTHING, ["language.mlp"]])
def test_adapter_sizes_are_pefts(tiny, placement):
    counted = sizes.adapter_parameters(tiny.model, placement, rank=3)
    on_meta = sizes.adapter_parameters(sizes.meta_model(tiny.model.config), placement, rank=3)
    targets = [name for names in sizes.placement_modules(tiny.model, placement).values() for name in names]
    peft = get_peft_model(tiny.model, LoraConfig(r=3, target_modules=targets))
    assert counted == on_meta == sum(p.numel() for n, p in peft.named_parameters() if "lora_" in n)


def test_the_cache_is_as_large_as_the_models_own(tiny):
    ids = torch.arange(10, 22).view(2, 6)
    cache = tiny.model(input_ids=ids, use_cache=True).past_key_values
    kept = sum(t.numel() for layer in cache.layers for t in (layer.keys, layer.values))
    assert sizes.kv_cache_bytes(tiny.model.config, tokens=6, batch=2) == 2 * kept
    text = {"num_hidden_layers": 28, "num_key_value_heads": 4, "hidden_size": 3584, "num_attention_heads": 28}
    assert sizes.kv_cache_bytes(AutoConfig.for_model("qwen2_5_vl", text_config=text), tokens=1) == 56 * 1024


def kept_for_backward(model, **batch):
    """Bytes that autograd keeps, weights aside."""
    weights = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast("cpu", torch.bfloat16):
        model(**batch, logits_to_keep=1, use_cache=False)
    return sum(size for size, _ in kept.values())


def test_the_activations_rule_is_near_what_autograd_keeps():
    def measured(layers):
        text = {
            "hidden_size": 224, "intermediate_size": 1184, "num_hidden_layers": layers, "num_attention_heads": 7,
            "num_key_value_heads": 1, "vocab_size": 300, "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
        }  # fmt: skip
        vision = {
            "depth": layers, "hidden_size": 160, "intermediate_size": 428, "num_heads": 2, "out_hidden_size": 224,
            "fullatt_block_indexes": list(range(layers)),
        }  # fmt: skip
        ids = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 3, "vision_end_token_id": 4}
        config = AutoConfig.for_model("qwen2_5_vl", text_config=text, vision_config=vision, **ids)
        model = load.AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
        targets = [n for names in sizes.placement_modules(model, EVERYTHING).values() for n in names]
        model = get_peft_model(model, LoraConfig(r=4, target_modules=targets)).train()
        tokens = torch.cat([torch.full((36,), 5), torch.randint(10, 300, (60,))])[None]
        batch = {"input_ids": tokens, "mm_token_type_ids": (tokens == 5).int()}
        image = {"pixel_values": torch.randn(144, 1176), "image_grid_thw": torch.tensor([[1, 12, 12]])}
        return config, kept_for_backward(model, **batch, **image)

    (small, less), (large, more) = measured(1), measured(3)
    rule = [sizes.activation_bytes(config, tokens=96, patches=144) for config in (small, large)]
    assert 0.8 < (rule[1] - rule[0]) / (more - less) < 1.25
    checkpointed = sizes.activation_bytes(large, tokens=96, patches=144, checkpointing=True)
    assert rule[0] < checkpointed < rule[1]


@pytest.mark.parametrize("low, high, side", [(0, 140, 142), (545, 590, 592), (0, 128, 130)])
def test_image_tokens_are_the_processors(low, high, side):
    from PIL import Image

    config, _, _ = sizes.find_config("pocket")
    vlm = load_vlm("pocket", min_px=low or None, max_px=high, device="cpu")
    grid = vlm.processor.image_processor([Image.new("RGB", (4000, 3000))], return_tensors="pt")["image_grid_thw"]
    tokens = sizes.image_tokens(config, min_px=low, max_px=high)
    assert tokens == grid.prod() // 4 and tokens * 28**2 <= side**2


@pytest.mark.parametrize("profile", ["smoke", "pocket"])
def test_shipped_profiles_pass(profile, capsys):
    assert main(["preflight", profile]) == 0
    said = capsys.readouterr().out
    total = sum(sizes.part_parameters(sizes.meta_model(sizes.find_config("pocket")[0])).values())
    assert f"pocket, {total:,} parameters" in said and "needs about" in said and ", 0 fail" in said


def test_paper_is_counted_without_the_hub_and_fails_on_what_is_missing(project, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1e12))
    report = preflight.preflight("paper", project=project)
    said = str(report)
    assert "8,292,166,656 parameters according to the package's known_configs.json" in said
    assert {"57.3", "14.3"} <= set(report.tables["Adapters"]["MB fp16"])
    wrong = [text for level, text in report.findings if level == "fail"]
    assert len(wrong) == 13
    assert wrong[0].startswith("params/paper/01_catalogue_and_emdiv.yaml: SOURCE: found 'catalogue'")
    for text, chapter in zip(wrong[1:3], ("02_instruction_data", "23_judges"), strict=True):
        assert chapter in text and "http://localhost:8000/v1 does not answer" in text
    assert wrong[3].startswith(f"params/paper/every.yaml: MODEL: found no weights of {QWEN.format('7B')}")
    for name in ("ROWS", "PHOTOS"):
        assert wrong.pop(4).startswith(f"params/paper/15_caslie.yaml: {name}: found 'mmecinstruct/")
    assert wrong[4].startswith("params/paper/15_caslie.yaml: ENDPOINT") and "does not answer" in wrong[4]
    assert wrong[5].startswith("params/paper/15_caslie.yaml: TEXT_MODEL: found no weights of mistralai/")
    assert wrong[6].startswith("params/paper/16_ebay.yaml: ENDPOINT") and "does not answer" in wrong[6]
    assert wrong.pop(8).startswith("params/paper/17_items.yaml: FILE: found 'items/items.jsonl', which is not in")
    for text, (chapter, name, size) in zip(
        wrong[7:], (("16_ebay", "BASE", "4b"), ("17_items", "LARGE", "27b"), ("17_items", "BASE", "4b")), strict=True
    ):
        assert text.startswith(f"params/paper/{chapter}.yaml: {name}: found no weights of google/gemma-3-{size}-it")


def test_four_bits_fit_a_card_of_24_gb(project):
    tables = preflight.preflight("mine-gpu", project=project).tables
    needs = next(table for name, table in tables.items() if name.startswith("Memory of training in GB (nf4"))
    assert (needs["needs"].astype(float) < 12).all() and (needs["weights"].astype(float) < 7).all()
    whole = preflight.preflight("paper", project=project).tables
    weights = next(table for name, table in whole.items() if name.startswith("Memory of training"))["weights"]
    assert (weights.astype(float) > 16).all()


def test_an_endpoint_that_answers_must_know_the_model(project, monkeypatch):
    reply = httpx.Response(200, json={"data": [{"id": "other"}]}, request=httpx.Request("GET", "http://x"))
    monkeypatch.setattr(httpx, "get", lambda *_, **__: reply)
    findings = [text for level, text in preflight.preflight("paper", project=project).findings if level == "fail"]
    assert any("02_instruction_data" in text and "expected one of other" in text for text in findings)


def test_a_gpu_that_is_too_small_fails(project, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "small GPU")
    for free, level in ((40e9, "fail"), (53e9, "warn"), (80e9, "ok")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, 2 * free))
        findings = preflight.preflight("paper", project=project).findings
        found = [f for f in findings if "small GPU" in f[1] and not re.match(r"1[567]_", f[1])]
        assert [level_of for level_of, _ in found] == [level] and "needs about 50.27" in found[0][1]


@pytest.mark.parametrize(
    "file, text, wanted",
    [
        ("04_stage1_pretraining", "PLACEMENT: [vision.fnn]", ["04_stage1_pretraining.yaml: PLACEMENT", "'fnn'"]),
        ("05_stage2_instructions", "PLACEMENT: []", ["05_stage2_instructions.yaml: PLACEMENT", "found none"]),
        ("05_stage2_instructions", "RANK: 0", ["05_stage2_instructions", "rank: found 0, expected 1"]),
        ("05_stage2_instructions", "MODEL: Qwen/Other", ["MODEL is no parameter of 05_stage2_instructions.ipynb"]),
        ("06_experts", "TASKS: [AE, PT]\nRANK: {'*': null}", ["RANK of 06_experts.ipynb has no entry for the task AE"]),
        ("04_stage1_pretraining", "MIN_PX: 300\nMAX_PX: 140", ["MAX_PX: found 140; expected 300"]),
        ("every", "ATTENTION: spda", ["every.yaml: ATTENTION: found 'spda'; expected one of sdpa"]),
        ("04_stage1_pretraining", "RNAK: 8", ["RNAK is no parameter", "did you mean RANK?"]),
        ("04_stage1_pretraining", "RANK: eight", ["RANK: found str 'eight', expected int"]),
        (
            "01_catalogue_and_emdiv",
            "SOURCE: my/shop",
            ["SOURCE: found 'my/shop', no products.jsonl or .csv", "expected mart"],
        ),
    ],
)
def test_a_mistake_names_file_field_found_and_expected(project, file, text, wanted):
    write(project, file, text)
    wrong = failures(project)
    assert any(all(part in line for part in wanted) for line in wrong), wrong


def test_a_placement_that_hits_nothing_or_another_part_fails(project, monkeypatch):
    family = dict(load.FAMILIES["qwen2_5_vl"])
    start, layer, kinds = family["language"]
    family["language"] = (start, layer, kinds | {"mlp": "mlp.no_such_layer"})
    monkeypatch.setitem(load.FAMILIES, "qwen2_5_vl", family)
    write(project, "04_stage1_pretraining", "PLACEMENT: [language.mlp]")
    assert any("04_stage1_pretraining.yaml: PLACEMENT: " in f and "'language.mlp'" in f for f in failures(project))
    family["connector"] = (r"model\.visual\.blocks\.", "", {"all": r"\d+\.attn\.proj"})
    write(project, "04_stage1_pretraining", "PLACEMENT: [connector]")
    assert any("found 'connector', which matches model.visual.blocks.0" in f for f in failures(project))


@pytest.mark.parametrize(
    "content, wanted", [(None, "no config.json"), ("{", "JSON"), ('{"model_type": "bert"}', "bert")]
)
def test_a_model_folder_that_is_none_is_a_finding(project, content, wanted):
    if content is not None:
        (project.home / "base").mkdir()
        (project.home / "base" / "config.json").write_text(content)
    write(project, "every", "MODEL: ./base")
    wrong = failures(project)
    assert len(wrong) == 1 and "every.yaml: MODEL: " in wrong[0] and wanted in wrong[0]


def test_a_local_folder_is_read_from_the_projects_home(project, tiny_folder, tiny):
    shutil.copytree(tiny_folder, project.home / "base")
    config, source, here = sizes.find_config("./base", home=project.home)
    total = sum(p.numel() for p in tiny.model.parameters())
    assert here and source == str(project.home / "base")
    assert sum(sizes.part_parameters(sizes.meta_model(config)).values()) == total


def test_an_unknown_hub_id_says_what_is_known():
    with pytest.raises(FileNotFoundError, match="the hub does not answer.*Qwen2.5-VL-7B-Instruct"):
        sizes.find_config("nobody/nothing")


def test_an_unknown_profile_is_one_line_and_exit_status_1(capsys):
    assert main(["preflight", "pokcet"]) == 1
    said = capsys.readouterr()
    assert "did you mean pocket?" in said.out and "Traceback" not in said.out + said.err


def test_missing_real_photos_are_named(project, monkeypatch, tmp_path):
    monkeypatch.delenv("MTIVE_DATA", raising=False)
    assert any("MTIVE_DATA is not set" in text for text in failures(project, "grocery"))
    (tmp_path / "cookies").mkdir()
    monkeypatch.setenv("MTIVE_DATA", str(tmp_path))
    wrong = failures(project, "grocery")
    assert len(wrong) == 2 and all("git clone" in text for text in wrong)


def test_a_message_names_the_file_that_sets_a_value(project):
    folder = project.params / "pocket"
    book = preflight.Book(preflight.read_graph(project.notebooks)["04"], {}, folder)
    assert book.where("SEED") == f"{book.notebook.path.name}: SEED"
    (folder / "every.yaml").write_text("SEED: 1\n")
    assert book.where("SEED") == "params/pocket/every.yaml: SEED"
    (folder / f"{book.notebook.name}.yaml").write_text("SEED: 2\n")
    assert book.where("SEED") == f"params/pocket/{book.notebook.name}.yaml: SEED"


PAPER_15 = {
    "TEXT_MODEL": "mistralai/Mistral-7B-Instruct-v0.3", "PLACEMENT": ["language", "language.head"], "RANK": 16, "BATCH": 128,
    "CAPTIONER": "meta-llama/Llama-3.2-11B-Vision-Instruct", "JUDGES": ["a/one", "b/two"], "CHECKPOINTING": True,
    "ENDPOINT": "http://localhost:8000/v1", "API_KEY_ENV": "OPENAI_API_KEY",
}  # fmt: skip


def captions_report(project, values, *, served=None, monkeypatch=None):
    """The findings about chapter 15 with these parameters, where an endpoint serves `served`, or none answers."""
    if served is not None:
        reply = httpx.Response(
            200, json={"data": [{"id": name} for name in served]}, request=httpx.Request("GET", "http://x")
        )
        monkeypatch.setattr(httpx, "get", lambda *_, **__: reply)
    report = preflight.Report()
    notebook = SimpleNamespace(name="15_caslie", path=Path("15_caslie.ipynb"))
    book = preflight.Book(notebook, values, project.params / "paper")
    preflight.check_own_model(report, book, *preflight.OWN_MODELS["15"], project=project)
    return report


def test_chapter_15_s_models_are_looked_for(project, monkeypatch):
    silent = captions_report(project, PAPER_15)
    assert sum("does not answer" in text for level, text in silent.findings if level == "fail") == 1
    served = [PAPER_15["CAPTIONER"], "a/one"]
    report = captions_report(project, PAPER_15, served=served, monkeypatch=monkeypatch)
    judge, weights = [text for level, text in report.findings if level == "fail"]
    assert "JUDGES" in judge and "found b/two; expected one of meta-llama/Llama-3.2-11B-Vision-Instruct, a/one" in judge
    assert "TEXT_MODEL: found no weights of mistralai/Mistral-7B-Instruct-v0.3 (14.50 GB)" in weights
    parts = report.tables["Parameters of mistralai/Mistral-7B-Instruct-v0.3"]
    assert dict(zip(parts["component"], parts["parameters"], strict=True)) == {
        "language": "7,248,023,552",
        "all": "7,248,023,552",
    }


def test_chapter_15_s_own_models_need_no_endpoint(project):
    own = {"TEXT_MODEL": "pocket-text", "PLACEMENT": ["language"], "CAPTIONER": "facts", "JUDGES": ["simulated"]}
    report = captions_report(project, PAPER_15 | own)
    assert report.ok and "15_caslie.ipynb, training: needs about" in str(report)
    tied = captions_report(project, PAPER_15 | own | {"PLACEMENT": ["language.head"]})
    assert not tied.ok and "15_caslie.yaml: PLACEMENT: placement: 'language.head'" in str(tied)
    absent = captions_report(project, PAPER_15 | own | {"TEXT_MODEL": "./nowhere"})
    assert not absent.ok and "TEXT_MODEL: found './nowhere', no config.json" in str(absent)


def test_own_rows_and_their_photos_must_be_there_and_stand_ins_are_named(project):
    write(project, "15_caslie", "ROWS: mine.jsonl\nPHOTOS: photos\n")
    assert [text.partition("; ")[0] for text in failures(project)] == [
        f"params/pocket/15_caslie.yaml: {name}: found {path!r}, which is not in {project.home}"
        for name, path in (("ROWS", "mine.jsonl"), ("PHOTOS", "photos"))
    ]
    (project.home / "mine.jsonl").touch()
    (project.home / "photos").mkdir()
    findings = preflight.preflight("pocket", project=project).findings
    warned = [text for level, text in findings if level == "warn" and "stand-in" in text]
    assert not [text for level, text in findings if level == "fail"] and len(warned) == 2
    assert "CAPTIONER: found 'facts'" in warned[0] and "JUDGES: found []" in warned[1] and "ROWS" in warned[1]


def test_a_text_model_is_no_base_for_photos(project):
    write(project, "every", "MODEL: pocket-text")
    wrong = failures(project)
    assert len(wrong) == 1 and "MODEL: found pocket-text, a qwen2, which reads text alone" in wrong[0]
