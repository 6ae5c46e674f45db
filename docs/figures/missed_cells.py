"""The cells of Mathew and Rowe's Table 1 at 99 % that the suite `bayesian-pruning` misses: a table.

    PYROSPARSE_DATA=... python docs/figures/missed_cells.py

trains each network of those cells on MNIST in three ways and looks at it before and after the last
pruning. Writes ``missed_cells.md`` beside itself. An hour on one core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pyrosparse as ps

sys.path.insert(0, str(Path(__file__).parent))
import regrowth

SPARSITY = 0.99


def magnitude_of_all(
    weights: dict[str, Tensor], sparsity: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Masks of the largest weights of all tensors together."""
    sizes = torch.cat([weight.detach().abs().flatten() for weight in weights.values()])
    threshold = sizes.kthvalue(max(1, round(sparsity * sizes.numel()))).values
    return {name: weight.detach().abs() > threshold for name, weight in weights.items()}


# Network, criterion, and the paper's accuracy in %.
CELLS = [("fcn", "random", 94.33), ("cnn", "magnitude", 98.26), ("cnn", "random", 11.35)]
# Criterion where it is not the cell's, whether pruned weights are frozen, and what that is called.
WAYS: list[tuple[Any, bool, str]] = [
    (None, False, "grow back between rounds (the paper's algorithm)"),
    (None, True, "frozen, cubic ramp (the suite)"),
    (magnitude_of_all, True, "frozen, cubic ramp, 1 % of all weights together"),
]


def main(epochs: int = 10, folder: Path = Path(__file__).parent) -> list[str]:
    lines = [
        "| network | criterion | pruned weights | zeros as training ends, % | accuracy then, % "
        "| zeros after the last pruning, % | accuracy then, % | paper, % |",
        "|:--|:--|:--|--:|--:|--:|--:|--:|",
    ]
    for network, criterion, paper in CELLS:
        for other, freeze, name in WAYS:
            if other is not None and criterion != "magnitude":
                continue
            data = ps.data.load("mnist")
            torch.manual_seed(0)
            net = ps.networks.create(network, data.image_shape, 10)
            chosen = other or criterion
            record = regrowth.train(
                net, data, chosen, freeze, SPARSITY, epochs=epochs, batch_size=64
            )
            shown = [
                100 * record[key]
                for key in (
                    "trained_sparsity",
                    "trained_accuracy",
                    "sparsity",
                    "validation_accuracy",
                )
            ]
            figures = " | ".join(f"{one:.1f}" for one in shown)
            lines.append(f"| {network} | {criterion} | {name} | {figures} | {paper} |")
            print(lines[-1], flush=True)
    (folder / "missed_cells.md").write_text("\n".join(lines) + "\n")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    main(**vars(parser.parse_args()))
