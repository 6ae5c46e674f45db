"""A small network and its data for the tests of Turbo-VBI."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import pyrosparse as ps

N = 60


def mlp(hidden: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, 3))


def lifted(net: nn.Module | None = None, **options) -> ps.Lifted:
    return ps.lift(net or mlp(), ps.GammaSpikeAndSlab(**options))


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(N, 6, generator=generator)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
