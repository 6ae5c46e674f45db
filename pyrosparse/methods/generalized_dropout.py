"""Generalized dropout: each feature has a dropout rate of its own under a Beta prior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyrosparse.distributions import Penalty, Point, relaxed_bernoulli
from pyrosparse.lifting.method import Method, Posterior, check_kl_scale, kl_scale_of
from pyrosparse.lifting.target import Kind, Target


@dataclass(frozen=True)
class GeneralizedDropout(Method):
    r"""Generalized dropout: each gate is open with a learned probability, a point estimate under a
    Beta prior.

    .. math::
        p(\theta_k) \propto \theta_k^{\alpha - 1} (1 - \theta_k)^{\beta - 1}, \qquad
        z_{nk} \sim \mathrm{Bernoulli}(\theta_k)

    alpha, beta: of the prior, positive. Both 1: only the data choose the rate; both large: dropout
                 at a fixed rate; both below 1: rates near 0 or 1.
    temperature: of the relaxed Bernoulli, in place of the paper's straight-through gradient.
    kl_scale:    weight of the prior: one number, or numbers by glob on the names of targets.
    initial:     theta at the start.

    The density is that of theta, taken as a penalty on logit theta, the site, shape (features,); it
    has no integral there (``proper`` is False). With alpha below 1 it has no upper bound as theta
    falls to 0: closed gates are its maximum, and only the likelihood keeps a gate open.

    Targets: inputs and outputs; by default ``gates(net)``. z is drawn for each example. ``score``
    and gain are theta; a feature stays if it is at least 0.001.

    Raises ValueError if an option is out of range or no glob matches a target.

    Source: Srinivas and Babu (2016).

    >>> import pyrosparse as ps
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> bnn = ps.lift(net, GeneralizedDropout())
    >>> bnn.masks()["2.input"]
    tensor([0.9500, 0.9500, 0.9500])
    """

    alpha: float = 1e-4
    beta: float = 1.0
    temperature: float = 0.1
    kl_scale: float | Mapping[str, float] = 1.0
    initial: float = 0.95

    kinds: ClassVar[tuple[Kind, ...]] = ("input", "output")
    threshold: ClassVar[float] = 1e-3
    proper: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_kl_scale(self.kl_scale)
        for name in ("alpha", "beta", "temperature"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if not 0 < self.initial < 1:
            raise ValueError(f"initial is a probability in (0, 1), got {self.initial}")

    def init(self, target: Target) -> dict[str, Tensor]:
        kl_scale_of(self.kl_scale, target)
        start = math.log(self.initial) - math.log1p(-self.initial)
        return {"logit": torch.full(target.shape, start)}

    def prior(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        assert x is not None

        def log_density(logit: Tensor) -> Tensor:
            rising = (self.alpha - 1) * logsigmoid(logit)
            return rising + (self.beta - 1) * logsigmoid(-logit) if self.beta != 1 else rising

        with poutine.scale(scale=kl_scale_of(self.kl_scale, target)):
            logit = pyro.sample(target.site, Penalty(log_density, q["logit"]))
        return relaxed_bernoulli(logit, self.temperature, (len(x),))

    def guide(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        with poutine.scale(scale=kl_scale_of(self.kl_scale, target)):
            return pyro.sample(target.site, Point(q["logit"]))

    def hidden_draws(self, q: Posterior) -> bool:
        return True

    def score(self, target: Target, q: Posterior) -> Tensor:
        return q["logit"].sigmoid()

    def mean(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        return q["logit"].sigmoid()
