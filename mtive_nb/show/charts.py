"""Charts: lines over steps, bars with intervals, shares."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from mtive_nb.show.style import GRID, colour_of, new_figure, tidy

ARROWS = {"higher": "higher is better", "lower": "lower is better", "none": ""}


def lines(
    frame: pd.DataFrame, x: str, y: str, *, by: str | None = None, title: str = "", better: str = "none"
) -> Figure:
    """Plot `y` over `x`, one pale line per value of `by`, each with its rolling mean on top."""
    figure = new_figure()
    axes = figure.subplots()
    groups = frame.groupby(by, sort=False) if by else [("", frame)]
    for k, (name, rows) in enumerate(groups):
        colour = colour_of(str(name), k)
        axes.plot(rows[x], rows[y], color=colour, alpha=0.3, linewidth=1)
        smooth = rows[y].rolling(max(1, len(rows) // 8), min_periods=1, center=True).mean()
        axes.plot(rows[x], smooth, color=colour, linewidth=1.8, label=str(name) or None)
    axes.set(xlabel=x, ylabel=f"{y} ({ARROWS[better]})" if ARROWS[better] else y, title=title)
    if by:
        axes.legend(fontsize=8, frameon=False, ncols=2)
    tidy(axes)
    return figure


def curves(frame: pd.DataFrame, x: str, *, by: str, panel: str, title: str = "", unit: str = "", better: str = "higher") -> Figure:  # fmt: skip
    """Plot `value` with its interval `low` to `high` over `x` on a log scale: a panel per value of `panel`, a line per `by`."""
    panels = list(dict.fromkeys(frame[panel]))
    figure = new_figure(max(4.0, 2.4 * len(panels)), 3.2)
    figure.suptitle(title, fontsize=10)
    for axes, name in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        for k, (line, rows) in enumerate(frame[frame[panel] == name].groupby(by, sort=False)):
            rows, colour = rows.sort_values(x), colour_of(str(line), k)
            axes.fill_between(rows[x], rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)
            axes.plot(rows[x], rows["value"], color=colour, marker="o", markersize=3, linewidth=1.5, label=str(line))
        axes.set_xscale("log")
        ticks = sorted(set(frame[x]))
        axes.set_xticks(ticks, [str(t) for t in ticks], rotation=45)
        axes.minorticks_off()
        axes.set_title(str(name), fontsize=9)
        axes.set_xlabel(x, fontsize=8)
        tidy(axes)
    figure.axes[0].set_ylabel(f"{unit} ({ARROWS[better]})", fontsize=8)
    figure.axes[-1].legend(fontsize=7, frameon=False)
    return figure


def bars_with_intervals(frame: pd.DataFrame, *, columns: list[str] | None = None, title: str = "", better: str = "higher",
                        chance: dict[str, float] | None = None, dots: pd.DataFrame | None = None) -> Figure:  # fmt: skip
    """Plot grouped bars of `value` with intervals `low` to `high`: a group per column, a bar per system.

    `frame` is long (system, column, value, low, high); without rows the plot is empty. `columns`: order of the groups,
    default that of the frame. `chance` draws a dashed line per group: the score of always giving the commonest answer.
    `dots` (system, column, value) mark the single runs that a bar combines.
    """
    columns = list(dict.fromkeys(frame["column"])) if columns is None else columns
    systems = list(dict.fromkeys(frame["system"]))
    figure = new_figure(max(8.0, 1.1 + 0.26 * len(systems) * len(columns)), 3.6)
    axes = figure.subplots()
    width = 0.84 / max(1, len(systems))
    for k, system in enumerate(systems):
        rows = frame[frame["system"] == system].set_index("column").reindex(columns)
        at = np.arange(len(columns)) + (k - (len(systems) - 1) / 2) * width
        error = np.clip(np.vstack([rows["value"] - rows["low"], rows["high"] - rows["value"]]), 0, None)
        axes.bar(
            at,
            rows["value"],
            width * 0.92,
            yerr=error,
            color=colour_of(system, k),
            label=system,
            error_kw={"lw": 0.9, "capsize": 1.5},
        )
        if dots is not None:
            own = dots[(dots["system"] == system) & dots["column"].isin(columns)]
            axes.scatter(at[own["column"].map(columns.index)], own["value"], s=7, color="black", zorder=3, linewidths=0)
    for column, value in (chance or {}).items():
        axes.hlines(
            value,
            columns.index(column) - 0.45,
            columns.index(column) + 0.45,
            color="black",
            linestyles="--",
            linewidth=0.9,
        )
    axes.set_xticks(range(len(columns)), columns)
    axes.set(ylabel=ARROWS[better], title=title)
    axes.legend(
        fontsize=7.5, frameon=False, ncols=min(max(1, len(systems)), 7), loc="upper center", bbox_to_anchor=(0.5, -0.1)
    )
    tidy(axes)
    return figure


def reliability(frame: pd.DataFrame, *, states: dict[str, str], bins: int = 5, title: str = "") -> Figure:
    """Plot accuracy over confidence, one panel per `panel` of the frame, one line per state; on the diagonal they agree.

    `frame`: a row per answer with panel, right (0 or 1), and each state's column of confidences in [0, 1];
    states: {column: label}. A point is a bin of equally many answers.
    """
    panels = list(dict.fromkeys(frame["panel"]))
    figure = new_figure(max(3.0, 2.3 * len(panels)), 2.6)
    for axes, panel in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        rows = frame[frame["panel"] == panel]
        axes.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=0.9)
        for k, (column, label) in enumerate(states.items()):
            cut = pd.qcut(rows[column].rank(method="first"), min(bins, len(rows)), labels=False)
            means = rows.groupby(cut)[[column, "right"]].mean()
            axes.plot(means[column], means["right"], "o-", color=colour_of("", k), markersize=4, label=label)
        axes.set(xlim=(0.4, 1.02), ylim=(0, 1.05), xlabel="confidence")
        axes.set_title(panel, fontsize=9)
        tidy(axes)
    figure.axes[0].set_ylabel("accuracy")
    figure.axes[0].legend(fontsize=7.5, frameon=False)
    figure.suptitle(title, fontsize=10)
    return figure


def gaps(frame: pd.DataFrame, *, unit: str, title: str = "") -> Figure:
    """Plot differences with their intervals, one row each, below the headings of their groups.

    `frame` is long (group, label, value, low, high). A group's first row, drawn hollow, is the reference for the other
    rows. The dashed line marks no difference.
    """
    figure = new_figure(8.0, 0.9 + 0.23 * (len(frame) + frame["group"].nunique()))
    axes = figure.subplots()
    axes.axvline(0, color="black", linestyle="--", linewidth=0.9)
    named, y = {}, 0
    for k, (group, part) in enumerate(frame.groupby("group", sort=False)):
        axes.text(0.005, y, group, transform=axes.get_yaxis_transform(), va="center", fontsize=8, fontweight="bold")
        for row in part.itertuples():
            y, colour = y + 1, colour_of("", k)
            filling = "white" if row.Index == part.index[0] else colour
            axes.plot([row.low, row.high], [y, y], color=colour, linewidth=1.6)
            axes.plot(row.value, y, "o", color=colour, markersize=6, markerfacecolor=filling)
            named[y] = row.label
        y += 1
    axes.set_yticks(list(named), list(named.values()))
    axes.set(ylim=(y - 0.4, -0.7), xlabel=unit, title=title)
    tidy(axes)
    axes.grid(axis="x", color=GRID, linewidth=0.7)
    return figure


def matrix(values: pd.DataFrame, *, title: str = "", low: float, high: float) -> Figure:
    """Plot a small matrix as a heat map with its numbers; the colour scale runs from `low` to `high`."""
    figure = new_figure(1.6 + 0.9 * values.shape[1], 1.2 + 0.55 * values.shape[0])
    axes = figure.subplots()
    colours = "RdBu" if low < 0 else "Blues"
    sns.heatmap(
        values, ax=axes, annot=True, fmt=".2f", vmin=low, vmax=high, cmap=colours, linewidths=1, annot_kws={"size": 9}
    )
    axes.set(title=title, xlabel="", ylabel="")
    axes.tick_params(length=0, labelsize=9)
    axes.set_yticklabels(axes.get_yticklabels(), rotation=0)
    return figure


def stacked_shares(counts: pd.DataFrame, *, title: str = "") -> Figure:
    """Plot one horizontal bar per row of `counts`, with the columns as shares of the row's sum."""
    figure = new_figure(8.0, 0.9 + 0.42 * len(counts))
    axes = figure.subplots()
    shares, left = counts.div(counts.sum(axis=1), axis=0), np.zeros(len(counts))
    for k, column in enumerate(shares.columns):
        axes.barh(
            range(len(shares)),
            shares[column],
            left=left,
            color=colour_of(str(column), k),
            label=str(column),
            height=0.7,
        )
        left += shares[column].to_numpy()
    axes.set_yticks(range(len(shares)), [str(i) for i in shares.index])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share", title=title)
    axes.legend(
        fontsize=7.5,
        frameon=False,
        ncols=4,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.45 / max(1, len(counts)) - 0.12),
    )
    tidy(axes)
    return figure
