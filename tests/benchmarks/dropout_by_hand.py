"""Steps written in torch: structured Bayesian pruning, L0, generalized and concrete dropout.

A function takes the network, and what every step of ``svi_step`` needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Step = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Common:
    """Of ``svi_step``: how many data, the rate, and where tensors are."""

    n: int
    learning_rate: float
    device: torch.device


def _gated(
    net: nn.Sequential,
    common: Common,
    start: Callable[[int], list[Tensor]],
    gate: Callable[[list[Tensor], int], tuple[Tensor, Tensor]],
) -> Step:
    """Gates before dense layers and behind convolutions.

    start: the parameters of so many gates; gate: gains and penalty from these, for a batch."""
    layers = list(net)
    gates = {
        layer: start(layer.in_features if isinstance(layer, nn.Linear) else layer.out_channels)
        for layer in layers
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    }
    own = [tensor.requires_grad_() for tensors in gates.values() for tensor in tensors]
    optimizer = torch.optim.Adam([*net.parameters(), *own], lr=common.learning_rate, fused=True)

    def step(x: Tensor, y: Tensor) -> float:
        penalties: list[Tensor] = []
        features = x
        for layer in layers:
            if layer not in gates:
                features = layer(features)
                continue
            gains, penalty = gate(gates[layer], len(x))
            penalties.append(penalty)
            if isinstance(layer, nn.Linear):
                features = layer(features * gains)
            else:
                channels = gains[:, :, None, None] if gains.dim() == 2 else gains[:, None, None]
                features = layer(features) * channels
        likelihood = F.cross_entropy(features, y, reduction="sum") * (common.n / len(x))
        loss = likelihood + sum(penalties)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def structured_bayesian_pruning(net: nn.Sequential, common: Common) -> Step:
    """Multiplicative noise under a log-uniform prior on [-20, 0], in float64."""
    half_log_tau = 0.5 * math.log(2 * math.pi)

    def start(count: int) -> list[Tensor]:
        loc = torch.full((count,), -1e-3, device=common.device)
        return [loc, torch.full_like(loc, -5.0)]

    def density(x: Tensor) -> Tensor:
        return torch.exp(-0.5 * x.square() - half_log_tau)

    def gate(tensors: list[Tensor], _: int) -> tuple[Tensor, Tensor]:
        loc, log_scale = -tensors[0].double().abs(), 5 - (5 - tensors[1].double()).abs()
        scale = log_scale.exp()
        below, above = (-20 - loc) / scale, -loc / scale
        mass = (torch.erf(above * math.sqrt(0.5)) - torch.erf(below * math.sqrt(0.5))) / 2
        uniform = torch.rand_like(loc)
        probability = (torch.special.ndtr(below) + uniform * mass).clamp(1e-300, 1 - 2.0**-53)
        log_gain = (loc + scale * torch.special.ndtri(probability)).clamp(-20, -1e-37)
        ends = (below * density(below) - above * density(above)) / (2 * mass)
        entropy = 0.5 + half_log_tau + log_scale + mass.log() + ends
        return log_gain.float().exp(), (math.log(20) - entropy).float().sum()

    return _gated(net, common, start, gate)


def hard_concrete(net: nn.Sequential, common: Common) -> Step:
    """One gate a step, at a price of one nat."""
    shift = 2 / 3 * math.log(0.1 / 1.1)

    def gate(tensors: list[Tensor], _: int) -> tuple[Tensor, Tensor]:
        (log_alpha,) = tensors
        noise = torch.logit(torch.rand_like(log_alpha), eps=6e-8)
        relaxed = torch.sigmoid((log_alpha + noise) / (2 / 3))
        return (1.2 * relaxed - 0.1).clamp(0, 1), torch.sigmoid(log_alpha - shift).sum()

    return _gated(net, common, lambda count: [torch.zeros(count, device=common.device)], gate)


def generalized_dropout(net: nn.Sequential, common: Common) -> Step:
    """A gate an example, under Beta(1e-4, 1)."""

    def start(count: int) -> list[Tensor]:
        return [torch.full((count,), math.log(0.95 / 0.05), device=common.device)]

    def gate(tensors: list[Tensor], examples: int) -> tuple[Tensor, Tensor]:
        (logit,) = tensors
        uniform = torch.rand(examples, len(logit), device=common.device)
        gains = torch.sigmoid((logit + torch.logit(uniform, eps=6e-8)) / 0.1)
        return gains, (1 - 1e-4) * F.logsigmoid(logit).sum()

    return _gated(net, common, start, gate)


def concrete_dropout(net: nn.Sequential, common: Common) -> Step:
    """One rate a layer, drawn at the weights' inputs once a step."""
    layers = list(net)
    rates = {
        layer: torch.tensor(math.log(1 / 9), device=common.device).requires_grad_()
        for layer in layers
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    }
    parameters = [*net.parameters(), *rates.values()]
    optimizer = torch.optim.Adam(parameters, lr=common.learning_rate, fused=True)

    def step(x: Tensor, y: Tensor) -> float:
        features, penalty = x, torch.zeros((), device=common.device)
        for layer in layers:
            if layer not in rates:
                features = layer(features)
                continue
            logit, weight = rates[layer], layer.weight
            inverse = 1 + logit.exp()
            flat = weight.flatten()
            penalty = penalty + 0.5 * torch.dot(flat, flat) * inverse
            entropy = F.softplus(logit) - torch.sigmoid(logit) * logit
            penalty = penalty - weight.shape[1] * entropy
            noise = torch.logit(torch.rand(weight.shape[1], device=common.device), eps=6e-8)
            passing = torch.sigmoid((noise - logit) / 0.1) * inverse
            if isinstance(layer, nn.Linear):
                features = F.linear(features, weight * passing, layer.bias)
            else:
                dropped = weight * passing[:, None, None]
                features = F.conv2d(features, dropped, layer.bias, layer.stride, layer.padding)
        loss = F.cross_entropy(features, y, reduction="sum") * (common.n / len(x)) + penalty
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step
