"""Dependent beta-Bernoulli dropout: gates that close for some inputs and not for others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyrosparse.distributions import Kumaraswamy, relaxed_bernoulli
from pyrosparse.lifting.input_gate import LIMITS, InputGate, pooled
from pyrosparse.lifting.method import Method, Posterior, draws_of, normal_moments
from pyrosparse.lifting.target import Kind, Target, gates
from pyrosparse.methods.beta_bernoulli import BetaBernoulli

_EPSILON = 1e-5
_MOMENTUM = 0.1


class DependentBetaBernoulli(Method):
    r"""Dependent beta-Bernoulli dropout, the second stage after ``BetaBernoulli``: whether a gate
    is open depends on the size of its feature.

    .. math::
        \beta_k \sim \mathcal N(0, s^2), \quad
        z_{nk} \sim \mathrm{Bernoulli}(\varphi_k(x_{nk})), \qquad
        \varphi_k(x) = \pi_k \, \mathrm{clamp}\Big(\gamma_k \frac{x - \mu_k}{\sigma_k} + \beta_k,
            \epsilon, 1 - \epsilon\Big)

    with :math:`q(\beta_k) = \mathcal N(\eta_k, \kappa_k^2)`. :math:`q(\pi)` comes from the first
    stage and is no longer trained, so a gate can only close more often. x is the input of the gate,
    without a gradient; for images and sequences the mean over positions. :math:`\mu_k` and
    :math:`\sigma_k` are those of the minibatch in training mode, and running averages in evaluation
    mode. At test time the gain is :math:`E_q[\pi_k]` times the clamp at :math:`\beta = \eta`, and 0
    if this is below 0.001, so every input uses different features.

    bnn:   the lifted network of the first stage; its gates' q(pi) are copied.
    scale: s; the paper's.

    Targets: those of the first stage's gates; lift the same network. ``score`` is E[pi], the upper
    limit of the gains. The sites are the log odds of pi and ``<site>_shift``, beta.

    Raises ValueError if ``bnn`` has no target of ``BetaBernoulli``, if scale is not positive, and
    for targets that ``bnn`` does not have.

    Source: Lee et al. (2019), eqs. 20 to 25.

    >>> import pyrosparse as ps
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> first = ps.lift(net, ps.BetaBernoulli())
    >>> bnn = ps.lift(net, DependentBetaBernoulli(first)).eval()
    >>> bnn.mean_forward(torch.ones(5, 4)).shape
    torch.Size([5, 2])
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("input", "output")
    threshold: ClassVar[float] = BetaBernoulli.threshold

    def __init__(self, bnn: Any, *, scale: float = math.sqrt(5)) -> None:
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale must be positive and finite, got {scale}")
        self.scale = scale
        self._first: dict[str, tuple[BetaBernoulli, Tensor, Tensor]] = {}
        for entry in getattr(getattr(bnn, "guide", None), "entries", ()):
            if isinstance(entry.method, BetaBernoulli):
                q = entry.posterior()
                log_a, log_b = (q[key].detach().clone() for key in ("log_a", "log_b"))
                self._first[entry.target.key] = (entry.method, log_a, log_b)
        if not self._first:
            raise ValueError(
                "the first stage is missing: give the lifted network that was trained with "
                "BetaBernoulli"
            )

    @classmethod
    def resumed(cls, first: Mapping[str, BetaBernoulli], *, scale: float) -> DependentBetaBernoulli:
        """The method for gates whose posterior already contains q(pi), as in a file.

        first: the methods of the first stage by target name."""
        new = cls.__new__(cls)
        new.scale = scale
        nothing = torch.zeros(0)
        new._first = {key: (method, nothing, nothing) for key, method in first.items()}
        return new

    @property
    def first(self) -> dict[str, BetaBernoulli]:
        """The methods of the first stage by target name."""
        return {key: method for key, (method, _, _) in self._first.items()}

    def targets(self, net: nn.Module) -> list[Target]:
        return [target for target in gates(net) if target.key in self._first]

    def init(self, target: Target) -> dict[str, Tensor]:
        _, log_a, log_b = self._stage(target)
        if target.block > 1:
            raise ValueError(
                f"{target.key!r} has a gate for each head, and these gates depend on the mean of "
                "one feature each: leave it out of the targets, or keep BetaBernoulli on it"
            )
        if log_a.shape != target.shape:
            raise ValueError(
                f"{target.key!r} has {target.shape[0]} features, in the first stage {len(log_a)}: "
                "lift the network of the first stage"
            )
        ones = torch.ones_like(log_a)
        return {
            "slope": ones,
            "shift": ones,
            "log_scale": torch.zeros_like(log_a),
            "_log_a": log_a,
            "_log_b": log_b,
            "_running_mean": torch.zeros_like(log_a),
            "_running_variance": ones,
        }

    def prior(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        assert x is not None and target.axis is not None
        first, _, _ = self._stage(target)
        logits, shift = self._sites(target, q)
        if q.training and len(x) == 1:
            raise ValueError(
                f"the gates of {target.key!r} see one row, whose features have no variance: give "
                "batches of two data or more. If the layer runs on something else than the data, "
                "such as a table of positions, leave it out of the targets of both stages"
            )
        log_pi = F.logsigmoid(logits)
        # Running averages are kept here alone: the mean must not change anything.
        standard = F.batch_norm(
            pooled(x.detach(), target.axis),
            q["_running_mean"],
            q["_running_variance"],
            training=q.training,
            momentum=_MOMENTUM,
            eps=_EPSILON,
        )
        log_gate = log_pi + torch.clamp(q["slope"] * standard + shift, *LIMITS).log()
        # logit of exp(log_gate), which the clamp keeps away from 1.
        return relaxed_bernoulli(log_gate - torch.log(-torch.expm1(log_gate)), first.temperature)

    def skip(self, target: Target, q: Posterior) -> None:
        self._sites(target, q)

    def hidden_draws(self, q: Posterior) -> bool:
        return True

    def _sites(self, target: Target, q: Posterior) -> tuple[Tensor, Tensor]:
        """Sample the log odds of pi, and beta, under the prior."""
        first, _, _ = self._stage(target)
        logits = first.logits(target, _first(q))
        zeros = torch.zeros_like(q["shift"])
        normal = dist.Normal(zeros, self.scale + zeros)
        return logits, pyro.sample(target.part("shift"), normal.to_event(1))

    def guide(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        first, _, _ = self._stage(target)
        logits = first.guide(target, _first(q), x)
        shift = dist.Normal(q["shift"], q["log_scale"].exp())
        pyro.sample(target.part("shift"), shift.to_event(1))
        return logits

    def score(self, target: Target, q: Posterior) -> Tensor:
        return Kumaraswamy(log_a=q["_log_a"], log_b=q["_log_b"]).mean

    def mean(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        if x is None:
            return self.score(target, q)
        return self.gate(target, q).gains(x.detach())

    def gate(self, target: Target, q: Posterior) -> InputGate:
        assert target.axis is not None
        scale = q["slope"] * (q["_running_variance"] + _EPSILON).rsqrt()
        gain = self.score(target, q)
        floor = self.threshold / gain
        offset = q["shift"] - scale * q["_running_mean"]
        return InputGate(scale, offset, floor, gain, target.axis)

    def forget(self, target: Target, q: Posterior, removed: Tensor) -> None:
        first, _, _ = self._stage(target)
        first.forget(target, _first(q), removed)
        q["shift"].masked_fill_(removed, 0.0)
        q["log_scale"].masked_fill_(removed, math.log(self.scale))

    def match_moments(self, target: Target, q: Posterior, draws: Mapping[str, Tensor]) -> None:
        first, _, _ = self._stage(target)
        first.match_moments(target, _first(q), draws)
        shifts = draws_of(draws, target.part("shift"), target.shape)
        normal_moments(shifts, q["shift"], q["log_scale"])

    def _stage(self, target: Target) -> tuple[BetaBernoulli, Tensor, Tensor]:
        if target.key not in self._first:
            raise ValueError(
                f"{target.key!r} had no gate in the first stage, which gated "
                f"{', '.join(self._first)}"
            )
        return self._first[target.key]

    def __repr__(self) -> str:
        return f"DependentBetaBernoulli(scale={self.scale:g}) after {len(self._first)} gates"


def _first(q: Posterior) -> Posterior:
    """The posterior of the first stage, which is no longer trained."""
    return Posterior(log_a=q["_log_a"], log_b=q["_log_b"])
