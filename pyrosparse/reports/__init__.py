"""What a run came to: its folder, its summary and its page."""

from pyrosparse.reports.summary import Layer, Round, Summary, headline, summarize

__all__ = [
    "Layer",
    "Round",
    "Summary",
    "headline",
    "summarize",
]
