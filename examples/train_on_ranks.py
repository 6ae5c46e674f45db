"""Close gates on the digits, on as many processes as torchrun starts.

    torchrun --nproc-per-node 2 examples/train_on_ranks.py --epochs 30

Each process trains on its rows of every batch. Without torchrun it is one process.
"""

from __future__ import annotations

import argparse
import os

import torch
import torch.distributed as dist

import pyrosparse as ps


def main(epochs: int = 30, hidden: int = 64) -> dict[str, float]:
    if "RANK" in os.environ:
        dist.init_process_group("gloo")  # "nccl" on GPUs
    torch.manual_seed(0)  # the same network on every rank
    data = ps.data.load("digits")
    net = ps.networks.fcn(data.image_shape, hidden=(hidden, hidden))
    bnn = ps.lift(net, ps.BetaBernoulli(temperature=0.3, pi="collapsed"))
    model = ps.classifier(bnn, len(data.train))
    rates = {"guide.*": 0.1, "*": 2e-3}
    run = ps.fit(model, bnn.guide, data.train, epochs=epochs, learning_rate=rates, progress=False)
    small = ps.compact(net, bnn.masks(at_least=1), data.test.x[:1])
    result = {
        "ranks": run.ranks.size,
        "loss": run.history[-1]["loss"],
        "accuracy": ps.evidence.evaluate(model, bnn.guide, data.test)["accuracy"],
        "parameters before": sum(parameter.numel() for parameter in net.parameters()),
        "parameters after": sum(parameter.numel() for parameter in small.parameters()),
    }
    if run.ranks.rank == 0:
        print(result)
    if dist.is_initialized():
        dist.destroy_process_group()
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--hidden", type=int, default=64)
    main(**vars(parser.parse_args()))
