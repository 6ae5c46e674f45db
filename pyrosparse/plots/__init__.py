"""Figures; each function returns a matplotlib figure."""

from pyrosparse.plots.calibration_plots import rank_histograms, reliability_diagram
from pyrosparse.plots.gate_plots import class_correlations, input_regions
from pyrosparse.plots.posterior_plots import gate_forest, gate_posteriors
from pyrosparse.plots.regression_plots import interval_coverage, pit_histograms
from pyrosparse.plots.robustness_plots import accuracy_under_attack
from pyrosparse.plots.size_plots import accuracy_by_sparsity
from pyrosparse.plots.support_plots import convergence, kernels_before_and_after, messages, supports

__all__ = [
    "accuracy_by_sparsity",
    "accuracy_under_attack",
    "class_correlations",
    "convergence",
    "gate_forest",
    "gate_posteriors",
    "input_regions",
    "interval_coverage",
    "kernels_before_and_after",
    "messages",
    "pit_histograms",
    "rank_histograms",
    "reliability_diagram",
    "supports",
]
