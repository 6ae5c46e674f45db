"""Polarization: a penalty that drives the scales of units apart, to zero and away from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import pyro
import torch
from torch import Tensor, nn

from pyrosparse.distributions import Penalty, Point
from pyrosparse.lifting.method import Method, Posterior, draws_of, normal_moments
from pyrosparse.lifting.target import Kind, Target, outputs, weights

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_BINS = 100


@dataclass(frozen=True)
class Polarization(Method):
    r"""A scale in [0, 1] on every unit, which the penalty drives to 0 or away from it.

    .. math::
        p(g) \propto e^{-c R(g)} \text{ on } [0, 1]^K, \qquad
        R(g) = t \lVert g \rVert_1 - \lVert g - \bar g 1 \rVert_1, \qquad q(g) = \delta(g - \mu)

    strength: c, in nats; a penalty of lambda R beside the mean loss of n data is c = lambda n.
    t:        how strong the pull to zero is against the push from the mean, in [0, 2). Of the
              scales that the likelihood says nothing about, a share of (2 - t) / 4 goes to 1 and
              the rest to 0.
    mean_over: what g-bar is the mean of: the scales of a ``tensor``, or of the whole ``network``
              (the paper), for which ``fit`` needs the callback ``ps.prune.CommonMean``.
    cut:      below what a scale goes: at the first local minimum of the target's histogram of 100
              bins on [0, 1] (``histogram``), or at a number.
    initial:  g at the start, of gates. A normalisation's own scale starts where it is.

    Targets: the weight of a batch normalisation, and inputs and outputs. By default, the scale of
    every batch normalisation, and gates on the outputs of the other layers but the last.
    ``score`` is by how much a scale lies above its cut; a scale stays where that is not negative.

    The penalty is unbounded below outside of the box for t < 2 (1 - 1 / K). ``fit`` projects the
    scales into it after every step; where ``SVI`` takes the steps, call ``bnn.project()``.

    For Pyro the prior is a penalty and no distribution (``proper`` is False): its draws are none,
    and warn with ``ImproperPriorWarning``.

    Raises ValueError on options out of range, and on scales of a normalisation outside of [0, 1].

    Source: Zhuang et al. (2020), section 3.

    >>> import pyrosparse as ps
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
    ...                     nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> [target.key for target in ps.lift(net, Polarization(strength=2.0)).targets]
    ['1.weight', '4.output']
    """

    strength: float
    t: float = 1.2
    mean_over: Literal["tensor", "network"] = "tensor"
    cut: Literal["histogram"] | float = "histogram"
    initial: float = 0.5

    kinds: ClassVar[tuple[Kind, ...]] = ("weight", "input", "output")
    proper: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (self.strength > 0 and math.isfinite(self.strength)):
            raise ValueError(f"strength must be positive and finite, got {self.strength}")
        if not 0 <= self.t < 2:
            raise ValueError(
                f"t must be in [0, 2), got {self.t}: from 2 on, the penalty has no "
                "term that keeps gates open"
            )
        if self.mean_over not in ("tensor", "network"):
            raise ValueError(f"mean_over must be 'tensor' or 'network', got {self.mean_over!r}")
        if self.cut != "histogram" and not (
            isinstance(self.cut, float | int) and 0 <= self.cut <= 1
        ):
            raise ValueError(f"cut must be 'histogram' or in [0, 1], got {self.cut!r}")
        if not 0 < self.initial <= 1:
            raise ValueError(f"initial must be in (0, 1], got {self.initial}")

    def targets(self, net: nn.Module) -> list[Target]:
        norms = {name: module for name, module in net.named_modules() if isinstance(module, _NORMS)}
        gated = {target.name: target for target in outputs(net)}
        order = [name for name, _ in net.named_modules() if name in norms or name in gated]
        for name, after in pairwise(order):
            if (
                name in gated
                and after in norms
                and gated[name].shape == (norms[after].num_features,)
            ):
                del gated[name]  # the normalisation behind it would undo a gate
        scaled = [name for name, module in norms.items() if module.weight is not None]
        plain = [name for name in norms if name not in scaled]
        return [
            *(weights(net, scaled) if scaled else []),
            *(outputs(net, plain) if plain else []),
            *gated.values(),
        ]

    def init(self, target: Target) -> dict[str, Tensor]:
        if target.value is None:
            loc = torch.full(target.shape, self.initial)
        else:
            loc = target.value
            self._check_scales(target, loc.detach())
        q = {"loc": loc, "_final": torch.zeros((), dtype=torch.bool, device=loc.device)}
        if self.mean_over == "network":
            # Without CommonMean the loss of a step is NaN, which fit refuses.
            mean = loc.detach().mean()
            q |= {"_mean": mean, "_share": torch.full_like(mean, math.nan)}
        return q

    def _check_scales(self, target: Target, loc: Tensor) -> None:
        if loc.dim() != 1:
            raise ValueError(
                f"{target.key!r} has shape {tuple(loc.shape)}: polarization is for the scales of "
                "batch normalisations, one a channel, and for gates (ps.inputs, ps.outputs)"
            )
        outside = int(((loc < 0) | (loc > 1)).sum())
        if outside:
            raise ValueError(
                f"{outside} of the {loc.numel()} scales of {target.key!r} lie outside of [0, 1], "
                f"between {float(loc.min()):g} and {float(loc.max()):g}: set them first, for "
                "example to 0.5 in a new network, or put gates on the outputs of the "
                "normalisation instead, with ps.outputs"
            )

    def penalty(self, q: Posterior, scales: Tensor) -> Tensor:
        """R(g), (...) of (..., K)."""
        if self.mean_over == "tensor":
            spread = (scales - scales.mean(-1, keepdim=True)).abs()
            return (self.t * scales.abs() - spread).sum(-1)
        spread = (scales - q["_mean"]).abs()
        # The mean moves with each scale: what that changes has a gradient and no value.
        moved = q["_share"] * (scales - scales.detach())
        return (self.t * scales.abs() - spread + moved).sum(-1)

    def prior(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        def log_density(scales: Tensor) -> Tensor:
            return -self.strength * self.penalty(q, scales)

        return pyro.sample(target.site, Penalty(log_density, q["loc"]))

    def guide(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        return pyro.sample(target.site, Point(q["loc"]))

    def project(self, target: Target, q: Posterior) -> None:
        q["loc"].clamp_(0, 1)

    def score(self, target: Target, q: Posterior) -> Tensor:
        # Once something is frozen the cut has been made: all the others stay.
        return torch.where(q["_final"], q["loc"].abs(), q["loc"] - self.cut_of(q["loc"]))

    def cut_of(self, scales: Tensor) -> Tensor | float:
        """Below what the scales of a target go, as ``cut`` says.

        >>> Polarization(1.0).cut_of(torch.tensor([0.0, 0.001, 0.02, 0.75, 0.8]))
        tensor(0.0100)
        """
        return first_minimum(scales) if self.cut == "histogram" else float(self.cut)

    def mean(self, target: Target, q: Posterior, x: Tensor | None) -> Tensor:
        return q["loc"]

    def forget(self, target: Target, q: Posterior, removed: Tensor) -> None:
        q["_final"].copy_(removed.any())

    def match_moments(self, target: Target, q: Posterior, draws: Mapping[str, Tensor]) -> None:
        normal_moments(draws_of(draws, target.site, target.shape), q["loc"])


def first_minimum(scales: Tensor) -> Tensor:
    """The lower edge of the first bin, of 100 on [0, 1], that has no more scales than the next one
    and fewer than the one before; 0 where the histogram never falls."""
    counts = torch.histc(scales.detach().float(), _BINS, 0.0, 1.0)
    falls = counts[1:] < counts[:-1]
    ends = torch.cat([counts[2:] >= counts[1:-1], falls.new_ones(1)])
    first = (falls & ends).float().argmax() + 1
    return torch.where((falls & ends).any(), first / _BINS, 0.0).to(scales)
