"""The pair of probabilities that couples neighbours of a binary Markov chain."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Transition:
    r"""How a node of a binary Markov chain in its steady state depends on the one before it.

    .. math:: p_{01} = p(s' = 1 \mid s = 0), \quad p_{10} = p(s' = 0 \mid s = 1)

    A run of ones has the mean length 1 / p10, a gap 1 / p01.

    p01, p10: probabilities at least 1e-9 away from 0 and 1, so that all odds are in the range of
              float32.

    Raises ValueError on a probability outside.

    >>> import torch
    >>> Transition(0.2, 0.3).log_start(torch.tensor([0.0, 1.0])).exp()
    tensor([0.6000, 0.4000])
    """

    p01: float
    p10: float

    def __post_init__(self) -> None:
        for name, p in (("p01", self.p01), ("p10", self.p10)):
            if not 1e-9 <= p <= 1 - 1e-9:
                raise ValueError(
                    f"the transition's {name} must be a probability in (0, 1), at least 1e-9 away "
                    f"from both ends, got {p}"
                )

    @classmethod
    def of(cls, name: str, pair: tuple[float, float]) -> Transition:
        """The transition of an argument given as the pair (p01, p10).

        Raises TypeError when it is not a pair of numbers, ValueError when one of them is no
        probability."""
        try:
            p01, p10 = (float(p) for p in pair)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name} must be a pair of probabilities (p01, p10), got {pair!r}"
            ) from error
        try:
            return cls(p01, p10)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    @property
    def p00(self) -> float:
        return 1 - self.p01

    @property
    def p11(self) -> float:
        return 1 - self.p10

    @property
    def start(self) -> float:
        """Log-odds of a chain's first node, ln(p01 / p10): those of the steady state."""
        return math.log(self.p01) - math.log(self.p10)

    @property
    def coupling(self) -> float:
        """ln(p00 p11 / p01 p10): positive where neighbours are alike, zero without coupling."""
        return (
            math.log1p(-self.p01) + math.log1p(-self.p10) - math.log(self.p01) - math.log(self.p10)
        )

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
