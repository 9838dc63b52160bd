"""The claims board: does a claim of the papers hold here? A fixed rule decides from measurements, never by hand.

A claim compares two systems (the head of `claims.yaml` explains the fields). How it is decided was registered before
the run: `design.yaml` has its kind, unit of resampling, runs, tolerance or bound. The rule uses the 95% interval of left
minus right, paired by run and test item; over several runs it contains the variance of training (`intervals.py`).
- `greater` holds if the lower end is above 0, fails if the upper end is below 0, and is open otherwise.
- `less` is the mirror image.
- `about_equal` holds if the whole interval lies within the tolerance and fails if it lies wholly outside.
- `at_most_factor` holds if left divided by right stays below the bound.
`each` requires the relation in every task; `mean` applies the relation to the mean over tasks. A row shows the interval
that decided: for `each` that of the least favourable task, which `decided_by` names. A `remark` says where a verdict
rests on part of the tasks, where the difference is too small to matter, and where the paper's own numbers contradict its
claim, and where it rests on one training run. `short` says what the result lacks of the registered runs, test products
and questions.

`board` decides claims on answers, in chapter 20 and in chapters with other systems. `measured` decides claims on other
measurements of a chapter (latency, equality, interruptions). `pooled_claims` decides again over several runs of a
chapter. The report joins the chapters' tables of claims.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from functools import cache

import pandas as pd
from scipy.linalg import block_diag

from mtive_nb.evaluate.continual import replay_name
from mtive_nb.evaluate.design import DesignError, load_design, papers_claims, shortfall
from mtive_nb.evaluate.differences import DIFFERENCES, mean_of
from mtive_nb.evaluate.intervals import Interval, bootstrap_sums, over_runs
from mtive_nb.evaluate.judge.rule import judge_all
from mtive_nb.evaluate.metrics import abstentions, facts_of
from mtive_nb.evaluate.runs import Asked

BOARD_FIELDS = (
    "claim", "statement", "priority", "kind", "verdict", "decided_by", "gain", "low", "high", "by_task", "remark", "short",
    "n", "products", "seeds", "published", "unit", "support", "intervals",
)  # fmt: skip
SHOWN = [
    "statement", "priority", "kind", "verdict", "decided_by", "gain", "low", "high", "by_task", "remark", "short", "published",
    "support",
]  # fmt: skip
# What a paper itself shows for its claim, by the field `support` of claims.yaml.
SUPPORT = {
    "table": "printed", "mixed": "printed, on some tasks only", "contradicted": "contradicted by its own numbers",
    "text": "said without numbers", "derived": "derived from its numbers", "structural": "by design",
}  # fmt: skip
HOLDS, FAILS, OPEN = "holds", "does not hold", "open"
VERDICTS = (HOLDS, OPEN, FAILS)
SMALL = "smaller than what matters"  # a remark; the verdict stays
NOT_MEASURED = "not measured in this run"
ONE_RUN = "one run, without the variance of training"
# Names of claims.yaml -> rows of our tables.
SYSTEMS = {
    "base_zs": "zero-shot",
    "base_sl": "Base_SL",
    "base_moe": "Base_MoE",
    "base_mtl": "Base_MTL",
    "mtive_pt": "MTIVE_PT",
    "mtive_it": "MTIVE_IT",
    "mtive_sl": "MTIVE_SL",
    "mtive_mtl": "MTIVE_MTL",
    **{f"base_sl_rep{100 * share:.0f}": replay_name(share) for share in (0.0, 0.01, 1.0)},
}
# What design.yaml lets the bootstrap draw -> the frames' column.
DRAWN = {"product": "product_id", "item": "id"}
# Metrics of claims.yaml -> the frame with the metric (see `judged_run`) and the frame's column.
METRICS = {
    "judge_accuracy": ("judged", "accuracy"),
    "accuracy": ("judged", "accuracy"),
    "hallucination_rate": ("judged", "hallucination"),
    "f1_weighted": ("yes_no", "answer"),
    "abstention_f1_on_unanswerable": ("abstained", "answer"),
}


@cache
def load_claims() -> tuple[dict, ...]:
    """Load every claim of the four papers, with the registered tolerance or bound."""
    registered = {**load_design().claims, **load_design().if_here}
    limits = {name: {"tolerance": one.tolerance, "bound": one.bound} for name, one in registered.items()}
    return tuple(claim | {"test": claim["test"] | limits.get(claim["id"], {})} for claim in papers_claims())


def find_claim(claim_id: str) -> dict:
    """Return the claim with this id. Errors: KeyError for an unknown id."""
    return {claim["id"]: claim for claim in load_claims()}[claim_id]


def verdict(
    low: float, high: float, *, relation: str, tolerance: float | None = None, bound: float | None = None
) -> str:
    """Return HOLDS, FAILS or OPEN for an interval of left minus right (`at_most_factor`: left divided by right).

    Errors: ValueError for an unknown relation.
    """
    if relation == "about_equal":
        inside, outside = -tolerance <= low and high <= tolerance, high < -tolerance or low > tolerance
        return HOLDS if inside else FAILS if outside else OPEN
    if relation == "at_most_factor":
        return HOLDS if high <= bound else FAILS if low > bound else OPEN
    if relation not in ("greater", "less"):
        raise ValueError(f"relation: found {relation!r}, expected greater, less, about_equal or at_most_factor")
    if relation == "less":
        low, high = -high, -low
    return HOLDS if low > 0 else FAILS if high < 0 else OPEN


def _rule(claim: Mapping) -> dict:
    """Return a claim's relation, tolerance and bound, the options of `verdict`."""
    return {name: claim["test"].get(name) for name in ("relation", "tolerance", "bound")}


