"""Cut-outs of broken cookies: both classes from the same photos, and no border that gives the answer away."""

import os
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mtive_nb.data.catalogue import Catalogue, Feedback, Product
from mtive_nb.data.crops import PRODUCT, SIDE_PX, crop_damage, read_mask
from mtive_nb.data.sources import load_cookies


@pytest.fixture(scope="module")
def cookies():
    if not os.environ.get("MTIVE_DATA"):
        pytest.skip("MTIVE_DATA is not set: the cut-outs are NOT tested on the real photos")
    return load_cookies()


@pytest.fixture(scope="module")
def crops(cookies, tmp_path_factory):
    return crop_damage(cookies, tmp_path_factory.mktemp("crops"))


def auroc_of_borders(catalogue: Catalogue, groups: list[str]) -> tuple[float, float, float]:
    """AUROC of a 3-pixel border of 32x32 thumbnails, photos held out in turn, with its 95% interval over photos."""
    border = np.ones((32, 32), dtype=bool)
    border[3:-3, 3:-3] = False
    photos = [Image.open(catalogue.root / row.images[0]).convert("RGB") for row in catalogue.feedback]
    x = np.stack([np.asarray(photo.resize((32, 32), Image.Resampling.BOX))[border].ravel() for photo in photos])
    y = np.array([row.facts["damaged"] for row in catalogue.feedback])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    cut = GroupKFold(8)
    p = cross_val_predict(probe, x.astype(float), y, groups=groups, cv=cut, method="predict_proba")[:, 1]
    rng, names, drawn = np.random.default_rng(0), np.unique(groups), []
    places = {name: np.flatnonzero(np.array(groups) == name) for name in names}
    for _ in range(400):
        some = np.concatenate([places[name] for name in rng.choice(names, len(names))])
        drawn += [roc_auc_score(y[some], p[some])] if 0 < y[some].mean() < 1 else []
    return roc_auc_score(y, p), *np.quantile(drawn, [0.025, 0.975])


def test_whole_photos_of_cookies_are_confounded_and_their_cut_outs_are_not(cookies, crops):
    value, low, _ = auroc_of_borders(cookies, [row.feedback_id for row in cookies.feedback])
    assert value > 0.9 and low > 0.8  # the probe finds what is there to find
    value, low, high = auroc_of_borders(crops, [row.feedback_id.rsplit("-", 2)[0] for row in crops.feedback])
    assert low < 0.5 < high and abs(value - 0.5) < 0.08, (value, low, high)


def test_both_classes_come_from_the_photos_of_broken_cookies(cookies, crops):
    counts = Counter((crops.splits[row.feedback_id], row.facts["damaged"]) for row in crops.feedback)
    assert all(counts[split, True] == counts[split, False] >= 15 for split in ("train", "val", "test")), counts
    rows = {row.feedback_id: row for row in cookies.feedback}
    for row in crops.feedback:
        source = rows[row.feedback_id.rsplit("-", 2)[0]]
        assert source.facts["damaged"] and crops.splits[row.feedback_id] == cookies.splits[source.feedback_id]
        assert (row.facts["damage_box"] is not None) == row.facts["damaged"] == (row.facts["damage"] == "crack")
        with Image.open(crops.root / row.images[0]) as image:
            assert image.size == (SIDE_PX, SIDE_PX)


def test_windows_hold_the_damage_or_none_of_it(tmp_path):
    """A pale disc on a dark tray with a dark slit: exact places, without real photos."""
    y, x = np.mgrid[:480, :400]
    disc, slit = (x - 200) ** 2 + (y - 240) ** 2 < 170**2, (abs(x - 200) < 14) & (y < 200)
    pixels = np.where((disc & ~slit)[..., None], (220, 180, 120), (50, 50, 55)).astype(np.uint8)
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "a.png")
    mask = np.zeros((480, 400, 3), dtype=np.uint8)
    mask[..., 1] = 164 * (disc & slit)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    facts = {"damaged": True, "damage": "crack", "damage_mask": "mask.png"}
    rows = [Feedback("a", "P", "", ("images/a.png",), facts), Feedback("b", "P", "", ("images/a.png",), None)]
    product = Product("P", "Disc", "", "disc", "disc", {}, ("images/a.png",))
    made = crop_damage(
        Catalogue("discs", tmp_path, [product], rows, splits={"a": "test", "b": "test"}), tmp_path / "out"
    )
    assert made.name == "discs-crops" and set(made.splits.values()) == {"test"} and len(made.feedback) >= 2
    assert (read_mask(tmp_path / "mask.png") == disc & slit).all()
    for row in made.feedback:
        cut = np.asarray(Image.open(made.root / row.images[0]).convert("RGB"))
        assert (cut[..., 0] > 110).mean() > PRODUCT - 0.05
        if row.facts["damaged"]:
            x0, y0, x1, y1 = row.facts["damage_box"]
            inside = cut[y0:y1, x0:x1, 0]
            assert 0 <= x0 < x1 <= SIDE_PX and 0 <= y0 < y1 <= SIDE_PX and (inside < 110).mean() > 0.5
