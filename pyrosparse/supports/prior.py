"""A prior over supports: which weights of one tensor are active."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class SupportPrior(ABC):
    r"""A prior p(s) over the support of one weight tensor, s_n = 1 where weight n is active.

    Subclass it as a frozen dataclass; ``Chain`` is the example to follow.
    """

    @abstractmethod
    def messages(self, log_odds: Tensor) -> Tensor:
        """What each weight hears from the others, by sum-product.

        log_odds: the evidence for each weight's being active, in nats, in the shape of the weight.

        Returns the extrinsic log-odds, in the same shape: those of the marginal under
        :math:`p(s) \\exp(\\sum_n u_n s_n)`, less the weight's own :math:`u_n`.
        """

    @abstractmethod
    def sample(self, name: str, weight: Tensor) -> Tensor:
        """Sample a support from the prior, as a Pyro site of that name.

        Returns zeros and ones in the shape, dtype and place of the weight."""
