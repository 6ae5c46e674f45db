"""Time of one training step through ``fit`` against the same mathematics written in torch.

    python tests/benchmarks/fit_overhead.py

Both maximise the log posterior of ``fcn`` (784-512-512-10) under a Gaussian prior with fused Adam
on batches of 64, on one thread; rounds alternate, and the ratio is of the medians.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

import pyrosparse as ps
from pyrosparse.infer.denormals import flush_denormals

N = 60_000
BATCH = 64


def by_hand(x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    net = ps.networks.create("fcn", (1, 28, 28), 10)
    weights = [target.value for target in ps.weights(net)]
    n_weights = sum(weight.numel() for weight in weights)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)

    def epoch() -> None:
        with flush_denormals():
            order = torch.randperm(len(x))
            for index in order.split(BATCH):
                likelihood = -F.cross_entropy(net(x[index]), y[index], reduction="sum")
                squares = sum(torch.dot(w.flatten(), w.flatten()) for w in weights)
                prior = -0.5 * squares - 0.5 * n_weights * math.log(2 * math.pi)
                loss = -(likelihood * (N / len(index)) + prior)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                float(loss.detach())

    return epoch


class Alternate(ps.infer.Callback):
    """Times each epoch of a run, and after each one an epoch by hand."""

    def __init__(self, epoch_by_hand: Callable[[], None]) -> None:
        self.epoch_by_hand = epoch_by_hand
        self.times: dict[str, list[float]] = {"fit": [], "by hand": []}

    def on_start(self, run: ps.infer.Fit) -> None:
        self.since = time.perf_counter()

    def on_epoch_end(self, run: ps.infer.Fit) -> dict[str, Any]:
        middle = time.perf_counter()
        self.epoch_by_hand()
        end = time.perf_counter()
        self.times["fit"].append(middle - self.since)
        self.times["by hand"].append(end - middle)
        self.since = end
        return {}


def main(steps: int = 50, rounds: int = 15) -> float:
    """Print both medians and their ratio; returns the ratio."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(steps * BATCH, 1, 28, 28, generator=generator)
    y = torch.randint(10, (steps * BATCH,), generator=generator)
    bnn = ps.lift(ps.networks.create("fcn", (1, 28, 28), 10), ps.Gaussian())
    timer = Alternate(by_hand(x, y))
    ps.fit(
        ps.classifier(bnn, N),
        bnn.guide,
        (x, y),
        epochs=rounds + 1,  # the first captures the step
        batch_size=BATCH,
        callbacks=[timer],
        progress=False,
    )
    medians = {name: statistics.median(times[1:]) / steps for name, times in timer.times.items()}
    for name, median in medians.items():
        print(f"{name:>8}: {1e3 * median:.3f} ms a step (median of {rounds} rounds of {steps})")
    ratio = medians["fit"] / medians["by hand"]
    print(f"   ratio: {ratio:.2f}")
    return ratio


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    main(options.steps, options.rounds)
