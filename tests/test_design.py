"""The registered design: every claim has its place, and the chapters do what it says."""

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from mtive_nb.evaluate import design
from mtive_nb.evaluate.claims import METRICS, SYSTEMS, load_claims, measured
from mtive_nb.evaluate.design import DesignError, load_design, papers_claims, read_design, registered_at
from mtive_nb.evaluate.intervals import Interval
from mtive_nb.run.graph import load_chapters
from mtive_nb.run.params import read_parameters

HOME = Path(__file__).parents[1]
RAW = yaml.safe_load(Path(design.__file__).with_name("design.yaml").read_text())
ENTRIES = load_design().claims
# Calls by which a chapter decides claims that its own cells do not name, and where their names stand.
DECIDERS = {
    "pilot_claims(": "evaluate/grounding/pilot.py",
    "adaptation_claims(": "evaluate/commerce/ebay_claims.py",
    "choice_claims(": "evaluate/commerce/ebay_claims.py",
    "commerce_claims(": "evaluate/design.yaml",
    "claims_of_run(": "evaluate/design.yaml",
    "board(": "evaluate/design.yaml",
}


def source(chapter: str) -> str:
    name = load_chapters()[chapter]["name"]
    cells = json.loads((HOME / "notebooks" / f"{chapter}_{name}.ipynb").read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells)


def test_every_testable_claim_is_registered_or_needs_what_is_not_here() -> None:
    asked = {c["id"] for c in papers_claims() if c["testable_small_scale"] != "no" and c["priority"] < 3}
    away = set().union(*load_design().not_here.values())
    assert asked - ENTRIES.keys() <= away and not away & ENTRIES.keys()
    assert not {c["id"] for c in papers_claims() if c["testable_small_scale"] == "no"} & ENTRIES.keys()


@pytest.mark.parametrize("claim", ENTRIES)
def test_the_registered_chapters_decide_the_claim(claim: str) -> None:
    for chapter in ENTRIES[claim].chapters:
        text = source(chapter)
        deciders = [path for call, path in DECIDERS.items() if call in text]
        assert f'"{claim}"' in text or any(claim in (HOME / "mtive_nb" / path).read_text() for path in deciders)


def test_no_chapter_decides_a_claim_that_is_not_registered() -> None:
    ids = "|".join(claim["id"] for claim in papers_claims())
    named = {name for chapter in load_chapters() for name in re.findall(rf'"({ids})"', source(chapter))}
    assert len(named) > 30 and named <= ENTRIES.keys()


@pytest.mark.parametrize("claim", ENTRIES)
def test_the_registered_arms_are_the_chapter_s(claim: str) -> None:
    entry, test = ENTRIES[claim], {c["id"]: c for c in papers_claims()}[claim]["test"]
    pair = tuple(SYSTEMS.get(str(test[side])) for side in ("left", "right"))
    if claim.startswith("mtive-") and None not in pair and test["metric"] in METRICS:
        assert entry.arms == pair
    elif entry.kind != "exact":
        best = (HOME / "mtive_nb" / "evaluate" / "commerce" / "claims.py").read_text()  # names the best of baselines
        texts = " ".join([*(source(chapter) for chapter in entry.chapters), best]).lower()
        words = [word for arm in entry.arms for word in re.findall(r"[a-z_+\-]{3,}", arm.lower())]
        assert [word for word in words if word not in texts and word not in map(str.lower, SYSTEMS.values())] == []


def test_the_runs_and_the_curves_are_those_of_the_parameters() -> None:
    (parameters,) = [read_parameters(path) for path in HOME.glob("notebooks/21_*.ipynb")]
    assert tuple(parameters["PROFILES"].default) == load_design().profiles
    seeds = [
        yaml.safe_load((HOME / "params" / p / "every.yaml").read_text())["SEED"] for p in load_design().profiles[1:]
    ]
    assert seeds == list(range(1, len(seeds) + 1))  # run k has seed k, pocket 0
    assert " ".join(load_design().profiles) in (HOME / "Makefile").read_text()
    curves = load_design().curves
    (parameters,) = [read_parameters(path) for path in HOME.glob(f"notebooks/{curves['chapter']}_*.ipynb")]
    assert (parameters["SIZES"].default, parameters["TASKS"].default) == (curves["records"], curves["tasks"])


