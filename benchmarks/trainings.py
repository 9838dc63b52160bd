"""Do CASLIE's verdicts depend on chance in training? The text arms of chapter 15, trained again with other seeds.

    python benchmarks/trainings.py pocket --seeds 1 2 [--arms uniM3 UIA CASLIE context-free]

Chapter 15 must have run in the profile: rows, captions, votes and all settings are its own, and only the seed changes,
which draws an adapter's first weights and the order of the records. Prints a JSON line for each claim that compares two
of the arms: its value with a seed, by the chapter's own rule (points; the mean over tasks, or the task that decides, which
may differ by seed). The chapter's own seed stands among them. Then a line for the standard deviation over seeds, for
claims that are means. Answers are kept in --out: an interrupted call goes on after the last arm.
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

import mtive_nb as m
from mtive_nb.data.commerce.fuse import ANSWER_TOK, labels_said
from mtive_nb.data.commerce.mmec import load_written
from mtive_nb.evaluate.commerce.claims import commerce_claims
from mtive_nb.model.train import steps_for
from mtive_nb.run.atomic import write_atomic
from mtive_nb.run.graph import find_project
from mtive_nb.run.stale import read_run
from mtive_nb.serve.versions import run_folder

ARMS = ("uniM3", "UIA", "CASLIE", "context-free")


def trained(given: dict, arm: str, records: list[dict], *, seed: int) -> m.LoraStack:
    """Return the text model with the arm trained by another seed, and active; given: parameters of the chapter's run."""
    stack = m.LoraStack(m.load_vlm(given["TEXT_MODEL"]))
    spec = m.AdapterSpec(given["RANK"], float(given["RANK"]), tuple(given["PLACEMENT"]))
    train = [record for record in records if record["split"] == "train"]
    steps = steps_for(len(train), 10**6, passes=given["PASSES"], a_step=given["BATCH"] * given["ACCUMULATE"])
    more = {"checkpointing": given["CHECKPOINTING"], "seed": seed}
    training = m.Training(
        steps, given["RATE"].get(arm, given["RATE"]["*"]), given["BATCH"], given["ACCUMULATE"], **more
    )
    m.train_adapters(stack, [m.AdapterPlan(arm, spec, None, train, training)])
    stack.activate(arm)
    return stack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--out", type=Path, help="default: outputs/PROFILE/trainings.json")
    asked = parser.parse_args()
    outputs = find_project().outputs / asked.profile
    run, out = run_folder(outputs, "15"), asked.out or outputs / "trainings.json"
    of_run = read_run(run)
    given = of_run["parameters"]
    with TemporaryDirectory() as aside:  # 15 wrote these rows, and has a quarantine of its own
        rows = load_written(run, given, quarantine=f"{aside}/left_out.csv")
    tested = [row for row in rows if row.split in ("test", "ood")]
    records = {arm: m.load_records(run / "records" / f"{arm}.jsonl") for arm in asked.arms}
    test = {arm: [record for record in of if record["split"] == "test"] for arm, of in records.items()}
    kept = json.loads(out.read_text()) if out.is_file() else {}
    found = []
    for seed in asked.seeds:
        said = {}
        for arm in asked.arms:
            if (key := f"{of_run['started']} {arm} {seed}") not in kept:
                stack = trained(given, arm, records[arm], seed=seed)
                kept[key] = m.generate_answers(stack, test[arm], batch=64, max_new_tokens=ANSWER_TOK, what=arm)
                write_atomic(out, json.dumps(kept))
            said[arm] = labels_said(tested, kept[key])
        found.append(commerce_claims(test[asked.arms[0]], said).assign(seed=seed))
    own = pd.read_csv(run / "tables" / "claims.csv").assign(seed=of_run["seed"])
    found = pd.concat([own[own["claim"].isin(found[0]["claim"])], *found], ignore_index=True)
    for claim in found.to_dict("records"):
        about = {"metric": claim["claim"], "value": claim["gain"], "unit": "points", "better": "none"}
        print(json.dumps(about | {k: claim[k] for k in ("seed", "low", "high", "verdict", "decided_by", "n")}))
    for name, of in found.groupby("claim", sort=False):
        if set(of["decided_by"]) == {"mean"} and len(of) > 1:
            about = {"metric": f"{name}, standard deviation over seeds", "value": of["gain"].std(), "seeds": len(of)}
            print(json.dumps(about | {"mean": of["gain"].mean(), "unit": "points", "better": "lower"}))


if __name__ == "__main__":
    main()
