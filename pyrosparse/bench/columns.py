"""The columns of a suite's table: names, and functions of a cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean, stdev
from typing import Any

from pyrosparse.bench.cell import Cell, Difference, spread
from pyrosparse.bench.results import reading

Column = tuple[str, Callable[[Cell], str]]

_SEEDS: Column = ("seeds", lambda cell: str(len(cell.lines)))
_LATENCY: Column = (
    "measured, batch 1 / 128",
    lambda cell: " / ".join(f"{factor:.1f}" for factor in cell.latency.values()),
)


def _paper(name: str, factor: float = 1.0) -> Column:
    return "paper", lambda cell: _number(factor * cell.paper[name] if name in cell.paper else None)


ACCURACY: list[Column] = [
    ("ours, %", lambda cell: _percent([line["test_accuracy"] for line in cell.lines])),
    _SEEDS,
    ("sparsity, %", lambda cell: f"{100 * cell.sparsity:.1f}"),
    ("paper, %", _paper("accuracy", 100)[1]),
    (
        "difference",
        lambda cell: (
            f"{100 * (_accuracy(cell) - cell.paper['accuracy']):+.2f}"
            if "accuracy" in cell.paper
            else ""
        ),
    ),
]

SIZE: list[Column] = [
    _SEEDS,
    ("error, %", lambda cell: spread(cell.errors, 2)),
    _paper("error"),
    ("kept", lambda cell: cell.kept),
    ("FLOP speed-up", lambda cell: _number(cell.speedup)),
    _paper("speedup"),
    ("memory, %", lambda cell: _number(cell.memory)),
    _paper("memory"),
    _LATENCY,
]

STRUCTURE: list[Column] = [
    _SEEDS,
    ("accuracy, %", lambda cell: spread(cell.accuracies, 2)),
    _paper("accuracy", 100),
    ("weights left, %", lambda cell: f"{100 * (1 - cell.sparsity):.2f}"),
    _paper("left"),
    ("structures", lambda cell: ", ".join(dict.fromkeys(cell.structures))),
    ("paper", lambda cell: str(cell.paper.get("structure", ""))),
    ("MACs saved, %", lambda cell: _number(mean(cell.macs) if cell.macs else None)),
    _paper("macs"),
    _LATENCY,
]


def _test(name: str) -> Column:
    return name.upper(), lambda cell: spread([line[f"test_{name}"] for line in cell.lines], 4)


def _cost(title: str, name: str, unit: float = 1) -> Column:
    def text(cell: Cell) -> str:
        cost = cell.compact_mean(name)
        return "" if cost is None else f"{cost / unit:,.{1 if unit > 1 else 0}f}"

    return title, text


COMPARED: list[Column] = [
    _SEEDS,
    ("accuracy, %", lambda cell: spread(cell.accuracies, 2)),
    _test("nll"),
    _test("ece"),
    ("sparsity, %", lambda cell: f"{100 * cell.sparsity:.1f}"),
    _cost("parameters", "parameters"),
    _cost("MACs", "macs"),
    _cost("file, kB", "file_bytes", 1e3),
    (
        "ms, batch 1 / 128",
        lambda cell: " / ".join(f"{one:.3g}" for one in cell.milliseconds.values()),
    ),
    ("training, s", lambda cell: f"{mean(line['seconds'] for line in cell.lines):.0f}"),
]

_ON_NEWER_LINES: list[Column] = [
    ("90 % sets cover, % (size)", lambda cell: _conformal(cell)),
    ("rotated by 45 degrees: accuracy, % (NLL)", lambda cell: _rotated(cell, 45)),
]
"""Left out where no line has them, as of results before there were such."""

PREDICTIVE: list[Column] = [
    ("predicts", lambda cell: cell.predicts),
    _SEEDS,
    ("accuracy, %", lambda cell: spread([100 * one for one in cell.predictive("accuracy")], 2)),
    ("NLL", lambda cell: spread(cell.predictive("nll"), 4)),
    ("ECE", lambda cell: spread(cell.predictive("ece"), 4)),
    ("OOD AUROC", lambda cell: spread(cell.predictive("ood_auroc"), 4)),
    *_ON_NEWER_LINES,
    (
        "elpd (s.e.)",
        lambda cell: (
            f"{mean(cell.predictive('elpd')):.1f} ({mean(cell.predictive('elpd_se')):.1f})"
        ),
    ),
    ("sparsity, %", lambda cell: spread([100 * line["sparsity"] for line in cell.lines], 1)),
    ("NLL less dense's (s.e.)", lambda cell: _difference(cell.against("none", "network"))),
    (
        "less mean field's (s.e.)",
        lambda cell: _difference(cell.against("mean-field", "posterior")),
    ),
]


def _rotated(cell: Cell, angle: float) -> str:
    known = [
        line.get("predictive", {}).get(cell.predicts, {}).get("rotated", {}).get(f"{angle:g}")
        for line in cell.lines
    ]
    if not all(known):
        return ""
    accuracies = spread([100 * one["accuracy"] for one in known], 1)
    return f"{accuracies} ({mean(one['nll'] for one in known):.2f})"


def _conformal(cell: Cell) -> str:
    known = [line.get("predictive", {}).get(cell.predicts, {}) for line in cell.lines]
    if not all("conformal_size" in one for one in known):
        return ""
    covered = spread([100 * one["conformal_coverage"] for one in known], 1)
    return f"{covered} ({mean(one['conformal_size'] for one in known):.2f})"


def _per_split(name: str, digits: int) -> Column:
    title = {"coverage_50": "50 % covers, %", "coverage_95": "95 % covers, %"}.get(
        name, name.upper()
    )
    unit = 100 if name.startswith("coverage") else 1
    return title, lambda cell: _with_error([unit * v for v in cell.predictive(name)], digits)


VALUES: list[Column] = [
    ("predicts", lambda cell: cell.predicts),
    ("splits", lambda cell: str(len(cell.lines))),
    _per_split("rmse", 3),
    _per_split("nll", 3),
    _per_split("crps", 3),
    _per_split("coverage_50", 0),
    _per_split("coverage_95", 0),
    ("sparsity, %", lambda cell: f"{100 * cell.sparsity:.1f}"),
    (
        "NLL less NUTS's",
        lambda cell: _with_error(cell.beside("nuts", "posterior", "nll"), 3, signed=True),
    ),
    ("training, s", lambda cell: f"{mean(line['seconds'] for line in cell.lines):.0f}"),
]


def columns_of(cells: Sequence[Cell]) -> tuple[list[Column], list[Cell]]:
    """The columns that the lines of cells have something for, and the cells in their order: by
    their size along the knob where recipes have one start, or units are kept."""
    if any(cell.starts for cell in cells):
        return COMPARED, along_the_knob(cells)
    if any("test_rmse" in line for cell in cells for line in cell.lines):
        return VALUES, list(cells)
    if any("predictive" in line for cell in cells for line in cell.lines):
        unknown = [one for one in _ON_NEWER_LINES if not any(map(one[1], cells))]
        return [one for one in PREDICTIVE if one not in unknown], list(cells)
    if any("structure" in cell.paper for cell in cells):
        return STRUCTURE, list(cells)
    if any(cell.kept for cell in cells):
        return SIZE, along_the_knob(cells)
    return ACCURACY, list(cells)


def along_the_knob(cells: Sequence[Cell]) -> list[Cell]:
    """Networks in the order of the cells, of each the recipes, of each along its knob."""
    networks = list(dict.fromkeys((cell.setup.dataset, cell.setup.network) for cell in cells))

    def place(cell: Cell) -> tuple[int, str, float]:
        one = cell.setup
        where = networks.index((one.dataset, one.network))
        return where, one.recipe.label, one.recipe.level or 0.0

    return sorted(cells, key=place)


def contents(cells: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and the rows of texts below."""
    columns, ordered = columns_of(cells)
    rows = []
    for cell in ordered:
        with reading(f"a line of {cell.name}"):
            rows.append([cell.name, *(text(cell) for _, text in columns)])
    return ["cell", *(name for name, _ in columns)], rows


def _accuracy(cell: Cell) -> float:
    return mean(line["test_accuracy"] for line in cell.lines)


def _percent(shares: Sequence[float]) -> str:
    # A mean of percentages rounds otherwise in some last digit.
    deviation = f" ± {100 * stdev(shares):.2f}" if len(shares) > 1 else ""
    return f"{100 * mean(shares):.2f}{deviation}"


def _with_error(values: Sequence[float], digits: int, *, signed: bool = False) -> str:
    """The mean over splits, with its standard error from two on, as tables of UCI data have it."""
    if not values:
        return ""
    sign = "+" if signed else ""
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    told = f"{mean(values):{sign}.{digits}f}"
    return told if error is None else f"{told} ± {error:.{digits}f}"


def _difference(one: Difference | None) -> str:
    if one is None:
        return ""
    mean_and_deviation = spread(one.by_seed, 4)
    sign = "" if mean_and_deviation.startswith("-") else "+"
    return f"{sign}{mean_and_deviation} ({one.se:.4f})"


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.2f}"
