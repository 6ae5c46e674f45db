"""L0 regularisation: gates that are exactly 0 with a probability that a penalty raises."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import pyro
import torch
from torch import Tensor, nn

from pyrosparse.distributions import (
    Penalty,
    Point,
    hard_concrete,
    hard_concrete_logits,
    hard_concrete_moments,
)
from pyrosparse.lifting.method import Method, Posterior, check_kl_scale, kl_scale_of
from pyrosparse.lifting.normalised_gates import warn_where_normalised
from pyrosparse.lifting.target import Kind, Target

# A gate that is nearly decided has no gradient that could bring it back from further away.
_FURTHEST = math.log(100)


@dataclass(frozen=True)
class HardConcrete(Method):
    r"""L0 regularisation with hard concrete gates: a cost on each open gate.

    .. math::
        p(\log \alpha_k) \propto \exp(-c\, P(z_k \ne 0 \mid \alpha_k)), \quad
        z_k = \min(1, \max(0, s_k (\zeta - \gamma) + \gamma)), \quad
        s_k = \operatorname{sigmoid}\Big(\frac{\log \alpha_k + \operatorname{logit} u}{\beta}\Big)

    with :math:`\log \alpha` a point estimate. The prior is a penalty, not a distribution
    (``proper`` is False).

    cost:        c, the cost in nats of a gate that is always open: one number, or numbers by glob
                 on the names of targets; the paper's n lambda for each weight of the group.
    temperature: beta.
    low, high:   gamma and zeta, the ends to which the concrete variable is stretched.
    gain:        of a feature at test time: that of the ``"paper"``, with u = 1/2, which is neither
                 mean nor median, or the ``"expectation"`` of z.
    noise:       one z for all examples of a ``"step"``, or one for each ``"example"``.
    initial:     sigmoid(log alpha) at the start: one minus the paper's dropout rate.

    Targets: inputs and outputs; by default ``gates(net)``. The site is log alpha, shape
    (features,); z has the same distribution in prior and guide, so it is drawn once and not scored.
    ``score`` is the paper's gain before clipping to [0, 1]; a feature stays if it is 0 or more. log
    alpha is projected to [-log 100, log 100] after each step, as in the authors'
    code: by ``fit``, or by ``Lifted.project``.

    Raises ValueError if an option is out of range or no glob matches a target. Warns if gates drawn
    once for each step are followed by batch normalisation, which cancels them.

    Source: Louizos, Welling and Kingma (2018), eqs. 10 to 13.

    >>> import pyrosparse as ps
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> bnn = ps.lift(net, HardConcrete(cost=5.0, initial=0.8))
    >>> bnn.masks()["2.input"]
    tensor([0.8600, 0.8600, 0.8600])
    """

    cost: float | Mapping[str, float] = 1.0
    temperature: float = 2 / 3
    low: float = -0.1
    high: float = 1.1
    gain: Literal["paper", "expectation"] = "paper"
    noise: Literal["step", "example"] = "step"
    initial: float = 0.5

    kinds: ClassVar[tuple[Kind, ...]] = ("input", "output")
    threshold: ClassVar[float] = 0.0
    proper: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_kl_scale(self.cost, "cost")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be positive and finite, got {self.temperature}")
        if not (-math.inf < self.low < 0 and 1 < self.high < math.inf):
            raise ValueError(
                f"low must be negative and high above 1, both finite: got {self.low}, {self.high}"
            )
        if self.gain not in ("paper", "expectation"):
            raise ValueError(f"gain must be 'paper' or 'expectation', got {self.gain!r}")
        if self.noise not in ("step", "example"):
            raise ValueError(f"noise must be 'step' or 'example', got {self.noise!r}")
        if not 0 < self.initial < 1:
            raise ValueError(f"initial is a probability in (0, 1), got {self.initial}")

    def check(self, net: nn.Module, target: Target) -> None:
        if self.noise == "step":
            warn_where_normalised(net, target)

    def init(self, target: Target) -> dict[str, Tensor]:
        kl_scale_of(self.cost, target, "cost")
        start = math.log(self.initial) - math.log1p(-self.initial)
        return {"log_alpha": torch.full(target.shape, start)}

    def prior(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        assert x is not None
        cost = kl_scale_of(self.cost, target, "cost")

        def penalty(log_alpha: Tensor) -> Tensor:
            return -cost * hard_concrete_logits(log_alpha, *self._shape)[0].sigmoid()

        log_alpha = pyro.sample(target.site, Penalty(penalty, q["log_alpha"]))
        count = (len(x),) if self.noise == "example" else ()
        return hard_concrete(log_alpha, *self._shape, sample_shape=count)

    def guide(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        return pyro.sample(target.site, Point(q["log_alpha"]))

    def hidden_draws(self, q: Posterior) -> bool:
        return True

    def score(self, target: Target, q: Posterior) -> Tensor:
        return self.low + (self.high - self.low) * q["log_alpha"].sigmoid()

    def mean(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        if self.gain == "paper":
            return self.score(target, q).clamp(0, 1)
        return hard_concrete_moments(q["log_alpha"], *self._shape)[0]

    def project(self, target: Target, q: Posterior) -> None:
        q["log_alpha"].clamp_(-_FURTHEST, _FURTHEST)

    def forget(self, target: Target, q: Posterior, removed: Tensor) -> None:
        q["log_alpha"].masked_fill_(removed, -100.0)

    @property
    def _shape(self) -> tuple[float, float, float]:
        return self.temperature, self.low, self.high
