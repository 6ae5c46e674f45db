"""Held-out accuracy of the suite ``gibbs-small`` by epoch: a figure.

    python docs/figures/gibbs_small.py

reads ``docs/results/gibbs-small.jsonl``, which ``pyrosparse bench gibbs-small`` writes, and draws
``gibbs_small.svg`` beside itself: of each recipe the mean over its seeds, a panel for each data set
and sparsity.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean

from pyrosparse import bench
from pyrosparse.plots.style import STYLE, by_epoch

FOLDER = Path(__file__).parent
RESULTS = FOLDER.parent / "results" / "gibbs-small.jsonl"

# Okabe and Ito's colours; what Gibbs pruning is compared with is dashed.
LINES = {
    "dense": ("dense", "#8a8f98", "-"),
    "gradual-magnitude": ("gradual magnitude", "#009e73", "--"),
    "cut": ("cut once", "#cc79a7", "--"),
    "gibbs-relative": ("Gibbs, new recipe", "#0072b2", "-"),
    "reinitialised": ("its masks, new weights", "#56b4e9", "--"),
    "random-mask": ("random masks", "#d55e00", "--"),
    "gibbs": ("Gibbs, the paper's recipe", "#20242a", "-"),
}


PANELS = {
    "fashion-mnist": ("Fashion-MNIST, 14 x 14", 70),
    "cifar10": ("CIFAR-10 (JPEG), 16 x 16", 36),
}
"""By data set its title, and where the axis begins: under hot masks the paper's recipe begins far
below."""
SPARSITIES = (0.9, 0.95)


def accuracies(dataset: str, sparsity: float, results: Path = RESULTS) -> dict[str, list[float]]:
    """By recipe, the mean over seeds of the held-out accuracy after each epoch, in %."""
    found: dict[str, list[list[float]]] = {}
    for cell in bench.table(bench.load("gibbs-small"), results):
        pruned = getattr(cell.setup.recipe, "sparsity", sparsity)  # the dense network has none
        if cell.setup.dataset != dataset or pruned != sparsity:
            continue
        for line in cell.lines:
            curve = [100 * entry["validation_accuracy"] for entry in line["history"]]
            found.setdefault(cell.setup.recipe.label, []).append(curve)
    return {name: [mean(at) for at in zip(*curves, strict=True)] for name, curves in found.items()}


def main(results: Path = RESULTS, folder: Path = FOLDER) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(STYLE):
        size = (len(PANELS), len(SPARSITIES))
        figure, grid = pyplot.subplots(*size, figsize=(8, 7), layout="constrained")
        for row, (dataset, (title, bottom)) in zip(grid, PANELS.items(), strict=True):
            for axes, sparsity in zip(row, SPARSITIES, strict=True):
                curves = accuracies(dataset, sparsity, results)
                for name, (label, colour, style) in LINES.items():
                    if name in curves:
                        epochs = range(1, len(curves[name]) + 1)
                        axes.plot(epochs, curves[name], style, color=colour, label=label)
                by_epoch(axes, f"{title}, {sparsity:.0%} pruned", "held-out accuracy, %")
                axes.set_ylim(bottom=bottom)
        lines, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(lines, labels, loc="outside lower center", ncols=3)
        figure.savefig(folder / "gibbs_small.svg", metadata={"Date": None})
        pyplot.close(figure)


if __name__ == "__main__":
    main()
