"""The truncated normal of log gains, whose prior is log-uniform."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import Uniform, constraints
from torch.distributions.kl import register_kl

_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
_WIDEST = 5.0
"""The largest log scale: on a support of 20 that is the uniform law to 3e-7 nats."""


class TruncatedNormal(TorchDistribution):
    r"""A normal law cut to an interval: that of :math:`x = \log \theta` for a gain
    :math:`\theta` between :math:`e^a` and :math:`e^b`.

    .. math::
        q(x) = \frac{\varphi((x - \mu) / \sigma)}{\sigma Z}, \quad a \le x \le b, \qquad
        Z = \Phi\Big(\frac{b - \mu}{\sigma}\Big) - \Phi\Big(\frac{a - \mu}{\sigma}\Big)

    A location outside the interval is mirrored at the bound, and a log scale above 5 at 5. A
    gradient step that leads out of the interval then comes back in, where clamping would stop the
    gradient; within it nothing underflows or cancels. All is computed in float64 and returned in
    the dtype of the parameters.

    loc, log_scale: mu and log sigma, of one floating dtype, broadcastable.
    low, high:      a and b.

    The KL divergence to ``Uniform(low, high)`` is in closed form.

    Raises ValueError unless low < high, both finite.

    Source: Neklyudov et al. (2017).

    >>> import torch
    >>> q = TruncatedNormal(torch.tensor(0.0), torch.tensor(-5.0), -20.0, 0.0)
    >>> torch.distributions.kl_divergence(q, torch.distributions.Uniform(-20.0, 0.0))
    tensor(7.2699)
    >>> q.exp_mean, q.exp_signal_to_noise
    (tensor(0.9946), tensor(246.6992))
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True

    def __init__(self, loc: Tensor, log_scale: Tensor, low: float, high: float) -> None:
        if not (low < high and math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"low and high must be finite, and low below high: got {low}, {high}")
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale)
        self.low, self.high = low, high
        width = high - low
        outside = torch.remainder(high - self.loc.double(), 2 * width)
        self._loc = high - (width - (width - outside).abs())
        self._log_scale = _WIDEST - (_WIDEST - self.log_scale.double()).abs()
        self._scale = self._log_scale.exp()
        self._below = (low - self._loc) / self._scale
        self._above = (high - self._loc) / self._scale
        # A sum of two terms of one sign, as the location is in between.
        root = math.sqrt(0.5)
        self._mass = 0.5 * (torch.erf(self._above * root) + torch.erf(-self._below * root))
        super().__init__(self.loc.shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.interval(self.low, self.high)

    def rsample(self, sample_shape: Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draws with gradients, (*sample_shape, *batch_shape)."""
        shape = self._extended_shape(Size(sample_shape))
        uniform = torch.rand(shape, dtype=torch.float64, device=self._loc.device)
        # torch.special's inverse is infinite at 0 and 1, which rounding can give.
        probability = (torch.special.ndtr(self._below) + uniform * self._mass).clamp(
            1e-300, 1 - 2.0**-53
        )
        draw = self._loc + self._scale * torch.special.ndtri(probability)
        kind = torch.finfo(self.loc.dtype)
        # A uniform prior has no density at its upper end itself.
        last = self.high - max(abs(self.high) * kind.eps, kind.tiny)
        return draw.clamp(self.low, last).to(self.loc.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats, the shapes of value and batch broadcast."""
        wide = value.double()
        inside = (wide >= self.low) & (wide <= self.high)
        standard = (wide - self._loc) / self._scale
        density = -0.5 * standard.square() - _HALF_LOG_TAU - self._log_scale - self._mass.log()
        return density.masked_fill(~inside, -torch.inf).to(self.loc.dtype)

    @property
    def mean(self) -> Tensor:
        """E[x], the batch shape."""
        ends = _density(self._below) - _density(self._above)
        return (self._loc + self._scale * ends / self._mass).to(self.loc.dtype)

    def entropy(self) -> Tensor:
        """In nats, the batch shape."""
        return self._entropy().to(self.loc.dtype)

    def _entropy(self) -> Tensor:
        ends = self._below * _density(self._below) - self._above * _density(self._above)
        return 0.5 + _HALF_LOG_TAU + self._log_scale + self._mass.log() + ends / (2 * self._mass)

    @property
    def exp_mean(self) -> Tensor:
        """E[exp(x)], the batch shape."""
        return self._log_exp_moment(1).exp().to(self.loc.dtype)

    @property
    def exp_signal_to_noise(self) -> Tensor:
        """E[exp(x)] over its standard deviation, the batch shape; 7e7 at most."""
        excess = self._log_exp_moment(2) - 2 * self._log_exp_moment(1)
        # The excess of a scale below 1e-8 is lost in rounding.
        smallest = torch.finfo(torch.float64).eps
        return torch.expm1(excess.clamp_min(smallest)).rsqrt().to(self.loc.dtype)

    def _log_exp_moment(self, order: int) -> Tensor:
        """log E[exp(order x)], by the mass of the normal law that is shifted by order variances."""
        shift = order * self._scale
        upper = torch.special.log_ndtr(self._above - shift)
        lower = torch.special.log_ndtr(self._below - shift)
        mass = upper + torch.log(-torch.expm1(lower - upper))
        return order * self._loc + 0.5 * shift.square() + mass - self._mass.log()

    def expand(self, batch_shape, _instance=None):  # type: ignore[no-untyped-def]
        shape = Size(batch_shape)
        return TruncatedNormal(
            self.loc.expand(shape), self.log_scale.expand(shape), self.low, self.high
        )


def _density(standard: Tensor) -> Tensor:
    return (-0.5 * standard.square() - _HALF_LOG_TAU).exp()


@register_kl(TruncatedNormal, Uniform)
def _kl_truncated_normal_uniform(q: TruncatedNormal, p: Uniform) -> Tensor:
    width = (p.high - p.low).double()
    divergence = width.log() - q._entropy()
    covered = (p.low <= q.low) & (p.high >= q.high)
    return divergence.masked_fill(~covered, torch.inf).to(q.loc.dtype)
