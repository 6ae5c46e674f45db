"""A point mass whose own value costs nothing to score."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Size, Tensor


class Point(dist.Delta):
    r"""A point mass on one tensor, one event, the guide of a point estimate.

    .. math:: q(w) = \delta(w - v)

    The same law as ``pyro.distributions.Delta``; scoring the very tensor it was made from (the
    only case in SVI) returns its log density at once instead of comparing every element.

    v: any shape and dtype; its dimensions are all event dimensions.

    >>> import torch
    >>> value = torch.ones(3, 2)
    >>> Point(value).log_prob(value)
    tensor(0.)
    >>> Point(value).log_prob(value + 1)
    tensor(-inf)
    """

    def __init__(self, v: Tensor) -> None:
        super().__init__(v, event_dim=v.dim(), validate_args=False)

    def rsample(self, sample_shape: Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        return self.v if not sample_shape else super().rsample(sample_shape)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.log_density if x is self.v else super().log_prob(x)

    def expand(self, batch_shape, _instance=None):  # type: ignore[no-untyped-def]
        return dist.Delta(self.v, event_dim=self.v.dim()).expand(batch_shape)
