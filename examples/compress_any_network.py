"""Make any network smaller by a recipe: one of torchvision, and one of your own.

    python examples/compress_any_network.py

Each of the three recipes is one call of ``ps.compress``. It copies the network, trains it, takes
away what it can do without, and measures what is left. Give your own module and your own tensors in
place of these.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torchvision.models import squeezenet1_1

import pyrosparse as ps
from pyrosparse.recipes import BetaBernoulli, Magnitude, TurboVBI


class Residual(nn.Module):
    """A network of your own: any module that torch.fx can trace."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(64, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.flatten(1)).relu()
        return self.last(h + self.second(h).relu())


def main(epochs: int = 20, hidden: int = 64, images: int = 400) -> dict[str, float]:
    digits = ps.data.load("digits")
    x, y = digits.train.x[:images], digits.train.y[:images]
    # Data are a data set of the package, or your own tensors: a fifth is held out as test data.
    own = Residual(hidden), digits, epochs
    theirs = squeezenet1_1(num_classes=10), (x.repeat(1, 3, 4, 4), y), max(1, epochs // 10)

    found = {}
    for net, data, few in (own, theirs):
        for recipe in (
            Magnitude(epochs=few, sparsity=0.9),
            BetaBernoulli(pretrain=few, epochs=2 * few),
            TurboVBI(pretrain=few, epochs=2 * few, fine_tune=few, active=0.1),
        ):
            result = ps.compress(net, data, recipe)
            print(result, end="\n\n")
            found[f"accuracy, {type(net).__name__}, {recipe.name}"] = result.quality["accuracy"]
            if result.small is not None:  # an ordinary module, which ps.save and ps.load keep
                assert result.small(*result.data.example).shape == (1, 10)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=64, help="units of your own network")
    parser.add_argument("--images", type=int, default=400, help="images for torchvision's network")
    torch.manual_seed(0)
    main(**vars(parser.parse_args()))
