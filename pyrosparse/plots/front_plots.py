"""Recipes applied to the same network: error against size with its Pareto front, calibration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import mean

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, StrMethodFormatter

from pyrosparse.bench import Cell
from pyrosparse.plots.style import BLUE, GREEN, GREY, INK, ORANGE, STYLE

_LOOKS = [(colour, marker) for marker in "osD^vPX*" for colour in (BLUE, ORANGE, GREEN, GREY)]
_SIZES = {
    "multiply-accumulates of the compact network": "macs",
    "bytes of its file": "file_bytes",
}

Point = tuple[float, float]


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points (size, error) that no other point dominates: none is as small with less error, or
    smaller with the same error. Sorted by size.

    >>> pareto_front([(1, 0.2), (2, 0.3), (3, 0.1), (3, 0.15), (4, 0.1)])
    [(1, 0.2), (3, 0.1)]
    """
    front: list[Point] = []
    for size, error in sorted(set(points)):
        if not front or error < front[-1][1]:
            front.append((size, error))
    return front


def fronts(rows: Sequence[Cell]) -> Figure:
    """Test error against multiply-accumulates and against bytes of the file, with the Pareto front
    of all recipes; and calibration error against test error. One column of panels for each network.

    rows: table rows; their means over the seeds are drawn. Rows without a compact network appear
          only in the last panel.

    Raises ValueError if no row has a compact network.

    >>> compact = {"macs": {"fc": [9, 3]}, "file_bytes": 40}
    >>> line = {"settings": {}, "test_accuracy": 0.9, "test_ece": 0.1, "compact": compact}
    >>> len(fronts([Cell("a", [line])]).axes)
    3
    """
    if not any(row.compact_mean("macs") for row in rows):
        raise ValueError(
            "there is no compact network among the results, so there is nothing to plot"
        )
    panels: dict[str, list[Cell]] = {}
    for row in rows:
        name = f"{row.setup.network} on {row.setup.dataset}"
        panels.setdefault(name, []).append(row)
    labels = dict.fromkeys(row.setup.recipe.label for row in rows)
    looks = dict(zip(labels, itertools.cycle(_LOOKS)))
    with matplotlib.rc_context(STYLE):
        columns = 2 * len(panels)  # in the legend
        height = 11 + 0.18 * math.ceil(len(labels) / columns)
        figure = Figure(figsize=(4.6 * len(panels), height), layout="constrained")
        grid = figure.subplots(3, len(panels), squeeze=False).T
        for (name, members), (*by_size, calibration) in zip(panels.items(), grid, strict=True):
            for axes, (label, size) in zip(by_size, _SIZES.items(), strict=True):
                points = _curves(axes, members, looks, partial(_against, size=size))
                if front := pareto_front(points):
                    x, y = zip(*front, strict=True)
                    axes.step(x, y, where="post", color=INK, linewidth=1.2, label="front")
                axes.set(title=name, xlabel=label, ylabel="test error (%)")
                _sizes(axes)
                _logarithmic(axes, "y")
            _curves(calibration, members, looks, _calibration)
            calibration.set(xlabel="test error (%)", ylabel="expected calibration error")
            calibration.set_title(f"{name}: calibration")
            _logarithmic(calibration, "x")
            calibration.set_ylim(bottom=0)
        handles = {
            label: handle
            for axes in grid.flat
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        in_order = [label for label in (*labels, "front") if label in handles]
        figure.legend(
            [handles[label] for label in in_order],
            in_order,
            loc="outside lower center",
            ncols=columns,
            fontsize=8,
        )
    return figure


def _against(row: Cell, size: str) -> Point | None:
    value = row.compact_mean(size)
    return None if value is None else (value, mean(row.errors))


def _calibration(row: Cell) -> Point:
    return mean(row.errors), mean(line["test_ece"] for line in row.lines)


def _curves(
    axes: Axes,
    rows: Sequence[Cell],
    looks: Mapping[str, tuple[str, str]],
    point: Callable[[Cell], Point | None],
) -> list[Point]:
    """One curve for each recipe, along its knob; returns all points."""
    found: dict[str, list[Point]] = {}
    for row in rows:
        if (one := point(row)) is not None:
            found.setdefault(row.setup.recipe.label, []).append(one)
    for label, own in found.items():
        (colour, marker), (x, y) = looks[label], zip(*own, strict=True)
        axes.plot(x, y, marker=marker, color=colour, linewidth=0.7, alpha=0.85, label=label)
    return [one for own in found.values() for one in own]


def _logarithmic(axes: Axes, *names: str) -> None:
    for name in names:
        axis = getattr(axes, f"{name}axis")
        axes.set(**{f"{name}scale": "log"})
        axis.set_minor_formatter(NullFormatter())
        axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axis.set_major_formatter(StrMethodFormatter("{x:,g}"))


def _sizes(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(EngFormatter())  # 30 k, 1 M
