"""Which method for what?.

    python examples/tutorial_which_method.py

The code of docs/tutorials/which-method.md, which explains it.
`python docs/tutorials/scripts.py` writes this file from that page.
"""

from pathlib import Path
from statistics import mean

import torch

import pyrosparse as ps
from pyrosparse import bench
from pyrosparse.plots import front_plots

epochs = 20
pretrain = 10
hidden = 64


# Read the results
places = [folder / "docs/results/arena.jsonl" for folder in (Path.cwd(), *Path.cwd().parents)]
results = next((file for file in places if file.exists()), None)
cells = bench.table(bench.load("arena"), results) if results else []
problems = {}
for cell in cells:
    problems.setdefault((cell.setup.network, cell.setup.dataset), []).append(cell)
for (network, dataset), members in problems.items():
    print(f"{network} on {dataset}: {sum(len(cell.lines) for cell in members)} runs")
if not cells:
    print("No run of the arena is in this checkout: the next two answers are empty.")


# The most accurate network within a budget
def best(members, cost, budget):
    """The most accurate cell whose compact network costs no more than the budget."""
    costs = {cell.name: cell.compact_mean(cost) for cell in members}
    inside = [cell for cell in members if costs[cell.name] and costs[cell.name] <= budget]
    return max(inside, key=lambda cell: mean(cell.accuracies), default=None)


for (network, _), members in problems.items():
    dense = next((cell for cell in members if cell.setup.recipe.name == "none"), None)
    for cost in ("macs", "file_bytes"):
        before = dense and dense.compact_mean(cost)
        for share in (0.5, 0.2, 0.1, 0.05) if before else ():
            if (cell := best(members, cost, share * before)) is not None:
                accuracy = f"{mean(cell.accuracies):.2f} %"
                print(f"{network}, {share:.0%} of the {cost}: {cell.name}, {accuracy}")


# Who is on the front, and whose probabilities are right?
for members in problems.values():
    points = {}
    for cell in members:
        if cell.compact_mean("macs"):
            points.setdefault((cell.compact_mean("macs"), mean(cell.errors)), cell)
    for macs, error in front_plots.pareto_front(list(points)):
        cell = points[macs, error]
        ece = mean(line["test_ece"] for line in cell.lines)
        print(f"{cell.name}: {macs:,.0f} MACs, {100 - error:.2f} %, ECE {ece:.3f}")


# Your own network
torch.manual_seed(0)
data = ps.data.load("digits")
net = ps.networks.fcn(data.image_shape, hidden=(hidden, hidden))
start = ps.recipes.Pretraining(epochs=pretrain)  # the same for all
recipes = {
    "beta-bernoulli": ps.recipes.BetaBernoulli(epochs=epochs),
    "magnitude": ps.recipes.Magnitude(sparsity=0.9, epochs=epochs),
    "turbo-vbi": ps.recipes.TurboVBI(active=0.1, epochs=epochs, fine_tune=epochs),
}
for name, recipe in recipes.items():
    result = ps.compress(net, data, recipe, start=start, progress=False)
    accuracy, ece = result.quality["accuracy"], result.quality["ece"]
    if result.report is None:  # nothing is left of a layer, and the account says of which
        print(f"{name}: {result.account}")
        continue
    macs = result.report.total_macs[1]
    print(f"{name}: accuracy {accuracy:.3f}, ECE {ece:.3f}, {macs:,} MACs")
    print(f"  {result.sparsity:.0%} of the weights are zero")
