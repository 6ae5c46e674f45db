"""Plots of network size: remaining units, and error against size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter, StrMethodFormatter

from pyrosparse.bench import Cell
from pyrosparse.plots.style import BLUE, GREEN, GREY, ORANGE, STYLE, by_epoch

# Markers of our points, and of the paper's points, by method.
_MARKS = [
    (colour, ours, papers)
    for ours, papers in (("o", "s"), ("^", "v"))
    for colour in (BLUE, ORANGE, GREEN, GREY)
]
_LINES = [(colour, style) for style in ("-", "--", ":") for colour in (BLUE, ORANGE, GREEN, GREY)]


def kept_units(
    history: Sequence[Mapping[str, Any]], units: Mapping[str, tuple[int, int]]
) -> Figure:
    """One line for each gate: the share of its units that is kept, by epoch.

    history: entries with ``epoch`` and ``units``, numbers by gate.
    units:   by gate, (kept, all) units at the end.

    Raises ValueError if the history has no units.

    >>> history = [{"epoch": 1, "units": {"fc1.input": 9}}]
    >>> len(kept_units(history, {"fc1.input": (9, 64)}).axes[0].lines)
    1
    """
    entries = [entry for entry in history if "units" in entry]
    if not entries:
        raise ValueError("this run recorded no units: its method has no gates")
    epochs = [entry["epoch"] for entry in entries]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 3.8), layout="constrained")
        axes = figure.add_subplot()
        for number, (key, (kept, of)) in enumerate(units.items()):
            colour, style = _LINES[number % len(_LINES)]
            shares = [entry["units"][key] / of for entry in entries]
            label = f"{key}, {kept:,} of {of:,}"
            axes.plot(epochs, shares, style, color=colour, label=label)
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        by_epoch(axes, "Units that are kept", "share of the units")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)
    return figure


def accuracy_by_sparsity(accuracies: Mapping[str, Mapping[float, Sequence[float]]]) -> Figure:
    """Test accuracy against sparsity, one line for each method, with error bars over the seeds.

    accuracies: by method and sparsity in [0, 1], the accuracies of the seeds, in [0, 1].

    A point is the mean; its error bar, one standard error in each direction, is left out for a
    single seed. The sparsity axis shows the remaining weights, on a logarithmic scale. Raises
    ValueError if there are no accuracies, and for sparsities outside [0, 1).

    >>> figure = accuracy_by_sparsity({"magnitude": {0.5: [0.97, 0.96], 0.9: [0.95, 0.93]}})
    >>> figure.axes[0].get_xlabel()
    'weights that are left'
    """
    if not any(accuracies.values()):
        raise ValueError("there is no accuracy to show")
    wrong = [value for points in accuracies.values() for value in points if not 0 <= value < 1]
    if wrong:
        raise ValueError(f"a sparsity is in [0, 1); got {wrong[0]}")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4), layout="constrained")
        axes = figure.add_subplot()
        for (method, points), (colour, style) in zip(accuracies.items(), itertools.cycle(_LINES)):
            seeds = [points[sparsity] for sparsity in sorted(points)]
            errors = [stdev(s) / math.sqrt(len(s)) if len(s) > 1 else 0.0 for s in seeds]
            axes.errorbar(
                [1 - sparsity for sparsity in sorted(points)],
                [mean(s) for s in seeds],
                yerr=errors,
                fmt="o",
                linestyle=style,
                color=colour,
                capsize=3,
                label=method,
            )
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(
            sorted({1 - sparsity for points in accuracies.values() for sparsity in points})
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1))
        axes.set_title("What sparsity costs in accuracy")
        axes.set_xlabel("weights that are left")
        axes.set_ylabel("test accuracy")
        axes.legend()
    return figure


def trade_off(rows: Sequence[Cell]) -> Figure:
    """Test error against the speed-up in FLOPs by the paper's count, one panel for each network.

    rows: table rows; rows with a speed-up are drawn, with the value of their knob and the paper's
          point.

    Raises ValueError if no row has a speed-up.

    >>> counts = [{"flops": 9, "memory": 9}, {"flops": 3, "memory": 3}]
    >>> line = {"settings": {}, "test_accuracy": 0.9, "compact": {"paper": counts}}
    >>> len(trade_off([Cell("a", [line], {"error": 1.59})]).axes)
    1
    """
    rows = [row for row in rows if row.speedup and row.setup.recipe.level is not None]
    if not rows:
        raise ValueError(
            "there is no compact network among the results, so there is nothing to plot"
        )
    panels: dict[str, list[Cell]] = {}
    for row in rows:
        name = f"{row.setup.network} on {row.setup.dataset}"
        panels.setdefault(name, []).append(row)
    recipes = dict.fromkeys(row.setup.recipe.name for row in rows)
    with matplotlib.rc_context(STYLE):
        columns = 2 * len(panels)  # of the legend
        height = 4 + 0.2 * math.ceil(2 * len(recipes) / columns)
        figure = Figure(figsize=(5.2 * len(panels), height), layout="constrained")
        handles: dict[str, Any] = {}
        for number, (name, members) in enumerate(panels.items()):
            axes = figure.add_subplot(1, len(panels), number + 1)
            for recipe, marks in zip(recipes, itertools.cycle(_MARKS)):
                own = [row for row in members if row.setup.recipe.name == recipe]
                if own:
                    _curve(axes, own, recipe, *marks)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
            axes.tick_params(axis="x", which="minor", labelsize=8)
            axes.set_title(name)
            axes.set_xlabel("speed-up in FLOPs, as the paper counts")
            axes.set_ylabel("test error (%)")
            drawn, labels = axes.get_legend_handles_labels()
            handles.update(zip(labels, drawn, strict=True))
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize=8
        )
    return figure


def _curve(
    axes: Axes, rows: Sequence[Cell], method: str, colour: str, mark: str, papers: str
) -> None:
    ours = sorted((row.speedup or 0.0, mean(row.errors), row.setup.recipe.level) for row in rows)
    axes.plot(
        [x for x, _, _ in ours], [y for _, y, _ in ours], f"{mark}-", color=colour, label=method
    )
    for x, y, level in ours:
        axes.annotate(f"{level:g}", (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
    published = sorted(
        (row.paper["speedup"], row.paper["error"])
        for row in rows
        if {"speedup", "error"} <= row.paper.keys()
    )
    if published:
        speedups, errors = zip(*published, strict=True)
        label = f"{method}, the paper's"
        style = f"{papers}--"
        axes.plot(speedups, errors, style, color=colour, mfc="none", linewidth=1.2, label=label)
