"""Do CASLIE's verdicts depend on chance in training? The text arms of chapter 15, trained again with other seeds.

    python benchmarks/training_seeds.py pocket --seeds 1 2 [--arms uniM3 UIA CASLIE context-free]

Chapter 15 must have run in the profile: rows, captions and votes are those of its run, settings those of the profile, and
only the seed changes, which draws an adapter's first weights and the order of the records. Prints a JSON line for each
claim that compares two of the arms: its value with a seed, by the chapter's own rule (points; the mean over tasks, or the
task that decides, which may differ by seed). The chapter's own seed stands among them. Then a line for the standard
deviation over seeds, for claims that are means. Answers are kept in --out: an interrupted call goes on after the last arm.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
from search_rates import Arm, Chapters, of_15, of_split

import mtive_nb as m
from mtive_nb.data.commerce.fuse import ANSWER_TOK, labels_said
from mtive_nb.evaluate.commerce.claims import commerce_claims
from mtive_nb.model.train import steps_for
from mtive_nb.run.atomic import write_atomic
from mtive_nb.run.stale import read_run
from mtive_nb.serve.score import CASLIE_ARMS


def answers_with(arm: Arm, given: dict, asked: list[dict], *, seed: int) -> list[str]:
    """Train the arm once with `seed`, ask it, and take it off its stack again; given: the chapter's parameters."""
    steps = steps_for(len(arm.records), 10**6, passes=given["PASSES"], a_step=given["BATCH"] * given["ACCUMULATE"])
    training = replace(arm.common, steps=steps, rate=given["RATE"].get(arm.name, given["RATE"]["*"]), seed=seed)
    m.train_adapters(arm.stack, [m.AdapterPlan(arm.name, arm.spec, None, arm.records, training)])
    arm.stack.activate(arm.name)
    found = m.generate_answers(arm.stack, asked, batch=64, max_new_tokens=ANSWER_TOK, what=arm.name)
    arm.stack.unload(arm.name)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--arms", nargs="+", choices=CASLIE_ARMS, default=list(CASLIE_ARMS))
    parser.add_argument("--out", type=Path, help="default: outputs/PROFILE/training_seeds.json")
    asked = parser.parse_args()
    chapters = Chapters(asked.profile)
    run, given = chapters.run("15"), chapters.parameters("15")
    of_run, out = read_run(run), asked.out or chapters.folder / "training_seeds.json"
    arms = {name: of_15(chapters, name) for name in asked.arms}
    test = {name: of_split(m.load_records(run / "records" / f"{name}.jsonl"), "test") for name in arms}
    kept = json.loads(out.read_text()) if out.is_file() else {}
    found = []
    for seed in asked.seeds:
        said = {}
        for name, arm in arms.items():
            if (key := f"{of_run['started']} {name} {seed}") not in kept:
                kept[key] = answers_with(arm, given, test[name], seed=seed)
                write_atomic(out, json.dumps(kept))
            said[name] = labels_said([arm.rows[record["id"]] for record in test[name]], kept[key])
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
