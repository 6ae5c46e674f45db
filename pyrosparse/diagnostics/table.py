"""Text tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def text_table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns under their names, the first aligned left and the others right.

    >>> print(text_table(["model", "elpd"], [["dense", "-10.5"], ["small", "-9.0"]]))
    model   elpd
    dense  -10.5
    small   -9.0
    """
    lines = [list(names), *(list(row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(names))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
