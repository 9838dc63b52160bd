"""Figures of an answer's attention: words coloured by their scores, and photos overlaid with their weights."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from mtive_nb.data.photos import load_image
from mtive_nb.evaluate.grounding.attention import AnswerAttention
from mtive_nb.show.style import new_figure

LINE_CHARS = 70


def _words(answer: str, found: AnswerAttention) -> list[tuple[str, float]]:
    """Return the answer's words, each with the mean score of its tokens."""
    scores, words, at = found.token_scores(), [], 0
    for word in answer.split():
        start = answer.index(word, at)
        at = start + len(word)
        words.append((word, float(scores[found.inside((start, at))].mean())))
    return words


def _write_words(axes: Axes, words: list[tuple[str, float]]) -> None:
    """Write words in lines, each on a colour: pale where the image mattered least, dark where most."""
    low, high = min(s for _, s in words), max(s for _, s in words)
    x, y = 0, 0
    for word, score in words:
        if x and x + len(word) > LINE_CHARS:
            x, y = 0, y + 1
        strength = 0.08 + 0.6 * (score - low) / max(high - low, 1e-12)
        box = {"facecolor": colormaps["YlOrRd"](strength), "edgecolor": "none", "boxstyle": "square,pad=0.25"}
        axes.text(x, -y, word, fontsize=8.5, family="monospace", bbox=box, va="center", parse_math=False)
        x += len(word) + 1
    axes.set(xlim=(-1, LINE_CHARS + 2), ylim=(-max(y, 2) - 0.8, 0.8))
    axes.axis("off")


def _lay_weights(axes: Axes, path: Path, weights: np.ndarray | None, largest: float) -> None:
    """Draw a photo overlaid with the weights (rows, columns) of its tokens, if known: clear for low weights, red for high."""
    image = load_image(path)
    axes.imshow(image)
    if weights is None:
        return
    strength = np.asarray(Image.fromarray((weights / largest).astype(np.float32)).resize(image.size)).clip(0, 1)
    axes.imshow(strength, cmap="autumn_r", alpha=0.75 * strength)


def grounding_figure(
    rows: Sequence[tuple[Sequence[Path], str, AnswerAttention]], *, captions: Sequence[str] = (), title: str = ""
) -> Figure:
    """Plot one row per answer: its photos overlaid with the mean attention of its tokens, and its words by score.

    `rows` are (photos, answer, attention of its tokens with maps and grids); `captions` stand above the words.
    """
    most = max(len(photos) for photos, _, _ in rows)
    figure = new_figure(6.55 + 1.45 * most, 1.35 * len(rows) + (0.3 if title else 0))
    grid = figure.subplots(len(rows), most + 1, squeeze=False, width_ratios=(*[1] * most, 4.4))
    for k, ((photos, answer, found), (*places, text)) in enumerate(zip(rows, grid, strict=True)):
        weights = found.maps.mean(0)  # (V,), the images concatenated
        parts = [None] * len(photos)  # of a family whose tokens have no grid, the photo alone
        if found.grids:
            cuts = np.cumsum([high * wide for high, wide in found.grids])[:-1]
            parts = [p.reshape(shape) for p, shape in zip(np.split(weights, cuts), found.grids, strict=True)]
        for axes in places:
            axes.axis("off")
        for axes, photo, part in zip(places, photos, parts, strict=False):
            _lay_weights(axes, photo, part, weights.max())
        _write_words(text, _words(answer, found))
        text.set_title(captions[k] if captions else "", loc="left", fontsize=9, parse_math=False)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure
