"""What the frozen vision tower knows of real photos: linear probes on photos of public sets (notebook 00).

A probe is a logistic regression on the mean patch of the tower's last block, or on the mean merged token. It learns
from the labels of training photos and is scored on validation photos, which neither the base nor its teacher has seen.
A pair asks whether a phone photo and a catalogue photo show one product (`pair_features`).

Shapes: N photos, W width of the tower, D width of the language model.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from mtive_nb.data.sources import load_grocery
from mtive_nb.evaluate.frozen_probe import Features, linear_probe, pair_features
from mtive_nb.model.imagenet import centre_view, open_photo
from mtive_nb.pocket.distill import for_student


def tower_features(model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, *, merged: bool = False, batch: int = 32) -> Features:  # fmt: skip
    """Return a function from photos to the mean patch of the tower's last block, after its norm: (N, W).

    `merged`: the mean merged token instead, which is what the language model reads: (N, D).
    """
    tower = model.model.visual

    def features(paths: list[Path]) -> np.ndarray:
        rows = []
        for start in range(0, len(paths), batch):
            views = np.stack([np.asarray(centre_view(open_photo(path))) for path in paths[start : start + batch]])
            given = processor.image_processor(images=for_student(views), return_tensors="pt").to(model.device)
            with torch.inference_mode():
                out = tower(given["pixel_values"].to(model.dtype), grid_thw=given["image_grid_thw"])
                states = out.pooler_output if merged else tower.merger.ln_q(out.last_hidden_state)
            rows.append(states.view(len(views), -1, states.shape[-1]).mean(1).float().cpu().numpy())
        return np.concatenate(rows)

    return features


def _classes(train: np.ndarray, labels: list, test: np.ndarray, truth: list) -> float:
    return float(linear_probe().fit(train, labels).score(test, truth))


def grocery_probes(features: Features, *, folder: Path, seed: int = 0) -> list[dict]:
    """Probe fine (81) and coarse (43) classes and pairs on GroceryStore: trained on `train`, scored on `val`.

    Pairs of a phone photo with the catalogue photo of its product and with one of the same coarse class, if any.
    """
    shop = load_grocery(folder)
    products = {p.product_id: p for p in shop.products}
    rows = {s: [f for f in shop.feedback if shop.splits[f.feedback_id] == s] for s in ("train", "test")}
    photos = {s: features([shop.root / f.images[0] for f in part]) for s, part in rows.items()}
    own = features([shop.root / p.images[0] for p in shop.products])
    place = {p: k for k, p in enumerate(products)}
    found = []
    for level, label in (("fine", lambda f: f.product_id), ("coarse", lambda f: products[f.product_id].category)):
        labels = {s: [label(f) for f in part] for s, part in rows.items()}
        score = _classes(photos["train"], labels["train"], photos["test"], labels["test"])
        found.append(
            {"probe": f"groceries, {level} class", "n": len(rows["test"]), "metric": "accuracy", "value": score}
        )
    pairs, verdicts = {}, {}
    for split, part in rows.items():
        rng = np.random.default_rng([seed, len(part)])
        looks, verdicts[split] = [], []
        for k, row in enumerate(part):
            others = [p for p in products if p != row.product_id]
            near = [p for p in others if products[p].category == products[row.product_id].category]
            looks += [(k, place[row.product_id]), (k, place[str(rng.choice(near or others))])]
            verdicts[split] += [True, False]
        photo, product = np.array(looks).T
        pairs[split] = pair_features(photos[split][photo], own[product])
    model = linear_probe().fit(pairs["train"], verdicts["train"])
    score = roc_auc_score(verdicts["test"], model.decision_function(pairs["test"]))
    return [*found, {"probe": "groceries, pairs", "n": len(verdicts["test"]), "metric": "AUROC", "value": float(score)}]


def clothing_probe(features: Features, *, folder: Path) -> list[dict]:
    """Probe the 10 classes of clothing-dataset-small: trained on `train`, scored on `validation`."""
    photos = {s: sorted((folder / s).rglob("*.jpg")) for s in ("train", "validation")}
    (train, labels), (test, truth) = ((features(paths), [p.parent.name for p in paths]) for paths in photos.values())
    return [{"probe": "clothes", "n": len(test), "metric": "accuracy", "value": _classes(train, labels, test, truth)}]


def real_probes(systems: dict[str, Features], *, data: Path) -> pd.DataFrame:
    """Return a row a probe, a column a system, on the sets below `data`."""
    frames = {}
    for name, features in systems.items():
        rows = grocery_probes(features, folder=data / "GroceryStoreDataset")
        rows += clothing_probe(features, folder=data / "clothing-dataset-small")
        frames[name] = pd.DataFrame(rows).set_index(["probe", "metric", "n"])["value"]
    return pd.DataFrame(frames)
