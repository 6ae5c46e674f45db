"""The plots of predicted values show the numbers that they are given."""

import numpy as np
import pytest
import torch

from pyrosparse.measure import RegressionQuality
from pyrosparse.plots import interval_coverage, pit_histograms

ONE = RegressionQuality(1.0, 1.4, 0.6, torch.zeros(8), torch.tensor([[0.05, 0.95], [0.5, 0.45]]))


def test_bars_are_the_fractions_of_the_transforms():
    (axes,) = pit_histograms({"line": ONE}, bins=5).axes
    assert np.allclose(axes.patches[-1].get_data().values, [0.25, 0, 0.5, 0, 0.25])


def test_points_are_the_coverage_of_every_level():
    (axes,) = interval_coverage({"line": ONE}).axes
    line = axes.lines[1]
    assert np.allclose(line.get_ydata(), [ONE.coverage(level) for level in line.get_xdata()])
    assert ONE.coverage(0.5) == 0.5 and line.get_ydata()[-1] == 1.0


@pytest.mark.parametrize("plot", [pit_histograms, interval_coverage])
def test_nothing_to_show_is_refused(plot):
    with pytest.raises(ValueError, match="no model"):
        plot({})
