"""One colour per system, one style for every figure."""

import io
from collections.abc import Iterable
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

SYSTEMS = {
    "majority": "#d9d9d9", "zero-shot": "#8b9198", "MTIVE_PT": "#bb9ceb", "MTIVE_IT": "#7f56c5", "Base_SL": "#f5b95f", "Base_MTL": "#dd7a1f",
    "Base_MoE": "#7d4310", "MTIVE_SL": "#6cc3a2", "MTIVE_MTL": "#14694d", "without stage 1": "#2f6fb0", "without stage 2": "#8fb8f5",
    "Base_SL+Replay(0%)": "#f2a9b9", "Base_SL+Replay(1%)": "#d4537e", "Base_SL+Replay(100%)": "#7d1a45",
}  # fmt: skip
# Arms of the other papers; one that is a system of above has its colour.
ARMS = {
    "commonest class": SYSTEMS["majority"], "always yes": SYSTEMS["zero-shot"], "untuned": SYSTEMS["zero-shot"],
    "uniM3": "#7db4e6", "UIA": "#2f6fb0", "CASLIE": "#14213d", "context-free": "#c94f9e", "VLM, photos": "#e0b422",
    "VLM, captions": "#8a5a00", "specialists": "#e07b39",
    "VIT-Pro": "#b3403f", "VIT-Pro (w/ ICL)": "#f0a39b", "untuned (w/ ICL)": "#4b5157", "untuned (uncut)": "#d9d9d9",
    "VIT-Pro (uncut)": "#7a1f1f", "default (OCR+IS+native)": "#b3403f", "all pairs": "#7db4e6",
    "attention filter": "#7f56c5", "random subset": "#e0b422", "grounded first": "#14694d",
    "raw": "#f0a39b", "verified": "#2f6fb0", "true": "#14213d", "native": "#6cc3a2", "square": "#e0b422",
    "after listings": "#c94f9e",
}  # fmt: skip
# What an expert stands on, in the colour of the system that it makes.
GROUNDS = {"bare base": SYSTEMS["Base_MTL"], "stage 1": SYSTEMS["MTIVE_PT"], "stages 1 and 2": SYSTEMS["MTIVE_MTL"]}
# Parts of the model that hold an adapter: vision model, connector (VLC), language model.
PARTS = {
    "VM": "#3f74b5", "VLC": "#eeca3b", "LM": "#e45756", "VLC+LM": "#f58518", "VM+LM": "#c94f9e", "VM+VLC": "#54a24b",
    "VM+VLC+LM": "#222222",
}  # fmt: skip
TASKS = {"AE": "#4c78a8", "DD": "#e45756", "PM": "#54a24b", "EX": "#b279a2", "PT": "#f58518", "PP": "#72b7b2"}
OTHERS = [*TASKS.values(), "#eeca3b", "#7a4a32", "#1b3a6b", "#f2a9b9"]  # by position
NEAR = 0.12  # colours of one figure are at least so far apart in OKLab, where black and white are 1 apart
TASK_WORDS = {
    "AE": "attributes (AE)", "DD": "damage (DD)", "PM": "matching (PM)", "EX": "dates (EX)", "PT": "packaging type (PT)",
    "PP": "placement (PP)",
}  # fmt: skip
METRIC_WORDS = {
    "Acc": "Accuracy",
    "Rel": "Relevancy",
    "Hal": "Hallucination",
    "EM": "Exact match",
    "F1w": "Weighted F1",
}
RANGES = {"points 0-100": "0-100", "fraction": "0-1", "share": "0-1", "f1": "0-1"}  # of a unit
UNITS = {"loss": "nats per token", "answer_loss": "nats per token"}  # of a column whose name leaves it out
SUFFIXES = ("ms", "s", "MiB", "px", "tok", "nat", "bits")  # units that end a column's name
ARROWS = {"higher": "higher is better", "lower": "lower is better", "none": ""}
LABEL_CHARS = 50  # of a line of an axis label
INK, GRID = "#222222", "#dddddd"
CONES = np.array([
    [0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
])  # fmt: skip  # linear sRGB -> responses of the eye's cones
OKLAB = np.array([
    [0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
])  # fmt: skip  # their cube roots -> lightness, green to red, blue to yellow


class ShownFigure(Figure):
    """A figure that Jupyter shows without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def new_figure(width: float = 8.0, height: float = 3.4) -> Figure:
    """Return a white figure, sized in inches, without pyplot's global state (widgets draw from threads)."""
    return ShownFigure(figsize=(width, height), dpi=130, layout="constrained", facecolor="white")


def tidy(axes) -> None:  # noqa: ANN001 - matplotlib's Axes
    """Give the axes a light grid and no box."""
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8)


def colour_of(name: str, k: int = 0) -> str:
    """Return the own colour of a system, arm, task or part of the model, or one by position `k`.

    "over Base_SL" and "CASLIE-M" are Base_SL and CASLIE.
    """
    name = name.removeprefix("over ").removesuffix("-M")
    return (SYSTEMS | ARMS | GROUNDS | PARTS | TASKS).get(name) or OTHERS[k % len(OTHERS)]


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each name of a figure: its own, else the first by position that is not near another."""
    names = list(names)
    found = {name: own for name in names if (own := colour_of(name)) == colour_of(name, 1)}
    for k, name in enumerate(n for n in names if n not in found):
        far = (c for c in OTHERS if all(apart(c, other) >= NEAR for other in found.values()))
        found[name] = next(far, OTHERS[k % len(OTHERS)])
    return found


def apart(one: str, other: str) -> float:
    """Return how different two colours look: their distance in OKLab (Ottosson, 2020)."""
    linear = [[c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(x)] for x in (one, other)]
    a, b = (OKLAB @ np.cbrt(CONES @ x) for x in linear)
    return float(np.linalg.norm(a - b))


def labelled(name: str) -> str:
    """Return a column's name as an axis label: "P50_ms" -> "P50, ms", "loss" -> "loss, nats per token"."""
    if name in UNITS:
        return f"{name.replace('_', ' ')}, {UNITS[name]}"
    text, _, unit = name.rpartition("_")
    return f"{text}, {unit}" if text and unit in SUFFIXES else name.replace("_", " ")


def counted(frame: pd.DataFrame) -> str:
    """Return the number of items behind a frame's values, "n = 240" or "n = 100 to 240"; empty if not known."""
    counts = sorted(set(frame["n"].dropna().astype(int))) if "n" in frame else []
    return f"n = {counts[0]:,}" + (f" to {counts[-1]:,}" if len(counts) > 1 else "") if counts else ""


def joined(*parts: str) -> str:
    """Return an axis label of its known parts: "Accuracy, 0-100, n = 240, higher is better"."""
    return ", ".join(filter(None, parts))


def two_lines(*lines: str) -> str:
    """Return an axis label of lines, each broken where it would be longer than an axis."""
    return "\n".join(fill(line, LABEL_CHARS) for line in lines if line)


def entitle(axes, title: str) -> None:  # noqa: ANN001 - matplotlib's Axes
    """Set a title that breaks into lines where it would be wider than the figure."""
    axes.set_title(fill(title, max(20, int(10 * axes.figure.get_figwidth()))), fontsize=11, parse_math=False)
