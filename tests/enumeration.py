"""Truth by enumeration: all supports of a few binary nodes, and their densities by the formula."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st
from torch import Tensor

Pair = tuple[float, float]


def supports(*shape: int) -> Tensor:
    """All supports of a shape, (2^n, *shape), int64."""
    n = math.prod(shape)
    return (torch.arange(2**n)[:, None] >> torch.arange(n) & 1).view(-1, *shape)


def log_step(before: Tensor, after: Tensor, pair: Pair) -> Tensor:
    """ln p(after | before), elementwise, float64."""
    p01, p10 = pair
    table = torch.tensor([[1 - p01, p01], [p10, 1 - p10]], dtype=torch.float64)
    return table.log()[before, after]


def log_start(s: Tensor, pair: Pair) -> Tensor:
    """ln p(s) of the first node of a chain in its steady state, elementwise, float64."""
    p01, p10 = pair
    table = torch.tensor([p10, p01], dtype=torch.float64) / (p01 + p10)
    return table.log()[s]


def log_grid(s: Tensor, row: Pair | None, column: Pair | None, field: Tensor) -> Tensor:
    """Log density of supports of a grid, (..., K, M), up to a constant."""
    total = (field * s).sum((-1, -2))
    if row is not None:
        total = total + log_start(s[..., :, 0], row).sum(-1)
        total = total + log_step(s[..., :, :-1], s[..., :, 1:], row).sum((-1, -2))
    if column is not None:
        total = total + log_start(s[..., 0, :], column).sum(-1)
        total = total + log_step(s[..., :-1, :], s[..., 1:, :], column).sum((-1, -2))
    return total


def log_tree(s: Tensor, parent: list[int], pair: Pair, field: Tensor) -> Tensor:
    """Log density of supports of a forest, (..., n), up to a constant."""
    total = (field * s).sum(-1)
    for node, above in enumerate(parent):
        if above < 0:
            total = total + log_start(s[..., node], pair)
        else:
            total = total + log_step(s[..., above], s[..., node], pair)
    return total


def log_odds(s: Tensor, log_density: Tensor) -> Tensor:
    """Log-odds of the marginals, the shape of one support, from all of them, (2^n, ...)."""
    weight = log_density.view(-1, *[1] * (s.dim() - 1))
    one = torch.where(s == 1, weight, -math.inf).logsumexp(0)
    return one - torch.where(s == 0, weight, -math.inf).logsumexp(0)


@st.composite
def forests(draw, most=7):
    """Parents of a forest whose nodes are in any order."""
    n = draw(st.integers(1, most))
    parent = [draw(st.integers(-1, node - 1)) for node in range(n)]
    order = draw(st.permutations(range(n)))
    shuffled = [-1] * n
    for node, above in enumerate(parent):
        shuffled[order[node]] = order[above] if above >= 0 else -1
    return shuffled