def _decided(found: Mapping[str, Interval], rule: Mapping, *, mean: Interval | None = None) -> dict:
    """Return verdict, decided_by, gain, low, high, n and by_task; without a mean the least favourable task decides."""
    verdicts = {task: verdict(one.low, one.high, **rule) for task, one in found.items()}
    ranks = {task: ((FAILS, OPEN, HOLDS).index(verdicts[task]), _slack(one, **rule)) for task, one in found.items()}
    decisive = "mean" if mean else min(ranks, key=ranks.get)
    one = mean or found[decisive]
    ends = one.row("gain") | {"products": one.groups}
    by_task = ", ".join(f"{task} {said}" for task, said in verdicts.items())
    all_ends = {task: astuple(v) for task, v in ({"mean": mean} if mean else found).items()}
    said = {"verdict": verdict(one.low, one.high, **rule), "decided_by": decisive, **ends, "by_task": by_task}
    return said | {"intervals": json.dumps(all_ends)}


def _slack(one: Interval, *, relation: str, tolerance: float | None, bound: float | None) -> float:
    """Return how far the interval's worse end is from the claim's limit; negative where the claim does not hold."""
    if relation == "about_equal":
        return tolerance - max(abs(one.low), abs(one.high))
    if relation == "at_most_factor":
        return bound - one.high
    return one.low if relation == "greater" else -one.high