def test_the_rule_reads_its_limits_from_the_design(monkeypatch: pytest.MonkeyPatch) -> None:
    near = {"AE": Interval(1.4, 0.9, 1.9, 2000)}
    assert measured("mtive-full-replay-restores-old", near)["verdict"] == "open"
    raw = copy.deepcopy(RAW)
    raw["claims"]["mtive-full-replay-restores-old"]["tolerance"] = 2
    changed = read_design(raw, papers_claims())
    monkeypatch.setattr("mtive_nb.evaluate.claims.load_design", lambda: changed)
    load_claims.cache_clear()
    try:
        assert measured("mtive-full-replay-restores-old", near)["verdict"] == "holds"
    finally:
        load_claims.cache_clear()


def test_a_row_says_what_it_lacks_and_what_is_too_small_to_matter() -> None:
    few = measured("mtive-stack-beats-base-mtl", {"mean": Interval(0.4, 0.1, 0.7, 960)})
    assert (few["kind"], few["short"]) == ("comparative", "1 of 5 runs, 240 of 1,000 questions a task")
    assert few["verdict"] == "holds" and few["remark"] == "smaller than what matters, 1 (points)"
    exact = measured("mtive-frozen-weights-untouched", {"tensors": 0.0}, n=7)
    assert (exact["kind"], exact["short"], exact["remark"]) == ("exact", "", "")
    with pytest.raises(DesignError, match="caslie-mid-size-is-best: not registered; add its entry"):
        measured("caslie-mid-size-is-best", {"mean": 1.0})


CLAIM = "mtive-full-replay-restores-old"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"claims": {CLAIM: {"kind": "sure"}}}, f"{CLAIM}, kind: 'sure' is not one of"),
        ({"claims": {CLAIM: {"seeds": 3}}}, f"{CLAIM}: .*'seeds' was unexpected"),
        ({"claims": {CLAIM: {"runs": True}}}, f"{CLAIM}, runs: True is not of type 'integer'"),
        ({"claims": {CLAIM: {"runs": 9}}}, f"{CLAIM}: runs above the 5 profiles"),
        ({"claims": {CLAIM: {"arms": ["one"]}}}, f"{CLAIM}, arms: .*too short"),
        ({"claims": {CLAIM: {"bound": 2}}}, rf"{CLAIM}: found limits \['bound', 'tolerance'\], about_equal needs"),
        ({"claims": {"mtive-x": {}}}, "'mtive-x'.*claims.yaml has no such claim"),
        ({"not_here": {"time": [CLAIM]}}, f"'{CLAIM}'. twice"),
        ({"not_here": {"paid models": []}}, "'mtive-stack-beats-proprietary'.* missing"),
        ({"more": {}}, "design.yaml: .*'more' was unexpected"),
        ({"claims": {CLAIM: None}}, f"claims.{CLAIM}: None is not of type 'object'"),
    ],
)
def test_a_faulty_entry_is_refused_by_name(change: dict, message: str) -> None:
    raw = copy.deepcopy(RAW)
    for part, own in change.items():
        for name, value in own.items():
            before = raw[part].get(name)
            raw[part][name] = before | value if isinstance(before, dict) and value else value
        raw.setdefault(part, {})
    with pytest.raises(DesignError, match=message):
        read_design(raw, papers_claims())


def test_the_commit_of_the_design_is_told_and_not_known_without_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = shutil.copy(Path(design.__file__).with_name("design.yaml"), tmp_path)
    monkeypatch.setattr(design, "_FILE", Path(copied))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert registered_at() == "not known"
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "design"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=tmp_path, capture_output=True, text=True)
    assert registered_at().startswith(head.stdout.strip() + ", 20")
    Path(copied).write_text("changed")
    assert registered_at().endswith(" and changed since")
    monkeypatch.setenv("PATH", "")
    assert registered_at() == "not known"
