"""Time of a dense layer with zeros by each kernel, and the bytes it takes in each layout.

    python tests/benchmarks/sparse_forward.py [--repeats 30]

The layers are 500 x 784 and 2048 x 2048; their non-zeros lie at random, in blocks of 8 x 8, or in
rectangles of a sixteenth of each side; a tenth of all weights, a twentieth, a hundredth. Batches of
1 and 128, one thread; the kernels of a layer take turns, and a figure is the median.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from pyrosparse.sparse import sparse_inference
from pyrosparse.storage.layouts import layout_bytes

SHAPES = ((500, 784), (2048, 2048))
DENSITIES = (0.01, 0.05, 0.1)


def random(rows: int, columns: int, density: float) -> Tensor:
    return torch.rand(rows, columns) < density


def blocks(rows: int, columns: int, density: float) -> Tensor:
    chosen = random(-(-rows // 8), -(-columns // 8), density)
    return chosen.repeat_interleave(8, 0).repeat_interleave(8, 1)[:rows, :columns]


def rectangles(rows: int, columns: int, density: float) -> Tensor:
    support = torch.zeros(rows, columns, dtype=torch.bool)
    height, width = rows // 16, columns // 16
    while support.float().mean() < density:
        row, column = (int(torch.randint(side, ())) for side in (rows - height, columns - width))
        support[row : row + height, column : column + width] = True
    return support


CASES: dict[str, Callable[[int, int, float], Tensor]] = {
    "random": random,
    "8 x 8 blocks": blocks,
    "rectangles": rectangles,
}


def main(repeats: int = 30) -> None:
    """Print one table of times and one of bytes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    times = Table("layer", "non-zeros", "density", title="speed-up of a forward pass over dense")
    sizes = Table("layer", "non-zeros", "density", title="bytes in % of dense float32")
    for size in (1, 128):
        times.add_column(f"batch of {size}")
    for layout in ("bitmask", "gaps", "rectangles"):
        sizes.add_column(layout, justify="right")
    for rows, columns in SHAPES:
        for name, case in CASES.items():
            for density in DENSITIES:
                layer = nn.Linear(columns, rows).eval().requires_grad_(False)
                layer.weight.masked_fill_(~case(rows, columns, density), 0.0)
                row = f"{rows} x {columns}", name, f"{100 * density:.0f} %"
                cells = []
                for size in (1, 128):
                    x = torch.randn(size, columns)
                    _, kernels = sparse_inference(layer, x, repeats=repeats)
                    seconds = kernels.layers[0].seconds
                    ratios = sorted(((seconds["dense"] / s, k) for k, s in seconds.items()))[::-1]
                    cells.append(", ".join(f"{kernel} {ratio:.1f}" for ratio, kernel in ratios[:3]))
                times.add_row(*row, *cells)
                bytes_of = layout_bytes(layer.weight)
                dense = bytes_of.pop("dense")
                sizes.add_row(*row, *(f"{100 * b / dense:.2f}" for b in bytes_of.values()))
    console = Console(width=130)
    console.print(times)
    console.print(sizes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30)
    main(parser.parse_args().repeats)
