"""Recipes from one start: accuracy against size with its Pareto front, and calibration."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from statistics import mean

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyrosparse.bench import Cell
from pyrosparse.plots.style import BLUE, GREEN, GREY, INK, ORANGE, STYLE

_LOOKS = [(colour, marker) for marker in "osD^vPX*" for colour in (BLUE, ORANGE, GREEN, GREY)]

Point = tuple[float, float]


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points (cost, worth) that no other beats: none costs no more and is worth more, or costs
    less and is worth as much. From the cheapest on.

    >>> pareto_front([(1, 0.8), (2, 0.7), (3, 0.9), (3, 0.85), (4, 0.9)])
    [(1, 0.8), (3, 0.9)]
    """
    front: list[Point] = []
    for cost, worth in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not front or worth > front[-1][1]:
            front.append((cost, worth))
    return front


def fronts(rows: Sequence[Cell]) -> Figure:
    """Test accuracy against multiply-accumulates and against bytes of the file, with the Pareto
    front of all recipes; and calibration error against accuracy. A row of panels a problem.

    rows: those without a compact network are in the last panel alone.

    Raises ValueError where no row has a compact network.

    >>> compact = {"macs": {"fc": [9, 3]}, "file_bytes": 40}
    >>> line = {"settings": {}, "test_accuracy": 0.9, "test_ece": 0.1, "compact": compact}
    >>> len(fronts([Cell("a", [line])]).axes)
    3
    """
    if not any(row.compact_mean("macs") for row in rows):
        raise ValueError("there is no compact network among the results, and nothing to plot")
    problems: dict[str, list[Cell]] = {}
    for row in rows:
        name = f"{row.setup.network} on {row.setup.dataset}"
        problems.setdefault(name, []).append(row)
    labels = dict.fromkeys(row.setup.recipe.label for row in rows)
    looks = dict(zip(labels, itertools.cycle(_LOOKS)))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(14.4, 4.4 * len(problems)), layout="constrained")
        grid = figure.subplots(len(problems), 3, squeeze=False)
        for (name, members), (by_macs, by_bytes, calibration) in zip(
            problems.items(), grid, strict=True
        ):
            for axes, cost, label in (
                (by_macs, "macs", "multiply-accumulates of the compact network"),
                (by_bytes, "file_bytes", "bytes of its file"),
            ):
                _against(axes, members, looks, _cost(cost))
                axes.set(title=name, xlabel=label, ylabel="test accuracy (%)", xscale="log")
            _calibration(calibration, members, looks)
            calibration.set(xlabel="test accuracy (%)", ylabel="expected calibration error")
            calibration.set_title("Is it as right as it is sure?")
        handles = {}
        for axes in grid.flat:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        figure.legend(
            handles.values(), handles.keys(), loc="outside right upper", fontsize=8, ncols=1
        )
    return figure


Looks = dict[str, tuple[str, str]]


def _cost(name: str) -> Callable[[Cell], float | None]:
    return lambda row: row.compact_mean(name)


def _against(
    axes: Axes, rows: Sequence[Cell], looks: Looks, cost: Callable[[Cell], float | None]
) -> None:
    points: list[Point] = []
    for label, (colour, marker) in looks.items():
        own = sorted(
            (size, mean(row.accuracies))
            for row in rows
            if row.setup.recipe.label == label and (size := cost(row)) is not None
        )
        points += own
        _draw(axes, own, label, colour, marker)
    front = pareto_front(points)
    if front:
        axes.step(*zip(*front, strict=True), where="post", color=INK, linewidth=1, label="front")


def _calibration(axes: Axes, rows: Sequence[Cell], looks: Looks) -> None:
    for label, (colour, marker) in looks.items():
        own = [
            (mean(row.accuracies), mean(line["test_ece"] for line in row.lines))
            for row in rows
            if row.setup.recipe.label == label
        ]
        _draw(axes, own, label, colour, marker)
    axes.set_ylim(bottom=0)


def _draw(axes: Axes, points: Sequence[Point], label: str, colour: str, marker: str) -> None:
    if points:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, marker=marker, color=colour, linewidth=0.7, alpha=0.85, label=label)
