"""Time of a training step on several processes against one, and the share of their exchange.

    python tests/benchmarks/ranks.py --ranks 2 --batch-size 100

trains LeNet5-Caffe with ``BetaBernoulli`` on random images by ``fit``, on ranks of torchrun and
then in one process, one thread each; figures are medians over epochs, of rank 0. The exchange is
all of a step between the captured program and the optimizer, waiting for the slowest rank too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import pyrosparse as ps
from pyrosparse.infer.ranks import process_group


class Times(ps.infer.Callback):
    """Seconds of each epoch's steps, and of the exchange among them."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.exchange: list[float] = []

    def on_start(self, run: Any) -> None:
        exchange = run.ranks.exchange
        self.spent = self.apart = 0.0

        def timed(backward: Callable[[], Any], *rest: Any) -> Any:
            def noted() -> Any:
                start = time.perf_counter()
                loss = backward()
                self.spent += time.perf_counter() - start
                return loss

            start, before = time.perf_counter(), self.spent
            loss = exchange(noted, *rest)
            self.apart += time.perf_counter() - start - (self.spent - before)
            return loss

        run.ranks.exchange = timed
        self.since = time.perf_counter()

    def on_epoch_end(self, run: Any) -> None:
        now = time.perf_counter()
        self.steps.append(now - self.since)
        self.exchange.append(self.apart)
        self.spent = self.apart = 0.0

    def on_step(self, run: Any, progress: float) -> None:
        if run.epoch == len(self.steps) and not self.spent:
            self.since = time.perf_counter()


def train(batch_size: int, steps: int, epochs: int) -> None:
    torch.manual_seed(0)
    n = batch_size * steps
    x, y = torch.rand(n, 1, 28, 28), torch.arange(n) % 10
    bnn = ps.lift(ps.networks.create("lenet5_caffe", (1, 28, 28), 10), ps.BetaBernoulli())
    times = Times()
    ps.fit(
        ps.classifier(bnn, n), bnn.guide, (x, y), epochs=epochs, batch_size=batch_size,
        callbacks=[times], progress=False,
    )  # fmt: skip
    group = process_group()
    if group.first:
        step = statistics.median(times.steps[1:]) / steps
        exchange = statistics.median(times.exchange[1:]) / steps
        share = f", of which exchange and waiting {exchange / step:.0%}" * (group.size > 1)
        print(f"{group.size} ranks, batch {batch_size}: {1e3 * step:.2f} ms a step{share}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        torch.distributed.init_process_group()
    elif options.ranks > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        number = ["--nproc-per-node", str(options.ranks)]
        subprocess.run([*launcher, *number, *sys.argv], check=True)
    train(options.batch_size, options.steps, options.epochs)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
