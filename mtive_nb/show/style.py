"""One colour per system, one style for every figure."""

import io

from matplotlib.figure import Figure

SYSTEMS = {
    "majority": "#d9d9d9", "zero-shot": "#9aa0a6", "MTIVE_PT": "#c9b3e6", "MTIVE_IT": "#9b7fd1", "Base_SL": "#f2b872", "Base_MTL": "#e0842f",
    "Base_MoE": "#b5651d", "MTIVE_SL": "#7fb8a4", "MTIVE_MTL": "#1f7a5c",
}  # fmt: skip
# What an expert stands on, in the colour of the system that it makes.
GROUNDS = {"bare base": SYSTEMS["Base_MTL"], "stage 1": SYSTEMS["MTIVE_PT"], "stages 1 and 2": SYSTEMS["MTIVE_MTL"]}
TASKS = {"AE": "#4c78a8", "DD": "#e45756", "PM": "#54a24b", "EX": "#b279a2", "PT": "#f58518", "PP": "#72b7b2"}
OTHERS = [*TASKS.values(), "#eeca3b", "#9d755d", "#ff9da6", "#797979"]  # by position
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
    """Return a system's or task's own colour, or one by position `k`."""
    return (SYSTEMS | GROUNDS | TASKS).get(name) or OTHERS[k % len(OTHERS)]
