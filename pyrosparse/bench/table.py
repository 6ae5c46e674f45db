"""The tables of a suite: its results by cell, with what was published beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pyrosparse.bench.run import read, reading
from pyrosparse.bench.suite import Suite


@dataclass(frozen=True)
class Row:
    """One cell of a suite's table: ours beside the paper's test accuracy."""

    cell: str
    accuracies: list[float]
    sparsity: float
    paper: float | None

    @property
    def mean(self) -> float:
        """Mean test accuracy over the seeds."""
        return mean(self.accuracies)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds; None for one seed."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.paper is None else self.mean - self.paper


def table(suite: Suite, results: Path) -> list[Row]:
    """The cells of a suite that have results, in the suite's order."""
    rows = []
    for cell, lines in by_cell(suite, results).items():
        with reading(f"{results}, a line of {cell}"):
            accuracies = [line["test_accuracy"] for line in lines]
            sparsity = mean(line["sparsity"] for line in lines)
        rows.append(Row(cell, accuracies, sparsity, suite.paper.get(cell, {}).get("accuracy")))
    return rows


def by_cell(suite: Suite, results: Path) -> dict[str, list[dict[str, Any]]]:
    """The lines of a results file by cell, in the suite's order and by seed."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for line in sorted(read(results), key=lambda line: line["seed"]):
        lines.setdefault(line["cell"], []).append(line)
    cells = dict.fromkeys(job.cell for job in suite.jobs)
    return {cell: lines[cell] for cell in cells if cell in lines}


def provenance(results: Path) -> str:
    """With what versions, on what machines and when the runs of a results file were made."""
    lines = read(results)

    def values(key: str) -> str:
        return ", ".join(sorted({line[key] for line in lines}))

    with reading(f"{results}, a line"):
        return (
            f"{len(lines)} runs; pyrosparse {values('version')}, torch {values('torch')}; "
            f"{values('machine')}; {values('date')}"
        )
