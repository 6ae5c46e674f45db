"""What a run came to: its numbers, plots, tables and report."""

from pyrosparse.assess.gate_plots import class_correlations, input_regions
from pyrosparse.assess.summary import Layer, Round, Summary, headline, summarize

__all__ = [
    "Layer",
    "Round",
    "Summary",
    "class_correlations",
    "headline",
    "input_regions",
    "summarize",
]
