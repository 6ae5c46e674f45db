"""The horseshoe prior: the example of a prior written as one Pyro function."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyrosparse.lifting.method import Method, from_pyro
from pyrosparse.lifting.target import Target


def Horseshoe(scale: float = 0.1, *, threshold: float = 1.0, initial_scale: float = 0.01) -> Method:
    r"""The horseshoe prior on every weight of a layer, with a mean-field guide.

    .. math::
        \tau \sim \mathcal C^+(0, s), \quad \lambda_n \sim \mathcal C^+(0, 1), \quad
        w_n \sim \mathcal N(0, \tau^2 \lambda_n^2)

    scale:     s, the scale of the layer's global shrinkage tau.
    threshold: weights stay if |loc| / scale of their posterior is at least this.
    initial_scale: the guide's standard deviation at the start, unconstrained space.

    Raises ValueError if a scale is not positive.

    Source: Carvalho, Polson and Scott (2010), eq. 1.

    >>> import pyrosparse as ps, torch
    >>> bnn = ps.lift(torch.nn.Linear(3, 2), Horseshoe())
    >>> sorted(bnn.masks())
    ['weight']
    """
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")

    return from_pyro(HorseshoePrior(scale), threshold=threshold, initial_scale=initial_scale)


@dataclass(frozen=True)
class HorseshoePrior:
    """The prior's Pyro function; a class, so that a lifted network can be pickled."""

    scale: float

    def __call__(self, target: Target) -> Tensor:
        assert target.value is not None
        ones = torch.ones_like(target.value)
        shared = pyro.sample(target.part("global"), dist.HalfCauchy(ones.new_tensor(self.scale)))
        local = pyro.sample(target.part("local"), dist.HalfCauchy(ones).to_event(ones.dim()))
        # One number for all weights, in each of several sets that are drawn at once.
        shared = shared.view(*shared.shape, *[1] * ones.dim())
        weight = dist.Normal(torch.zeros_like(ones), shared * local)
        return pyro.sample(target.site, weight.to_event(ones.dim()))
