"""Structured Bayesian pruning: gates with multiplicative noise that a log-uniform prior drowns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from torch import Tensor, nn

from pyrosparse.distributions import TruncatedNormal
from pyrosparse.lifting.method import Method, Posterior, check_kl_scale, kl_scale_of
from pyrosparse.lifting.normalised_gates import warn_where_normalised
from pyrosparse.lifting.origin import sources
from pyrosparse.lifting.target import Kind, Target


@dataclass(frozen=True)
class StructuredBayesianPruning(Method):
    r"""Structured Bayesian pruning: each feature is multiplied by a random gain; where its noise
    exceeds its mean, the feature goes.

    .. math::
        \log \theta_k \sim \mathrm{Uniform}(a, b), \qquad
        q(\log \theta_k) = \mathcal N(\mu_k, \sigma_k^2) \text{ cut to } [a, b]

    The score is the signal-to-noise ratio :math:`E_q[\theta_k] / \mathrm{sd}_q[\theta_k]`, in
    closed form; the gain at test time is :math:`E_q[\theta_k]`.

    low, high: a and b. The prior is a distribution, and its ELBO a bound.
    kl_scale:  weight of the KL divergence: one number, or numbers by glob on the names of targets
               (``{"conv*": 20.0, "*": 1.0}``; the first that matches counts). Above 1 it
               leaves fewer features.
    noise:     one gain for all examples of a ``"step"``, as the authors' code has, or one for each
               ``"example"``: less noise in the gradients, and q still scored once.
    initial_scale: sigma at the start, of log theta.

    Targets: inputs and outputs; by default ``gates(net)``. The site is log theta, shape
    (features,). A location beyond an end of the interval is mirrored there.

    Raises ValueError on options out of range, and if no glob matches a target. Warns if
    gates of a step come in front of batch normalisation, which divides them out.

    Source: Neklyudov et al. (2017).

    >>> import pyrosparse as ps
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> bnn = ps.lift(net, StructuredBayesianPruning())
    >>> bnn.masks()["2.input"]
    tensor([0.9943, 0.9943, 0.9943])
    """

    low: float = -20.0
    high: float = 0.0
    kl_scale: float | Mapping[str, float] = 1.0
    noise: Literal["step", "example"] = "step"
    initial_scale: float = math.exp(-5)

    kinds: ClassVar[tuple[Kind, ...]] = ("input", "output")
    threshold: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        check_kl_scale(self.kl_scale)
        TruncatedNormal(torch.zeros(()), torch.zeros(()), self.low, self.high)
        if self.noise not in ("step", "example"):
            raise ValueError(f"noise must be 'step' or 'example', got {self.noise!r}")
        if not (self.initial_scale > 0 and math.isfinite(self.initial_scale)):
            raise ValueError(f"initial_scale must be positive, got {self.initial_scale}")

    def check(self, net: nn.Module, target: Target) -> None:
        if self.noise == "step":
            warn_where_normalised(net, target)

    def init(self, target: Target) -> dict[str, Tensor]:
        kl_scale_of(self.kl_scale, target)
        # At the end of the interval itself the mirror has no gradient.
        loc = torch.full(target.shape, self.high - 1e-3)
        return {"loc": loc, "log_scale": torch.full_like(loc, math.log(self.initial_scale))}

    def prior(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        assert x is not None
        low, high = torch.full_like(q["loc"], self.low), torch.full_like(q["loc"], self.high)
        uniform = dist.Uniform(low, high, validate_args=False).to_event(1)
        with poutine.scale(scale=kl_scale_of(self.kl_scale, target)), sources() as source:
            log_gain = pyro.sample(target.site, uniform)
        if self.noise == "example" and source.origin(target.site) is not None:
            log_gain = self.posterior(q).rsample((len(x),))
        return log_gain.exp()

    def guide(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        with poutine.scale(scale=kl_scale_of(self.kl_scale, target)):
            return pyro.sample(target.site, self.posterior(q).to_event(1))

    def posterior(self, q: Posterior) -> TruncatedNormal:
        """The law of log theta, batch shape (features,)."""
        return TruncatedNormal(q["loc"], q["log_scale"], self.low, self.high)

    def score(self, target: Target, q: Posterior) -> Tensor:
        return self.posterior(q).exp_signal_to_noise

    def mean(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        return self.posterior(q).exp_mean

    def forget(self, target: Target, q: Posterior, removed: Tensor) -> None:
        # The widest law in the middle is the uniform one to 3e-7 nats.
        q["loc"].masked_fill_(removed, (self.low + self.high) / 2)
        q["log_scale"].masked_fill_(removed, 5.0)
