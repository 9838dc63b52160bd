"""Bars with intervals: a group of bars per column, or a row per system where there are many systems and few columns."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from mtive_nb.run.published import load_tables
from mtive_nb.show.style import (
    ARROWS,
    GRID,
    INK,
    METRIC_WORDS,
    RANGES,
    SYSTEMS,
    TASK_WORDS,
    colour_of,
    colours_of,
    counted,
    entitle,
    joined,
    new_figure,
    tidy,
    two_lines,
)

MANY_SYSTEMS, FEW_COLUMNS = 3, 2
LEGEND_COLUMNS, WIDEST = 5, 10.0  # inches, so that texts stay readable at the width of a page
SEEN = 0.006  # of the highest bar: a lower one is not seen
CHANCE = "always the commonest answer"
WHISKERS = {"lw": 0.9, "capsize": 1.5}


def bars_with_intervals(frame: pd.DataFrame, *, columns: list[str] | None = None, title: str = "", better: str = "higher",
                        measure: str = "", chance: dict[str, float] | None = None, line: str = CHANCE,
                        dots: pd.DataFrame | None = None) -> Figure:  # fmt: skip
    """Plot bars of `value` with intervals `low` to `high`: a group per column, a bar per system.

    `frame` is long (system, column, value, low, high, and unit and n if known); without rows the plot is empty. T1's
    systems stand in their own order, others in that of the frame. `columns`: order of the groups, default that of the
    frame. `measure`: what the values are and in which range, where columns and unit do not say it. `chance` draws a dashed
    line per group, named `line`: by default the score of always giving the commonest answer. `dots` (system, column,
    value) mark the single runs that a bar combines. Many systems on few columns become rows of bars, a panel per column.
    """
    columns = list(dict.fromkeys(frame["column"])) if columns is None else columns
    order = {system: k for k, system in enumerate(SYSTEMS)}
    systems = sorted(dict.fromkeys(frame["system"]), key=lambda system: order.get(system, len(order)))
    if len(columns) <= FEW_COLUMNS and len(systems) >= MANY_SYSTEMS:
        about = {"title": title, "better": better, "measure": measure, "line": line}
        return _rows_of_bars(frame, columns, systems, **about, chance=chance or {}, dots=dots)
    figure = new_figure(min(WIDEST, max(8.0, 1.1 + 0.26 * len(systems) * len(columns))), 3.8)
    axes = figure.subplots()
    width, colours = 0.84 / max(1, len(systems)), colours_of(systems)
    for k, system in enumerate(systems):
        rows = frame[frame["system"] == system].set_index("column").reindex(columns)
        at = np.arange(len(columns)) + (k - (len(systems) - 1) / 2) * width
        look = {"color": colours[system], "label": system, "error_kw": WHISKERS}
        _with_halo(axes.bar(at, rows["value"], width * 0.92, yerr=_errors(rows), **look))
        _mark_small(axes, at, rows, highest=frame["value"].abs().max())
        if dots is not None:
            own = dots[(dots["system"] == system) & dots["column"].isin(columns)]
            where = at[own["column"].map(columns.index)] + width / 4  # beside the whisker
            label = "a single run" if k == 0 else None
            axes.scatter(where, own["value"], s=7, color="black", zorder=3, linewidths=0, label=label)
    for k, (column, value) in enumerate((chance or {}).items()):
        middle, label = columns.index(column), None if k else line
        axes.hlines(value, middle - 0.45, middle + 0.45, color="black", linestyles="--", linewidth=0.9, label=label)
    chars = int(14 * figure.get_figwidth() / max(1, len(columns)))
    own = _own_measures(frame, better)
    spoken = [_spoken(c, own) for c in columns]
    names = ["\n".join(fill(part, chars, break_long_words=False) for part in name.split(", ")) for name in spoken]
    axes.set_xticks(range(len(columns)), names)
    axes.set_ylabel(_measure(frame, columns, better, measure), fontsize=9)
    _finish(axes, frame, title)
    _legend(figure, axes)
    return figure


def _rows_of_bars(
    frame: pd.DataFrame, columns: Sequence[str], systems: list[str], *, title: str, better: str, measure: str,
    chance: dict[str, float], line: str, dots: pd.DataFrame | None = None,
) -> Figure:  # fmt: skip
    """Plot a panel per column with a row per system, named beside its bar."""
    figure = new_figure(8.0, 1.0 + 0.3 * len(systems))
    panels = figure.subplots(1, max(1, len(columns)), sharey=True, squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=False):
        part = frame[frame["column"] == column]
        rows = part.set_index("system").reindex(systems)
        colours = [colour_of(system) for system in systems]  # a row has its name, so unknown systems share a colour
        look = {"xerr": _errors(rows), "color": colours, "error_kw": WHISKERS}
        _with_halo(axes.barh(range(len(systems)), rows["value"], 0.75, **look))
        high = rows[["value", "high"]].max(axis=1)
        in_points = "unit" in part and {*part["unit"].dropna()} <= {"points", "points 0-100", "percent"}
        digits = ".1f" if in_points else "#.3g"
        for y, (value, end) in enumerate(zip(rows["value"], high, strict=True)):
            if pd.notna(value):
                where = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 7.5}
                axes.annotate(f"{value:{digits}}" if value else "0", (max(end, 0), y), **where)
        if dots is not None:
            own = dots[(dots["column"] == column) & dots["system"].isin(systems)]
            beside = [systems.index(system) + 0.2 for system in own["system"]]  # the whisker
            axes.scatter(own["value"], beside, s=7, color="black", zorder=3, linewidths=0)
        if column in chance:
            axes.axvline(chance[column], color="black", linestyle="--", linewidth=0.9, label=line)
        axes.set_yticks(range(len(systems)), systems)
        direction = part["better"].iloc[0] if "better" in part and len(part) else better  # a panel may have its own
        axes.set_xlabel(_measure(part, [column], direction, measure), fontsize=9)
        axes.margins(x=0.12)
        _finish(axes, part, _spoken(column) if len(columns) > 1 else title, horizontal=True)
    panels[0].invert_yaxis()
    if chance:
        _legend(figure, panels[0])
    if len(columns) > 1:
        figure.suptitle(title, fontsize=11)
    return figure


def _legend(figure: Figure, axes: Axes) -> None:
    """Put the legend below the axes and their labels, in lines of equal length."""
    handles, names = axes.get_legend_handles_labels()
    ncols = -(-len(names) // -(-max(1, len(names)) // LEGEND_COLUMNS)) or 1
    figure.legend(handles, names, fontsize=8, frameon=False, ncols=ncols, loc="outside lower center")


def _errors(rows: pd.DataFrame) -> np.ndarray:
    return np.clip(np.vstack([rows["value"] - rows["low"], rows["high"] - rows["value"]]), 0, None)


def _with_halo(bars: BarContainer) -> None:
    """Put white behind the whiskers, which a dark bar would hide."""
    if bars.errorbar is not None:
        _, caps, lines = bars.errorbar.lines
        for artist in (*caps, *lines):
            artist.set_path_effects([withStroke(linewidth=2.2, foreground="white")])


def _mark_small(axes: Axes, at: np.ndarray, rows: pd.DataFrame, *, highest: float) -> None:
    """Write the value where a bar has no height that one sees, above its whisker; "n/a" where none was measured."""
    look = {"textcoords": "offset points", "ha": "center", "fontsize": 7, "color": INK}
    for x, value, high in zip(at, rows["value"], rows["high"].fillna(0), strict=True):
        if pd.isna(value) or abs(value) < SEEN * highest:
            axes.annotate("n/a" if pd.isna(value) else f"{value:.1g}", (x, max(high, 0)), (0, 2), **look)


def _finish(axes: Axes, frame: pd.DataFrame, title: str, *, horizontal: bool = False) -> None:
    entitle(axes, title)
    tidy(axes)
    if horizontal:
        axes.grid(visible=False, axis="y")
        axes.grid(axis="x", color=GRID, linewidth=0.7)
    if (frame["value"] < 0).any():
        (axes.axvline if horizontal else axes.axhline)(0, color=INK, linewidth=0.8)


def _spoken(column: str, own: Mapping[str, str] = {}) -> str:
    """Return a group's name: "AE/Acc" -> "attributes (AE)", "Existing/AE" -> "attributes (AE), existing".

    `own`: the measure of a task where tasks have different ones.
    """
    task, _, metric = column.removesuffix(" binary").partition("/")
    if metric in TASK_WORDS:
        return joined(TASK_WORDS[metric], task.lower(), own.get(metric, ""))
    if task in own:
        return f"{task}, {own[task]}"
    return TASK_WORDS.get(task, task if metric in METRIC_WORDS else column) if metric in (*METRIC_WORDS, "") else column


def _measure(frame: pd.DataFrame, columns: Sequence[str], better: str, measure: str) -> str:
    """Return the axis label in two lines, as far as known: measure, range or unit, n; whiskers and direction."""
    whiskers = "95% intervals" if frame[["low", "high"]].notna().any(axis=None) else ""
    if measure:
        return two_lines(joined(measure, counted(frame)), joined(whiskers, ARROWS[better]))
    metrics = {c.partition("/")[2].split(" ")[0] for c in columns}
    name = METRIC_WORDS.get(next(iter(metrics)), "") if len(metrics) == 1 else ""
    known = bool(name) or list(columns) == ["accuracy"]
    name = name or (columns[0] if len(columns) == 1 else "")
    if not name and len(named := [n.partition(" (")[0] for n in _measures(frame, better)]) <= 2:
        name = " or ".join(METRIC_WORDS.get(n, n) for n in named)
    units = set(frame["unit"].dropna()) if "unit" in frame else set()
    unit = next(iter(units)) if len(units) == 1 else ""
    if known and not unit and frame["value"].min() >= 0:
        unit = "fraction" if frame["value"].max() <= 1 else "points 0-100"
    return two_lines(joined(name, RANGES.get(unit, unit), counted(frame)), joined(whiskers, ARROWS[better]))


def _measures(frame: pd.DataFrame, better: str) -> list[str]:
    """Return the measures of the paper's table that a frame holds: "Acc", "Acc (AE, DD)", or "AP F1"."""
    keys = frame[["paper", "table"]].drop_duplicates() if {"paper", "table"} <= set(frame) else ()
    table = load_tables().get(tuple(keys.iloc[0])) if len(keys) == 1 else None
    return [name for name, direction, _ in table.metrics if direction == better] if table else []


def _own_measures(frame: pd.DataFrame, better: str) -> dict[str, str]:
    """Return the measure of each task where the paper's table names it: {"AE": "accuracy", "EX": "exact match"}."""
    found = {}
    for name in _measures(frame, better):
        metric, _, tasks = name.rstrip(")").partition(" (")
        found |= dict.fromkeys(filter(None, tasks.split(", ")), METRIC_WORDS.get(metric, metric).lower())
        if not tasks and " " in name:  # "AP F1"
            found |= [name.split(" ", 1)]
    return found
