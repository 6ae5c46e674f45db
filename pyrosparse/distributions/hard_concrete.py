"""Hard concrete gates: a relaxed Bernoulli stretched beyond 0 and 1, and cut there."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from pyrosparse.distributions.relaxed_bernoulli import Shape, relaxed_bernoulli

TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
_NODES = 16


def hard_concrete(
    log_alpha: Tensor,
    temperature: float = TEMPERATURE,
    low: float = LOW,
    high: float = HIGH,
    sample_shape: Shape = (),
) -> Tensor:
    r"""Draw gates that are 0 or 1 with positive probability, and have gradients in between.

    .. math::
        z = \min(1, \max(0, s\,(\zeta - \gamma) + \gamma)), \quad
        s = \operatorname{sigmoid}\left(\frac{1}{\beta} \left(\log \alpha
            + \log \frac{u}{1 - u}\right)\right), \quad u \sim \mathrm{Uniform}(0, 1)

    log_alpha:   any shape and floating dtype.
    temperature: beta.
    low, high:   gamma < 0 and zeta > 1.

    Returns (*sample_shape, *log_alpha.shape).

    Source: Louizos, Welling and Kingma (2018), eqs. 10 and 11.

    >>> import torch
    >>> z = hard_concrete(torch.zeros(1000), sample_shape=(100,))
    >>> ((z == 0).float().mean() - 0.16818).abs() < 0.01
    tensor(True)
    """
    relaxed = relaxed_bernoulli(log_alpha, temperature, sample_shape)
    return (low + (high - low) * relaxed).clamp(0, 1)


def hard_concrete_logits(
    log_alpha: Tensor, temperature: float = TEMPERATURE, low: float = LOW, high: float = HIGH
) -> tuple[Tensor, Tensor]:
    r"""The log odds of a gate that is not 0, and of one that is 1.

    .. math::
        P(z \ne 0) = \operatorname{sigmoid}\Big(\log \alpha - \beta \log \frac{-\gamma}{\zeta}\Big),
        \quad
        P(z = 1) = \operatorname{sigmoid}
            \Big(\log \alpha - \beta \log \frac{1 - \gamma}{\zeta - 1}\Big)

    Source: Louizos, Welling and Kingma (2018), eq. 12.

    >>> import torch
    >>> hard_concrete_logits(torch.tensor(0.0))[0].sigmoid()
    tensor(0.8318)
    """
    return (
        log_alpha - temperature * math.log(-low / high),
        log_alpha - temperature * math.log((1 - low) / (high - 1)),
    )


def hard_concrete_moments(
    log_alpha: Tensor, temperature: float = TEMPERATURE, low: float = LOW, high: float = HIGH
) -> tuple[Tensor, Tensor]:
    r"""The mean of a gate and of its square.

    .. math::
        E[z] = \int_0^1 P(z > t)\, dt, \qquad E[z^2] = \int_0^1 2 t\, P(z > t)\, dt, \qquad
        P(z > t) = \operatorname{sigmoid}\Big(\log \alpha
            - \beta \operatorname{logit} \frac{t - \gamma}{\zeta - \gamma}\Big)

    By 16 nodes of Gauss and Legendre: right to 2e-11 with the paper's temperature and ends.

    >>> import torch
    >>> hard_concrete_moments(torch.tensor(0.0))
    (tensor(0.5000), tensor(0.3980))
    """
    nodes, weights = _gauss_legendre()
    odds = [temperature * math.log((t - low) / (high - t)) for t in nodes]
    above = torch.sigmoid(log_alpha.unsqueeze(-1) - log_alpha.new_tensor(odds))
    first = log_alpha.new_tensor(weights)
    second = log_alpha.new_tensor(
        [2 * t * weight for t, weight in zip(nodes, weights, strict=True)]
    )
    return above @ first, above @ second


@functools.cache
def _gauss_legendre() -> tuple[list[float], list[float]]:
    """Nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()
