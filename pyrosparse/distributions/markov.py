"""Binary Markov chains in their steady state: the factors of supports on grids and trees."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Markov(NamedTuple):
    r"""The transition of a binary Markov chain.

    .. math:: p_{01} = p(s' = 1 \mid s = 0), \quad p_{10} = p(s' = 0 \mid s = 1)

    >>> Markov(0.2, 0.3).log_start(torch.tensor([0.0, 1.0])).exp()
    tensor([0.6000, 0.4000])
    """

    p01: float
    p10: float

    @classmethod
    def of(cls, name: str, pair: tuple[float, float]) -> Markov:
        """The transition of an argument given as the pair (p01, p10).

        Raises TypeError when it is not a pair of numbers, ValueError when one of them is no
        probability in (0, 1)."""
        try:
            p01, p10 = (float(p) for p in pair)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name} must be a pair of probabilities (p01, p10), got {pair!r}"
            ) from error
        if not (0 < p01 < 1 and 0 < p10 < 1):
            raise ValueError(f"{name} must hold probabilities in (0, 1), got {pair}")
        return cls(p01, p10)

    @property
    def coupling(self) -> float:
        """ln(p00 p11 / p01 p10): positive where neighbours are alike."""
        return (
            math.log1p(-self.p01) + math.log1p(-self.p10) - math.log(self.p01) - math.log(self.p10)
        )

    @property
    def start(self) -> float:
        """Log-odds of the first node: those of the steady state."""
        return math.log(self.p01) - math.log(self.p10)

    @property
    def log_odds_after_zero(self) -> float:
        """ln(p01 / p00)."""
        return math.log(self.p01) - math.log1p(-self.p01)

    @property
    def log_odds_before_zero(self) -> float:
        """ln(p10 / p00): what a 0 tells the node before it."""
        return math.log(self.p10) - math.log1p(-self.p01)

    def log_start(self, s: Tensor) -> Tensor:
        """ln p(s) of a first node; s: 0 or 1 in floating point, any shape."""
        return s * self.start + (math.log(self.p10) - math.log(self.p01 + self.p10))

    def log_step(self, before: Tensor, after: Tensor) -> Tensor:
        """ln p(after | before), elementwise; both 0 or 1 in floating point."""
        return (
            math.log1p(-self.p01)
            + before * self.log_odds_before_zero
            + after * self.log_odds_after_zero
            + before * after * self.coupling
        )

    def log_chain(self, s: Tensor, dim: int) -> Tensor:
        """ln p of chains along a dimension of s, which goes away."""
        length = s.shape[dim]
        steps = self.log_step(s.narrow(dim, 0, length - 1), s.narrow(dim, 1, length - 1))
        return self.log_start(s.select(dim, 0)) + steps.sum(dim)


def binary_states(n: int, like: Tensor) -> Tensor:
    """All states of n binary nodes, (2^n, n), node i the bit i of the index; dtype of ``like``.

    >>> binary_states(2, torch.zeros(()))
    tensor([[0., 0.],
            [1., 0.],
            [0., 1.],
            [1., 1.]])
    """
    bits = torch.arange(n, device=like.device)
    return ((torch.arange(2**n, device=like.device)[:, None] >> bits) & 1).to(like.dtype)