def judged_run(
    records: Sequence[dict], answers: Mapping[str, Sequence[str]], vocabulary: dict, *, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """Return the frames by name that `board` needs, from every system's answers, one answer per record.

    judged: the judge's scores of open-ended answers. yes_no: answers to yes/no questions, with labels. abstained: for
    each asked fact, whether the photo does not show it (label) and whether the system says so (answer).
    """
    judged, yes_no, abstained = [], [], []
    for system in (s for s in SYSTEMS.values() if s in answers):
        said = list(zip(records, answers[system], strict=True))
        polar = [(record, answer) for record, answer in said if record["variant"] == "bin"]
        yes_no += [_about(r, system, seed) | {"label": r["label"], "answer": a} for r, a in polar]
        asked = [record for record in records if record["variant"] != "bin"]
        open_ended = [answer for record, answer in said if record["variant"] != "bin"]
        judged.append(judge_all(asked, open_ended, vocabulary).assign(system=system, seed=seed))
        for record, answer in zip(asked, open_ended, strict=True):
            for attribute, (there_is_none, said_so) in abstentions(answer, (facts_of(record) or ({},))[0]).items():
                about = _about(record, system, seed) | {"id": f"{record['id']} {attribute}"}
                abstained.append(about | {"label": there_is_none, "answer": said_so})
    return {"judged": pd.concat(judged), "yes_no": pd.DataFrame(yes_no), "abstained": pd.DataFrame(abstained)}


def _about(record: Mapping, system: str, seed: int) -> dict:
    return {key: record[key] for key in ("id", "product_id", "task")} | {"system": system, "seed": seed}


def measured(
    claim_id: str, values: Mapping[str, Interval | float], *, n: int | None = None, unit: str | None = None,
    remark: str = "",
) -> dict:  # fmt: skip
    """Return a row of the board for a claim that a chapter measured itself.

    values: left minus right (`at_most_factor`: left divided by right) by task, or by another unit for which the claim
    must hold; a number without an interval is exact. n: sample size of each exact number. unit: of the values, where it
    is not that of the paper's margin, which the row then leaves out. remark: on what the verdict rests. Without values,
    the claim is not measured.
    Errors: KeyError for an unknown claim, DesignError for one that is not registered.
    """
    claim = find_claim(claim_id)
    if not load_design().find(claim_id):
        raise DesignError(f"claim {claim_id}: not registered; add its entry to claims in evaluate/design.yaml first")
    if not values:
        return _row(claim, {"verdict": NOT_MEASURED})
    found = {task: v if isinstance(v, Interval) else Interval(v, v, v, n or 1) for task, v in values.items()}
    row = _row(claim, _decided(found, _rule(claim)) | {"seeds": 1, "remark": remark})
    return row | {"unit": unit, "published": None} if unit else row


def not_testable(claim_id: str) -> dict:
    """Return a row of the board for a claim that this machine cannot decide, with the reason.

    Errors: KeyError for an unknown claim.
    """
    claim = find_claim(claim_id)
    return _row(claim, {"verdict": f"not testable here: {claim['testable_why']}"})


def decide(claim: Mapping, frames: Mapping[str, pd.DataFrame], *, resamples: int = 2000, seed: int = 0) -> dict | None:
    """Decide one claim on answers; None where the frames lack its systems, metric or tasks. frames: from `judged_run`.

    Result: verdict, decided_by (a task, or `mean`), its gain, low, high (left minus right: points, or F1 in [0, 1]) and
    n, by_task, remark, seeds. Abstention counts only tasks with at least one asked fact that the photo does not show;
    `remark` names the others.
    """
    test = claim["test"]
    pair = [SYSTEMS.get(str(test[side])) for side in ("left", "right")]
    name, column = METRICS.get(test["metric"], ("", ""))
    table = frames.get(name)
    if table is None or table.empty or not set(pair) <= set(table["system"]):
        return None
    tasks = [t for t in test["tasks"] if name != "abstained" or table.loc[table["task"] == t, "label"].any()]
    if not tasks or not set(tasks) <= set(table["task"]):
        return None
    items = ["task", "product_id", "seed", "id"] + (["label"] if column == "answer" else [])
    wide = table.pivot_table(index=items, columns="system", values=column, aggfunc="first")[pair].dropna()
    entry = load_design().find(claim["id"])
    unit, options = DRAWN[entry.drawn if entry else "product"], {"resamples": resamples, "seed": seed}
    found, parts, groups = {}, [], []
    for task in tasks:
        part = wide.loc[task]
        features, statistic = DIFFERENCES[name](part, *pair)
        own = list(zip(*map(part.index.get_level_values, ("seed", unit)), strict=True))
        found[task] = bootstrap_sums(features, statistic, groups=own, **options)
        parts, groups = [*parts, (features, statistic)], groups + own
    here, mean = wide[wide.index.get_level_values("task").isin(tasks)], None
    if test["over_tasks"] == "mean":  # a product is drawn with its questions of all tasks
        mean = bootstrap_sums(
            block_diag(*(features for features, _ in parts)), mean_of(parts), groups=groups, **options
        )
    row = _decided(found, _rule(claim), mean=mean)
    missing = [task for task in test["tasks"] if task not in tasks]
    remark = f"{row['verdict']} on {', '.join(tasks)}; not asked on {', '.join(missing)}" if missing else ""
    return row | {"remark": remark, "seeds": here.index.get_level_values("seed").nunique()}


def decided_again(claim_id: str, asked: Asked, instead: Mapping[str, Mapping[str, str]], *, seed: int = 0,
                  tasks: Sequence[str] | None = None) -> dict:  # fmt: skip
    """Decide one claim with some answers replaced, to measure what a single change does to the gap.

    asked: from `read_answers`. instead: {system: {record id: answer}}; records without a replacement keep their answer,
    and {} decides the claim unchanged. tasks: decide on the mean over these tasks of the claim; default: by its own rule,
    over all. Result: as from `decide`.
    Errors: ValueError for a system or a task outside the claim.
    """
    claim = find_claim(claim_id)
    test = claim["test"]
    rule = test if tasks is None else test | {"tasks": list(tasks), "over_tasks": "mean"}
    systems, tasks = [SYSTEMS[test[side]] for side in ("left", "right")], rule["tasks"]
    if foreign := [*(set(instead) - set(systems)), *(set(tasks) - set(test["tasks"]))]:
        raise ValueError(f"claim {claim_id}: found {foreign}; it compares {systems} on {test['tasks']}")
    records, table, vocabulary = asked
    kept = [i for i, record in enumerate(records) if record["task"] in tasks]
    said = table.iloc[kept]
    answers = {s: [instead.get(s, {}).get(i, a) for i, a in zip(said["id"], said[s], strict=True)] for s in systems}
    frames = judged_run([records[i] for i in kept], answers, vocabulary, seed=seed)
    return decide({**claim, "test": rule}, frames, seed=seed)


def board(
    claims: Sequence[Mapping], frames: Mapping[str, pd.DataFrame], *, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Return one row per claim with its verdict, or the reason why it is undecided. frames: from `judged_run`.

    Columns: BOARD_FIELDS; `published` is the margin in the paper, of the deciding task where the paper prints it;
    `support` is what the paper itself shows for it (SUPPORT).
    """
    rows = []
    for claim in claims:
        found = decide(claim, frames, resamples=resamples, seed=seed)
        if found is None:
            no = claim["testable_small_scale"] == "no"
            found = {"verdict": f"not testable here: {claim['testable_why']}" if no else NOT_MEASURED}
        rows.append(_row(claim, found))
    texts = dict.fromkeys(("by_task", "decided_by", "intervals"), object)
    return pd.DataFrame(rows, columns=list(BOARD_FIELDS)).astype(texts)


def claims_of_run(
    records: Sequence[dict], answers: Mapping[str, Sequence[str]], vocabulary: dict, *, further: Sequence[dict] = ()
) -> pd.DataFrame:
    """Return a chapter's board of MTIVE's claims: decided claims on its answers, then `further` rows of `measured`."""
    claims = board([c for c in load_claims() if c["paper"] == "mtive"], judged_run(records, answers, vocabulary))
    return pd.concat([claims[claims["n"].notna()], pd.DataFrame(further)], ignore_index=True)


def pooled_claims(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Decide claims over several runs of one chapter, each with its own shop and training seed.

    tables: the runs' tables of claims. A claim counts that every run decided, on the tasks that every run has; its
    interval is that of the runs' values (`over_runs`). Errors: KeyError for an unknown claim.
    """
    rows = []
    for claim_id in tables[0].loc[tables[0]["n"].notna(), "claim"]:
        of_runs = [table[(table["claim"] == claim_id) & table["n"].notna()] for table in tables]
        if any(of_run.empty for of_run in of_runs):
            continue
        found = [json.loads(of_run["intervals"].iloc[0]) for of_run in of_runs]
        tasks = [task for task in found[0] if all(task in one for one in found)]
        values = {task: over_runs([Interval(*one[task]) for one in found]) for task in tasks}
        claim, first = find_claim(claim_id), of_runs[0].iloc[0]
        remark = "; ".join(part for part in str(first["remark"]).split("; ") if part.startswith("not asked on"))
        rows.append(_row(claim, _decided(values, _rule(claim)) | {"seeds": len(tables), "remark": remark}))
        if first["unit"] != rows[-1]["unit"]:  # the chapter measured in another unit than the paper
            rows[-1] |= {"unit": first["unit"], "published": None}
    return pd.DataFrame(rows, columns=list(BOARD_FIELDS))


def _row(claim: Mapping, found: Mapping) -> dict:
    """Return a row of the board from a claim and its result."""
    about = {"claim": claim["id"], "statement": " ".join(claim["statement"].split()), "priority": claim["priority"]}
    against = "the paper's own numbers contradict its claim" if claim.get("support") == "contradicted" else ""
    entry, short, small, once = load_design().find(claim["id"]), "", "", ""
    if entry and found.get("n"):
        tasks = max(1, len(claim["test"]["tasks"])) if found["decided_by"] == "mean" else 1
        products = {"product": found["products"], "item": found["n"]}.get(entry.drawn, entry.products)
        short = shortfall(vars(entry), runs=found["seeds"], products=products, questions=int(found["n"] / tasks))
        small = too_small(vars(entry), found)
        once = ONE_RUN if entry.kind != "exact" and found["seeds"] == 1 else ""
    remark = "; ".join(filter(None, (found.get("remark"), small, once, against)))
    about |= {"kind": entry.kind if entry else None, "short": short}
    printed = claim["test"].get("margin_published") or {}
    of_task = claim["test"].get("margin_by_task") or {}
    published = of_task.get(found.get("decided_by"), printed.get("value"))
    unit = entry.unit if entry else printed.get("unit")
    shown = {"published": published, "unit": unit, "support": SUPPORT.get(claim.get("support"), "")}
    return about | dict(found) | {"remark": remark} | shown


def too_small(asked: Mapping, found: Mapping) -> str:
    """Return that a result surely lies within the smallest difference that matters to `asked`, or an empty text."""
    within = asked["smallest"] and max(abs(found["low"]), abs(found["high"])) < asked["smallest"]
    unit = asked.get("unit", "points")
    return f"{SMALL}, {asked['smallest']:g} ({unit.replace('_', ' ')})" if within else ""
