"""The zero-mean normal prior with a precision for each element."""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import torch
from pyro.distributions import Independent, Normal, TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl


class PrecisionNormal(TorchDistribution):
    r"""Independent zero-mean normals, each with a precision of its own, the whole tensor one event.

    .. math:: \log p(w) = -\tfrac12 \sum_n \rho_n w_n^2 + c, \qquad
              c = \tfrac12 \sum_n \log \rho_n - \tfrac n2 \log 2\pi

    precision:  rho > 0, any shape, which is the event's.
    log_normalizer: c, without dimensions, where it is known from before: precisions that stay as
                they are over many steps need no logarithms in each.

    >>> PrecisionNormal(torch.tensor([4.0, 4.0])).log_prob(torch.tensor([0.5, 0.0]))
    tensor(-0.9516)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True

    def __init__(
        self,
        precision: Tensor,
        log_normalizer: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.precision = precision
        if log_normalizer is None:
            log_normalizer = log_normalizer_of(precision)
        self.log_normalizer = log_normalizer
        super().__init__(torch.Size(), precision.shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        return self.precision.new_zeros(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        return self.precision.reciprocal().expand(self._extended_shape())

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.precision.dtype, device=self.precision.device)
        return noise * self.precision.rsqrt()

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        squares = self.precision * value.square()
        return self.log_normalizer - 0.5 * _sum(squares, self.event_shape)

    def expand(self, batch_shape, _instance=None):  # type: ignore[no-untyped-def]
        expanded = copy.copy(self)
        expanded._batch_shape = torch.Size(batch_shape)
        return expanded


def log_normalizer_of(precision: Tensor) -> Tensor:
    """c of ``PrecisionNormal``, without dimensions, summed in double.

    >>> log_normalizer_of(torch.ones(2))
    tensor(-1.8379)
    """
    total = precision.double().log().sum() - precision.numel() * math.log(2 * math.pi)
    return (total / 2).to(precision)


def _sum(each: Tensor, event: torch.Size) -> Tensor:
    """The sum over an event's dimensions, the last."""
    return each.sum(tuple(range(-len(event), 0))) if event else each


@register_kl(Independent, PrecisionNormal)
def _kl_normal_precision(q: Independent, p: PrecisionNormal) -> Tensor:
    """Sum of rho (m^2 + s^2) / 2, less the entropy of q and less c."""
    if not isinstance(q.base_dist, Normal) or q.event_shape != p.event_shape:
        raise NotImplementedError
    loc, scale = q.base_dist.loc, q.base_dist.scale
    moment = _sum(p.precision * (loc.square() + scale.square()), p.event_shape)
    entropy = _sum(scale.log(), p.event_shape) + p.event_shape.numel() * (
        0.5 * math.log(2 * math.pi) + 0.5
    )
    return 0.5 * moment - entropy - p.log_normalizer
