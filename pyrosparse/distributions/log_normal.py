"""Kullback-Leibler divergences of log-normal guides from the priors of positive scales."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Gamma, HalfCauchy, InverseGamma, LogNormal
from torch.distributions.kl import register_kl

_NODES = 32


@cache
def _gauss_hermite() -> tuple[list[float], list[float]]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    return nodes.tolist(), (weights / math.sqrt(2 * math.pi)).tolist()


def normal_quadrature(loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    r"""Points x and weights c of the Gauss-Hermite rule, :math:`E f(x) \approx \sum_i c_i f(x_i)`
    for a normal x: points (32, ...), weights (32, 1, ...).

    It is exact for polynomials up to degree 63.

    >>> x, weights = normal_quadrature(torch.tensor([0.0]), torch.tensor([2.0]))
    >>> (weights * x**4).sum(0)  # 3 times the fourth power of the standard deviation
    tensor([48.0000])
    """
    nodes, weights = (
        loc.new_tensor(values).view(-1, *[1] * loc.dim()) for values in _gauss_hermite()
    )
    return loc + scale * nodes, weights


def _log_entropy(q: LogNormal) -> Tensor:
    """The entropy of log z."""
    return q.scale.log() + 0.5 * math.log(2 * math.pi * math.e)


@register_kl(LogNormal, HalfCauchy)
def _kl_half_cauchy(q: LogNormal, p: HalfCauchy) -> Tensor:
    r"""With x = log z - log t, whose density under p is 1 / (pi cosh x):
    KL = E log(pi cosh x) - H(x), the expectation by quadrature."""
    x, weights = normal_quadrature(q.loc - p.scale.log(), q.scale)
    size = x.abs()
    log_cosh = size + torch.log1p((-2 * size).exp()) - math.log(2)
    return math.log(math.pi) + (weights * log_cosh).sum(0) - _log_entropy(q)


@register_kl(LogNormal, Gamma)
def _kl_gamma(q: LogNormal, p: Gamma) -> Tensor:
    """KL = log Gamma(a) - a log b - a E log z + b E z - H(log z)."""
    a, b = p.concentration, p.rate
    mean = (q.loc + q.scale.square() / 2).exp()
    return torch.lgamma(a) - a * (b.log() + q.loc) + b * mean - _log_entropy(q)


@register_kl(LogNormal, InverseGamma)
def _kl_inverse_gamma(q: LogNormal, p: InverseGamma) -> Tensor:
    """That of 1 / z from the gamma law of 1 / z."""
    return _kl_gamma(LogNormal(-q.loc, q.scale), p.base_dist)
