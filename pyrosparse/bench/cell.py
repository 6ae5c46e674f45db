"""A cell of a suite: its result lines by seed, with what was published beside them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pyrosparse.bench.results import read
from pyrosparse.bench.suite import Suite
from pyrosparse.recipes.setup import Setup


@dataclass(frozen=True)
class Difference:
    """How much larger the negative log likelihood is than a reference's, nats per datum.

    by_seed: of each seed that both have.
    se:      the standard error over the test data of the mean of these, from the differences datum
             by datum: data that are hard for both cancel.
    """

    by_seed: list[float]
    se: float

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return mean(self.by_seed)


@dataclass(frozen=True)
class Cell:
    """One cell of a suite's table.

    lines:    its result lines, one a seed.
    paper:    published figures: ``accuracy`` in [0, 1], ``error``, ``memory``, ``left`` and
              ``macs`` in %, ``speedup``, ``structure``; those that there are.
    kin:      the lines of all cells on the same data and network.
    predicts: of lines with predictive figures, ``network`` or ``posterior``.

    >>> Cell("a", [{"test_accuracy": 0.95}, {"test_accuracy": 0.97}]).accuracies
    [95.0, 97.0]
    """

    name: str
    lines: list[dict[str, Any]]
    paper: Mapping[str, Any] = field(default_factory=dict)
    kin: Sequence[list[dict[str, Any]]] = ()
    predicts: str = "network"

    @cached_property
    def setup(self) -> Setup:
        """Of the first seed."""
        return Setup.of(self.lines[0]["settings"])

    @property
    def accuracies(self) -> list[float]:
        """Test accuracies by seed, in %."""
        return [100 * line["test_accuracy"] for line in self.lines]

    @property
    def errors(self) -> list[float]:
        """Test errors by seed, in %."""
        return [100 * (1 - line["test_accuracy"]) for line in self.lines]

    @property
    def sparsity(self) -> float:
        """The mean share of the prunable weights that is zero, in [0, 1]."""
        return mean(line["sparsity"] for line in self.lines)

    @property
    def compact(self) -> list[dict[str, Any]]:
        """What the compact networks cost, by seed."""
        return [line.get("compact", {}) for line in self.lines]

    @property
    def kept(self) -> str:
        """Units by gate, ``137-90-37``, rounded; of an average datum where they depend on it."""
        kept = [
            list(one.get("active", {}).values())
            or [pair[0] for pair in one.get("units", {}).values()]
            for one in self.compact
        ]
        return "-".join(f"{mean(of_gate):.0f}" for of_gate in zip(*kept, strict=True))

    @property
    def speedup(self) -> float | None:
        """FLOPs before over after, as the paper counts; None where a run has no such count."""
        counts = self._counts
        return mean(b["flops"] / a["flops"] for b, a in counts) if counts else None

    @property
    def memory(self) -> float | None:
        """Memory after in % of before, as the paper counts; None where a run has no such count."""
        counts = self._counts
        return mean(100 * a["memory"] / b["memory"] for b, a in counts) if counts else None

    @property
    def _counts(self) -> list[Any]:
        # What a datum needs, where that depends on the datum, as in the paper's tables.
        counts = [one.get("active_counts", one.get("paper")) for one in self.compact]
        return counts if all(counts) else []

    @property
    def latency(self) -> dict[int, float]:
        """Measured time before over after, by batch size."""
        times = [one["seconds"] for one in self.compact if one.get("seconds")]
        sizes = set.intersection(*(set(one) for one in times)) if times else set()
        return {
            int(size): mean(one[size][0] / one[size][1] for one in times)
            for size in sorted(sizes, key=int)
        }

    @property
    def structures(self) -> list[str]:
        """Outputs of the hidden layers of the compact networks, by seed: ``5-8-20-20``."""
        return [one["structure"].rpartition("-")[0] for one in self.compact if one.get("macs")]

    @property
    def macs(self) -> list[float]:
        """Multiply-accumulates that the compact networks save, in %."""
        totals = [
            [sum(side) for side in zip(*one["macs"].values(), strict=True)]
            for one in self.compact
            if one.get("macs")
        ]
        return [100 * (1 - after / before) for before, after in totals]

    @property
    def starts(self) -> dict[int, str]:
        """A code of the weights that all recipes began with, by seed; empty without a start."""
        return {line["seed"]: line["start"] for line in self.lines if "start" in line}

    def compact_mean(self, name: str) -> float | None:
        """The mean over the seeds of what the compact network costs: ``parameters``, ``macs``,
        ``file_bytes``; None where a seed has none."""
        found = [_after(one.get(name)) for one in self.compact]
        known = [one for one in found if one is not None]
        return mean(known) if len(known) == len(found) else None

    @property
    def milliseconds(self) -> dict[int, float]:
        """Measured time of the compact network, by batch size; its mean over the seeds."""
        times = [one.get("seconds") or {} for one in self.compact]
        sizes = set.intersection(*(set(one) for one in times))
        return {
            int(size): 1e3 * mean(one[size][1] for one in times) for size in sorted(sizes, key=int)
        }

    def predictive(self, name: str) -> list[float]:
        """A predictive figure by seed: ``nll``, ``ece``, ``ood_auroc``, ``elpd``, ..."""
        return [line["predictive"][self.predicts][name] for line in self.lines]

    def beside(self, recipe: str, predicts: str, name: str) -> list[float]:
        """How much larger a predictive figure is than that of the first cell of a recipe on the
        same data and network, by seed that both have; empty without one."""
        cells = [
            lines for lines in self.kin if Setup.of(lines[0]["settings"]).recipe.name == recipe
        ]
        reference = {
            line["seed"]: line["predictive"][predicts][name]
            for lines in cells[:1]
            for line in lines
            if predicts in line["predictive"]
        }
        own = {line["seed"]: line["predictive"][self.predicts][name] for line in self.lines}
        return [one - reference[seed] for seed, one in own.items() if seed in reference]

    def against(self, recipe: str, predicts: str) -> Difference | None:
        """The NLL beside that of the first cell of a recipe on the same data and network; None
        without one."""
        import torch

        from pyrosparse.bench.predictive import unpacked

        cells = [
            lines for lines in self.kin if Setup.of(lines[0]["settings"]).recipe.name == recipe
        ]
        reference = {
            line["seed"]: line["predictive"][predicts] for lines in cells[:1] for line in lines
        }
        own = {line["seed"]: line["predictive"][self.predicts] for line in self.lines}
        pairs = [(one, reference[seed]) for seed, one in own.items() if seed in reference]
        if not pairs:
            return None
        differences = torch.stack(
            [unpacked(b["log_density"]) - unpacked(a["log_density"]) for a, b in pairs]
        ).mean(0)
        # The means are exact; only the standard error is from the rounded densities.
        return Difference(
            [a["nll"] - b["nll"] for a, b in pairs],
            float(differences.std()) / math.sqrt(len(differences)),
        )


def _after(value: Any) -> float | None:
    """A cost of the compact network: of pairs (before, after) the second, of layers their sum."""
    if isinstance(value, Mapping):
        return sum(pair[1] for pair in value.values()) if value else None
    return value[1] if isinstance(value, Sequence) else value


def other_starts(cells: Sequence[Cell]) -> list[str]:
    """The cells with runs that began with other weights than most do on the same data and network
    under the same seed: they are not on the terms of the others."""
    codes: dict[tuple[str, str, int], Counter[str]] = defaultdict(Counter)
    began = [
        (cell.name, (cell.setup.dataset, cell.setup.network, seed), code)
        for cell in cells
        for seed, code in cell.starts.items()
    ]
    for _, where, code in began:
        codes[where][code] += 1
    usual = {where: found.most_common(1)[0][0] for where, found in codes.items()}
    return list(dict.fromkeys(name for name, where, code in began if code != usual[where]))


def spread(values: Sequence[float], digits: int) -> str:
    """The mean, and from two values on the standard deviation.

    >>> spread([1.0, 2.0], 2)
    '1.50 ± 0.71'
    """
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"


def table(suite: Suite, results: Path) -> list[Cell]:
    """The cells of a suite that have results, in the suite's order; where lines have predictive
    figures, a cell for each way to predict, and cells without are left out."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for line in sorted(read(results), key=lambda line: line["seed"]):
        lines.setdefault(line["cell"], []).append(line)
    named = dict.fromkeys(job.cell for job in suite.jobs)
    cells = [Cell(name, lines[name], suite.paper.get(name, {})) for name in named if name in lines]
    if not any("predictive" in line for cell in cells for line in cell.lines):
        return cells
    cells = [
        replace(cell, lines=[line for line in cell.lines if "predictive" in line])
        for cell in cells
        if any("predictive" in line for line in cell.lines)
    ]
    return [
        replace(cell, predicts=predicts, kin=_kin(cell, cells))
        for cell in cells
        for predicts in ("network", "posterior")
        if predicts in cell.lines[0]["predictive"]
    ]


def _kin(cell: Cell, cells: Sequence[Cell]) -> list[list[dict[str, Any]]]:
    def where(one: Cell) -> tuple[str, str]:
        settings = one.lines[0]["settings"]
        return settings["dataset"], settings["network"]

    return [other.lines for other in cells if where(other) == where(cell)]
