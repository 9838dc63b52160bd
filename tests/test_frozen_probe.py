"""Frozen probes beside the experts: they find what features hold, and no more."""

import numpy as np

from mtive_nb.evaluate.frozen_probe import pair_features, probe_scores


def record(k, split, *, category="", label=None, images=("a",)):
    asked = {"match": label} if label else {"category": category}
    return {"id": f"{split}{k}", "product_id": f"{split}{k}", "task": "PM" if label else "AE", "variant": "bin" if label else "gen",
            "images": list(images), "label": label, "facts": {"asked": asked, "known": asked}}  # fmt: skip


def records(split, n=60):
    """Photos whose names say what they show: kind and number."""
    kinds = ("apple", "milk", "rice")
    single = [record(k, split, category=kinds[k % 3], images=[f"{split}/{kinds[k % 3]}-{k}"]) for k in range(n)]
    pairs = []
    for k in range(n):
        other = kinds[(k + (k // 3) % 2) % 3]
        label = "yes" if other == kinds[k % 3] else "no"
        pairs.append(record(k, split, label=label, images=[f"{split}/{kinds[k % 3]}-{k}", f"{split}/{other}-x{k}"]))
    return single + pairs


def features(paths):
    kinds = ("apple", "milk", "rice")
    return np.array([[float(p.name.startswith(kind)) for kind in kinds] for p in paths])


def noise(paths):
    return np.random.default_rng(len(paths)).normal(size=(len(paths), 4))


def test_a_probe_reads_what_the_features_hold_and_nothing_from_noise():
    found = probe_scores(records("train"), records("test"), features, system="probe").set_index("column")
    assert found.loc["AE/category", "value"] == 1.0 and found.loc["AE/category", "n"] == 60
    assert found.loc["PM/Acc binary", "value"] == 1.0
    blind = probe_scores(records("train"), records("test"), noise, system="probe").set_index("column")
    assert blind.loc["AE/category", "value"] < 0.6 and blind.loc["PM/Acc binary", "value"] < 0.75


def test_a_task_without_questions_has_no_row():
    of_attributes = [r for r in records("train") if r["task"] == "AE"]
    found = probe_scores(of_attributes, records("test"), features, system="probe")
    assert list(found["column"]) == ["AE/category"]
    assert probe_scores([], records("test"), features, system="probe").empty


def test_a_pair_has_products_and_distances():
    left, right = np.array([[1.0, 2.0]]), np.array([[3.0, 0.5]])
    assert pair_features(left, right).tolist() == [[3.0, 1.0, 2.0, 1.5]]
