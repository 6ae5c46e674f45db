"""Densities that are no distributions: what a penalty on a tensor is as a prior."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pyro.distributions as dist
import torch
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.poutine import runtime
from torch import Size, Tensor
from torch.distributions import constraints


class ImproperPriorWarning(UserWarning):
    """Draws were asked of a prior that has none."""


class Improper(dist.TorchDistribution):
    """A density on one tensor, one event, that has no integral; subclass it and write ``log_prob``.

    like: the tensor's shape, dtype and device.

    It has no draws. Where a Pyro program runs on its own, or an autoguide looks for a start,
    ``sample`` gives standard normal draws in their place, and warns with ``ImproperPriorWarning``
    of the first: they are no draws of the prior.
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, like: Tensor) -> None:
        self.like = like.detach()
        super().__init__(Size(), like.shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def rsample(self, sample_shape: Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        # Autoguides and samplers start from a draw, and move it at once.
        if not any(isinstance(one, InitMessenger) for one in runtime._PYRO_STACK):
            warnings.warn(
                f"{type(self).__name__} is no distribution: it has no draws, and these are "
                "standard normal ones in their place. Draw from the guide, or choose a method "
                "whose prior is proper",
                ImproperPriorWarning,
                stacklevel=2,
            )
        shape = self._extended_shape(Size(sample_shape))
        return torch.randn(shape, dtype=self.like.dtype, device=self.like.device)

    def expand(self, batch_shape, _instance=None):  # type: ignore[no-untyped-def]
        new = type(self).__new__(type(self)) if _instance is None else _instance
        new.__dict__.update({k: v for k, v in self.__dict__.items() if not k.startswith("_")})
        dist.TorchDistribution.__init__(new, Size(batch_shape), self.event_shape, False)
        return new


class Penalty(Improper):
    r"""A penalty on one tensor as an improper prior, :math:`p(w) \propto e^{-R(w)}`.

    In the ELBO it is part of the prior, so that ``kl_scale`` weights it and an evaluation of the
    likelihood leaves it out, which ``pyro.factor``, an observed site, would not do.

    log_density: of a tensor of the shape of ``like``, with any dimensions in front; returns
                 :math:`-R(w)` in nats summed over the event, or one number an element.
    like:        the tensor's shape, dtype and device.

    >>> import torch
    >>> ridge = Penalty(lambda w: -w.square() / 2, torch.zeros(3))
    >>> ridge.log_prob(torch.ones(3)), ridge.log_prob(torch.ones(2, 3))
    (tensor(-1.5000), tensor([-1.5000, -1.5000]))
    """

    def __init__(self, log_density: Callable[[Tensor], Tensor], like: Tensor) -> None:
        self.log_density = log_density
        super().__init__(like)

    def log_prob(self, value: Tensor) -> Tensor:
        density = self.log_density(value)
        batch = value.shape[: value.dim() - len(self.event_shape)]
        summed = density.reshape(*batch, -1).sum(-1) if density.shape != batch else density
        return summed.expand(torch.broadcast_shapes(batch, self.batch_shape))
