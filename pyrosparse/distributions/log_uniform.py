"""The log-uniform prior of variational dropout, with its divergence from a normal posterior."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, Normal
from torch.distributions.kl import register_kl

from pyrosparse.distributions.improper import Improper
from pyrosparse.distributions.precision import at_least_float32

_EULER = 0.57721566490153286
_LIMIT = 0.5 * (_EULER + math.log(2))
"""By how much the divergence exceeds log |mu / sigma| where that is large."""

_CONSTANT = 0.5 * (1 + math.log(4 * math.pi) + _EULER)

_LARGEST_RATIO = 1e15
"""Of |mu| / sigma: its square is finite in float32."""

_ASYMPTOTIC = 1e6
"""A signal beyond which the divergence and its slope are their asymptotes, to 1e-6. The fifth power
is finite in float32."""


class LogUniform(Improper):
    r"""Independent log-uniform densities over the elements of one tensor, one event.

    .. math:: \log p(w) = \sum_i \big[ -\log |w_i| - \tfrac12 (1 + \log 4 \pi + \gamma) \big]

    with Euler's :math:`\gamma`. The density has no integral. Its constant is chosen so that the
    divergence of :math:`\mathcal N(\mu, \sigma^2)` is 0 at :math:`\mu = 0`. That divergence is
    registered for normal posteriors. With :math:`s = \mu^2 / \sigma^2` it is

    .. math::
        \mathrm{KL}(s) = \int_0^\infty \Big[ 1 - \exp \frac{-s}{2 \cosh^2 v} \Big] \, dv ,

    approximated to 1.6e-5 nats, and its slope by log s to 4e-5, in float32 as in float64.

    like: the tensor's shape, dtype and device.

    At :math:`w = 0` the density is that of the smallest normal number, and so finite.

    Source: Kingma, Salimans and Welling (2015), section 4.2, for the prior.

    >>> import torch
    >>> prior = LogUniform(torch.zeros(2))
    >>> prior.log_prob(torch.tensor([1.0, -2.0]))
    tensor(-4.8014)
    >>> q = Independent(Normal(torch.tensor([0.0, 1.0]), 1.0), 1)
    >>> torch.distributions.kl_divergence(q, prior)
    tensor(0.4267)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        size = at_least_float32(value).abs()
        # Where a weight is frozen at 0, what is evaluated at its mean is asked for the density.
        density = -size.clamp_min(torch.finfo(size.dtype).tiny).log() - _CONSTANT
        batch = value.shape[: value.dim() - len(self.event_shape)]
        summed = density.reshape(*batch, -1).sum(-1)
        return summed.expand(torch.broadcast_shapes(batch, self.batch_shape))


@register_kl(Independent, LogUniform)
def _kl_independent_log_uniform(q: Independent, p: LogUniform) -> Tensor:
    if not isinstance(q.base_dist, Normal) or q.event_shape != p.event_shape:
        raise NotImplementedError
    divergence = _Divergence.apply(*map(at_least_float32, (q.base_dist.loc, q.base_dist.scale)))
    return divergence.reshape(*q.batch_shape, -1).sum(-1)  # type: ignore[no-any-return]


@register_kl(Normal, LogUniform)
def _kl_normal_log_uniform(q: Normal, p: LogUniform) -> Tensor:
    if p.event_shape:
        raise NotImplementedError
    return _Divergence.apply(*map(at_least_float32, (q.loc, q.scale)))  # type: ignore[no-any-return]


class _Divergence(torch.autograd.Function):
    """The divergence by element, with the slope by a fraction of its own: it is both cheaper and
    nearer to the true one than the derivative of the fraction for the divergence."""

    generate_vmap_rule = True

    @staticmethod
    def forward(loc: Tensor, scale: Tensor) -> Tensor:
        return _divergence(_ratio(loc, scale).square())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale = ctx.saved_tensors
        ratio = _ratio(loc, scale)
        by_loc = gradient * _slope(ratio.square()) * ratio / scale * 2
        return by_loc, -by_loc * ratio


def _ratio(loc: Tensor, scale: Tensor) -> Tensor:
    return (loc / scale).clamp(-_LARGEST_RATIO, _LARGEST_RATIO)


def _divergence(signal: Tensor) -> Tensor:
    """Of a normal posterior with this mu^2 / sigma^2, elementwise."""
    s = signal.clamp_max(_ASYMPTOTIC)
    above = s * s * _polynomial(s, 1 / (6 * _LIMIT), 0.05277199, 0.00255875, 0.0008166184)
    below = _polynomial(s, 1.0, 1.13726451, 0.32349591, 0.06053173, 0.00383589, 0.0008166184)
    return 0.5 * _log_of_one_plus(signal) + _LIMIT * above / below


def _slope(signal: Tensor) -> Tensor:
    """The derivative of the divergence by mu^2 / sigma^2, elementwise."""
    s = signal.clamp_max(_ASYMPTOTIC)
    above = _polynomial(s, 0.5, *_ABOVE, 0.5 * _BELOW[-1])
    below = _polynomial(s, 1.0, *_BELOW)
    return above / below * (_ASYMPTOTIC / signal.clamp_min(_ASYMPTOTIC))


_ABOVE = (0.029081985, 0.0059308742, 0.00022396185)
_BELOW = (0.39247396, 0.073649343, 0.010545422, 0.00032819660, 0.00012357208)


def _polynomial(x: Tensor, *coefficients: float) -> Tensor:
    """From the constant on."""
    *rest, last = coefficients
    value = x * last + rest.pop()
    while rest:
        value = value * x + rest.pop()
    return value


def _log_of_one_plus(x: Tensor) -> Tensor:
    # As exact as torch.log1p, which is five times slower than this.
    rounded = 1 + x
    return rounded.log() + (x - (rounded - 1)) / rounded
