"""A training by Accelerate on one or two processes; a script for ``test_accelerate.py``.

    torchrun --nproc-per-node 2 -m tests.accelerate_case FOLDER

writes FOLDER/RANK.pt: the parameters at the end, and what a draw of the guide was at the start.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyro
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pyrosparse as ps
from examples.accelerate_loop import NegativeELBO

N, BATCH, RANKS = 24, 4, 2


def train(method: ps.Method, batch: int) -> dict[str, Tensor]:
    """The parameters after two epochs of SGD in float64, rows in their order."""
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    x, y = torch.randn(N, 3, dtype=torch.float64), torch.randint(4, (N,))
    bnn = ps.lift(net, method)
    loss_of = NegativeELBO(bnn, N)
    optimizer = torch.optim.SGD(loss_of.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(x, y), batch_size=batch)
    loss_of, optimizer, loader = accelerator.prepare(loss_of, optimizer, loader)

    torch.manual_seed(1 + accelerator.process_index)
    trace = pyro.poutine.trace(bnn.guide).get_trace(x)
    drawn = {f"drawn {name}": site["value"].detach() for name, site in trace.nodes.items()
             if site["type"] == "sample"}  # fmt: skip
    for _ in range(2):
        for rows in loader:
            accelerator.backward(loss_of(*rows))
            optimizer.step()
            optimizer.zero_grad()
    return {name: value.detach() for name, value in bnn.named_parameters()} | drawn


def main(folder: Path) -> None:
    point = train(ps.Gaussian(scale=0.5), BATCH)
    normal = train(ps.Gaussian(scale=0.5, posterior="normal"), BATCH)
    rank = Accelerator(cpu=True).process_index
    torch.save({"point": point, "normal": normal}, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
