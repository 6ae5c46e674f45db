"""The pair of probabilities that couples neighbours of a binary Markov chain."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Transition:
    r"""How a node of a binary Markov chain depends on the one before it.

    .. math:: p_{01} = p(s' = 1 \mid s = 0), \quad p_{10} = p(s' = 0 \mid s = 1)

    A run of ones has the mean length 1 / p10, a gap 1 / p01.

    p01, p10: probabilities at least 1e-9 away from 0 and 1, so that all odds are in the range of
              float32.

    Raises ValueError on a probability outside.

    >>> Transition(0.2, 0.4).start == math.log(0.5)
    True
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
        return math.log(self.p00) + math.log(self.p11) - math.log(self.p01) - math.log(self.p10)

    @classmethod
    def of(cls, name: str, pair: tuple[float, float]) -> Transition:
        """The transition of an argument given as the pair (p01, p10).

        Raises TypeError when it is not a pair of numbers."""
        try:
            p01, p10 = (float(p) for p in pair)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name} must be a pair of probabilities (p01, p10), got {pair!r}"
            ) from error
        return cls(p01, p10)
