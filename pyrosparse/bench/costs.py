"""The table of a suite whose networks become smaller: error against size, by cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pyrosparse.bench.run import reading
from pyrosparse.bench.suite import Suite
from pyrosparse.bench.table import by_cell
from pyrosparse.compress import Settings


@dataclass(frozen=True)
class CostRow:
    """One cell: test error and size, means over the seeds, and the paper's figures.

    settings: of the cell's first seed.
    errors:   test errors by seed, in %.
    kept:     units by gate, ``137-90-37``, rounded; those of an average datum where they depend on
              it; "" where there are no gates.
    speedup, memory: FLOPs before over after, and memory after in % of before, both as the paper
              counts them; None where a network of the cell has no compact form or no such count.
    latency:  measured time before over after, by batch size.
    paper:    ``error`` and ``memory`` in %, ``speedup``; those that were published.
    """

    cell: str
    settings: Settings
    errors: list[float]
    kept: str
    speedup: float | None
    memory: float | None
    latency: dict[int, float]
    paper: Mapping[str, float]

    @property
    def error(self) -> float:
        """Mean test error over the seeds, in %."""
        return mean(self.errors)

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the error over the seeds; None for one seed."""
        return stdev(self.errors) if len(self.errors) > 1 else None


def cost_table(suite: Suite, results: Path) -> list[CostRow]:
    """The cells of a suite that have results, with what size they came to: networks in the suite's
    order, of each the methods, of each along gamma."""
    rows = []
    for cell, lines in by_cell(suite, results).items():
        with reading(f"{results}, a line of {cell}"):
            rows.append(_row(cell, lines, suite))
    networks = [(job.settings.dataset, job.settings.network) for job in suite.jobs]

    def place(row: CostRow) -> tuple[int, str, float]:
        one = row.settings
        return networks.index((one.dataset, one.network)), one.method, one.level or 0.0

    return sorted(rows, key=place)


def _row(cell: str, lines: list[dict[str, Any]], suite: Suite) -> CostRow:
    compact = [line.get("compact", {}) for line in lines]
    # What a datum needs, where that depends on the datum, as in the paper's tables.
    counts = [one.get("active_counts", one.get("paper")) for one in compact]
    counts = [pair for pair in counts if pair]
    whole = len(counts) == len(lines)
    kept = [
        list(one.get("active", {}).values()) or [pair[0] for pair in one.get("units", {}).values()]
        for one in compact
    ]
    times = [one.get("seconds", {}) for one in compact]
    return CostRow(
        cell=cell,
        settings=Settings.of(lines[0]["settings"]),
        errors=[100 * (1 - line["test_accuracy"]) for line in lines],
        kept="-".join(f"{mean(of_gate):.0f}" for of_gate in zip(*kept, strict=True)),
        speedup=mean(b["flops"] / a["flops"] for b, a in counts) if whole else None,
        memory=mean(100 * a["memory"] / b["memory"] for b, a in counts) if whole else None,
        latency={
            int(size): mean(one[size][0] / one[size][1] for one in times)
            for size in times[0]
            if all(size in one for one in times)
        },
        paper=suite.paper.get(cell, {}),
    )
