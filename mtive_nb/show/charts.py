"""Charts: lines over steps, reliability, differences, matrices, shares; bars stand in `bars.py`."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from mtive_nb.show.style import (
    ARROWS,
    GRID,
    TASK_WORDS,
    colour_of,
    colours_of,
    counted,
    entitle,
    joined,
    labelled,
    new_figure,
    tidy,
    two_lines,
)

FEW_POINTS = 12  # fewer are drawn as points, without a rolling mean


def lines(
    frame: pd.DataFrame,
    x: str,
    y: str,
    *,
    by: str | None = None,
    beside: str | None = None,
    title: str = "",
    better: str = "none",
) -> Figure:
    """Plot `y` over `x`, one pale line per value of `by`, each with its rolling mean on top; few points are joined.

    `beside` names a column of the same unit that is dashed beside `y` where the frame has values of it. A band shows
    the intervals `low` to `high` of a frame that has these columns. The axis of values that are never negative starts
    at zero.
    """
    figure = new_figure()
    axes = figure.subplots()
    groups = list(frame.groupby(by, sort=False)) if by else [("", frame)]
    colours = colours_of(str(name) for name, _ in groups)
    dashed = frame[beside].notna().any() if beside in frame else False
    banded = {"low", "high"} <= set(frame)
    for name, rows in groups:
        colour = colours[str(name)]
        few = len(rows) <= FEW_POINTS
        axes.plot(rows[x], rows[y], color=colour, alpha=0.3, linewidth=1)
        smooth = rows[y].rolling(1 if few else len(rows) // 8 | 1, min_periods=1, center=True).mean()  # odd: no lag
        if banded:
            axes.fill_between(rows[x], rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)
        axes.plot(rows[x], smooth, "o-" if few else "-", color=colour, linewidth=1.8, label=str(name) or "training")
        if dashed:
            points, label = rows.dropna(subset=beside), joined(str(name), labelled(beside))
            axes.plot(points[x], points[beside], "o--", color=colour, linewidth=1.2, markersize=3, label=label)
    axes.set_xlabel(labelled(x))
    band = "bands: 95% intervals" if banded else ""
    axes.set_ylabel(two_lines(joined(labelled(y), counted(frame)), joined(band, ARROWS[better])), fontsize=9)
    entitle(axes, title)
    if (frame[y] >= 0).all():
        most = frame[[y, *[beside] * bool(dashed), *["high"] * banded]].max().max()
        axes.set_ylim(0, 1.08 * float(most) or 1.0)
    if dashed or (by and frame[by].nunique() > 1):
        axes.legend(fontsize=8, frameon=False, ncols=2)
    tidy(axes)
    return figure


def curves(frame: pd.DataFrame, x: str, *, by: str, panel: str, title: str = "", unit: str = "", better: str = "higher") -> Figure:  # fmt: skip
    """Plot `value` with its interval `low` to `high` over `x` on a log scale: a panel per value of `panel`, a line per `by`."""
    panels, colours = list(dict.fromkeys(frame[panel])), colours_of(map(str, dict.fromkeys(frame[by])))
    figure = new_figure(max(4.0, 2.4 * len(panels)), 3.2)
    figure.suptitle(title, fontsize=10)
    for axes, name in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        for line, rows in frame[frame[panel] == name].groupby(by, sort=False):
            rows, colour = rows.sort_values(x), colours[str(line)]
            axes.fill_between(rows[x], rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)
            axes.plot(rows[x], rows["value"], color=colour, marker="o", markersize=3, linewidth=1.5, label=str(line))
        axes.set_xscale("log")
        ticks = sorted(set(frame[x]))
        axes.set_xticks(ticks, [str(t) for t in ticks], rotation=45)
        axes.minorticks_off()
        axes.set_title(TASK_WORDS.get(name, str(name)), fontsize=9)
        axes.set_xlabel(labelled(x), fontsize=8)
        tidy(axes)
    label = two_lines(joined(unit, counted(frame)), joined("bands: 95% intervals", ARROWS[better]))
    figure.axes[0].set_ylabel(label, fontsize=8)
    figure.axes[0].set_ylim(bottom=min(0.0, frame["low"].min()))
    figure.axes[-1].legend(fontsize=7, frameon=False)
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
        axes.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=0.9, label="confidence = accuracy")
        for k, (column, label) in enumerate(states.items()):
            cut = pd.qcut(rows[column].rank(method="first"), min(bins, len(rows)), labels=False)
            means = rows.groupby(cut)[[column, "right"]].mean()
            style = {"color": colour_of("", k), "markersize": 4, "label": label}
            axes.plot(means[column], means["right"], "o--" if k else "o-", **style)
        axes.set(
            xlim=(min(0.4, frame[list(states)].min().min() - 0.02), 1.02), ylim=(0, 1.05), xlabel="confidence, 0-1"
        )
        axes.set_title(f"{panel}\nn = {len(rows)}", fontsize=9)
        tidy(axes)
    figure.axes[0].set_ylabel(f"accuracy, 0-1, in {bins} equal bins\nbest on the diagonal", fontsize=8)
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
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # the line of no difference passes below
        place = {"transform": axes.get_yaxis_transform(), "va": "center", "zorder": 5, "bbox": behind}
        axes.text(0.005, y, group, fontsize=8, fontweight="bold", **place)
        for row in part.itertuples():
            y, colour = y + 1, colour_of("", k)
            filling = "white" if row.Index == part.index[0] else colour
            axes.plot([row.low, row.high], [y, y], color=colour, linewidth=1.6)
            axes.plot(row.value, y, "o", color=colour, markersize=6, markerfacecolor=filling)
            named[y] = row.label
        y += 1
    axes.set_yticks(list(named), list(named.values()))
    axes.set(
        ylim=(y - 0.4, -0.7),
        xlabel=joined(f"difference in {unit}", counted(frame), "95% intervals", "dashed: none", "hollow: as it stands"),
    )
    entitle(axes, title)
    tidy(axes)
    axes.grid(axis="x", color=GRID, linewidth=0.7)
    return figure


def matrix(
    values: pd.DataFrame,
    *,
    title: str = "",
    low: float,
    high: float,
    rows: str = "",
    columns: str = "",
    meaning: str = "",
) -> Figure:
    """Plot a small matrix as a heat map with its numbers; the colour scale runs from `low` to `high`.

    `rows` and `columns` say what stands along the axes, `meaning` what a number is.
    """
    figure = new_figure(3.4 + 1.1 * values.shape[1], 1.4 + 0.55 * values.shape[0])
    axes = figure.subplots()
    words = lambda name: TASK_WORDS.get(name, str(name).replace("_", " "))  # noqa: E731
    values = values.rename(index=words, columns=words).round(2) + 0.0  # no "-0.00"
    look = {"vmin": low, "vmax": high, "cmap": "RdBu" if low < 0 else "Blues", "linewidths": 1}
    sns.heatmap(values, ax=axes, annot=True, fmt=".2f", annot_kws={"size": 9}, **look)
    axes.set(xlabel=columns, ylabel=rows)
    entitle(axes, title)
    axes.tick_params(length=0, labelsize=9)
    axes.set_yticklabels(axes.get_yticklabels(), rotation=0)
    axes.collections[0].colorbar.set_label(meaning, fontsize=8)
    return figure


def confusions(frame: pd.DataFrame, *, title: str = "") -> Figure:
    """Plot a matrix of counts per task: what is true in rows, what was answered in columns.

    `frame`: a row per question with task, truth and answer. A column "neither" counts unreadable answers.
    """
    tasks = list(dict.fromkeys(frame["task"]))
    most = frame.groupby(["task", "truth", "answer"]).size().max() if tasks else 1  # one scale for all
    figure = new_figure(max(3.0, 2.1 * len(tasks)), 2.1)
    for axes, task in zip(figure.subplots(1, max(1, len(tasks)), squeeze=False)[0], tasks, strict=False):
        part = frame[frame["task"] == task]
        counts = pd.crosstab(part["truth"], part["answer"])
        names = sorted(set(part["truth"]) | set(part["answer"]), key=lambda n: (n not in set(part["truth"]), n))
        counts = counts.reindex(index=sorted(set(part["truth"])), columns=names, fill_value=0)
        sns.heatmap(counts, ax=axes, annot=True, fmt="d", cmap="Blues", vmin=0, vmax=most, cbar=False, linewidths=1)
        axes.set(xlabel="answered", ylabel="true")
        axes.set_title(f"{TASK_WORDS.get(task, task)}\nn = {len(part)}", fontsize=9)
        axes.tick_params(length=0, labelsize=8)
    if not tasks:
        figure.axes[0].axis("off")
    figure.suptitle(title if tasks else f"{title}: no question", fontsize=10)
    return figure


def stacked_shares(counts: pd.DataFrame, *, title: str = "") -> Figure:
    """Plot one horizontal bar per row of `counts`, with the columns as shares of the row's sum."""
    figure = new_figure(8.0, 0.9 + 0.42 * len(counts))
    axes = figure.subplots()
    shares, left = counts.div(counts.sum(axis=1), axis=0), np.zeros(len(counts))
    colours = colours_of(map(str, shares.columns))
    for column in shares.columns:
        axes.barh(
            range(len(shares)),
            shares[column],
            left=left,
            color=colours[str(column)],
            label=str(column),
            height=0.7,
        )
        left += shares[column].to_numpy()
    rows = [f"{TASK_WORDS.get(name, name)}, n = {n:,.0f}" for name, n in counts.sum(axis=1).items()]
    axes.set_yticks(range(len(shares)), rows)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share, 0-1")
    entitle(axes, title)
    axes.legend(
        fontsize=7.5,
        frameon=False,
        ncols=4,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.45 / max(1, len(counts)) - 0.12),
    )
    tidy(axes)
    return figure
