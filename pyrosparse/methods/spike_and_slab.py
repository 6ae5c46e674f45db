"""The spike and slab: weights that are exactly zero with a probability of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyro
import torch
from torch import Tensor

from pyrosparse.distributions import SpikeAndSlabNormal
from pyrosparse.lifting.method import Method, Posterior, draws_of
from pyrosparse.lifting.target import Target

# Beyond these log odds a weight is decided, and its odds have no gradient.
_DECIDED = 20.0


@dataclass(frozen=True)
class SpikeAndSlab(Method):
    r"""An exact spike and slab on every weight, with its posterior probability of inclusion.

    .. math::
        p(w) = (1 - \pi)\, \delta_0 + \pi\, \mathcal N(0, S^2), \qquad
        q(w) = (1 - a)\, \delta_0 + a\, \mathcal N(m, s^2)

    inclusion: pi, the prior probability that a weight is not zero. A smaller one leaves fewer.
    scale:     S, the slab's standard deviation.
    initial:   a at the start; m starts at the network's weight.
    initial_scale: s at the start.

    In training the noise is drawn at the activations, with the weight's two moments, a m and
    a (s^2 + (1 - a) m^2): that is exact in mean and variance, and normal by the central limit. In
    evaluation mode weights are drawn as they are, with exact zeros.

    Targets: weights of dense and convolutional layers. The slab's mean m is the network's own
    parameter, and the posterior mean is a m. ``score`` is the probability of inclusion a, and a
    weight stays where that is 1/2 or more (the median probability model). Freezing decides: what is
    removed is out, and all others are in, with q(w) = N(m, s^2).

    Under ``Trace_ELBO`` the gradient by a of the divergence is by a score function an element: it
    is unbiased, and far noisier than the closed form of ``TraceMeanField_ELBO``.

    Raises ValueError on options out of range.

    Sources: Mitchell and Beauchamp (1988); Hubin and Storvik (2019) for networks; Barbieri and
    Berger (2004) for the median probability model.

    >>> import pyrosparse as ps, torch
    >>> bnn = ps.lift(torch.nn.Linear(3, 2), SpikeAndSlab(inclusion=0.1))
    >>> bnn.scores()["weight"][0]
    tensor([0.9000, 0.9000, 0.9000])
    """

    inclusion: float = 0.1
    scale: float = 1.0
    initial: float = 0.9
    initial_scale: float = 0.01

    threshold: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        for name in ("inclusion", "initial"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise ValueError(f"{name} is a probability in (0, 1), got {value}")
        for name in ("scale", "initial_scale"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive and finite, got {value}")

    def init(self, target: Target) -> dict[str, Tensor]:
        assert target.value is not None
        loc = target.value.detach()
        return {
            "loc": target.value,
            "log_scale": torch.full_like(loc, math.log(self.initial_scale)),
            "log_odds": torch.full_like(loc, _log_odds(self.initial)),
        }

    def law(self, target: Target, q: Posterior) -> SpikeAndSlabNormal:
        """The prior of a target, in the dtype and on the device of its posterior."""
        like = q["loc"].detach()
        log_odds, scale = like.new_tensor(_log_odds(self.inclusion)), like.new_tensor(self.scale)
        return SpikeAndSlabNormal(log_odds, torch.zeros_like(scale), scale, target.shape)

    def prior(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        return pyro.sample(target.site, self.law(target, q))

    def guide(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        log_odds, law = q["log_odds"].clamp(-_DECIDED, _DECIDED), self.law(target, q)
        scale = q["log_scale"].exp()
        posterior = SpikeAndSlabNormal(log_odds, q["loc"], scale, target.shape, prior=law)
        return pyro.sample(target.site, posterior)

    def activation_moments(self, target: Target, q: Posterior) -> tuple[Tensor, Tensor]:
        log_odds = q["log_odds"].clamp(-_DECIDED, _DECIDED)
        a = log_odds.sigmoid()
        variance = a * (q["log_scale"].exp().square() + (1 - a) * q["loc"].square())
        return a * q["loc"], variance.sqrt()

    def score(self, target: Target, q: Posterior) -> Tensor:
        return q["log_odds"].sigmoid()

    def mean(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        return q["log_odds"].sigmoid() * q["loc"]

    def forget(self, target: Target, q: Posterior, removed: Tensor) -> None:
        if removed.any():
            q["log_odds"].fill_(2 * _DECIDED).masked_fill_(removed, _log_odds(self.inclusion))
        q["log_scale"].masked_fill_(removed, math.log(self.scale))

    def match_moments(self, target: Target, q: Posterior, draws: Mapping[str, Tensor]) -> None:
        weights = draws_of(draws, target.site, target.shape).double()
        count, included = len(weights), (weights != 0).sum(0)
        slab = weights.sum(0) / included.clamp_min(1)
        square = ((weights != 0) * (weights - slab).square()).sum(0) / (included - 1).clamp_min(1)
        tiny = torch.finfo(q["loc"].dtype).tiny
        spread = torch.where(included > 1, square.sqrt().clamp_min(tiny), self.scale)
        q["loc"].copy_(slab)
        q["log_scale"].copy_(spread.log())
        # Half a draw more on either side: what always was in, or out, has finite odds.
        q["log_odds"].copy_(((included + 0.5) / (count - included + 0.5)).log())


def _log_odds(probability: float) -> float:
    return math.log(probability) - math.log1p(-probability)
