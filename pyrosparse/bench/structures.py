"""The table of a suite of structured pruning: accuracy against weights and units left, by cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pyrosparse.bench.run import reading
from pyrosparse.bench.suite import Suite
from pyrosparse.bench.table import by_cell


@dataclass(frozen=True)
class StructureRow:
    """One cell: test accuracy and what is left, by seed.

    accuracies: in %.
    left:       weights that are not zero, in % of all.
    structures: outputs of the hidden layers of the compact networks, ``5-8-20-20``.
    macs:       multiply-accumulates that the compact networks save, in %.
    latency:    measured time before over after, means by batch size.
    paper:      ``accuracy`` in [0, 1], ``left`` and ``macs`` in %, ``structure``; or nothing.
    """

    cell: str
    accuracies: list[float]
    left: list[float]
    structures: list[str]
    macs: list[float]
    latency: Mapping[int, float]
    paper: Mapping[str, Any]

    @property
    def accuracy(self) -> float:
        """Mean test accuracy over the seeds, in %."""
        return mean(self.accuracies)

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the accuracy over the seeds; None for one seed."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None


def structure_table(suite: Suite, results: Path) -> list[StructureRow]:
    """The cells of a suite that have results, in the suite's order."""
    rows = []
    for cell, lines in by_cell(suite, results).items():
        with reading(f"{results}, a line of {cell}"):
            rows.append(_row(cell, lines, suite))
    return rows


def _row(cell: str, lines: list[dict[str, Any]], suite: Suite) -> StructureRow:
    compact = [line["compact"] for line in lines if line["compact"].get("macs")]
    totals = [[sum(side) for side in zip(*one["macs"].values(), strict=True)] for one in compact]
    sizes = set.intersection(*(set(one["seconds"]) for one in compact)) if compact else set()
    return StructureRow(
        cell=cell,
        accuracies=[100 * line["test_accuracy"] for line in lines],
        left=[100 * (1 - line["sparsity"]) for line in lines],
        structures=[one["structure"].rpartition("-")[0] for one in compact],
        macs=[100 * (1 - after / before) for before, after in totals],
        latency={
            int(size): mean(one["seconds"][size][0] / one["seconds"][size][1] for one in compact)
            for size in sorted(sizes, key=int)
        },
        paper=suite.paper.get(cell, {}),
    )
