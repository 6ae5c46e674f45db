"""Gibbs sampling of grids of binary nodes, all nodes of one colour of a checkerboard at once."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrosparse.sum_product.transition import Transition


def checkerboard_gibbs(row: Transition, column: Transition, field: Tensor, sweeps: int) -> Tensor:
    """Supports after so many sweeps from independent nodes, the shape of ``field``.

    Given the other colour, nodes of one colour are independent, so a sweep is two steps. The
    Markov chain has the grid's law as its stationary one; how many sweeps it needs grows with the
    coupling.

    row, column: the transitions along rows and columns.
    field:       (..., K, M), log-odds of each node alone.
    """
    alone = field + _from_missing(row, field) + _from_missing(column, field.mT).mT
    rows, columns = (torch.arange(size, device=field.device) for size in field.shape[-2:])
    white = (rows[:, None] + columns) % 2 == 0
    s = _bernoulli(field)
    for _ in range(sweeps):
        for colour in (white, ~white):
            logits = alone + row.coupling * _neighbours(s)
            logits += column.coupling * _neighbours(s.mT).mT
            s = torch.where(colour, _bernoulli(logits), s)
    return s


def _bernoulli(logits: Tensor) -> Tensor:
    return (torch.rand_like(logits) < logits.sigmoid()).to(logits.dtype)


def _neighbours(s: Tensor) -> Tensor:
    """How many neighbours along the last dimension are 1."""
    total = torch.zeros_like(s)
    total[..., 1:] += s[..., :-1]
    total[..., :-1] += s[..., 1:]
    return total


def _from_missing(chain: Transition, like: Tensor) -> Tensor:
    """The log-odds of nodes along the last dimension where all neighbours are 0."""
    log_odds = torch.full_like(like, chain.log_odds_after_zero)
    log_odds[..., 0] = chain.start
    log_odds[..., :-1] += chain.log_odds_before_zero
    return log_odds
