"""The guide of weights that have a prior of their own: a point, or independent normals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyrosparse.distributions import Point
from pyrosparse.lifting.method import Method, Posterior, draws_of, normal_moments, signal_to_noise
from pyrosparse.lifting.target import Target


@dataclass(frozen=True)
class NormalGuide(Method):
    """A prior with one scale for all weights, and a point or independent normals as guide. Subclass
    it and write ``prior`` and ``forgotten_scale``.

    The location is the network's own parameter. Raises ValueError on scales that are not positive
    and on unknown options.
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

    @property
    def forgotten_scale(self) -> float:
        """The standard deviation of the normal that is nearest to the prior."""
        raise NotImplementedError

    def init(self, target: Target) -> dict[str, Tensor]:
        assert target.value is not None
        if self.posterior == "point":
            return {"loc": target.value}
        log_scale = torch.full_like(target.value, math.log(self.initial_scale)).detach()
        return {"loc": target.value, "log_scale": log_scale}

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
            q["log_scale"].masked_fill_(removed, math.log(self.forgotten_scale))

    def match_moments(self, target: Target, q: Posterior, draws: Mapping[str, Tensor]) -> None:
        normal_moments(draws_of(draws, target.site, target.shape), q["loc"], q.get("log_scale"))

    def activation_moments(self, target: Target, q: Posterior) -> tuple[Tensor, Tensor] | None:
        return (q["loc"], q["log_scale"].exp()) if self.estimator == "activations" else None
