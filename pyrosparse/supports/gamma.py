"""A weight's precision and support in closed form, given the second moment of the weight."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gamma:
    r"""The precision of a weight that is active (the slab) or inactive (the spike).

    .. math:: p(\rho) = \mathrm{Gamma}(\rho; \alpha, \beta), \quad p(w \mid \rho) =
              \mathcal N(w; 0, 1/\rho)

    shape: alpha.
    rate:  beta, a number or a tensor: one for all weights, or one for each.

    >>> Gamma(1.0, 0.5).mean
    2.0
    """

    shape: float
    rate: float | Tensor

    @property
    def mean(self) -> float | Tensor:
        """E[rho]."""
        return self.shape / self.rate

    def posterior(self, second_moment: Tensor) -> tuple[float, Tensor]:
        """Shape and rate of the precision's law given the weight: alpha + 1/2, beta + m / 2.

        second_moment: m = E[w^2], any shape.
        """
        return self.shape + 0.5, self.rate + second_moment / 2

    def log_evidence(self, second_moment: Tensor) -> Tensor:
        r"""What the weight says for this state, in nats, but for a constant.

        .. math:: \ln Z(m) = \alpha \ln \beta - \ln \Gamma(\alpha) + \ln \Gamma(\alpha + \tfrac12)
                  - (\alpha + \tfrac12) \ln(\beta + \tfrac m2)
        """
        shape, rate = self.posterior(second_moment)
        return self._log_start() + math.lgamma(shape) - shape * rate.log()

    def log_density(self, precision: Tensor, log_precision: Tensor) -> Tensor:
        """E[ln p(rho)] from E[rho] and E[ln rho], any shape, in nats."""
        start = self._log_start()
        return start + (self.shape - 1) * log_precision - self.rate * precision

    def _log_start(self) -> float | Tensor:
        log_rate = self.rate.log() if isinstance(self.rate, Tensor) else math.log(self.rate)
        return self.shape * log_rate - math.lgamma(self.shape)


def evidence(second_moment: Tensor, slab: Gamma, spike: Gamma) -> Tensor:
    r"""What a weight says for its being active, :math:`\Lambda = \ln Z_1 - \ln Z_0`, in nats.

    >>> evidence(torch.tensor([0.0, 1.0]), Gamma(1, 0.05), Gamma(1, 0.0005))
    tensor([-2.3026,  4.4637])
    """
    return slab.log_evidence(second_moment) - spike.log_evidence(second_moment)


def structured(
    prior_log_odds: Tensor, second_moment: Tensor, slab: Gamma, spike: Gamma
) -> tuple[Tensor, Tensor]:
    r"""The best q(s) q(rho | s) given q(w): the log-odds of s = 1, and E[rho].

    .. math:: \operatorname{logit} q(s = 1) = \ell + \Lambda(m), \quad q(\rho \mid s) =
              \mathrm{Gamma}(\alpha_s + \tfrac12, \beta_s + \tfrac m2)

    prior_log_odds: l, any shape; second_moment: m = E[w^2], the same.

    Source: the block update is ours; the factors are of Xia, Tsang and Lau (2023), eqs. 4 to 6.

    >>> log_odds, precision = structured(
    ...     torch.zeros(1), torch.ones(1), Gamma(1, 0.05), Gamma(1, 0.0005)
    ... )
    >>> precision
    tensor([2.7...])
    """
    log_odds = prior_log_odds + evidence(second_moment, slab, spike)
    means = [shape / rate for shape, rate in (p.posterior(second_moment) for p in (slab, spike))]
    on = torch.sigmoid(log_odds)
    return log_odds, on * means[0] + torch.sigmoid(-log_odds) * means[1]


def mean_field(
    prior_log_odds: Tensor,
    log_odds: Tensor,
    second_moment: Tensor,
    slab: Gamma,
    spike: Gamma,
) -> tuple[Tensor, Tensor]:
    r"""One round of the paper's updates under q(s) q(rho): the log-odds of s = 1, and E[rho].

    .. math::
        q(\rho) &= \mathrm{Gamma}(\tilde\pi a + (1 - \tilde\pi) \bar a + \tfrac12,\;
                   \tilde\pi b + (1 - \tilde\pi) \bar b + \tfrac m2) \\
        \operatorname{logit} \tilde\pi &= \ell + E[\ln p(\rho \mid 1)] - E[\ln p(\rho \mid 0)]

    log_odds: of q(s = 1) before; the others as for ``structured``.

    The rounds have two stable ends for weights near zero, active and inactive, whatever the data
    say: which one is reached depends on where they start.

    Source: Xia, Tsang and Lau (2023), eqs. 24 to 29, with the 1/2 of a real weight.

    >>> start = torch.zeros(1)
    >>> mean_field(start, start, start, Gamma(1, 1), Gamma(1, 0.01))[0] > 0
    tensor([True])
    """
    on = torch.sigmoid(log_odds)
    shape = on * slab.shape + (1 - on) * spike.shape + 0.5
    rate = on * slab.rate + (1 - on) * spike.rate + second_moment / 2
    precision, log_precision = shape / rate, torch.digamma(shape) - rate.log()
    said = slab.log_density(precision, log_precision) - spike.log_density(precision, log_precision)
    return prior_log_odds + said, precision
