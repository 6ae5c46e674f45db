"""Steps written in torch of variational dropout, group variational dropout and the information
bottleneck, each for a network, a number of data and a learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Step = Callable[[Tensor, Tensor], float]
Divergence = Callable[[Tensor, Tensor], Tensor]


def log_uniform(loc: Tensor, log_scale: Tensor) -> Tensor:
    """The divergence of a normal from the log-uniform prior, as the package approximates it."""
    c = 0.5 * (0.57721566490153286 + math.log(2))
    s = (loc * torch.exp(-log_scale)).square()
    t = s.clamp_max(1e6)
    above = t * t * (1 / (6 * c) + t * (0.05277199 + t * (0.00255875 + t * 0.0008166184)))
    below = 1 + t * (
        1.13726451 + t * (0.32349591 + t * (0.06053173 + t * (0.00383589 + t * 0.0008166184)))
    )
    return (0.5 * torch.log1p(s) + c * above / below).sum()


def empirical_bayes(loc: Tensor, log_scale: Tensor) -> Tensor:
    return 0.5 * torch.log1p((loc * torch.exp(-log_scale)).square()).sum()


def unit_normal(loc: Tensor, log_scale: Tensor) -> Tensor:
    squares = loc.square().sum() + log_scale.exp().square().sum()
    return 0.5 * squares - log_scale.sum() - 0.5 * loc.numel()


def step_by_hand(
    net: nn.Sequential,
    n: int,
    rate: float,
    *,
    weights: Divergence | None = None,
    weight_scale: float = 0.0067,
    gates: Divergence | None = None,
    gate_scale: float = 0.0067,
) -> Step:
    """Normal posteriors on weights, with noise at the activations, and on gates before dense layers
    and behind convolutions, with noise for each example."""
    layers = list(net)
    chosen = [layer for layer in layers if isinstance(layer, (nn.Linear, nn.Conv2d))]
    log_scales, normals = {}, {}
    for layer in chosen:
        if weights is not None:
            start = torch.full_like(layer.weight, math.log(weight_scale))
            log_scales[layer] = start.detach().requires_grad_()
        if gates is not None:
            dense = isinstance(layer, nn.Linear)
            loc = torch.ones(layer.weight.shape[1 if dense else 0], device=layer.weight.device)
            spread = torch.full_like(loc, math.log(gate_scale))
            normals[layer] = loc.requires_grad_(), spread.requires_grad_()
    own = [*log_scales.values(), *(tensor for pair in normals.values() for tensor in pair)]
    optimizer = torch.optim.Adam([*net.parameters(), *own], lr=rate, fused=True)

    def gains(layer: nn.Module, examples: int) -> Tensor:
        loc, log_scale = normals[layer]
        noise = torch.randn(examples, len(loc), device=loc.device)
        return loc + log_scale.exp() * noise

    def apply(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, layer.stride, layer.padding)  # type: ignore[arg-type]

    def step(x: Tensor, y: Tensor) -> float:
        loss: float | Tensor = 0.0
        features = x
        for layer in layers:
            if layer not in chosen:
                features = layer(features)
                continue
            if gates is not None:
                loss = loss + gates(*normals[layer])
                if isinstance(layer, nn.Linear):
                    features = features * gains(layer, len(x))
            mean = apply(layer, features, layer.weight, layer.bias)
            if weights is not None:
                log_scale = log_scales[layer]
                loss = loss + weights(layer.weight, log_scale)
                variance = apply(layer, features.square(), (2 * log_scale).exp(), None)
                spread = variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()
                mean = mean + spread * torch.randn_like(mean)
            if gates is not None and not isinstance(layer, nn.Linear):
                mean = mean * gains(layer, len(x))[:, :, None, None]
            features = mean
        loss = loss + F.cross_entropy(features, y, reduction="sum") * (n / len(x))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step
