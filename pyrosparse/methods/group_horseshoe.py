"""The regularised horseshoe on groups: gates that the data must pull away from zero."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
import torch.nn.functional as F
from torch import Tensor

from pyrosparse.distributions import normal_quadrature
from pyrosparse.lifting.method import (
    Method,
    Posterior,
    check_kl_scale,
    draws_of,
    kl_scale_of,
    normal_moments,
)
from pyrosparse.lifting.target import Kind, Target

# The log-normal law that is nearest to a half-Cauchy one has its median and this deviation.
_HALF_CAUCHY_SCALE = 1.4608


@dataclass(frozen=True)
class GroupHorseshoe(Method):
    r"""The regularised horseshoe on units: most gates near zero, a few as large as a slab allows.

    .. math::
        \tau \sim \mathcal C^+(0, \tau_0), \quad \lambda_k \sim \mathcal C^+(0, 1), \quad
        c^2 \sim \mathrm{InvGamma}(\nu / 2, \nu s^2 / 2), \qquad
        z_k = \tau \tilde\lambda_k, \quad
        \tilde\lambda_k^2 = \frac{c^2 \lambda_k^2}{c^2 + \tau^2 \lambda_k^2}

    The gate z multiplies a unit. With ``Gaussian(1.0)`` on the weights, w = z v has the group
    horseshoe prior in its non-centred form.

    n:       the number of data.
    active:  p_0 / D, a guess of the share of a target's units that are needed; it sets tau_0 = p_0
             / (D - p_0) / sqrt(n). A smaller value leaves fewer units.
    slab_scale, slab_freedom: s and nu, scale and degrees of freedom of the t distribution of the
                              largest gates.
    initial: the gates' median at the start; use 1 for a trained network.
    initial_scale: the standard deviation of the logarithms of all scales at the start.
    kl_scale: the weight of the KL divergence: one number, or numbers by glob on the names of
             targets, as for ``BetaBernoulli``.

    The guide is log-normal for each of tau, lambda and c^2. KL divergences have a closed form, or
    use quadrature for half-Cauchy priors. All are drawn once for each step.

    Targets: inputs and outputs; by default ``gates(net)``. Sites are lambda (the target's own),
    ``<site>_global`` and ``<site>_slab``. ``score`` is log(n z^2) at the posterior medians: the log
    odds that a unit's effect is not shrunk away, of Piironen and Vehtari's factor kappa = 1 / (1 +
    n z^2). A unit stays, with the gain E[z], if kappa is 1/2 or less.

    Raises ValueError if an option is out of range or no glob matches a target.

    Sources: Carvalho, Polson and Scott (2010); Piironen and Vehtari (2017); Louizos,
    Ullrich and Welling (2017) for groups and log-normal guides. The keep rule is ours.

    >>> import pyrosparse as ps
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> bnn = ps.lift(net, [
    ...     (ps.Gaussian(posterior="normal", estimator="activations"), ps.weights(net)),
    ...     (GroupHorseshoe(n=1000), ps.gates(net)),
    ... ])
    >>> bnn.masks()["2.input"]
    tensor([1.0014, 1.0014, 1.0014])
    """

    n: int
    active: float = 0.1
    slab_scale: float = 2.0
    slab_freedom: float = 4.0
    initial: float = 1.0
    initial_scale: float = 0.1
    kl_scale: float | Mapping[str, float] = 1.0

    kinds: ClassVar[tuple[Kind, ...]] = ("input", "output")
    threshold: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        check_kl_scale(self.kl_scale)
        for name in ("n", "slab_scale", "slab_freedom", "initial", "initial_scale"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if not 0 < self.active < 1:
            raise ValueError(f"active is a share of the units, in (0, 1), got {self.active}")
        if not self.initial < self.slab_scale:
            raise ValueError(
                "initial must be below slab_scale, the largest value of a gate, got "
                f"{self.initial} and "
                f"{self.slab_scale}"
            )

    @property
    def global_scale(self) -> float:
        """tau_0.

        >>> GroupHorseshoe(n=10_000, active=0.5).global_scale
        0.01
        """
        return self.active / (1 - self.active) / math.sqrt(self.n)

    def init(self, target: Target) -> dict[str, Tensor]:
        kl_scale_of(self.kl_scale, target)
        # z is the wanted one where 1 / z^2 = 1 / (tau lambda)^2 + 1 / c^2.
        log_local = -0.5 * math.log(self.initial**-2 - self.slab_scale**-2)
        log_local -= math.log(self.global_scale)
        spread = math.log(self.initial_scale)
        return {
            "loc": torch.full(target.shape, log_local),
            "log_scale": torch.full(target.shape, spread),
            "global_loc": torch.tensor(math.log(self.global_scale)),
            "global_log_scale": torch.tensor(spread),
            "slab_loc": torch.tensor(2 * math.log(self.slab_scale)),
            "slab_log_scale": torch.tensor(spread),
        }

    def prior(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        ones = torch.ones_like(q["loc"])
        shape = ones.new_tensor(self.slab_freedom / 2)
        slab_law = dist.InverseGamma(shape, shape * self.slab_scale**2)
        with poutine.scale(scale=kl_scale_of(self.kl_scale, target)):
            shared = pyro.sample(
                target.part("global"), dist.HalfCauchy(ones.new_tensor(self.global_scale))
            )
            slab = pyro.sample(target.part("slab"), slab_law)
            local = pyro.sample(target.site, dist.HalfCauchy(ones).to_event(1))
        return _gate(2 * (shared.log() + local.log()), slab.log())

    def guide(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        def law(part: str) -> dist.LogNormal:
            return dist.LogNormal(q[f"{part}loc"], q[f"{part}log_scale"].exp())

        with poutine.scale(scale=kl_scale_of(self.kl_scale, target)):
            pyro.sample(target.part("global"), law("global_"))
            pyro.sample(target.part("slab"), law("slab_"))
            return pyro.sample(target.site, law("").to_event(1))

    def score(self, target: Target, q: Posterior) -> Tensor:
        median = _gate(2 * (q["global_loc"] + q["loc"]), q["slab_loc"])
        return math.log(self.n) + 2 * median.log()

    def mean(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        # With d = 2 log(tau lambda) - log c^2 the gate is c sigmoid(d)^(1/2), of two normals that
        # depend on each other: the factor c moves the mean of d by -Var(log c^2) / 2.
        slab_variance = (2 * q["slab_log_scale"]).exp()
        variance = (2 * q["log_scale"]).exp() + (2 * q["global_log_scale"]).exp()
        loc = 2 * (q["loc"] + q["global_loc"]) - q["slab_loc"] - slab_variance / 2
        d, weights = normal_quadrature(loc, (4 * variance + slab_variance).sqrt())
        shrunk = (weights * (0.5 * F.logsigmoid(d)).exp()).sum(0)
        return shrunk * (q["slab_loc"] / 2 + slab_variance / 8).exp()

    def forget(self, target: Target, q: Posterior, removed: Tensor) -> None:
        q["loc"].masked_fill_(removed, 0.0)
        q["log_scale"].masked_fill_(removed, math.log(_HALF_CAUCHY_SCALE))

    def match_moments(self, target: Target, q: Posterior, draws: Mapping[str, Tensor]) -> None:
        for part, shape in (("", target.shape), ("global", ()), ("slab", ())):
            values = draws_of(draws, target.part(part) if part else target.site, shape)
            prefix = f"{part}_" if part else ""
            normal_moments(values.log(), q[f"{prefix}loc"], q[f"{prefix}log_scale"])


def _gate(log_square: Tensor, log_slab: Tensor) -> Tensor:
    """The gate of log (tau lambda)^2 and log c^2: 1 / z^2 = 1 / (tau lambda)^2 + 1 / c^2."""
    return (-0.5 * torch.logaddexp(-log_square, -log_slab)).exp()
