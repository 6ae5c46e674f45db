"""The gallery's figures that are drawn from the results files of suites.

    python docs/figures/gallery.py

reads ``docs/results/*.jsonl`` and writes ``gallery-*.svg`` beside itself. Seconds on one core.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from pyrosparse import bench
from pyrosparse.plots import accuracy_by_sparsity, plots, size_plots
from pyrosparse.plots.style import STYLE
from pyrosparse.util.files import write_atomically

FOLDER = Path(__file__).parent
RESULTS = FOLDER.parent / "results"
RECIPES = ("magnitude", "bayesian-magnitude", "random", "bayesian-random")


def cells(suite: str) -> list[bench.Cell]:
    return bench.table(bench.load(suite), RESULTS / f"{suite}.jsonl")


def line(suite: str, cell: str) -> dict[str, Any]:
    """The result line of a cell's first seed."""
    return next(one for one in cells(suite) if one.name == cell).lines[0]


def bayesian_pruning() -> Figure:
    """Accuracy against sparsity on MNIST, by recipe, beside the paper's."""
    found: dict[str, dict[float, list[float]]] = {}
    for cell in cells("bayesian-pruning"):
        settings = cell.lines[0]["settings"]
        recipe = settings.get("recipe") or settings["method"]
        if (settings["dataset"], settings["network"]) != ("mnist", "fcn") or recipe not in RECIPES:
            continue
        ours = [one["test_accuracy"] for one in cell.lines]
        found.setdefault(recipe, {})[settings["sparsity"]] = ours
        if recipe == "bayesian-magnitude":
            paper = found.setdefault(f"{recipe}, paper", {})
            paper[settings["sparsity"]] = [cell.paper["accuracy"]]
    return accuracy_by_sparsity(found)


def bayes_factors() -> Figure:
    """The two parts of the Bayes factor in every round of one run."""
    cell = "mnist-fcn-bayesian-magnitude-99"
    return plots.bayes_factor_parts(line("bayesian-pruning", cell)["history"])


def units() -> Figure:
    """The units that gates keep, by epoch."""
    one = line("beta-bernoulli", "mnist-lenet_500_300-beta-bernoulli-4")
    return size_plots.kept_units(one["history"], one["compact"]["units"])


def reduction() -> Figure:
    """What the ELBO gains by the batches of weights that model reduction tries."""
    name = "fashion-mnist-fcn-model-reduction-0.3"
    return plots.elbo_gains(line("evidence", name)["history"])


FIGURES: dict[str, Callable[[], Figure]] = {
    "bayesian-pruning": bayesian_pruning,
    "bayes-factors": bayes_factors,
    "units": units,
    "reduction": reduction,
}


def main(folder: Path = FOLDER) -> int:
    for name, draw in FIGURES.items():
        file = io.StringIO()
        with matplotlib.rc_context(STYLE):
            draw().savefig(file, format="svg", metadata={"Date": None})
        write_atomically(folder / f"gallery-{name}.svg", file.getvalue())
    return len(FIGURES)


if __name__ == "__main__":
    print(f"{main()} figures drawn")
