"""Gamma functions where their differences are needed: small next to the functions themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrosparse.distributions.elementwise import elementwise

_EULER = 0.57721566490153286
_LARGE = 16.0
"""Where Stirling's series with four terms is right to 1e-14."""
_LARGER = 1e3
"""Where the series of digamma differences with three terms is right to 1e-13."""


def harmonic_number(n: Tensor) -> Tensor:
    r"""The harmonic number of a real argument.

    .. math:: H_n = \psi(n + 1) + \gamma

    n: at least 0, any shape and floating dtype. For small n the terms cancel, and the relative
    error grows to the dtype's epsilon over n: pass float64.

    >>> import torch
    >>> harmonic_number(torch.tensor([1.0, 2.0, 3.0]).double())
    tensor([1.0000, 1.5000, 1.8333], dtype=torch.float64)
    """
    return torch.digamma(n + 1) + _EULER


def log_binomial(n: Tensor, k: Tensor) -> Tensor:
    r"""The log of the binomial coefficient "n + k over k" of real arguments.

    .. math:: \log \binom{n + k}{k} = \log \frac{\Gamma(1 + n + k)}{\Gamma(1 + n) \Gamma(1 + k)}
        = -\log\bigl(k \operatorname{B}(1 + n, k)\bigr)

    The three log gammas are of the size n log n and would leave nothing of a difference of size
    k log n where n is large; their difference is taken term by term in Stirling's series.

    n, k: at least 0, broadcastable, of one floating dtype; symmetric in the two.

    >>> import torch
    >>> log_binomial(torch.tensor(2.0), torch.tensor(2.0)).exp()
    tensor(6.)
    >>> log_binomial(torch.tensor(1e30), torch.tensor(1.0))  # the log of 1e30 + 1
    tensor(69.0776)
    """
    return elementwise(_log_binomial, _its_derivatives, *torch.broadcast_tensors(n, k))


def _log_binomial(n: Tensor, k: Tensor) -> Tensor:
    larger, smaller = torch.maximum(n, k), torch.minimum(n, k)
    return _log_gamma_difference(1 + larger, smaller) - torch.lgamma(1 + smaller)


def _its_derivatives(n: Tensor, k: Tensor, _value: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\psi(1 + n + k) - \psi(1 + n)` by n, and so by k.

    By the larger of the two it is small next to its terms, and taken from the series of
    :math:`\psi(x) = \log x - 1 / 2x - 1 / 12x^2 + ...`, term by term."""
    n_is_larger = n > k
    x, d = 1 + torch.where(n_is_larger, n, k), torch.where(n_is_larger, k, n)
    end = torch.digamma(x + d)
    inverses = x.reciprocal(), (x + d).reciprocal()
    ratio = d * inverses[0]
    series = torch.log1p(ratio) + ratio * inverses[1] * (0.5 + (inverses[0] + inverses[1]) / 12)
    by_larger = torch.where(x < _LARGER, end - torch.digamma(x), series)
    by_smaller = end - torch.digamma(1 + d)
    return (
        torch.where(n_is_larger, by_larger, by_smaller),
        torch.where(n_is_larger, by_smaller, by_larger),
    )


def _log_gamma_difference(x: Tensor, d: Tensor) -> Tensor:
    """log Gamma(x + d) - log Gamma(x) for 0 <= d < x."""
    is_small = x < _LARGE
    small = torch.where(is_small, x, _LARGE)
    direct = torch.lgamma(small + torch.where(is_small, d, 0.0)) - torch.lgamma(small)
    large = torch.where(is_small, _LARGE, x)
    end = large + d
    stirling = (
        (large - 0.5) * torch.log1p(d / large)
        + d * (torch.log(end) - 1)
        + _stirling_correction(end)
        - _stirling_correction(large)
    )
    return torch.where(is_small, direct, stirling)


def _stirling_correction(x: Tensor) -> Tensor:
    inverse = 1 / x
    square = inverse * inverse
    return inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))
