"""What methods with a normal posterior share, which prune what is lost in its noise."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from torch import Tensor

from pyrosparse.lifting.method import (
    Method,
    Posterior,
    check_kl_scale,
    draws_of,
    kl_scale_of,
    normal_moments,
    signal_to_noise,
)
from pyrosparse.lifting.origin import sources
from pyrosparse.lifting.target import Target


@dataclass(frozen=True)
class NormalNoise(Method):
    r"""Independent normal posteriors, scored by :math:`|\mu| / \sigma`; subclass it and write
    ``density``.

    kl_scale:      the weight of the KL divergence: one number, or numbers by glob on the names of
                   targets; the first that matches counts.
    initial_scale: the standard deviation at the start. Weights start at the network's own, gates
                   at 1.
    gate_noise:    of a gate in training, ``example`` (one draw for each) or ``step`` (one for all).
                   The expected loss is the same; one draw for each has less gradient variance. In
                   evaluation mode there is one draw for all.

    Raises ValueError on options out of range.
    """

    kl_scale: float | Mapping[str, float] = 1.0
    initial_scale: float = 0.0067
    gate_noise: Literal["example", "step"] = "example"

    def __post_init__(self) -> None:
        check_kl_scale(self.kl_scale)
        if not (self.initial_scale > 0 and math.isfinite(self.initial_scale)):
            raise ValueError(f"initial_scale must be positive and finite, got {self.initial_scale}")
        if self.gate_noise not in ("example", "step"):
            raise ValueError(f"gate_noise must be 'example' or 'step', got {self.gate_noise!r}")

    @abstractmethod
    def density(self, q: Posterior) -> dist.TorchDistribution:
        """The prior over a target's tensor, one event."""

    def init(self, target: Target) -> dict[str, Tensor]:
        kl_scale_of(self.kl_scale, target)
        loc = torch.ones(target.shape) if target.value is None else target.value
        log_scale = torch.full_like(loc, math.log(self.initial_scale)).detach()
        return {"loc": loc, "log_scale": log_scale}

    def prior(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        with poutine.scale(scale=kl_scale_of(self.kl_scale, target)), sources() as source:
            value = pyro.sample(target.site, self.density(q))
        # Noise for each example belongs to what the guide drew: conditioned gates and draws from
        # the prior are to be used as they are.
        each = x is not None and self.gate_noise == "example" and q.training
        if not each or source.origin(target.site) is None:
            return value
        assert x is not None
        loc = q["loc"]
        noise = torch.randn(len(x), len(loc), dtype=loc.dtype, device=loc.device)
        return loc + q["log_scale"].exp() * noise

    def guide(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        normal = dist.Normal(q["loc"], q["log_scale"].exp())
        with poutine.scale(scale=kl_scale_of(self.kl_scale, target)):
            return pyro.sample(target.site, normal.to_event(len(target.shape)))

    def score(self, target: Target, q: Posterior) -> Tensor:
        return signal_to_noise(q)

    def mean(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        return q["loc"]

    def forget(self, target: Target, q: Posterior, removed: Tensor) -> None:
        # At mu = 0 the divergence is 0 whatever sigma is; a gate's mu is nobody else's to set.
        if target.value is None:
            q["loc"].masked_fill_(removed, 0.0)
        q["log_scale"].masked_fill_(removed, math.log(self.initial_scale))

    def match_moments(self, target: Target, q: Posterior, draws: Mapping[str, Tensor]) -> None:
        normal_moments(draws_of(draws, target.site, target.shape), q["loc"], q["log_scale"])


def own_second_moment(q: Posterior) -> dist.TorchDistribution:
    r"""The zero-mean normal prior of the largest evidence for a normal posterior, which has its
    second moment: :math:`\mathcal N(0, \mu^2 + \sigma^2)`, one event.

    >>> q = Posterior(loc=torch.tensor([3.0]), log_scale=torch.tensor([4.0]).log())
    >>> own_second_moment(q).stddev
    tensor([5.])
    """
    loc = q["loc"]
    scale = torch.hypot(loc, q["log_scale"].exp())
    return dist.Normal(torch.zeros_like(loc), scale).to_event(loc.dim())
