"""The plots of diagnostics show the numbers that they are given."""

import sys

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from torch import nn

import pyrosparse as ps
from pyrosparse.diagnostics import SimulationCalibration, calibration
from pyrosparse.plots import (
    accuracy_by_sparsity,
    gate_forest,
    gate_posteriors,
    plots,
    rank_histograms,
    reliability_diagram,
)


def test_reliability_diagram_has_a_point_a_filled_bin_with_its_error():
    logs = (3 * torch.randn(500, 3)).log_softmax(1)
    one = calibration(logs, torch.randint(3, (500,)))
    figure = reliability_diagram({"dense": one, "pruned": one}, least=1)
    above, below = figure.axes
    line, _, (bars,) = above.containers[0]
    filled = one.bin_counts > 0
    assert np.allclose(line.get_ydata(), one.bin_accuracy[filled])
    assert np.allclose(line.get_xdata(), one.bin_confidence[filled])
    lengths = [float(np.ptp(segment[:, 1])) / 2 for segment in bars.get_segments()]
    p, n = one.bin_accuracy[filled], one.bin_counts[filled]
    assert lengths == pytest.approx((p * (1 - p) / n).sqrt().tolist(), abs=1e-12)
    assert np.array_equal(below.patches[0].get_data().values, one.bin_counts)
    assert plots.png(figure)[1:4] == b"PNG"
    with pytest.raises(ValueError, match="no network"):
        reliability_diagram({})


def test_points_of_a_reliability_diagram_hold_enough_data():
    torch.manual_seed(0)
    logs = (3 * torch.randn(200, 3)).log_softmax(1)
    one = calibration(logs, torch.randint(3, (200,)))
    above = reliability_diagram({"dense": one}, least=40).axes[0]
    line, _, (bars,) = above.containers[0]
    right, confidence = line.get_ydata(), line.get_xdata()
    lengths = np.array([float(np.ptp(segment[:, 1])) / 2 for segment in bars.get_segments()])
    counts = right * (1 - right) / lengths**2  # by the standard errors that are drawn
    assert len(right) > 1 and counts.min() >= 40 - 1e-6
    assert counts.sum() == pytest.approx(200)
    # What is put together keeps the means over all data.
    assert counts @ right / 200 == pytest.approx(one.accuracy)
    sure = logs.exp().amax(1).double().mean()
    assert counts @ confidence / 200 == pytest.approx(float(sure), rel=1e-6)


def test_rank_histograms_have_the_fractions_and_the_band_of_a_bar():
    ranks = {"a": torch.tensor([[0], [1], [7], [7]]), "b": torch.tensor([[3, 0]]).expand(4, 2)}
    figure = rank_histograms(SimulationCalibration(ranks, draws=7, bins=4))
    first, second = figure.axes
    stairs = [patch for patch in first.patches if hasattr(patch, "get_data")]
    assert stairs[0].get_data().values.tolist() == [0.5, 0.0, 0.0, 0.5]
    assert stairs[0].get_data().edges.tolist() == [0, 2, 4, 6, 8]
    stairs = [patch for patch in second.patches if hasattr(patch, "get_data")]
    assert [s.get_data().values.tolist() for s in stairs] == [[0, 1, 0, 0], [1, 0, 0, 0]]
    with pytest.raises(ValueError, match="no ranks"):
        rank_histograms(SimulationCalibration({}, draws=7, bins=4))


def test_accuracy_by_sparsity_has_means_and_standard_errors():
    figure = accuracy_by_sparsity({"a": {0.9: [0.8, 0.9], 0.0: [0.97]}, "b": {0.5: [0.5]}})
    line, _, (bars,) = figure.axes[0].containers[0]
    assert line.get_xdata() == pytest.approx([1.0, 0.1])
    assert line.get_ydata() == pytest.approx([0.97, 0.85])
    lengths = [float(np.ptp(segment[:, 1])) / 2 for segment in bars.get_segments()]
    assert lengths == pytest.approx([0.0, 0.05])
    for bad, message in (({}, "no accuracy"), ({"a": {1.0: [0.1]}}, "a sparsity is in")):
        with pytest.raises(ValueError, match=message):
            accuracy_by_sparsity(bad)


@pytest.fixture
def tree():
    net = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3))
    bnn = ps.lift(net, ps.BetaBernoulli())
    with torch.no_grad():
        # One gate is surely closed: its log odds are in the thousands.
        bnn.get_parameter("guide.posterior.2.input.log_a")[5] = -8.0
    data = (torch.randn(7, 4), torch.zeros(7, dtype=torch.int64))
    return ps.to_datatree(bnn, ps.classifier(bnn, 7), data, draws=30)


def test_gates_are_shown_by_arviz_plots(tree):
    pytest.importorskip("arviz_plots", reason="needs pyrosparse[plots]")
    odds = tree["posterior"]["2.input"].to_numpy()[0]
    figure = gate_posteriors(tree, "2.input")
    assert len(figure.axes[0].lines) == 12
    closed = figure.axes[0].lines[0].get_xdata()
    # Far below 0 a log odds is the logarithm of the probability.
    assert float(np.nanmax(closed)) == pytest.approx(np.exp(odds[:, 5].max()), abs=1e-6)
    assert len(gate_posteriors(tree, "2.input", units=3).axes[0].lines) == 3
    figure = gate_forest(tree, "2.input", units=4)
    assert not pyplot.get_fignums()  # what pyplot holds stays in memory
    assert plots.png(figure)[1:4] == b"PNG"
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "5" in texts and len([text for text in texts if text.isdigit()]) == 4


def test_what_is_no_gate_is_refused(tree):
    pytest.importorskip("arviz_plots", reason="needs pyrosparse[plots]")
    with pytest.raises(ValueError, match=r"did you mean '2\.input'"):
        gate_forest(tree, "2.imput")
    with pytest.raises(ValueError, match="units must be positive"):
        gate_forest(tree, "2.input", units=0)
    bnn = ps.lift(nn.Linear(2, 2), ps.Horseshoe())
    data = (torch.randn(7, 2), torch.zeros(7, dtype=torch.int64))
    other = ps.to_datatree(bnn, ps.classifier(bnn, 7), data, draws=3)
    with pytest.raises(ValueError, match="a gate has chain, draw and unit"):
        gate_forest(other, "weight_global")


def test_without_arviz_plots_it_says_how_to_install_it(tree, monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz_plots", None)
    with pytest.raises(ImportError, match=r"pip install 'pyrosparse\[plots\]'"):
        gate_forest(tree, "2.input")
