"""Steps of methods whose masks are made in every step, written by hand in torch.

The selections (order statistics, draws given how many stay) are the package's, as torch's cost
more than all the rest of a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyrosparse import structures
from pyrosparse.distributions import gibbs_ops
from pyrosparse.distributions.quantile import order_statistic

N = 60_000
RATE = 1e-3
SCALE = 1.0

Step = Callable[[Tensor, Tensor], float]
Masks = Callable[[nn.Module, Tensor], Tensor]


def masked_by_hand(net: nn.Sequential, chosen: set[str], mask_of: Masks, **more: Tensor) -> Step:
    """The log posterior of weights under masks, of the layers of these names.

    more: parameters beside the network's."""
    layers = dict(net.named_children())
    count = sum(layers[name].weight.numel() for name in chosen)
    constant = count * (math.log(SCALE) + 0.5 * math.log(2 * math.pi))
    parameters = [*net.parameters(), *more.values()]
    optimizer = torch.optim.Adam(parameters, lr=RATE, fused=True)

    def step(x: Tensor, y: Tensor) -> float:
        features, squares = x, 0.0
        for name, layer in layers.items():
            if name not in chosen:
                features = layer(features)
                continue
            weight = layer.weight
            flat = weight.flatten()
            squares = squares + torch.dot(flat, flat)
            masked = weight * mask_of(layer, weight.detach())
            if isinstance(layer, nn.Linear):
                features = F.linear(features, masked, layer.bias)
            else:
                features = F.conv2d(features, masked, layer.bias, layer.stride, layer.padding)
        loss = F.cross_entropy(features, y, reduction="sum") * (N / len(x))
        loss = loss + (0.5 / SCALE**2) * squares + constant
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def targeted_by_hand(net: nn.Sequential, chosen: set[str], sparsity: float, rate: float) -> Step:
    """Of each output the smallest weights are dropped with a probability."""

    @torch.no_grad()
    def mask_of(layer: nn.Module, weight: Tensor) -> Tensor:
        sizes = weight.abs().flatten(1)
        bar = order_statistic(sizes, torch.tensor(int(sparsity * sizes.shape[1])))
        return ((sizes >= bar) | (torch.rand_like(sizes) >= rate)).to(weight).view_as(weight)

    return masked_by_hand(net, chosen, mask_of)


def two_of_four_by_hand(net: nn.Sequential, chosen: set[str], beta: float) -> Step:
    """Gibbs masks of two of every four inputs."""

    @torch.no_grad()
    def mask_of(layer: nn.Module, weight: Tensor) -> Tensor:
        t = 2 * beta * structures.blocks(weight.square(), "2:4").double()
        drawn = gibbs_ops.fixed_count(t, torch.rand_like(t), 2)
        return structures.unblocked(drawn, "2:4", weight.shape).to(weight)

    return masked_by_hand(net, chosen, mask_of)


def movement_by_hand(net: nn.Sequential, chosen: set[str]) -> Step:
    """Masks of the scores that are at least 0, straight through."""
    layers = dict(net.named_children())
    scores = {name: torch.zeros_like(layers[name].weight).requires_grad_() for name in chosen}
    of_layer = {layers[name]: score for name, score in scores.items()}

    def mask_of(layer: nn.Module, weight: Tensor) -> Tensor:
        score = of_layer[layer]
        return (score.detach() >= 0).to(weight) + (score - score.detach())

    return masked_by_hand(net, chosen, mask_of, **scores)
