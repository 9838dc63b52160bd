"""The registered design: every claim has its place, and the chapters do what it says."""

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from mtive_nb.evaluate import design
from mtive_nb.evaluate.claims import METRICS, ONE_RUN, SYSTEMS, load_claims, measured
from mtive_nb.evaluate.design import DesignError, load_design, papers_claims, read_design, registered_at, shortfall
from mtive_nb.evaluate.intervals import Interval
from mtive_nb.evaluate.yes_no import accuracy_gains
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
    assert len(named) > 30 and named <= ENTRIES.keys() | load_design().if_here.keys()


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
    assert not seeded() & set(RAW["one_run"]["chapters"])  # what `make seeds` repeats has several runs
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
    few = measured("mtive-stack-beats-base-mtl", {"mean": Interval(0.4, 0.1, 0.7, 960, groups=60)})
    lacks = "1 of 5 runs, 60 of 300 products, 240 of 1,000 questions per task"
    assert (few["kind"], few["short"]) == ("comparative", lacks)
    assert few["verdict"] == "holds" and few["remark"] == f"smaller than what matters, 1 (points); {ONE_RUN}"
    by_item = measured("ebay-crops-at-inference-help", {"item_intelligence": Interval(9, 5, 13, 40)})
    assert by_item["short"] == "40 of 300 products, 40 of 300 questions per task"  # an item is a product
    of_one_task = measured("vitpro-attention-higher-when-grounded", {"mean": Interval(9, 5, 13, 1000, groups=300)})
    of_three = measured("vitpro-freezing-lm-worse-than-vision", {"mean": Interval(9, 5, 13, 2999, groups=300)})
    assert (of_one_task["short"], of_three["short"]) == ("", "999 of 1,000 questions per task")
    exact = measured("mtive-frozen-weights-untouched", {"tensors": 0.0}, n=7)
    assert (exact["kind"], exact["short"], exact["remark"]) == ("exact", "", "")
    with pytest.raises(DesignError, match="caslie-mid-size-is-best: not registered; add its entry"):
        measured("caslie-mid-size-is-best", {"mean": 1.0})


def test_the_products_of_a_result_are_those_of_its_records() -> None:
    records = [
        {"task": t, "product_id": f"p{k}"} for t, of in (("AE", 30), ("DD", 20)) for k in range(of) for _ in "ab"
    ]
    right = np.arange(len(records)) % 3 // 2
    gains = accuracy_gains(records, right, 1 - right)
    assert {task: gain.groups for task, gain in gains.items()} == {"AE": 30, "DD": 20, "mean": 30}
    row = measured("vitpro-multi-image-helps", {task: gains[task] for task in ("AE", "DD")})
    assert row["products"] in (20, 30) and f"{row['products']} of 300 products" in row["short"]
    unknown = measured("vitpro-multi-image-helps", {"DD": Interval(3, 2, 4, 2000)})
    assert unknown["short"] == "an unknown number of 300 products"


def test_a_shortfall_is_of_runs_products_and_questions() -> None:
    asked = {"runs": 5, "products": 300, "questions": 1000}
    assert shortfall(asked, runs=5, products=300, questions=1000) == ""
    assert shortfall(asked, runs=4, products=299, questions=999) == (
        "4 of 5 runs, 299 of 300 products, 999 of 1,000 questions per task"
    )
    assert shortfall(asked | {"products": 0}, runs=5, products=None, questions=1000) == ""
    assert shortfall(load_design().curves, runs=1, products=60, questions=240) == (
        "60 of 300 products, 240 of 1,000 questions per task"
    )


def seeded() -> set[str]:
    return {number for number, chapter in load_chapters().items() if chapter.get("seeds")}


def test_several_runs_are_registered_only_where_make_seeds_repeats_the_chapter() -> None:
    repeated = seeded() | {"21"}
    assert {"07", "09", "20"} <= repeated
    assert [e.claim for e in ENTRIES.values() if e.runs > 1 and not set(e.chapters) & repeated] == []


def test_a_claim_that_needs_a_larger_model_is_not_here_and_is_decided_with_one() -> None:
    away = {claim for ids in load_design().not_here.values() for claim in ids}
    assert load_design().if_here and load_design().if_here.keys() <= away
    row = measured("ebay-small-tuned-is-faster", {"item_intelligence": 0.2}, n=30)  # as 17 does where LARGE is set
    assert (row["verdict"], row["kind"], row["unit"]) == ("holds", "trained", "x")
    assert measured("ebay-small-tuned-is-faster", {"item_intelligence": 0.3}, n=30)["verdict"] == "does not hold"


def test_changes_have_dates_and_further_arms_are_their_chapter_s() -> None:
    assert [c["date"] for c in RAW["changes"]] == sorted(c["date"] for c in RAW["changes"])
    code = "".join(
        (HOME / "mtive_nb" / "evaluate" / p).read_text() for p in ("grounding/pilot.py", "commerce/again.py")
    )
    assert all(arm in source(e["chapter"]) + code for e in load_design().further for arm in e["arms"])


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
        ({"if_here": {CLAIM: {}}}, f"if_here: found .'{CLAIM}'.; expected claims of not_here"),
        ({"not_searched": {"caslie": None}}, "not_searched.caslie: None is not of type 'string'"),
        ({"one_run": {"since": "today"}}, "one_run.since: 'today' does not match"),
        ({"curves": {"runs": 0}}, "curves.runs: 0 is less than the minimum"),
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
