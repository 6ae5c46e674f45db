"""A gate method as a user would write it: log-normal gains on features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from torch import Tensor, nn

import pyrosparse as ps
from pyrosparse.lifting.method import Posterior
from pyrosparse.lifting.target import Kind


@dataclass(frozen=True)
class LogNormalGate(ps.Method):
    """log gate ~ N(0, spread^2), with a mean-field guide."""

    spread: float = 1.0
    initial_scale: float = 0.1
    kinds: ClassVar[tuple[Kind, ...]] = ("input", "output")
    threshold: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        if not self.spread > 0 or not self.initial_scale > 0:
            raise ValueError("spread and initial_scale must be positive")

    def init(self, target: ps.Target) -> dict[str, Tensor]:
        zeros = torch.zeros(target.shape)
        return {"loc": zeros, "log_scale": torch.full_like(zeros, self.initial_scale).log()}

    def prior(self, target: ps.Target, q: Posterior, x: Tensor | None) -> Tensor:
        assert x is not None
        zeros = torch.zeros_like(q["loc"])
        return pyro.sample(target.site, dist.LogNormal(zeros, self.spread + zeros).to_event(1))

    def guide(self, target: ps.Target, q: Posterior, x: Tensor | None) -> Tensor:
        gate = dist.LogNormal(q["loc"], q["log_scale"].exp())
        return pyro.sample(target.site, gate.to_event(1))

    def mean(self, target: ps.Target, q: Posterior, x: Tensor | None = None) -> Tensor:
        return (q["loc"] + 0.5 * (2 * q["log_scale"]).exp()).exp()

    def score(self, target: ps.Target, q: Posterior) -> Tensor:
        return self.mean(target, q)


def identity(features: int, method: ps.Method) -> ps.Lifted:
    """A network that returns its input, with gates on it."""
    net = nn.Sequential(nn.Linear(features, features, bias=False))
    net[0].weight = nn.Parameter(torch.eye(features), requires_grad=False)
    return ps.lift(net, method, ps.inputs(net))


def draws(bnn: ps.Lifted, x: Tensor, count: int) -> Tensor:
    """What comes out under the guide, (count, *x.shape): the gates, where x is ones."""
    found = []
    for _ in range(count):
        trace = poutine.trace(bnn.guide).get_trace(x)
        with torch.no_grad(), poutine.replay(trace=trace):
            found.append(bnn(x))
    return torch.stack(found)
