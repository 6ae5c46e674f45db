"""A lifted network in a loop of Hugging Face Accelerate.

    pip install accelerate && accelerate launch --cpu examples/accelerate_loop.py --epochs 20
    torchrun --standalone --nproc-per-node 2 examples/accelerate_loop.py  # two processes on CPUs

On several processes the loss must be what a wrapped module returns: gradients are averaged when its
`forward` was called. So the module here is the loss, which holds the model and the guide.
"""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pyrosparse as ps


class NegativeELBO(nn.Module):
    """The negative ELBO of a minibatch, nats per datum of n."""

    def __init__(self, bnn: ps.Lifted, n: int) -> None:
        super().__init__()
        self.n = n
        self.bnn = bnn
        self.model = ps.classifier(bnn, n)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        loss = TraceMeanField_ELBO().differentiable_loss(self.model, self.bnn.guide, x, y)
        return loss / self.n


def main(epochs: int = 20, hidden: int = 64, seed: int = 0) -> dict[str, float]:
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    torch.manual_seed(seed)  # the same network on every process
    data = ps.data.load("digits")
    net = ps.networks.fcn(data.image_shape, hidden=(hidden, hidden))
    bnn = ps.lift(net, ps.BetaBernoulli())
    loader = DataLoader(TensorDataset(data.train.x, data.train.y), batch_size=64, shuffle=True)
    loss_of = NegativeELBO(bnn, len(data.train))
    optimizer = torch.optim.Adam(loss_of.parameters(), lr=3e-3)
    loss_of, optimizer, loader = accelerator.prepare(loss_of, optimizer, loader)

    torch.manual_seed(seed + 1 + accelerator.process_index)  # each draws gates of its own
    for _ in range(epochs):
        for x, y in loader:
            loss = loss_of(x, y)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()

    trained = accelerator.unwrap_model(loss_of).eval()
    test = data.test.to(accelerator.device)
    scores = ps.evidence.evaluate(trained.model, bnn.guide, test)
    accelerator.print(
        f"{accelerator.num_processes} process(es): test accuracy {scores['accuracy']:.3f}, "
        f"last loss {loss.item():.3f} nats"
    )
    return {"accuracy": scores["accuracy"], "loss": loss.item()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
