"""How the cost of whole-network operations grows, in plain steps: a forward and a backward pass of
the same network. Also the ties between units, in times of ``compact``.

python tests/benchmarks/growth.py --only mlp-5

Processor time, one thread, torch's own initial weights; each figure is the best of its repetitions.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from pyro.infer import TraceMeanField_ELBO
from rich import print
from rich.table import Table
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.captured import CapturedSVI
from pyrosparse.compaction.ties import unit_ties
from pyrosparse.infer import checkpoint
from pyrosparse.prune import MessageExchange
from pyrosparse.supports import UnitFactor

BATCH = 32


def mlp(millions: int) -> nn.Module:
    """Three square layers, of so many million weights together."""
    width = round((millions * 1e6 / 3) ** 0.5)
    layers = [one for _ in range(3) for one in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def resnet50() -> nn.Module:
    import torchvision

    return torchvision.models.resnet50(num_classes=10)


def vit_b16() -> nn.Module:
    import torchvision

    net = torchvision.models.vit_b_16(num_classes=10, image_size=64)
    nn.init.normal_(net.heads.head.weight, std=0.02)  # torchvision starts it at zero
    return net


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...] | None]] = {
    "mlp-5": (lambda: mlp(5), None),
    "mlp-10": (lambda: mlp(10), None),
    "mlp-50": (lambda: mlp(50), None),
    "resnet50": (resnet50, (3, 64, 64)),
    "vit-b16": (vit_b16, (3, 64, 64)),
}


def best(function: Callable[[], object], repeats: int) -> float:
    """The least processor time of a call, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def captured(net: nn.Module, x: Tensor) -> Callable[[], object]:
    """Capturing a step of a lifted network, each time anew."""
    bnn = ps.lift(net, ps.Gaussian(posterior="normal"))
    model, y = ps.classifier(bnn, len(x)), torch.zeros(len(x), dtype=torch.int64)

    def run() -> object:
        svi = CapturedSVI(
            model,
            bnn.guide,
            lambda parameters: torch.optim.SGD(parameters.values(), lr=0.0),
            TraceMeanField_ELBO(),
        )
        svi.capture(x, y)
        assert svi.fallback is None, svi.fallback
        return svi

    return run


def evidence(net: nn.Module, x: Tensor, draws: int) -> Callable[[], object]:
    """The ELBO of a lifted network, of so many draws."""
    bnn = ps.lift(net, ps.Gaussian(posterior="normal"))
    model, y = ps.classifier(bnn, len(x)), torch.zeros(len(x), dtype=torch.int64)
    return lambda: ps.evidence.elbo(model, bnn.guide, (x, y), draws=draws)


def operations(net: nn.Module, x: Tensor) -> dict[str, tuple[Callable[[], object], str]]:
    """By name, what is measured and its unit: ``step`` or ``compact``."""
    bnn = ps.lift(net, ps.GammaSpikeAndSlab())
    plain = MessageExchange(bnn)
    folder = tempfile.TemporaryDirectory()
    found: dict[str, tuple[Callable[[], object], str]] = {
        "capture": (captured(net, x), "step"),
        "elbo, 2 draws": (evidence(net, x, 2), "step"),
        "lift": (lambda: ps.lift(net, ps.Gaussian()), "step"),
        "masks": (plain.masks_of_weights, "step"),
        "exchange": (plain, "step"),
        "exchange, active": (lambda: plain(active=0.5), "step"),
        "checkpoint": (
            lambda: checkpoint.save(Path(folder.name, "a"), {"net": net.state_dict()}),
            "step",
        ),
        "unit_ties": (lambda: unit_ties(net, (x[:1],)), "compact"),
    }
    try:
        coupled = MessageExchange(bnn, units=UnitFactor(), example=(x[:1],))
        found["exchange, units"] = (coupled, "step")
    except ValueError as error:
        print(f"no units: {error}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a part of the network's name")
    parser.add_argument("--operations", default="", help="a part of the operation's name")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title="One thread, processor time")
    for column in ("network", "weights", "operation", "seconds", "unit", "times the unit"):
        table.add_column(column, justify="right")
    for name, (make, shape) in NETWORKS.items():
        if options.only not in name:
            continue
        torch.manual_seed(0)
        net = make().eval()
        weights = sum(p.numel() for p in net.parameters())
        width = next(net.parameters()).shape[1]
        x = torch.randn(BATCH, *(shape or (width,)))

        def step(net: nn.Module = net, x: Tensor = x) -> None:
            net(x).square().mean().backward()

        units = {"step": best(step, options.repeats)}
        for operation, (function, unit) in operations(net, x).items():
            if options.operations not in operation:
                continue
            if unit not in units:
                units[unit] = best(lambda: ps.compact(net, example=x[:1]), 1)  # noqa: B023
            taken = best(function, options.repeats)
            ratio = taken / units[unit]
            row = (name, f"{weights:,}", operation, f"{taken:.3f}", unit, f"{ratio:.1f}")
            table.add_row(*row)
            print(*row, flush=True)
    print(table)


if __name__ == "__main__":
    main()
