"""How far may a temperature, fitted to a task's few validation answers, leave 1? Answered on validation answers alone.

    python benchmarks/temperature.py [pocket pocket1 pocket2 ...] [--spreads 0.01 0.1 0.25 0.5 1 10]

`evaluate/probability.py` fits a temperature under the prior log temperature ~ N(0, spread): near 0 it stays at 1, far
above 1 the answers alone decide. For each profile with results of 01 and 04 to 06, each expert answers the yes/no
questions of the split val. In five folds of products, the temperature fitted to four is scored on the fifth. Prints a
JSON line for each spread: the mean over profiles, tasks and answers of -log p(right or wrong as it was), and in how many
tasks of a profile it is below that of T = 1; last the best spread.
"""

import argparse
import json

import numpy as np
import pandas as pd

import mtive_nb as m
from mtive_nb.data.emdiv.build import tasks_with_questions
from mtive_nb.evaluate.probability import Choice, choices_of_experts, fit_temperature
from mtive_nb.model.experts import expert_name
from mtive_nb.run.graph import find_project
from mtive_nb.serve.versions import run_folder

TASKS, FOLDS = ("AE", "DD", "PM", "EX"), 5


def choices_on_val(profile: str) -> pd.DataFrame:
    """Return the choices of the profile's experts on yes/no questions of val, as `choices_of_experts` does."""
    outputs = find_project().outputs / profile
    folders = {chapter: run_folder(outputs, chapter) for chapter in ("01", "04", "05", "06")}
    records = m.load_records(folders["01"] / "records" / "emdiv.jsonl")
    own = {task: expert_name(task) for task in tasks_with_questions(records, TASKS)}
    experts = [(folders["06"] / "stack", name) for name in own.values()]
    stack = m.open_stack((folders["04"] / "stack", "PT"), (folders["05"] / "stack", "IT"), *experts)
    return choices_of_experts(stack, own, [r for r in records if r["split"] == "val"])


def losses(choices: pd.DataFrame, spread: float | None, *, seed: int = 0) -> np.ndarray:
    """Return each choice's -log p(right or wrong as it was), its temperature fitted to the other folds (None: T = 1)."""
    products = choices["product_id"].unique()
    fold_of = dict(zip(products, np.random.default_rng(seed).permutation(len(products)) % FOLDS, strict=True))
    fold, right = choices["product_id"].map(fold_of).to_numpy(), choices["right"].to_numpy(float)
    said: list[Choice] = list(choices["choice"])
    found = np.zeros(len(said))
    for k in range(FOLDS):
        others = [c for c, f in zip(said, fold, strict=True) if f != k]
        t = fit_temperature(others, right[fold != k], spread=spread) if spread else 1.0
        sure = np.clip([c.confidence(t) for c, f in zip(said, fold, strict=True) if f == k], 1e-12, 1 - 1e-12)
        found[fold == k] = -np.where(right[fold == k] == 1, np.log(sure), np.log1p(-sure))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profiles", nargs="*", default=["pocket"])
    parser.add_argument("--spreads", type=float, nargs="+", default=[0.01, 0.1, 0.25, 0.5, 1, 10])
    given = parser.parse_args()
    cases = [
        case for profile in given.profiles for _, case in choices_on_val(profile).groupby(["task", "kind"], sort=False)
    ]
    fixed, means = [losses(case, None).mean() for case in cases], {}
    about = {"unit": "nats", "better": "lower", "cases": len(cases), "answers": sum(map(len, cases))}
    print(json.dumps({"metric": "loss", "spread": None, "value": round(float(np.mean(fixed)), 4)} | about))
    for spread in given.spreads:
        each = [losses(case, spread).mean() for case in cases]
        means[spread] = float(np.mean(each))
        better = int(np.sum(np.less(each, fixed)))
        row = {"metric": "loss", "spread": spread, "value": round(means[spread], 4), "below T = 1": better}
        print(json.dumps(row | about), flush=True)
    print(json.dumps({"metric": "best spread", "value": min(means, key=means.get), "unit": "1", "better": "none"}))


if __name__ == "__main__":
    main()
