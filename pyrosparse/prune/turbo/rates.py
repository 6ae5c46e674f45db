"""Where slab and spike lie so that a wanted share of the weights is active."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyrosparse.lifting.guide import Entry
from pyrosparse.lifting.method import Posterior
from pyrosparse.methods.gamma_spike_and_slab import GammaSpikeAndSlab

SAMPLE = 1 << 16
"""Weights that are looked at first."""

_WRITTEN = ("_precision", "_log_odds")
"""What an update of a posterior writes, beside numbers."""

_HALVINGS = 20

_ERRORS = 5.0
"""Standard errors of the sample's share that are left on both sides."""

_ROUNDS = 10
"""Of variance and precision in turn, which depend on each other where curvatures are known."""


class Weights:
    """Weights of a tensor, and which of them are active at a rate of the slab.

    places:   where they are in the flat tensor; None for all of it, which is not copied.
    contrast: slab_rate / spike_rate; by default the method's own.
    """

    def __init__(
        self,
        entry: Entry,
        method: GammaSpikeAndSlab,
        contrast: float | None,
        places: Tensor | None = None,
    ) -> None:
        self.entry, self.method, self.contrast, self.places = entry, method, contrast, places
        self.follows = _variances_follow(method)
        q = entry.posterior()
        shape = q["loc"].shape
        self.mask = entry.mask if places is None else entry.mask.flatten()[places]
        self.q = Posterior()
        for name, value in q.items():
            if value.shape == shape and places is not None:
                self.q[name] = value.detach().flatten()[places]
            else:
                shared = value.shape == shape and not (self.follows and name in _WRITTEN)
                self.q[name] = value.detach() if shared else value.detach().clone()
        self.q.training = q.training
        self.precision = self.q["_precision"].clone() if self.follows else None

    def active(self, log_rate: float) -> Tensor:
        """Which are active, bool, in the places' order. Variances start from where they were."""
        if self.precision is not None:
            self.q["_precision"].copy_(self.precision)
        set_rate(self.method, self.q, log_rate, self.contrast)
        return ((self.method.score(self.entry.target, self.q) > 0) & self.mask).flatten()

    def some(self, places: Tensor) -> Weights:
        """Those at some places of the flat tensor."""
        return Weights(self.entry, self.method, self.contrast, places.to(self.mask.device))


def set_rate(
    method: GammaSpikeAndSlab, q: Posterior, log_rate: float, contrast: float | None
) -> None:
    """Set the rates of slab and spike, and what follows from them at once."""
    q["_slab_rate"].fill_(math.exp(log_rate))
    q["_spike_rate"].fill_(math.exp(log_rate) / (contrast or method.contrast))
    if _variances_follow(method):
        for _ in range(_ROUNDS):
            method.update(q)


def _variances_follow(method: GammaSpikeAndSlab) -> bool:
    """Whether the variances of the weights depend on the rates at once."""
    return method.likelihood == "curvature"


@torch.no_grad()
def find_log_rate(
    parts: Sequence[tuple[Entry, GammaSpikeAndSlab]],
    wanted: float,
    low: float,
    high: float,
    contrast: float | None,
) -> float:
    """The log rate of the slab, of 2^20 between two, from which on no more weights than wanted are
    active.

    The larger the rate, the larger the weights that it takes for inactive. A sample of the weights
    says about where it lies; what it leaves open is settled by all weights, and by them alone that
    are active on one side of there and not on the other: the result is that of halving with all.
    """
    everything = [Weights(entry, method, contrast) for entry, method in parts]
    count = sum(part.mask.numel() for part in everything)

    def too_many(rate: float) -> bool:
        return _count(everything, rate) > wanted

    if count <= SAMPLE:
        return _halve(low, high, too_many)[1]
    generator = torch.Generator().manual_seed(0)
    sample, size = [], 0
    for part in everything:
        number = math.ceil(SAMPLE * part.mask.numel() / count)
        sample.append(part.some(torch.randint(part.mask.numel(), (number,), generator=generator)))
        size += number
    share = wanted / count
    error = _ERRORS * math.sqrt(max(share * (1 - share), 1 / size) / size)
    below, _ = _halve(low, high, lambda rate: _count(sample, rate) > (share + error) * size)
    _, above = _halve(low, high, lambda rate: _count(sample, rate) > (share - error) * size)
    before = [part.active(below) for part in everything]
    after = [part.active(above) for part in everything]
    sure = sum(int(one.sum()) for one in after)
    if not (
        (below == low or sum(int(one.sum()) for one in before) > wanted)
        and (above == high or sure <= wanted)
    ):  # a sample as rare as its errors say
        return _halve(low, high, too_many)[1]
    unsure = [
        part.some((one & ~other).nonzero().flatten())
        for part, one, other in zip(everything, before, after, strict=True)
    ]

    def too_many_of_all(rate: float) -> bool:
        if rate <= below or rate >= above:
            return rate <= below
        return sure + _count(unsure, rate) > wanted

    return _halve(low, high, too_many_of_all)[1]


def _halve(low: float, high: float, too_many: Callable[[float], bool]) -> tuple[float, float]:
    """The last rate that was too low and the last that was not, or the ends."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if too_many(middle) else (low, middle)
    return low, high


def _count(parts: Sequence[Weights], log_rate: float) -> int:
    return sum(int(part.active(log_rate).sum()) for part in parts)
