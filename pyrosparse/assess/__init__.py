"""What a run came to: its numbers, plots, tables and report."""

from pyrosparse.assess.active_features import ActiveFeatures, active_features, mean_counts
from pyrosparse.assess.gate_plots import class_correlations, input_regions
from pyrosparse.assess.summary import Layer, Round, Summary, headline, summarize

__all__ = [
    "ActiveFeatures",
    "Layer",
    "Round",
    "Summary",
    "active_features",
    "class_correlations",
    "headline",
    "input_regions",
    "mean_counts",
    "summarize",
]
