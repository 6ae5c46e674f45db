"""Particles drawn together against particles one by one: ``python tests/benchmarks/particles.py``.

Prints a table of milliseconds, each the smallest of several runs, on one thread: a step of SVI with
8 and with 32 particles, and 100 draws of ``Predictive``. The networks are a small one, 10-20-3, and
LeNet-500-300 with gates and with normal weights, each on a batch of 100.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pyro
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from torch import nn

import pyrosparse as ps

logging.getLogger("pyro").setLevel(logging.WARNING)


def milliseconds(work: Callable[[], Any], times: int = 5) -> float:
    for _ in range(3):
        work()
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return 1e3 * min(spent)


def dense(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def networks() -> dict[str, tuple[ps.Lifted, int]]:
    normal = ps.Gaussian(posterior="normal")
    gated = dense(784, 500, 300, 10)
    return {
        "10-20-3, weights": (ps.lift(dense(10, 20, 3), normal), 10),
        "LeNet-500-300, gates": (ps.lift(gated, ps.BetaBernoulli(), ps.inputs(gated)), 784),
        "LeNet-500-300, weights": (ps.lift(dense(784, 500, 300, 10), normal), 784),
    }


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| network | work | one by one, ms | together, ms |")
    print("| --- | --- | ---: | ---: |")
    for name, (bnn, inputs) in networks().items():
        x, y = torch.randn(100, inputs), torch.randint(3, (100,))
        model = ps.classifier(bnn, 100)
        for particles in (8, 32):
            spent = []
            for together in (False, True):
                elbo = Trace_ELBO(num_particles=particles, vectorize_particles=together)
                svi = SVI(model, bnn.guide, pyro.optim.Adam({"lr": 1e-3}), elbo)
                spent.append(milliseconds(lambda svi=svi, x=x, y=y: svi.step(x, y)))
            print(f"| {name} | step, {particles} particles | {spent[0]:.1f} | {spent[1]:.1f} |")
        bnn.eval()
        spent = []
        for together in (False, True):
            draws = Predictive(
                model, guide=bnn.guide, num_samples=100, parallel=together, return_sites=["y"]
            )
            spent.append(milliseconds(lambda draws=draws, x=x: draws(x)))
        print(f"| {name} | 100 draws | {spent[0]:.1f} | {spent[1]:.1f} |")


if __name__ == "__main__":
    main()
