"""The tables of a suite's results, for the terminal and for documents."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from rich.table import Table

from pyrosparse.bench.cell import Cell
from pyrosparse.bench.columns import contents

Texts = tuple[str, list[str]]
"""A column: its name and what is below it."""


def suite(cells: Sequence[Cell], width: int | None = None) -> list[Table]:
    """A suite's results as mean and standard deviation over seeds, and the paper's.

    width: characters that a table may be wide; where that is too few for all columns they are in
           several tables one below the other, each with the cells, whose names are cut to what
           tells them apart. By default one table.

    >>> lines = [{"test_accuracy": 0.95, "sparsity": 0.0}]
    >>> cell = Cell("digits-fcn-none", lines, {"accuracy": 0.96})
    >>> [len(table.columns) for table in suite([cell])]
    [6]
    >>> [len(table.columns) for table in suite([cell], width=60)]
    [3, 4]
    """
    (first, *names), rows = contents(cells)
    columns = [(first, [row[0] for row in rows])]
    columns += [(name, [row[at] for row in rows]) for at, name in enumerate(names, start=1)]
    if width is None or _width(columns) <= width:
        return [_table(columns)]
    common = _common([row[0].split("-") for row in rows])
    if common:
        columns[0] = (f"{common}…", [row[0].removeprefix(common) for row in rows])
    return [_table(some) for some in _split(columns, width)]


def _common(names: Sequence[Sequence[str]]) -> str:
    """The words that several names all begin with, with a hyphen after each."""
    words = itertools.takewhile(lambda at: len(set(at)) == 1, zip(*names, strict=False))
    return "".join(f"{same[0]}-" for same in words) if len(names) > 1 else ""


def _split(columns: list[Texts], width: int) -> Iterator[list[Texts]]:
    """The columns in groups that are no wider each, the first column in all; what the paper has
    stays with what it is beside."""
    first, *others = columns
    blocks: list[list[Texts]] = []
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


def _width(columns: Sequence[Texts]) -> int:
    return 1 + sum(3 + max(map(len, [name, *cells])) for name, cells in columns)


def _table(columns: Sequence[Texts]) -> Table:
    table = Table()
    for at, (name, _) in enumerate(columns):
        table.add_column(name, justify="right" if at else "left", no_wrap=True)
    for row in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*row)
    return table


def markdown(cells: Sequence[Cell]) -> str:
    """The same results as a Markdown table.

    >>> lines = [{"test_accuracy": one, "sparsity": 0.0} for one in (0.95, 0.97)]
    >>> print(markdown([Cell("digits-fcn-none", lines, {"accuracy": 0.955})]))
    | cell | ours, % | seeds | sparsity, % | paper, % | difference |
    | :-- | --: | --: | --: | --: | --: |
    | digits-fcn-none | 96.00 ± 1.41 | 2 | 0.0 | 95.50 | +0.50 |
    """
    names, rows = contents(cells)
    lines = [names, [":--", *("--:" for _ in names[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
