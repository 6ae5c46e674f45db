"""Pareto k-hat: how well can draws of a guide replace draws of the posterior?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyrosparse.evidence import elbo


@dataclass(frozen=True)
class Khat:
    """The tail index of importance ratios p / q.

    k:     the estimate; moments of the ratios beyond 1 / k are infinite.
    draws: the number of ratios.
    """

    k: float
    draws: int

    @property
    def threshold(self) -> float:
        r"""The largest k for which importance sampling with S draws is reliable:
        :math:`\min(1 - 1 / \log_{10} S, \; 0.7)`."""
        return min(1 - 1 / math.log10(self.draws), 0.7)

    @property
    def reliable(self) -> bool:
        """Whether k is below the threshold."""
        return self.k <= self.threshold

    def __repr__(self) -> str:
        said = "reliable" if self.reliable else "not reliable"
        return (
            f"Khat {self.k:.2f} of {self.draws} draws: importance sampling is {said} "
            f"(threshold {self.threshold:.2f})"
        )


def pareto_khat(log_ratios: Tensor) -> Khat:
    r"""The tail index k of importance ratios, from a generalised Pareto fit to the largest.

    .. math:: P(p/q > t) \sim t^{-1/k}

    log_ratios: log p - log q of draws from q, up to a constant, (draws,), nats.

    The prior of the fit shrinks the estimate towards 0.5, with the weight of 10 draws of the tail.

    Raises ValueError for fewer than 25 draws, ratios that are not finite, and ratios that are all
    equal: q is then the posterior, or a point.

    Source: Vehtari et al. (2024), "Pareto smoothed importance sampling", section 3 and eq. 9.

    >>> import torch
    >>> uniform = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    >>> round(pareto_khat(-0.3 * uniform.log()).k, 1)
    0.3
    """
    # Here, not at the top: arviz_stats takes as long to import as pyrosparse.
    from arviz_stats.base import array_stats

    ratios = log_ratios.detach().double().cpu()
    if ratios.dim() != 1 or len(ratios) < 25:
        raise ValueError(f"at least 25 log ratios, (draws,), are needed; got {tuple(ratios.shape)}")
    if not ratios.isfinite().all():
        raise ValueError(f"{int((~ratios.isfinite()).sum())} of the log ratios are not finite")
    spread = float(ratios.max() - ratios.min())
    if spread <= 1e-9 * (1 + float(ratios.abs().max())):
        raise ValueError(
            "all log ratios are equal, so there is no tail to fit: the guide is a point, or "
            "equals the posterior"
        )
    # psislw takes the log ratios of leave-one-out, which are the negative ones.
    _, k = array_stats.psislw(-ratios.numpy())
    return Khat(float(k), len(ratios))


def khat(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *,
    draws: int = 1000,
    seed: int = 0,
    batch_size: int = 1000,
) -> Khat:
    r"""The joint k-hat of a guide: the tail index of p(D, w) / q(w) over draws of all weights.

    It judges the guide over all weights at once. For a Bayesian neural network with a mean-field
    guide it is usually far above 0.7 (near 20 on the networks that we tried), whether or not the
    network predicts well: report it, but do not choose a network by it.

    model, guide, data, batch_size: as for ``pyrosparse.evidence.elbo``.

    Raises what ``pareto_khat`` raises.

    Source: Yao et al. (2018), "Yes, but did it work?: Evaluating variational inference", section 2.

    >>> import pyrosparse as ps, torch
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian(posterior="normal"))
    >>> data = (torch.ones(10, 4), torch.zeros(10, dtype=torch.int64))
    >>> khat(ps.classifier(bnn, 10), bnn.guide, data, draws=50).draws
    50
    """
    ratios = elbo(model, guide, data, draws=draws, seed=seed, batch_size=batch_size).draws
    return pareto_khat(ratios)
