"""The optimizer's memory of weights that are frozen."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrosparse.masks import Masks


def forget_momentum(
    optimizer: torch.optim.Optimizer, weights: dict[str, Tensor], masks: Masks
) -> None:
    """Clear the optimizer's memory of pruned weights, which would move them off zero.

    weights: the parameters by name, as the optimizer has them.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> adam = torch.optim.Adam([weight])
    >>> weight.sum().backward()
    >>> adam.step()
    >>> forget_momentum(adam, {"w": weight}, Masks(w=torch.tensor([True, False])))
    >>> adam.state[weight]["exp_avg"]
    tensor([0.1000, 0.0000])
    """
    for name, mask in masks.items():
        for value in optimizer.state.get(weights[name], {}).values():
            if isinstance(value, Tensor) and value.shape == mask.shape:
                value.mul_(mask)
