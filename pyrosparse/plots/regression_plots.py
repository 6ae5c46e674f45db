"""Plots of predicted values: are the predictive distributions calibrated?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pyrosparse.measure import RegressionQuality
from pyrosparse.plots.style import BLUE, GREEN, GREY, ORANGE, STYLE

_COLOURS = (BLUE, ORANGE, GREEN, GREY)


def pit_histograms(qualities: Mapping[str, RegressionQuality], bins: int = 10) -> Figure:
    """Histograms of the probability integral transforms of test data, one panel for each model:
    flat if predictions are calibrated, a U if they are overconfident, a hump if they are too wide.

    The band contains 99 % of the bars if the transforms are uniform.

    qualities: by the name of the model, from ``pyrosparse.diagnostics.regression_qualities``.

    Raises ValueError if there are no models.

    Source: Gneiting, Balabdaoui and Raftery (2007), "Probabilistic forecasts, calibration and
    sharpness", section 3.1.

    >>> import torch
    >>> one = RegressionQuality(1.0, 1.4, 0.6, torch.zeros(20), torch.linspace(0, 1, 20))
    >>> len(pit_histograms({"line": one}).axes)
    1
    """
    if not qualities:
        raise ValueError("there is no model to show")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(qualities), 3), layout="constrained")
        panels = figure.subplots(1, len(qualities), squeeze=False, sharey=True)[0]
        for axes, (name, one) in zip(panels, qualities.items(), strict=True):
            values = one.pit.flatten()
            expected = 1 / bins
            error = 2.576 * math.sqrt(expected * (1 - expected) / len(values))
            axes.axhspan(expected - error, expected + error, color=GREY, alpha=0.3, linewidth=0)
            axes.axhline(expected, color=GREY, linewidth=1)
            heights = values.double().histc(bins, 0, 1) / len(values)
            edges = [number / bins for number in range(bins + 1)]
            axes.stairs(heights.numpy(), edges, color=BLUE)
            axes.set(title=name, xlabel="predictive probability below the target", ylim=(0, None))
        panels[0].set_ylabel("fraction of the targets")
    return figure


def interval_coverage(qualities: Mapping[str, RegressionQuality]) -> Figure:
    """The share of targets in central predictive intervals, against the intervals' probability:
    calibrated predictions lie on the diagonal, overconfident ones below.

    qualities: by the name of the model, from ``pyrosparse.diagnostics.regression_qualities``.

    Raises ValueError if there are no models.

    >>> import torch
    >>> one = RegressionQuality(1.0, 1.4, 0.6, torch.zeros(20), torch.linspace(0, 1, 20))
    >>> len(interval_coverage({"line": one}).axes)
    1
    """
    if not qualities:
        raise ValueError("there is no model to show")
    levels = [number / 20 for number in range(1, 20)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot((0, 1), (0, 1), "--", color=GREY, linewidth=1)
        for (name, one), colour in zip(qualities.items(), itertools.cycle(_COLOURS)):
            covered = [one.coverage(level) for level in levels]
            axes.plot(levels, covered, "o-", color=colour, label=name)
        axes.set(
            title="Coverage of predictive intervals",
            xlabel="probability of the interval",
            ylabel="targets inside",
            xlim=(0, 1),
            ylim=(0, 1),
        )
        axes.legend()
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure
