"""The spike and slab on groups: gates that are open with a probability of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor

from pyrosparse.distributions import Inclusions, relaxed_bernoulli
from pyrosparse.lifting.method import Method, Posterior, check_kl_scale, draws_of, kl_scale_of
from pyrosparse.lifting.origin import sources
from pyrosparse.lifting.target import Kind, Target


@dataclass(frozen=True)
class GroupSpikeAndSlab(Method):
    r"""Spike and slab on whole units: gates that are exactly 0 or 1, with a learned probability of
    inclusion.

    .. math::
        z_k \sim \mathrm{Bernoulli}(\pi), \quad w_{kj} = z_k v_{kj}, \quad
        v_{kj} \sim \mathcal N(0, S^2), \qquad q(z_k) = \mathrm{Bernoulli}(a_k)

    With ``Gaussian(scale=S)`` on the weights this is the spike and slab of groups: all weights of a
    unit are zero together.

    inclusion:   pi, the prior probability that a unit is not zero. A smaller value leaves fewer
                 units.
    initial:     a at the start.
    temperature: temperature of the relaxed gates in training, one draw for each example. In
                 evaluation mode gates are the drawn zeros and ones.
    kl_scale:    the weight of the KL divergence: one number, or numbers by glob on the names of
                 targets, as for ``BetaBernoulli``.

    Targets: inputs and outputs; by default ``gates(net)``. ``score`` is the probability of
    inclusion a, and a unit stays, with the gain a, if this is 1/2 or more (the median probability
    model).

    Raises ValueError if an option is out of range or no glob matches a target.

    Sources: Xu and Ghosh (2015) for groups; Barbieri and Berger (2004). Relaxed gates as in
    Maddison, Mnih and Teh (2017).

    >>> import pyrosparse as ps
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> bnn = ps.lift(net, [
    ...     (ps.Gaussian(posterior="normal", estimator="activations"), ps.weights(net)),
    ...     (GroupSpikeAndSlab(inclusion=0.1), ps.gates(net)),
    ... ])
    >>> bnn.masks()["2.input"]
    tensor([0.9000, 0.9000, 0.9000])
    """

    inclusion: float = 0.1
    initial: float = 0.9
    temperature: float = 0.3
    kl_scale: float | Mapping[str, float] = 1.0

    kinds: ClassVar[tuple[Kind, ...]] = ("input", "output")
    threshold: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        check_kl_scale(self.kl_scale)
        for name in ("inclusion", "initial"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise ValueError(f"{name} is a probability in (0, 1), got {value}")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be positive and finite, got {self.temperature}")

    def init(self, target: Target) -> dict[str, Tensor]:
        kl_scale_of(self.kl_scale, target)
        return {"log_odds": torch.full(target.shape, _log_odds(self.initial))}

    def law(self, target: Target, q: Posterior) -> Inclusions:
        """The prior of a target, in the dtype and on the device of its posterior."""
        return Inclusions(
            q["log_odds"].detach().new_tensor(_log_odds(self.inclusion)), target.shape
        )

    def prior(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        assert x is not None
        with poutine.scale(scale=kl_scale_of(self.kl_scale, target)), sources() as source:
            gate = pyro.sample(target.site, self.law(target, q))
        if q.training and source.origin(target.site) is not None:
            # The draw of the guide is scored; what trains it are relaxed draws of the same law.
            return relaxed_bernoulli(q["log_odds"], self.temperature, (len(x),))
        return gate

    def guide(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        posterior = Inclusions(q["log_odds"], target.shape, prior=self.law(target, q))
        with poutine.scale(scale=kl_scale_of(self.kl_scale, target)):
            return pyro.sample(target.site, posterior)

    def score(self, target: Target, q: Posterior) -> Tensor:
        return q["log_odds"].sigmoid()

    def mean(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        return q["log_odds"].sigmoid()

    def forget(self, target: Target, q: Posterior, removed: Tensor) -> None:
        q["log_odds"].masked_fill_(removed, _log_odds(self.inclusion))

    def match_moments(self, target: Target, q: Posterior, draws: Mapping[str, Tensor]) -> None:
        gates = draws_of(draws, target.site, target.shape).double()
        opened = gates.sum(0)
        # Half a draw more on either side: what always was open, or shut, has finite odds.
        q["log_odds"].copy_(((opened + 0.5) / (len(gates) - opened + 0.5)).log())


def _log_odds(probability: float) -> float:
    return math.log(probability) - math.log1p(-probability)
