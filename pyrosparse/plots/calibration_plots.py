"""Plots of calibration: predictive probabilities, and simulation-based calibration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from pyrosparse.diagnostics import Calibration, SimulationCalibration
from pyrosparse.plots.style import BLUE, GREEN, GREY, ORANGE, STYLE

_COLOURS = (BLUE, ORANGE, GREEN, GREY)


def reliability_diagram(calibrations: Mapping[str, Calibration], *, least: int = 10) -> Figure:
    """Reliability diagram: accuracy against confidence. Calibrated networks lie on the diagonal.

    calibrations: by the name of the network, from ``pyrosparse.diagnostics.calibration``.
    least:        the smallest number of data in a point: neighbouring bins with fewer data are
                  merged, as the accuracy on two data means nothing.

    Above: accuracy by confidence, with its standard error. Below: the number of data in each bin.
    Raises ValueError if there are no networks.

    Source: Guo et al. (2017), "On calibration of modern neural networks", figure 1.

    >>> import torch
    >>> from pyrosparse.diagnostics import calibration
    >>> coin = calibration(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]))
    >>> len(reliability_diagram({"coin": coin}).axes)
    2
    """
    if not calibrations:
        raise ValueError("there is no network to show")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 5.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.plot((0, 1), (0, 1), "--", color=GREY, linewidth=1)
        for (name, one), colour in zip(calibrations.items(), itertools.cycle(_COLOURS)):
            confidence, right, counts = _pooled(one, least)
            errors = (right * (1 - right) / counts).sqrt()
            above.errorbar(
                confidence.numpy(),
                right.numpy(),
                yerr=errors.numpy(),
                fmt="o-",
                color=colour,
                elinewidth=1,
                label=f"{name}, ECE {one.ece:.3f}",
            )
            bins = len(one.bin_counts)
            edges = [number / bins for number in range(bins + 1)]
            below.stairs(one.bin_counts.numpy(), edges, color=colour)
        above.set(
            title="Reliability: is confidence equal to accuracy?",
            ylabel="fraction right",
            ylim=(0, 1.02),
        )
        above.legend()
        below.set(xlabel="confidence", ylabel="data", xlim=(0, 1))
        # Any: matplotlib's types have no scale named symlog with a threshold.
        scale: Any = {"linthresh": 1}
        below.set_yscale("symlog", **scale)
        below.set_ylim(bottom=0)
        for axis in (above.yaxis, below.xaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def _pooled(one: Calibration, least: int) -> tuple[Tensor, Tensor, Tensor]:
    """Confidence, accuracy and number of data of bins, merged from the first until each holds
    ``least`` data; the remaining bins join the last."""
    groups: list[list[int]] = [[]]
    for number in one.bin_counts.nonzero()[:, 0].tolist():
        if groups[-1] and one.bin_counts[groups[-1]].sum() >= least:
            groups.append([])
        groups[-1].append(number)
    if len(groups) > 1 and one.bin_counts[groups[-1]].sum() < least:
        last = groups.pop()
        groups[-1] += last
    counts = torch.stack([one.bin_counts[group].sum() for group in groups])
    means = [
        torch.stack([(values[group] * one.bin_counts[group]).sum() for group in groups]) / counts
        for values in (one.bin_confidence, one.bin_accuracy)
    ]
    return means[0], means[1], counts


def rank_histograms(result: SimulationCalibration) -> Figure:
    """The ranks of simulation-based calibration, one panel for each site. They are flat if the
    inference is correct.

    The band contains 99 % of the bars if ranks are uniform. Ranks of a site's elements are pooled.

    result: from ``pyrosparse.diagnostics.simulation_calibration``.

    Raises ValueError if there are no ranks.

    Source: Talts et al. (2018), "Validating Bayesian inference algorithms with simulation-based
    calibration", figure 1.

    >>> import torch
    >>> ranks = {"weight": torch.arange(32)[:, None]}
    >>> len(rank_histograms(SimulationCalibration(ranks, draws=31, bins=8)).axes)
    1
    """
    if not result.ranks:
        raise ValueError("there are no ranks to show")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(result.ranks), 3), layout="constrained")
        panels = figure.subplots(1, len(result.ranks), squeeze=False)[0]
        edges = [number * (result.draws + 1) / result.bins for number in range(result.bins + 1)]
        for axes, (site, ranks) in zip(panels, result.ranks.items(), strict=True):
            # Bars of every element, as a fraction of its simulations: they vary as one element's.
            simulations, elements = ranks.shape
            expected = 1 / result.bins
            error = 2.576 * math.sqrt(expected * (1 - expected) / simulations)
            axes.axhspan(expected - error, expected + error, color=GREY, alpha=0.3, linewidth=0)
            axes.axhline(expected, color=GREY, linewidth=1)
            for element in range(elements):
                heights = ranks[:, element].double().histc(result.bins, 0, result.draws + 1)
                fade = max(0.15, 1 / elements)
                axes.stairs((heights / simulations).numpy(), edges, color=BLUE, alpha=fade)
            axes.set(title=site, xlabel="rank of the truth", ylim=(0, None))
        panels[0].set_ylabel("fraction of the simulations")
    return figure
