"""The Gaussian prior, with a point estimate or a mean-field normal posterior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyrosparse.distributions import IsotropicNormal, Point
from pyrosparse.lifting.method import Method, Posterior, draws_of, normal_moments, signal_to_noise
from pyrosparse.lifting.target import Target


@dataclass(frozen=True)
class Gaussian(Method):
    r"""A zero-mean Gaussian prior on every weight.

    .. math::
        w \sim \mathcal N(0, s^2), \qquad
        q(w) = \delta(w - \mu) \quad\text{or}\quad q(w) = \mathcal N(\mu, \sigma^2)

    scale:     the prior's standard deviation s.
    posterior: ``point`` (maximum a posteriori) or ``normal`` (mean field).
    estimator: for ``normal``, where the noise is drawn while training: ``weights`` (one draw of
               the weight a step) or ``activations`` (local reparameterisation: one draw per
               example and unit, the same expectation with less gradient variance; on dense and
               convolutional layers). In evaluation mode weights are drawn either way.
    initial_scale: for ``normal``, the standard deviation sigma at the start.

    Targets: weights, of any shape. The location mu is the network's own parameter, so the
    network is the posterior mean. ``score`` is |mu| (point) or |mu| / sigma (normal).

    Raises ValueError on scales that are not positive and on unknown options.

    Sources: Mathew and Rowe (2023), section 2 (prior, point estimate); Kingma, Salimans and
    Welling (2015), eq. 6 (local reparameterisation).

    >>> import pyrosparse as ps, torch
    >>> bnn = ps.lift(torch.nn.Linear(3, 2), Gaussian(posterior="normal"))
    >>> bnn(torch.ones(5, 3)).shape
    torch.Size([5, 2])
    """

    scale: float = 1.0
    posterior: Literal["point", "normal"] = "point"
    estimator: Literal["weights", "activations"] = "weights"
    initial_scale: float = 0.01

    def __post_init__(self) -> None:
        for name in ("scale", "initial_scale"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if self.posterior not in ("point", "normal"):
            raise ValueError(f"posterior must be 'point' or 'normal', got {self.posterior!r}")
        if self.estimator not in ("weights", "activations"):
            raise ValueError(
                f"estimator must be 'weights' or 'activations', got {self.estimator!r}"
            )
        if self.estimator == "activations" and self.posterior == "point":
            raise ValueError(
                "estimator='activations' needs posterior='normal': a point has no noise"
            )

    def init(self, target: Target) -> dict[str, Tensor]:
        assert target.value is not None
        if self.posterior == "point":
            return {"loc": target.value}
        log_scale = torch.full_like(target.value, math.log(self.initial_scale)).detach()
        return {"loc": target.value, "log_scale": log_scale}

    def prior(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        loc = q["loc"]
        prior = IsotropicNormal(self.scale, target.shape, dtype=loc.dtype, device=loc.device)
        return pyro.sample(target.site, prior)

    def guide(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor | None:
        if self.posterior == "point":
            return pyro.sample(target.site, Point(q["loc"]))
        normal = dist.Normal(q["loc"], q["log_scale"].exp())
        return pyro.sample(target.site, normal.to_event(len(target.shape)))

    def score(self, target: Target, q: Posterior) -> Tensor:
        return q["loc"].abs() if self.posterior == "point" else signal_to_noise(q)

    def mean(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        return q["loc"]

    def forget(self, target: Target, q: Posterior, removed: Tensor) -> None:
        if self.posterior == "normal":
            q["log_scale"].masked_fill_(removed, math.log(self.scale))

    def match_moments(self, target: Target, q: Posterior, draws: Mapping[str, Tensor]) -> None:
        normal_moments(draws_of(draws, target.site, target.shape), q["loc"], q.get("log_scale"))

    def activation_moments(self, target: Target, q: Posterior) -> tuple[Tensor, Tensor] | None:
        return (q["loc"], q["log_scale"].exp()) if self.estimator == "activations" else None

    def normal_posterior(
        self, target: Target, q: Posterior
    ) -> tuple[Tensor, Tensor, Tensor | float] | None:
        return None if self.posterior == "point" else (q["loc"], q["log_scale"].exp(), self.scale)
