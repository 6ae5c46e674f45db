"""Guides that return draws made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor


class At:
    """A guide that returns the values of one draw made elsewhere, with density 1."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self.values = values

    def __call__(self, *args: Any) -> None:
        for name, value in self.values.items():
            pyro.sample(name, dist.Delta(value, event_dim=value.dim()))


class AnyDraw:
    """A guide that returns one of a sampler's draws, each with the same probability.

    draws: (draws, ...) by site, as ``MCMC.get_samples()`` returns them.

    >>> guide = AnyDraw({"weight": torch.ones(5, 2)})
    >>> pyro.poutine.trace(guide).get_trace().nodes["weight"]["value"].shape
    torch.Size([2])
    """

    def __init__(self, draws: Mapping[str, Tensor]) -> None:
        self.draws = draws

    def __call__(self, *args: Any) -> None:
        count = len(next(iter(self.draws.values())))
        chosen = int(torch.randint(count, ()))
        At({name: value[chosen] for name, value in self.draws.items()})()
