"""The tables of a suite's results, for the terminal and for documents."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from statistics import mean, stdev

from rich.table import Table

from pyrosparse.bench import CostRow, Difference, PredictiveRow, Row, StructureRow

Rows = Sequence[Row] | Sequence[CostRow] | Sequence[StructureRow] | Sequence[PredictiveRow]

Column = tuple[str, list[str]]
"""A name and what is below it."""

_ACCURACY = ("cell", "ours, %", "seeds", "sparsity, %", "paper, %", "difference")
_COST = (
    "cell",
    "seeds",
    "error, %",
    "paper",
    "kept",
    "FLOP speed-up",
    "paper",
    "memory, %",
    "paper",
    "measured, batch 1 / 128",
)

_STRUCTURE = (
    "cell",
    "seeds",
    "accuracy, %",
    "paper",
    "weights left, %",
    "paper",
    "structures",
    "paper",
    "MACs saved, %",
    "paper",
    "measured, batch 1 / 128",
)

_PREDICTIVE = (
    "cell",
    "predicts",
    "seeds",
    "accuracy, %",
    "NLL",
    "ECE",
    "OOD AUROC",
    "elpd (s.e.)",
    "sparsity, %",
    "NLL less dense's (s.e.)",
    "less mean field's (s.e.)",
)


def suite(rows: Rows, width: int | None = None) -> list[Table]:
    """A suite's results as mean and standard deviation over seeds, and the paper's.

    width: characters that a table may be wide; where that is too few for all columns they are in
           several tables one below the other, each with the cells, whose names are cut to what
           tells them apart. By default one table.

    >>> row = Row("digits-fcn-none", [0.95, 0.97], 0.0, 0.96)
    >>> [len(table.columns) for table in suite([row])]
    [6]
    >>> [len(table.columns) for table in suite([row], width=60)]
    [3, 4]
    """
    (first, *names), cells = _contents(rows)
    columns = [(first, [row[0] for row in cells])]
    columns += [(name, [row[at] for row in cells]) for at, name in enumerate(names, start=1)]
    if width is None or _width(columns) <= width:
        return [_table(columns)]
    common = _common([row[0].split("-") for row in cells])
    if common:
        columns[0] = (f"{common}…", [row[0].removeprefix(common) for row in cells])
    return [_table(some) for some in _split(columns, width)]


def _common(names: Sequence[Sequence[str]]) -> str:
    """The words that several names all begin with, with a hyphen after each."""
    words = itertools.takewhile(lambda at: len(set(at)) == 1, zip(*names, strict=False))
    return "".join(f"{same[0]}-" for same in words) if len(names) > 1 else ""


def _split(columns: list[Column], width: int) -> Iterator[list[Column]]:
    """The columns in groups that are no wider each, the first column in all; what the paper has
    stays with what it is beside."""
    first, *others = columns
    blocks: list[list[Column]] = []
    for column in others:
        if blocks and column[0].startswith("paper"):
            blocks[-1].append(column)
        else:
            blocks.append([column])
    group = [first]
    for block in blocks:
        if len(group) > 1 and _width([*group, *block]) > width:
            yield group
            group = [first]
        group += block
    yield group


def _width(columns: Sequence[Column]) -> int:
    return 1 + sum(3 + max(map(len, [name, *cells])) for name, cells in columns)


def _table(columns: Sequence[Column]) -> Table:
    table = Table()
    for at, (name, _) in enumerate(columns):
        table.add_column(name, justify="right" if at else "left", no_wrap=True)
    for row in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*row)
    return table


def suite_markdown(rows: Rows) -> str:
    """The same results as a Markdown table.

    >>> print(suite_markdown([Row("digits-fcn-none", [0.95, 0.97], 0.0, 0.955)]))
    | cell | ours, % | seeds | sparsity, % | paper, % | difference |
    | :-- | --: | --: | --: | --: | --: |
    | digits-fcn-none | 96.00 ± 1.41 | 2 | 0.0 | 95.50 | +0.50 |
    """
    columns, cells = _contents(rows)
    lines = [columns, (":--", *("--:" for _ in columns[1:])), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _contents(
    rows: Rows,
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    costs = [_cost(row) for row in rows if isinstance(row, CostRow)]
    if costs:
        return _COST, costs
    structures = [_structure(row) for row in rows if isinstance(row, StructureRow)]
    if structures:
        return _STRUCTURE, structures
    predictive = [_predictive(row) for row in rows if isinstance(row, PredictiveRow)]
    if predictive:
        return _PREDICTIVE, predictive
    return _ACCURACY, [_accuracy(row) for row in rows if isinstance(row, Row)]


def _accuracy(row: Row) -> tuple[str, ...]:
    deviation = "" if row.deviation is None else f" ± {100 * row.deviation:.2f}"
    return (
        row.cell,
        f"{100 * row.mean:.2f}{deviation}",
        str(len(row.accuracies)),
        f"{100 * row.sparsity:.1f}",
        "" if row.paper is None else f"{100 * row.paper:.2f}",
        "" if row.difference is None else f"{100 * row.difference:+.2f}",
    )


def _cost(row: CostRow) -> tuple[str, ...]:
    deviation = "" if row.deviation is None else f" ± {row.deviation:.2f}"
    return (
        row.cell,
        str(len(row.errors)),
        f"{row.error:.2f}{deviation}",
        _number(row.paper.get("error")),
        row.kept,
        _number(row.speedup),
        _number(row.paper.get("speedup")),
        _number(row.memory),
        _number(row.paper.get("memory")),
        " / ".join(f"{factor:.1f}" for factor in row.latency.values()),
    )


def _structure(row: StructureRow) -> tuple[str, ...]:
    deviation = "" if row.deviation is None else f" ± {row.deviation:.2f}"
    paper = row.paper
    return (
        row.cell,
        str(len(row.accuracies)),
        f"{row.accuracy:.2f}{deviation}",
        _number(100 * paper["accuracy"] if paper else None),
        f"{mean(row.left):.2f}",
        _number(paper.get("left")),
        ", ".join(dict.fromkeys(row.structures)),
        paper.get("structure", ""),
        _number(mean(row.macs) if row.macs else None),
        _number(paper.get("macs")),
        " / ".join(f"{factor:.1f}" for factor in row.latency.values()),
    )


def _predictive(row: PredictiveRow) -> tuple[str, ...]:
    return (
        row.cell,
        row.predicts,
        str(len(row.nlls)),
        _spread(row.accuracies, 2),
        _spread(row.nlls, 4),
        _spread(row.eces, 4),
        _spread(row.aurocs, 4),
        f"{mean(row.elpds):.1f} ({mean(row.elpd_ses):.1f})",
        _spread(row.sparsities, 1),
        _difference(row.from_dense),
        _difference(row.from_mean_field),
    )


def _spread(values: Sequence[float], digits: int) -> str:
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"


def _difference(one: Difference | None) -> str:
    if one is None:
        return ""
    deviation = f" ± {stdev(one.by_seed):.4f}" if len(one.by_seed) > 1 else ""
    return f"{one.mean:+.4f}{deviation} ({one.se:.4f})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
