"""Gibbs masks by enumeration: all states, with their probabilities, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def states(n: int) -> Tensor:
    """All masks of n elements, (2^n, n) float64."""
    return (torch.arange(2**n).unsqueeze(1) >> torch.arange(n) & 1).double()


def complete(n: int, c: float) -> Tensor:
    """The couplings of a complete graph."""
    return c * (1 - torch.eye(n, dtype=torch.float64))


def bipartite(n: int, split: int, c: float) -> Tensor:
    """The couplings between the first elements and the others."""
    colour = torch.arange(n) < split
    return c * (colour.unsqueeze(0) != colour.unsqueeze(1)).double()


def log_weights(field: Tensor, beta: float, couplings: Tensor) -> Tensor:
    """-beta H of all states, with every pair twice in H."""
    x = 2 * states(len(field)) - 1
    pairs = torch.einsum("si,ij,sj->s", x, couplings, x)
    return -beta * (x @ field.double() - pairs)


def counts(draws: Tensor) -> Tensor:
    """How often each state is among draws, (k, n) -> (2^n,)."""
    n = draws.shape[-1]
    index = (draws.long() << torch.arange(n)).sum(-1)
    return torch.bincount(index, minlength=2**n).double()


def assert_law(draws: Tensor, log_weights: Tensor) -> None:
    """The draws have the law of these weights: their chi square statistic is within five of its
    standard deviations, the rare states taken together."""
    observed = counts(draws)
    expected = log_weights.softmax(0) * len(draws)
    common = expected >= 5
    rare = torch.stack([observed[~common].sum(), expected[~common].sum()])
    observed, expected = observed[common], expected[common]
    if rare[1] >= 5:
        observed = torch.cat([observed, rare[:1]])
        expected = torch.cat([expected, rare[1:]])
    else:
        # A sum of rare events: Poisson.
        assert rare[0] <= rare[1] + 6 * (rare[1] + 1) ** 0.5, rare
    statistic = ((observed - expected) ** 2 / expected).sum()
    degrees = len(expected) - 1
    assert statistic < degrees + 5 * (2 * degrees) ** 0.5 + 5, (statistic, degrees)
