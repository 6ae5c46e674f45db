"""Held-out accuracy of the suite ``gibbs-small`` by epoch: a figure.

    python docs/figures/gibbs_small.py

reads ``docs/results/gibbs-small.jsonl``, which ``pyrosparse bench gibbs-small`` writes, and draws
``gibbs_small.svg`` beside itself: of each recipe the mean over its seeds.
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


def accuracies(results: Path = RESULTS) -> dict[str, list[float]]:
    """By recipe, the mean over seeds of the held-out accuracy after each epoch, in %."""
    found: dict[str, list[list[float]]] = {}
    for cell in bench.table(bench.load("gibbs-small"), results):
        for line in cell.lines:
            curve = [100 * entry["validation_accuracy"] for entry in line["history"]]
            found.setdefault(cell.setup.recipe.label, []).append(curve)
    return {name: [mean(at) for at in zip(*curves, strict=True)] for name, curves in found.items()}


def main(results: Path = RESULTS, folder: Path = FOLDER) -> dict[str, list[float]]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves = accuracies(results)
    with matplotlib.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
        for name, (label, colour, style) in LINES.items():
            if name in curves:
                epochs = range(1, len(curves[name]) + 1)
                axes.plot(epochs, curves[name], style, color=colour, label=label)
        by_epoch(axes, "Small network, 90 % of the weights pruned", "held-out accuracy, %")
        axes.set_ylim(bottom=70)  # under hot masks the paper's recipe begins far below
        axes.legend(loc="lower right")
        figure.savefig(folder / "gibbs_small.svg", metadata={"Date": None})
        pyplot.close(figure)
    for name, curve in curves.items():
        print(f"{name:18}", *(f"{one:6.2f}" for one in curve))
    return curves


if __name__ == "__main__":
    main()
