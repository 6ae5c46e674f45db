"""Beta-Bernoulli dropout: gates on features that a sparse prior closes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor

from pyrosparse.distributions import LogitKumaraswamy, relaxed_bernoulli
from pyrosparse.lifting.method import Method, Posterior, check_kl_scale, draws_of, kl_scale_of
from pyrosparse.lifting.origin import sources
from pyrosparse.lifting.target import Kind, Target


@dataclass(frozen=True)
class BetaBernoulli(Method):
    r"""Beta-Bernoulli dropout: each feature has a gate whose probability of being open is learned
    under a prior that favours 0.

    .. math::
        \pi_k \sim \mathrm{Beta}(\alpha, 1), \quad z_{nk} \sim \mathrm{Bernoulli}(\pi_k), \qquad
        q(\pi_k) = \mathrm{Kumaraswamy}(a_k, b_k)

    Feature k of example n is multiplied by :math:`z_{nk}`: a relaxed Bernoulli draw, or
    :math:`E_q[\pi_k]` in ``mean_forward``. :math:`\pi` is drawn once for each step, z once for each
    example (once for all positions of a channel).

    alpha:       of the prior; the paper's :math:`\alpha / K`.
    temperature: tau of the relaxed Bernoulli.
    kl_scale:    gamma, the weight of the KL divergence: one number, or numbers by glob on the names
                 of targets (``{"conv*": 20.0, "*": 1.0}``; the first that matches counts). A value
                 above 1 leaves fewer features at the cost of accuracy; the ELBO is still a bound.
    pi:          ``sampled`` (the paper's), or ``collapsed``: z is drawn with the probability
                 :math:`E_q[\pi_k]`, as if each example had its own draw of pi. This has less noise;
                 the draw of pi is then scored but not used.
    initial:     E[pi] at the start, with b = 1. Near 1, a trained network stays as accurate as
                 before; the paper starts at 0.2385.

    Targets: inputs and outputs; by default ``gates(net)``. The site is the log odds of pi, shape
    (features,); z has the same distribution in prior and guide, so it is drawn once and not scored.
    ``score`` is E[pi]; a feature stays if it is at least 0.001.

    Raises ValueError if an option is out of range or no glob matches a target.

    Source: Lee et al. (2019), eqs. 11 to 19.

    >>> import pyrosparse as ps
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> bnn = ps.lift(net, BetaBernoulli())
    >>> bnn.masks()["2.input"]
    tensor([0.9500, 0.9500, 0.9500])
    """

    alpha: float = 1e-4
    temperature: float = 0.1
    kl_scale: float | Mapping[str, float] = 1.0
    pi: Literal["sampled", "collapsed"] = "sampled"
    initial: float = 0.95

    kinds: ClassVar[tuple[Kind, ...]] = ("input", "output")
    threshold: ClassVar[float] = 1e-3

    def __post_init__(self) -> None:
        check_kl_scale(self.kl_scale)
        for name, value in (("alpha", self.alpha), ("temperature", self.temperature)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if self.pi not in ("sampled", "collapsed"):
            raise ValueError(f"pi must be 'sampled' or 'collapsed', got {self.pi!r}")
        if not 0 < self.initial < 1:
            raise ValueError(f"initial is a probability in (0, 1), got {self.initial}")

    def init(self, target: Target) -> dict[str, Tensor]:
        kl_scale_of(self.kl_scale, target)
        # The mean of Kumaraswamy(a, 1) is a / (1 + a).
        log_a = torch.full(target.shape, math.log(self.initial) - math.log1p(-self.initial))
        return {"log_a": log_a, "log_b": torch.zeros(target.shape)}

    def prior(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        assert x is not None
        return relaxed_bernoulli(self.logits(target, q), self.temperature, (len(x),))

    def logits(self, target: Target, q: Posterior) -> Tensor:
        """Sample the log odds of pi under the prior; returns those that z is drawn with,
        (features,)."""
        prior = LogitKumaraswamy(torch.full_like(q["log_a"], self.alpha), 1)
        with poutine.scale(scale=kl_scale_of(self.kl_scale, target)), sources() as source:
            logits = pyro.sample(target.site, prior.to_event(1))
        if self.pi == "collapsed" and source.origin(target.site) is not None:
            return _posterior(q).base.logit_mean
        return logits

    def skip(self, target: Target, q: Posterior) -> None:
        self.logits(target, q)

    def hidden_draws(self, q: Posterior) -> bool:
        return True

    def guide(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        with poutine.scale(scale=kl_scale_of(self.kl_scale, target)):
            return pyro.sample(target.site, _posterior(q).to_event(1))

    def score(self, target: Target, q: Posterior) -> Tensor:
        return _posterior(q).base.mean

    def mean(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        return _posterior(q).base.mean

    def forget(self, target: Target, q: Posterior, removed: Tensor) -> None:
        q["log_a"].masked_fill_(removed, math.log(self.alpha))
        q["log_b"].masked_fill_(removed, 0.0)

    def match_moments(self, target: Target, q: Posterior, draws: Mapping[str, Tensor]) -> None:
        # The mean alone, which scores and gains are: that of Kumaraswamy(a, 1) is a / (1 + a).
        logits = draws_of(draws, target.site, target.shape).double()
        opened, closed = logits.sigmoid().mean(0), (-logits).sigmoid().mean(0)
        tiny = torch.finfo(torch.float32).tiny
        q["log_a"].copy_(opened.clamp_min(tiny).log() - closed.clamp_min(tiny).log())
        q["log_b"].zero_()


def _posterior(q: Posterior) -> LogitKumaraswamy:
    return LogitKumaraswamy(log_a=q["log_a"], log_b=q["log_b"])
