"""The time of an exchange of messages as a share of a turbo iteration: an epoch of steps and one
exchange.

python tests/benchmarks/turbo_share.py
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from rich import print
from rich.table import Table

import pyrosparse as ps
from pyrosparse.infer.parameter_groups import fused_adam

# (network, shape of an image, training data)
CASES = [
    ("lenet5", (1, 28, 28), 60_000),
    ("alexnet_small", (3, 32, 32), 50_000),
    ("vgg11", (3, 32, 32), 50_000),
]
BATCH = 128


def seconds(function: Callable[[], object], repeats: int) -> float:
    """The median time of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=15, help="of which medians are taken")
    parser.add_argument("--only", default="", help="a part of the network's name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title="One thread; an iteration is an epoch and an exchange")
    for column in ("network", "weights", "step, ms", "exchange, ms", "with units, ms", "share"):
        table.add_column(column, justify="right")
    for name, shape, n in CASES:
        if options.only not in name:
            continue
        torch.manual_seed(0)
        net = ps.networks.create(name, shape, 10)
        bnn = ps.lift(net, ps.GammaSpikeAndSlab())
        x, y = torch.randn(BATCH, *shape), torch.randint(0, 10, (BATCH,))
        optimizer = fused_adam([{"params": list(bnn.parameters()), "lr": 1e-4}])
        turbo = ps.prune.TurboVBI(ps.classifier(bnn, n), bnn, optimizer)
        units = ps.prune.MessageExchange(bnn, units=ps.supports.UnitFactor(), example=(x[:1],))
        for _ in range(3):
            turbo.step(x, y)
        turbo.exchange()
        step = seconds(lambda: turbo.step(x, y), options.steps)  # noqa: B023
        alone = seconds(turbo.exchange, 5)
        coupled = seconds(units, 5)
        epoch = step * math.ceil(n / BATCH)
        table.add_row(
            name,
            f"{sum(math.prod(target.shape) for target in bnn.targets):,}",
            f"{1e3 * step:.1f}",
            f"{1e3 * alone:.1f}",
            f"{1e3 * coupled:.1f}",
            f"{coupled / (coupled + epoch):.2%}",
        )
    print(table)


if __name__ == "__main__":
    main()
