"""Steps written by hand in torch: the l1 penalty, polarization, spikes and slabs, the horseshoe."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

N = 60_000
LEARNING_RATE = 1e-3
LAPLACE, STRENGTH, T = 0.02, 2.0, 1.2
INCLUSION, INITIAL, INITIAL_SCALE, TEMPERATURE = 0.1, 0.9, 0.01, 0.3

Step = Callable[[Tensor, Tensor], float]


def _layers(net: nn.Sequential) -> list[nn.Module]:
    return [layer for layer in net if isinstance(layer, (nn.Linear, nn.Conv2d))]


def _finish(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def _adam(*parameters: Tensor) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)


def _likelihood(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="sum") * (N / len(y))


def _apply(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, layer.stride, layer.padding)  # type: ignore[arg-type]


def _gated(net: nn.Sequential) -> dict[nn.Module, int]:
    """The layers with gates, on the inputs of dense ones and the outputs of others; how many."""
    return {
        layer: layer.in_features if isinstance(layer, nn.Linear) else layer.out_channels  # type: ignore[misc]
        for layer in _layers(net)
    }


def _with_gates(net: nn.Sequential, x: Tensor, gains: dict[nn.Module, Tensor]) -> Tensor:
    for layer in net:
        if layer not in gains:
            x = layer(x)
        elif isinstance(layer, nn.Linear):
            x = layer(x * gains[layer])
        else:
            own = gains[layer]
            x = layer(x) * (own[:, :, None, None] if own.dim() == 2 else own[:, None, None])
    return x


def laplace(net: nn.Sequential) -> Step:
    """The likelihood and the l1 norm of all weights."""
    weights = [layer.weight for layer in _layers(net)]
    constant = sum(weight.numel() for weight in weights) * math.log(2 * LAPLACE)
    optimizer = _adam(*net.parameters())

    def step(x: Tensor, y: Tensor) -> float:
        norm = sum(weight.abs().sum() for weight in weights)
        return _finish(optimizer, _likelihood(net(x), y) + norm / LAPLACE + constant)

    return step


def polarization(net: nn.Sequential) -> Step:
    """Scales on the outputs of all layers but the last."""
    scales = {
        layer: torch.full((len(layer.weight),), 0.5, device=layer.weight.device).requires_grad_()  # type: ignore[arg-type]
        for layer in _layers(net)[:-1]
    }
    optimizer = _adam(*net.parameters(), *scales.values())

    def step(x: Tensor, y: Tensor) -> float:
        penalty = sum(
            T * one.abs().sum() - (one - one.mean()).abs().sum() for one in scales.values()
        )
        for layer in net:
            x = layer(x)
            if layer in scales:
                own = scales[layer]
                x = x * (own if x.dim() == 2 else own[:, None, None])
        return _finish(optimizer, _likelihood(x, y) + STRENGTH * penalty)

    return step


def spike_and_slab(net: nn.Sequential) -> Step:
    """Noise at the activations, with two moments of each weight."""
    layers = _layers(net)
    log_scales = {
        layer: torch.full_like(layer.weight, math.log(INITIAL_SCALE)).detach().requires_grad_()  # type: ignore[arg-type]
        for layer in layers
    }
    odds = {
        layer: torch.full_like(log_scales[layer], math.log(INITIAL / (1 - INITIAL)))
        .detach()
        .requires_grad_()
        for layer in layers
    }
    prior = math.log(INCLUSION / (1 - INCLUSION))
    optimizer = _adam(*net.parameters(), *log_scales.values(), *odds.values())

    def step(x: Tensor, y: Tensor) -> float:
        divergence = torch.zeros((), device=x.device)
        for layer in net:
            if layer not in odds:
                x = layer(x)
                continue
            m, log_s, own = layer.weight, log_scales[layer], odds[layer].clamp(-20, 20)
            a, square, variance = own.sigmoid(), m.square(), (2 * log_s).exp()
            slab = 0.5 * (square + variance - 1) - log_s
            constant = m.numel() * math.log1p(math.exp(prior))
            kl = (a * (own - prior + slab) + F.logsigmoid(-own)).sum() + constant
            divergence = divergence + kl
            spread = _apply(layer, x.square(), a * (variance + (1 - a) * square), None)
            mean = _apply(layer, x, a * m, layer.bias)
            spread = spread.clamp_min(torch.finfo(spread.dtype).tiny).sqrt()
            x = mean + spread * torch.randn_like(mean)
        return _finish(optimizer, _likelihood(x, y) + divergence)

    return step


def group_spike_and_slab(net: nn.Sequential) -> Step:
    """Relaxed Bernoulli gates, one for each example."""
    start = math.log(INITIAL / (1 - INITIAL))
    odds = {
        layer: torch.full((count,), start, device=layer.weight.device).requires_grad_()  # type: ignore[arg-type]
        for layer, count in _gated(net).items()
    }
    prior = math.log(INCLUSION / (1 - INCLUSION))
    optimizer = _adam(*net.parameters(), *odds.values())

    def step(x: Tensor, y: Tensor) -> float:
        divergence, gains = torch.zeros((), device=x.device), {}
        for layer, own in odds.items():
            kl = own.sigmoid() * (own - prior) + F.logsigmoid(-own) + math.log1p(math.exp(prior))
            divergence = divergence + kl.sum()
            noise = torch.logit(torch.rand(len(x), len(own), device=x.device), eps=6e-8)
            gains[layer] = torch.sigmoid((own + noise) / TEMPERATURE)
        return _finish(optimizer, _likelihood(_with_gates(net, x, gains), y) + divergence)

    return step


def group_horseshoe(net: nn.Sequential) -> Step:
    """Log-normal scales of half-Cauchy and inverse gamma priors."""
    device = next(net.parameters()).device
    tau, freedom, slab = 0.1 / 0.9 / math.sqrt(N), 2.0, 8.0
    nodes, weights = np.polynomial.hermite_e.hermegauss(32)
    nodes = torch.tensor(nodes, dtype=torch.float32, device=device).unsqueeze(-1)
    weights = torch.tensor(weights / math.sqrt(2 * math.pi), dtype=torch.float32, device=device)
    log_local = -0.5 * math.log(1 - 0.25) - math.log(tau)
    starts = (
        (log_local, math.log(0.1)),
        (math.log(tau), math.log(0.1)),
        (math.log(4), math.log(0.1)),
    )
    scales = {}
    for layer, count in _gated(net).items():
        parts = [torch.full((count,), value) for value in starts[0]]
        parts += [torch.tensor(value) for pair in starts[1:] for value in pair]
        scales[layer] = [part.to(device).requires_grad_() for part in parts]
    optimizer = _adam(*net.parameters(), *(one for parts in scales.values() for one in parts))
    half_entropy = 0.5 * math.log(2 * math.pi * math.e)

    def half_cauchy(loc: Tensor, scale: Tensor, log_scale: Tensor) -> Tensor:
        size = (loc + scale * nodes).abs()
        log_cosh = weights @ (size + torch.log1p((-2 * size).exp()))
        return (log_cosh + math.log(math.pi / 2) - log_scale - half_entropy).sum()

    def step(x: Tensor, y: Tensor) -> float:
        divergence, gains = torch.zeros((), device=device), {}
        for layer, (loc, log_s, loc_0, log_s0, loc_c, log_sc) in scales.items():
            s, s_0, s_c = log_s.exp(), log_s0.exp(), log_sc.exp()
            kl = half_cauchy(loc, s, log_s)
            kl = kl + half_cauchy((loc_0 - math.log(tau)).view(1), s_0, log_s0)
            mean = (-loc_c + s_c.square() / 2).exp()
            kl = kl + freedom * (loc_c - math.log(slab)) + slab * mean - log_sc - half_entropy
            divergence = divergence + kl + math.lgamma(freedom)
            shared = loc_0 + s_0 * torch.randn((), device=device)
            c = loc_c + s_c * torch.randn((), device=device)
            local = loc + s * torch.randn_like(loc)
            gains[layer] = (-0.5 * torch.logaddexp(-2 * (shared + local), -c)).exp()
        return _finish(optimizer, _likelihood(_with_gates(net, x, gains), y) + divergence)

    return step
