"""One colour per system, one style for every figure."""

import io
from textwrap import fill

from matplotlib.figure import Figure

SYSTEMS = {
    "majority": "#d9d9d9", "zero-shot": "#8b9198", "MTIVE_PT": "#cdb5ec", "MTIVE_IT": "#7f56c5", "Base_SL": "#f7cd94", "Base_MTL": "#dd7a1f",
    "Base_MoE": "#7d4310", "MTIVE_SL": "#8fd0b8", "MTIVE_MTL": "#14694d",
}  # fmt: skip
# What an expert stands on, in the colour of the system that it makes.
GROUNDS = {"bare base": SYSTEMS["Base_MTL"], "stage 1": SYSTEMS["MTIVE_PT"], "stages 1 and 2": SYSTEMS["MTIVE_MTL"]}
# Parts of the model that hold an adapter: vision model, connector (VLC), language model.
PARTS = {
    "untuned": SYSTEMS["zero-shot"], "VM": "#4c78a8", "VLC": "#eeca3b", "LM": "#e45756", "VLC+LM": "#f58518", "VM+LM": "#b279a2",
    "VM+VLC": "#54a24b", "VM+VLC+LM": "#222222",
}  # fmt: skip
TASKS = {"AE": "#4c78a8", "DD": "#e45756", "PM": "#54a24b", "EX": "#b279a2", "PT": "#f58518", "PP": "#72b7b2"}
OTHERS = [*TASKS.values(), "#eeca3b", "#7a4a32", "#1b3a6b", "#797979"]  # by position
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
UNITS = {"loss": "nats a token", "answer_loss": "nats a token"}  # of a column whose name leaves it out
ARROWS = {"higher": "higher is better", "lower": "lower is better", "none": ""}
INK, GRID = "#222222", "#dddddd"


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
    """Return the own colour of a system, task or part of the model, or one by position `k`."""
    return (SYSTEMS | GROUNDS | PARTS | TASKS).get(name) or OTHERS[k % len(OTHERS)]


def labelled(name: str) -> str:
    """Return a column's name as an axis label: "P50_ms" -> "P50, ms", "loss" -> "loss, nats a token"."""
    if name in UNITS:
        return f"{name.replace('_', ' ')}, {UNITS[name]}"
    text, _, unit = name.rpartition("_")
    return f"{text}, {unit}" if text and unit in ("ms", "s", "MiB", "px", "tok", "nat") else name.replace("_", " ")


def entitle(axes, title: str) -> None:  # noqa: ANN001 - matplotlib's Axes
    """Set a title that breaks into lines where it would be wider than the figure."""
    axes.set_title(fill(title, max(20, int(10 * axes.figure.get_figwidth()))), fontsize=11, parse_math=False)
