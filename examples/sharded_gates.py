"""Gates on a network whose layers are sharded over processes, and the compact network of it.

    torchrun --nproc-per-node 2 examples/sharded_gates.py

Each layer's weights lie in parts on all ranks (FSDP2), the gates whole on each. Without torchrun it
runs in one process.
"""

from __future__ import annotations

import argparse
import copy
import os

import torch
import torch.distributed as dist
from pyro.infer import TraceMeanField_ELBO
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import pyrosparse as ps


def main(epochs: int = 20, hidden: int = 64, batch_size: int = 100) -> dict[str, float]:
    start_group()
    rank, size = dist.get_rank(), dist.get_world_size()
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16).float(), torch.tensor(labels)

    torch.manual_seed(0)  # the same start on every rank
    first, second, last = nn.Linear(64, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 10)
    net = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)
    whole = copy.deepcopy(net)  # for the trained weights; a large one is made on device="meta"
    mesh = init_device_mesh("cpu", (size,))
    for layer in (first, second, last):
        fully_shard(layer, mesh=mesh)

    bnn = ps.lift(net, ps.BetaBernoulli())
    model, elbo = ps.classifier(bnn, len(x)), TraceMeanField_ELBO()
    gates = list(bnn.guide.posterior.parameters())
    optimizer = torch.optim.Adam(bnn.parameters(), lr=3e-3)
    order = torch.Generator().manual_seed(0)  # shared
    torch.manual_seed(1 + rank)  # each rank draws gates of its own
    for _ in range(epochs):
        for index in torch.randperm(len(x), generator=order).split(batch_size):
            mine = index[rank::size]
            loss = elbo.differentiable_loss(model, bnn.guide, x[mine], y[mine])
            # FSDP takes the mean over ranks; weighted so, it is right for parts of any length.
            (loss * len(mine) * size / len(index)).backward()
            for gate in gates:  # which FSDP does not know
                dist.all_reduce(gate.grad)
                gate.grad /= size
            optimizer.step()
            optimizer.zero_grad()

    scores = ps.evidence.evaluate(model, bnn.guide, (x, y))
    # All ranks take part; of a large network let cpu_offload=True give the first rank the weights.
    weights = get_model_state_dict(net, options=StateDictOptions(full_state_dict=True))
    whole.load_state_dict(weights)
    small = ps.compact(whole, bnn.masks(), x[:1], at_least=1)
    report = {
        "accuracy": scores["accuracy"],
        "parameters before": sum(parameter.numel() for parameter in whole.parameters()),
        "parameters after": sum(parameter.numel() for parameter in small.parameters()),
    }
    if rank == 0:
        print(small.account)
        print(report)
    dist.destroy_process_group()
    return report


def start_group() -> None:
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=100)
    main(**vars(parser.parse_args()))
