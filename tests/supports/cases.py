"""Truth about supports for tests."""

from __future__ import annotations

import torch
from torch import Tensor

from tests import enumeration
from tests.enumeration import Pair


def grid_messages(evidence: Tensor, row: Pair | None, column: Pair | None) -> Tensor:
    """Exact extrinsic log-odds of one grid (K, M), by enumeration."""
    s = enumeration.supports(*evidence.shape)
    return enumeration.log_odds(s, enumeration.log_grid(s, row, column, evidence)) - evidence


def frequencies(draws: Tensor) -> Tensor:
    """Of draws (n, nodes), for every two nodes whether both are 1, (n, nodes, nodes): on the
    diagonal, whether one is."""
    return draws[:, :, None] * draws[:, None, :]


def expected_frequencies(s: Tensor, log_density: Tensor) -> Tensor:
    """The same under a law: all supports (2^n, n) and their log densities (2^n,)."""
    weight = log_density.softmax(0)
    return torch.einsum("a,ai,aj->ij", weight, s.to(weight), s.to(weight))
