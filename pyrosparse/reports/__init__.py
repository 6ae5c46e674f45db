"""Reports of runs: folder, summary and page."""

from pyrosparse.reports.summary import Layer, Round, Summary, headline, summarize

__all__ = [
    "Layer",
    "Round",
    "Summary",
    "headline",
    "summarize",
]
