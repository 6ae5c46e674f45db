"""The figure and the table of the home page, from committed results.

    python docs/figures/home.py

reads ``docs/results/*.jsonl`` and writes beside itself ``home.svg``, test accuracy against size on
MNIST and Fashion-MNIST, and ``home.md``, some cells beside the figures of their papers. A few
seconds on one core.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib
from matplotlib.figure import Figure

import pyrosparse as ps
from pyrosparse import bench
from pyrosparse.bench.results import read
from pyrosparse.plots.style import BLUE, GREEN, GREY, INK, ORANGE, STYLE
from pyrosparse.util.files import write_atomically

FOLDER = Path(__file__).parent
RESULTS = FOLDER.parent / "results"
# The accuracies that each panel shows; what is below is counted in its corner.
PANELS = {"mnist": (0.975, 0.995), "fashion-mnist": (0.86, 0.91)}
# Controls, and what only bounds the others, are in the tables of the methods' pages.
SHOWN = (
    "magnitude",
    "bayesian-magnitude",
    "beta-bernoulli",
    "dependent-beta-bernoulli",
    "model-reduction",
    "gibbs",
    "turbo-vbi",
    "turbo-units-first",
    "independent-support",
)
NAMES = {"fcn": "fully connected", "lenet5": "LeNet-5", "lenet_500_300": "LeNet-500-300"}
NAMES["lenet5_caffe"] = "LeNet5-Caffe"
# The rows of the table: suite, cell, task, and what the size is a share of.
ROWS = (
    (
        "bayesian-pruning",
        "mnist-fcn-bayesian-magnitude-90",
        "MNIST, fully connected",
        "weights",
    ),
    (
        "bayesian-pruning",
        "mnist-fcn-bayesian-magnitude-99",
        "MNIST, fully connected",
        "weights",
    ),
    ("bayesian-pruning", "mnist-cnn-bayesian-magnitude-99", "MNIST, convolutional", "weights"),
    ("beta-bernoulli", "mnist-lenet_500_300-beta-bernoulli-4", "MNIST, LeNet-500-300", "memory"),
    ("beta-bernoulli", "mnist-lenet5_caffe-beta-bernoulli-1", "MNIST, LeNet5-Caffe", "memory"),
    ("turbo-vbi", "fashion-mnist-lenet5-turbo-vbi-2.5", "Fashion-MNIST, LeNet-5", "weights"),
    ("turbo-vbi", "fashion-mnist-lenet5-turbo-vbi-1.14", "Fashion-MNIST, LeNet-5", "weights"),
    (
        "turbo-vbi",
        "fashion-mnist-lenet5-turbo-units-first-1.14",
        "Fashion-MNIST, LeNet-5",
        "weights",
    ),
    ("turbo-vbi", "cifar10-alexnet_small-turbo-vbi-3.42", "CIFAR-10, small AlexNet", "weights"),
    ("gibbs-longer", "cifar10-resnet20-gibbs-90", "CIFAR-10, ResNet-20 of half width", "weights"),
    ("beta-bernoulli-vgg", "cifar10-vgg_like-beta-bernoulli-8", "CIFAR-10, VGG", "memory"),
)
COLOURS = dict(zip(NAMES, (BLUE, GREEN, ORANGE, GREY), strict=True))
MARKERS = dict(zip(SHOWN, "osD^vPX*<", strict=True))


def weights(line: dict[str, Any]) -> int:
    """The number of weights that a run left different from zero."""
    settings = line["settings"]
    shape = (1, 28, 28)
    options = settings.get("network_options") or {}
    net = ps.networks.create(settings["network"], image_shape=shape, classes=10, **options)
    return round((1 - line["sparsity"]) * sum(t.value.numel() for t in ps.weights(net)))


Points = dict[tuple[str, str, str, str], dict[str, tuple[float, ...]]]


def cells(results: Path) -> Points:
    """Mean (weights left, test accuracy) by cell, by data set, network, its options and recipe."""
    lines: dict[tuple[str, str, str, str], dict[str, list]] = defaultdict(lambda: defaultdict(list))
    for file in sorted(results.glob("*.jsonl")):
        if '"cell"' not in file.read_text():
            continue  # of a script, not of a suite
        for line in read(file):
            settings = line["settings"]
            recipe = settings.get("recipe") or settings["method"]
            options = json.dumps(settings.get("network_options"))
            key = settings["dataset"], settings["network"], options, recipe
            if key[0] in PANELS and key[1] in NAMES and recipe in SHOWN:
                lines[key][line["cell"]].append((weights(line), line["test_accuracy"]))
    return {
        key: {cell: tuple(map(mean, zip(*seeds, strict=True))) for cell, seeds in own.items()}
        for key, own in lines.items()
    }


def draw(found: Points) -> Figure:
    """A panel a data set, a colour a network, a marker a recipe."""
    titles = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 5.4), layout="constrained")
        for (dataset, limits), axes in zip(PANELS.items(), figure.subplots(1, 2), strict=True):
            below, named = 0, set()
            for key in sorted(found, key=lambda key: SHOWN.index(key[3])):
                if key[0] != dataset:
                    continue
                x, y = zip(*sorted(found[key].values()), strict=True)
                label = f"{key[3]}, {NAMES[key[1]]}"
                axes.plot(
                    x,
                    [100 * accuracy for accuracy in y],
                    marker=MARKERS[key[3]],
                    color=COLOURS[key[1]],
                    linewidth=0.8,
                    alpha=0.85,
                    label=None if label in named else label,
                )
                named.add(label)
                below += sum(accuracy < limits[0] for accuracy in y)
            axes.set(title=titles[dataset], xscale="log", ylim=[100 * limit for limit in limits])
            axes.set(xlabel="weights left (smaller is to the left)", ylabel="test accuracy (%)")
            if below:
                note = f"{below} below the axis"
                axes.text(0.98, 0.02, note, ha="right", color=INK, transform=axes.transAxes)
            axes.legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(0, -0.16))
    return figure


def table() -> str:
    """Cells beside what their papers report, as Markdown."""
    lines = [
        "| task | recipe | accuracy, paper (%) | accuracy, ours (%) "
        "| size, paper | size, ours | seconds |",
        "|:--|:--|--:|--:|--:|--:|--:|",
    ]
    for name, wanted, task, of in ROWS:
        found = bench.table(bench.load(name), RESULTS / f"{name}.jsonl")
        cell = next(cell for cell in found if cell.name == wanted)
        accuracies = cell.accuracies
        ours = f"{mean(accuracies):.2f}"
        if len(accuracies) > 1:
            ours += f" ± {stdev(accuracies):.2f} ({len(accuracies)} seeds)"
        settings = cell.lines[0]["settings"]
        recipe = settings.get("recipe") or settings["method"]
        seconds = mean(
            line["seconds"] + (line.get("pretraining_seconds") or 0) for line in cell.lines
        )
        lines.append(
            f"| {task} | `{recipe}` | {published(cell):.2f} | {ours} | "
            f"{size_of_paper(cell, of)} % of {of} | {size(cell, of):.1f} % of {of} | "
            f"{seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


def published(cell: bench.Cell) -> float:
    """The paper's accuracy, in %."""
    if "error" in cell.paper:
        return 100 - cell.paper["error"]
    return 100 * cell.paper["accuracy"]


def size(cell: bench.Cell, of: str) -> float:
    """What is left, in %, of the weights or of the memory that the beta-Bernoulli paper counts."""
    if of == "weights":
        return mean(100 * (1 - line["sparsity"]) for line in cell.lines)
    counts = (line["compact"]["paper"] for line in cell.lines)
    return mean(100 * after["memory"] / before["memory"] for before, after in counts)


def size_of_paper(cell: bench.Cell, of: str) -> str:
    """The same of the paper; a sparsity that is set is the paper's."""
    key = {"weights": "left", "memory": "memory"}[of]
    if key in cell.paper:
        return f"{cell.paper[key]:.1f}"
    return f"{100 * (1 - cell.lines[0]['settings']['sparsity']):.1f}"


def main(folder: Path = FOLDER) -> int:
    found = cells(RESULTS)
    file = io.StringIO()
    with matplotlib.rc_context(STYLE):
        draw(found).savefig(file, format="svg", metadata={"Date": None})
    write_atomically(folder / "home.svg", file.getvalue())
    write_atomically(folder / "home.md", table())
    return sum(map(len, found.values()))


if __name__ == "__main__":
    print(f"{main()} cells drawn")
