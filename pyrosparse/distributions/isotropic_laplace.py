"""The zero-mean Laplace prior with one scale for a whole tensor."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pyro.distributions import Independent, Laplace, Normal
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.kl import register_kl


class IsotropicLaplace(Independent):
    r"""Independent zero-mean Laplace laws with one scale, the whole tensor one event.

    .. math:: \log p(w) = -\frac{\lVert w \rVert_1}{b} - n \log(2 b)

    The same law as ``Laplace(0, b).expand(shape).to_event()``, scored in one pass over the tensor.

    scale: b > 0; the standard deviation is b times the square root of 2.
    shape: the event's shape; n is the number of its elements.
    dtype, device: of what ``sample`` returns.

    Raises ValueError when the scale is not positive and finite.

    >>> import torch
    >>> IsotropicLaplace(0.5, (3, 2)).log_prob(torch.ones(3, 2))
    tensor(-12.)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}  # type: ignore[misc]
    has_rsample = True
    _validate_args = False  # its own: Pyro's Independent has that of ``base_dist``

    def __init__(
        self,
        scale: float,
        shape: tuple[int, ...],
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale must be positive and finite, got {scale}")
        self.scale = scale
        self._zero = torch.zeros((), dtype=dtype, device=device)
        checks = Distribution._validate_args if validate_args is None else validate_args
        Distribution.__init__(self, Size(), Size(shape), validate_args=checks)

    @property
    def base_dist(self) -> Laplace:  # type: ignore[override]
        return Laplace(self._zero, self.scale).expand(self.event_shape)

    @property
    def reinterpreted_batch_ndims(self) -> int:  # type: ignore[override]
        return len(self.event_shape)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        return self._zero.expand(self.event_shape)

    @property
    def variance(self) -> Tensor:
        return (self._zero + 2 * self.scale**2).expand(self.event_shape)

    def rsample(self, sample_shape: Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        shape = Size(sample_shape) + self.event_shape
        return Laplace(self._zero, self.scale).rsample(shape)  # type: ignore[no-any-return]

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        flat = value.reshape(*value.shape[: value.dim() - len(self.event_shape)], -1)
        n = self.event_shape.numel()
        return -flat.abs().sum(-1) / self.scale - n * math.log(2 * self.scale)

    def expand(self, batch_shape, _instance=None):  # type: ignore[no-untyped-def]
        batch_shape = Size(batch_shape)
        if not batch_shape:
            return self
        return self.base_dist.expand(batch_shape + self.event_shape).to_event(len(self.event_shape))


@register_kl(Independent, IsotropicLaplace)
def _kl_normal_laplace(q: Independent, p: IsotropicLaplace) -> Tensor:
    r"""KL(N(m, s^2) || Laplace(b)) = E|w| / b + log 2b - log s - log(2 pi e) / 2, summed, where
    E|w| = s sqrt(2 / pi) exp(-m^2 / 2 s^2) + m erf(m / s sqrt 2)."""
    if not isinstance(q.base_dist, Normal) or q.batch_shape or q.event_shape != p.event_shape:
        raise NotImplementedError
    loc, scale = q.base_dist.loc, q.base_dist.scale
    ratio = loc / scale * math.sqrt(0.5)
    size = math.sqrt(2 / math.pi) * scale * (-ratio.square()).exp() + loc * ratio.erf()
    constant = math.log(2 * p.scale) - 0.5 * math.log(2 * math.pi * math.e)
    return size.sum() / p.scale - scale.log().sum() + p.event_shape.numel() * constant
