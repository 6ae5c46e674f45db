"""Markov chains along one dimension of a weight."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
from torch import Tensor

from pyrosparse.distributions import GridSupport
from pyrosparse.sum_product import sum_product
from pyrosparse.sum_product.transition import Transition
from pyrosparse.supports.prior import SupportPrior


@dataclass(frozen=True)
class Chain(SupportPrior):
    r"""Independent Markov chains along one dimension; their messages are exact.

    .. math:: p(s) = \prod_{\text{chains}} p(s_1) \prod_{k \ge 2} p(s_k \mid s_{k-1}), \qquad
              p(s_1 = 1) = \frac{p_{01}}{p_{01} + p_{10}}

    transition: (p01, p10), the probabilities of a 1 after a 0, and of a 0 after a 1: ones come in
                runs of the mean length 1 / p10, and gaps of 1 / p01.
    dim:        the dimension of the weight that chains run along, such as -1 for time in the
                kernels of ``nn.Conv1d``.

    Raises ValueError on probabilities outside (0, 1).

    >>> import torch
    >>> evidence = torch.tensor([[3.0, 0.0, 0.0]])
    >>> Chain((0.1, 0.1)).messages(evidence)
    tensor([[0.0000, 1.8325, 1.3228]])
    """

    transition: tuple[float, float]
    dim: int = -1

    def __post_init__(self) -> None:
        Transition.of("transition", self.transition)

    def messages(self, log_odds: Tensor) -> Tensor:
        rows = log_odds.movedim(self.dim, -1)
        grid = rows.reshape(-1, rows.shape[-1])
        return sum_product(grid, self.transition).view(rows.shape).movedim(-1, self.dim)

    def sample(self, name: str, weight: Tensor) -> Tensor:
        rows = weight.movedim(self.dim, -1)
        prior = GridSupport(self.transition, None, (rows.shape[:-1].numel(), rows.shape[-1]))
        return pyro.sample(name, prior).to(weight).view(rows.shape).movedim(-1, self.dim)
