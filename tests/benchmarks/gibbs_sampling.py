"""What drawing Gibbs masks costs: its share of a plain training step of ResNet-20.

    python tests/benchmarks/gibbs_sampling.py

Batches of 128 images of CIFAR's shape, Adam, one thread. Plain steps in torch take turns with draws
of all masks, which so find the caches as they would in training, at temperatures from the start to
the end of the paper's annealing; a figure is the median over the rounds of processor time. A draw
is all that a step has to do for its masks: squares, quantiles, fields, sampling, and the product
with the weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

import pyrosparse as ps
from pyrosparse.infer.denormals import flush_denormals
from pyrosparse.lifting.method import Posterior

BATCH = 128
GOALS = {"weight": 2.0, "kernel": 8.0, "filter": 20.0}  # percent of a plain step
RATES = {"weight": 0.9, "kernel": 0.9, "filter": 0.75}
BETAS = {
    "weight": (0.7, 100.0, 1e4),
    "kernel": (0.7, 100.0, 1e4),
    "filter": (0.003, 0.05, 1.0),
}


def plain_step(layout: torch.memory_format) -> tuple[torch.nn.Module, Callable[[], float]]:
    """The network, and a step of maximum likelihood that trains it."""
    torch.manual_seed(0)
    net = ps.networks.resnet20(shortcut="projection").to(memory_format=layout)
    x = torch.randn(BATCH, 3, 32, 32).to(memory_format=layout)
    y = torch.randint(10, (BATCH,))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)

    def step() -> float:
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return net, step


def drawing(net: torch.nn.Module, structure: str, beta: float) -> Callable[[], list[Tensor]]:
    """The draw of the masks of all layers that the method prunes."""
    method = ps.GibbsPruning(RATES[structure], structure, beta=beta)  # type: ignore[arg-type]
    layers = []
    for target in method.targets(net):
        q = Posterior(method.init(target))
        q.training = True
        layers.append((target, q))

    def draw() -> list[Tensor]:
        with torch.no_grad():
            return [q["loc"] * method.mask(target, q, q["loc"]) for target, q in layers]

    return draw


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def main(rounds: int = 7, layout: str = "channels_last") -> None:
    """Print the table."""
    torch.set_num_threads(1)
    net, step = plain_step(getattr(torch, layout))
    times: dict[object, list[float]] = {"plain": []}
    with flush_denormals():
        for structure, betas in BETAS.items():
            for beta in betas:
                # As in training: one draw after the other is of the same kind.
                draw = drawing(net, structure, beta)
                times[structure, beta] = []
                for number in range(rounds + 2):
                    pair = seconds(step), seconds(draw)
                    if number >= 2:
                        times["plain"].append(pair[0])
                        times[structure, beta].append(pair[1])
    plain = statistics.median(times["plain"])
    table = Table(title=f"Drawing all masks, of a plain step of {1e3 * plain:.0f} ms ({layout})")
    for heading in ("structure", "beta", "ms", "share, %", "goal, %"):
        table.add_column(heading, justify="left" if heading == "structure" else "right")
    for structure, betas in BETAS.items():
        for beta in betas:
            own = statistics.median(times[structure, beta])
            cells = (f"{beta:g}", f"{1e3 * own:.1f}", f"{100 * own / plain:.1f}")
            table.add_row(structure, *cells, f"{GOALS[structure]:g}")
    Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--layout", choices=("channels_last", "contiguous_format"), default="channels_last"
    )
    main(**vars(parser.parse_args()))
