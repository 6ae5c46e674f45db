"""What a run came to: its numbers, plots, tables and report."""

from pyrosparse.assess.calibration_plots import rank_histograms, reliability_diagram
from pyrosparse.assess.gate_plots import class_correlations, input_regions
from pyrosparse.assess.posterior_plots import gate_forest, gate_posteriors
from pyrosparse.assess.size_plots import accuracy_by_sparsity
from pyrosparse.assess.summary import Layer, Round, Summary, headline, summarize

__all__ = [
    "Layer",
    "Round",
    "Summary",
    "accuracy_by_sparsity",
    "class_correlations",
    "gate_forest",
    "gate_posteriors",
    "headline",
    "input_regions",
    "rank_histograms",
    "reliability_diagram",
    "summarize",
]
