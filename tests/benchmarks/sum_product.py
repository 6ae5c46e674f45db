"""Time of one sweep of sum-product over rows and columns, in copies of the grid.

    python tests/benchmarks/sum_product.py [--rounds 15]

A row is a shape, float32, on one thread. There are two yardsticks: ``clone()``, a copy to new
memory, and ``copy_`` to memory that is there already. Copies and sweeps take turns, round by round;
times are medians of the processor time. A sweep writes its result to new memory. Before anything is
timed, the compiled sweep must give what the loop in torch gives. Memory is what a sweep adds to the
resident set of a fresh process at its peak, the result included.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pyrosparse.sum_product import scan, sum_product
from pyrosparse.sum_product.transition import Transition

SHAPES = [(512, 4608), (4096, 4096), (1024, 5, 5), (64, 512, 3, 3)]
ROW, COLUMN = (0.288, 0.51), (0.325, 0.542)
TOLERANCE = 1e-5
# A round of a small shape is as many runs, so that the clock can tell.
LEAST_SECONDS = 2e-3


def compiled(u: Tensor) -> Tensor:
    return sum_product(u, ROW, COLUMN, sweeps=1)


def in_torch(u: Tensor) -> Tensor:
    out = torch.empty_like(u)
    scan.chain_messages(u, None, Transition(*ROW), -1, out)
    scan.chain_messages(u, out, Transition(*COLUMN), -2, out, add_heard=True)
    return out


WAYS: dict[str, Callable[[Tensor], Tensor]] = {"compiled": compiled, "torch": in_torch}


def seconds(run: Callable[[], object], repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        run()
    return (time.process_time() - start) / repeats


def times(shape: tuple[int, ...], rounds: int) -> dict[str, float]:
    """Median seconds by name."""
    u, there = 3 * torch.randn(shape), torch.zeros(shape)
    assert (compiled(u) - in_torch(u)).abs().max() < TOLERANCE
    runs: dict[str, Callable[[], object]] = {
        "clone": u.clone,
        "copy_": lambda: there.copy_(u),
        "compiled": lambda: compiled(u),
        "torch": lambda: in_torch(u),
    }
    repeats = {name: 1 + int(LEAST_SECONDS / seconds(run, 1)) for name, run in runs.items()}
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds):
        for name, run in runs.items():
            # The slow one is timed less often.
            if name != "torch" or turn % 3 == 0:
                found[name].append(seconds(run, repeats[name]))
    return {name: statistics.median(values) for name, values in found.items()}


def resident() -> int:
    """Bytes of the resident set now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def memory(way: str, shape: tuple[int, ...]) -> float:
    """MiB that a sweep adds at its peak; to be called in a fresh process."""
    torch.set_num_threads(1)
    WAYS[way](torch.zeros(8, 8))
    u = torch.randn(shape)
    before = resident()
    # The high-water mark starts anew.
    Path("/proc/self/clear_refs").write_text("5")
    WAYS[way](u)
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    return (peak - before) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table = Table(title="one sweep of rows and columns, float32, one thread")
    for name in ("shape", "way", "ms", "clones", "copies", "extra MiB", "result MiB"):
        table.add_column(name, justify="left" if name in ("shape", "way") else "right")
    for shape in SHAPES:
        found = times(shape, rounds)
        for name, value in found.items():
            extra = ""
            if name in WAYS:
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    extra = f"{pool.submit(memory, name, shape).result():.1f}"
            table.add_row(
                "x".join(map(str, shape)),
                name,
                f"{1e3 * value:.3g}",
                f"{value / found['clone']:.3g}",
                f"{value / found['copy_']:.3g}",
                extra,
                f"{4 * torch.Size(shape).numel() / 2**20:.3g}",
            )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
