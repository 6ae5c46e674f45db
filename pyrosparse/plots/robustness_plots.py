"""The plot of robustness: accuracy under attack."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pyrosparse.plots.style import BLUE, GREEN, GREY, INK, ORANGE, STYLE
from pyrosparse.robustness.fgsm import RobustnessRow


def accuracy_under_attack(rows: Sequence[RobustnessRow]) -> Figure:
    """Accuracy against epsilon, one colour a network: solid before fine-tuning, dashed after.

    rows: from ``robustness_rows``.

    Raises ValueError if there are none.

    Source: Xia, Tsang and Lau (2023), figure 12.

    >>> rows = [RobustnessRow("dense", False, e, 1 - e) for e in (0.0, 0.1)]
    >>> len(accuracy_under_attack(rows).axes[0].lines)
    1
    """
    if not rows:
        raise ValueError("there is no network to show")
    names = dict.fromkeys(row.network for row in rows)
    colours = dict(zip(names, itertools.cycle((BLUE, ORANGE, GREEN, GREY, INK)), strict=False))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 3.8), layout="constrained")
        axes = figure.add_subplot()
        for name in names:
            for tuned, style, suffix in ((False, "o-", ""), (True, "s--", ", fine-tuned")):
                points = sorted(
                    (row.epsilon, row.accuracy)
                    for row in rows
                    if row.network == name and row.fine_tuned == tuned
                )
                if points:
                    label = f"{name}{suffix}"
                    axes.plot(*zip(*points, strict=True), style, color=colours[name], label=label)
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set(title="Accuracy under attack", xlabel="epsilon", ylabel="accuracy")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)
    return figure
