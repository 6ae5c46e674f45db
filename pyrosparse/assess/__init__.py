"""What a run came to: its numbers, plots, tables and report."""

from pyrosparse.assess.summary import Layer, Round, Summary, headline, summarize

__all__ = ["Layer", "Round", "Summary", "headline", "summarize"]
