"""Tables for the terminal and for documents."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from pyrosparse.assess.summary import Summary, headline
from pyrosparse.bench import Row

_COLUMNS = ("cell", "ours, %", "seeds", "sparsity, %", "paper, %", "difference")


def layers(summary: Summary) -> Table:
    """One row a prunable tensor: weights, those not zero, sparsity, bytes."""
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


def numbers(summary: Summary) -> Table:
    """One row a number of the run as a whole."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for what, value in headline(summary):
        table.add_row(what, value)
    return table


def suite(rows: Sequence[Row]) -> Table:
    """A suite's results: test accuracy as mean and standard deviation over seeds, and the paper's.

    >>> suite([Row("digits-fcn-none", [0.95, 0.97], 0.0, 0.96)]).row_count
    1
    """
    table = _table(*_COLUMNS)
    for row in rows:
        table.add_row(*_cells(row))
    return table


def suite_markdown(rows: Sequence[Row]) -> str:
    """The same results as a Markdown table.

    >>> print(suite_markdown([Row("digits-fcn-none", [0.95, 0.97], 0.0, 0.955)]))
    | cell | ours, % | seeds | sparsity, % | paper, % | difference |
    | :-- | --: | --: | --: | --: | --: |
    | digits-fcn-none | 96.00 ± 1.41 | 2 | 0.0 | 95.50 | +0.50 |
    """
    lines = [_COLUMNS, (":--", *("--:" for _ in _COLUMNS[1:])), *(_cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def listing(*columns: str, rows: Sequence[Sequence[str]]) -> Table:
    """A plain table of names and what they mean.

    >>> listing("method", "what it does", rows=[("none", "trains only")]).row_count
    1
    """
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table


def _table(first: str, *others: str) -> Table:
    table = Table()
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _cells(row: Row) -> tuple[str, ...]:
    deviation = "" if row.deviation is None else f" ± {100 * row.deviation:.2f}"
    return (
        row.cell,
        f"{100 * row.mean:.2f}{deviation}",
        str(len(row.accuracies)),
        f"{100 * row.sparsity:.1f}",
        "" if row.paper is None else f"{100 * row.paper:.2f}",
        "" if row.difference is None else f"{100 * row.difference:+.2f}",
    )
