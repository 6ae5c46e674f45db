"""The cells of Mathew and Rowe's Table 1 at 99 % that the suite `bayesian-pruning` misses: a table.

    PYROSPARSE_DATA=... python docs/figures/missed_cells.py

trains the network of each on MNIST by the paper's algorithm, in which pruned weights grow back
between rounds, and looks at it before and after the last round. Writes ``missed_cells.md`` beside
itself. A quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

import pyrosparse as ps

sys.path.insert(0, str(Path(__file__).parent))
import regrowth

SPARSITY = 0.99
# Network, criterion, and the paper's accuracy in %.
CELLS = [("fcn", "random", 94.33), ("cnn", "magnitude", 98.26), ("cnn", "random", 11.35)]


def main(epochs: int = 5, folder: Path = Path(__file__).parent) -> list[str]:
    lines = [
        "| network | criterion | zeros before the last round, % | accuracy then, % "
        "| zeros after it, % | accuracy then, % | paper, % |",
        "|:--|:--|--:|--:|--:|--:|--:|",
    ]
    for network, criterion, paper in CELLS:
        data = ps.data.load("mnist")
        torch.manual_seed(0)
        net = ps.networks.create(network, data.image_shape, 10)
        record = regrowth.train(net, data, criterion, False, SPARSITY, epochs=epochs, batch_size=64)
        names = ("trained_sparsity", "trained_accuracy", "sparsity", "validation_accuracy")
        figures = " | ".join(f"{100 * record[name]:.1f}" for name in names)
        lines.append(f"| {network} | {criterion} | {figures} | {paper} |")
        print(lines[-1], flush=True)
    (folder / "missed_cells.md").write_text("\n".join(lines) + "\n")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    main(**vars(parser.parse_args()))
