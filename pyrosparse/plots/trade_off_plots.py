"""Accuracy against size, for runs that differ in one option."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from pyrosparse.plots.style import BLUE, GREY, ORANGE, STYLE

Point = tuple[float, int, float]


def trade_off(points: Sequence[Point], here: Point, knob: str) -> Figure:
    """Test accuracy against parameters of the compact network, one point for each run.

    points: for each run the value of its option, its parameters and its accuracy in [0, 1].
    here:   the point of the reported run, which is highlighted.
    knob:   the option's name.

    Raises ValueError if there are no points.

    >>> len(trade_off([(2.0, 900, 0.97)], (1.0, 1500, 0.98), "kl_scale").axes)
    1
    """
    if not points:
        raise ValueError("there is no other run to compare with")
    ordered = sorted([*points, here], key=lambda point: (point[1], point[2]))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4), layout="constrained")
        axes = figure.add_subplot()
        _, parameters, accuracy = zip(*ordered, strict=True)
        axes.plot(parameters, accuracy, "-", color=GREY, linewidth=0.8)
        for point in ordered:
            colour = ORANGE if point == here else BLUE
            axes.plot(*point[1:], "o", color=colour)
            axes.annotate(
                f"{point[0]:g}",
                point[1:],
                xytext=(4, 5),
                textcoords="offset points",
                fontsize=9,
            )
        axes.set_xscale("log")
        axes.margins(0.12)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        axes.set(xlabel="parameters of the compact network", ylabel="test accuracy")
        axes.set_title(f"Accuracy against size, by {knob}")
    return figure
