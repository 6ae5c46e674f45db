"""Tables for the terminal."""

from __future__ import annotations

from rich.table import Table

from pyrosparse.reports.costs import costs
from pyrosparse.reports.summary import Summary, headline


def layers(summary: Summary) -> Table:
    """One row for each prunable tensor: weights, non-zero weights, sparsity, bytes."""
    table = _table("layer", "weights", "not zero", "sparsity", "dense bytes", "sparse bytes")
    for layer in summary.layers:
        table.add_row(
            layer.name,
            f"{layer.size:,}",
            f"{layer.nonzero:,}",
            f"{100 * layer.sparsity:.2f} %",
            f"{layer.stored.dense_bytes:,}",
            f"{layer.stored.bytes:,}",
        )
    return table


def compact(summary: Summary) -> Table:
    """One row for each cost of the network: before, in the compact network, and the change."""
    table = _table("cost", "before", "compact", "change")
    for row in costs(summary):
        table.add_row(*row)
    return table


def numbers(summary: Summary) -> Table:
    """One row for each number of the whole run."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for what, value in headline(summary):
        table.add_row(what, value)
    return table


def _table(first: str, *others: str) -> Table:
    table = Table()
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    return table
