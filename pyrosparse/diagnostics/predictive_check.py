"""Posterior predictive checks: do new data of the model look like the data?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrosparse.util.errors import unknown_name


@dataclass(frozen=True)
class PredictiveCheck:
    r"""A statistic of the data beside the same of data that the model replicates.

    observed:   T(y).
    replicated: T(y_rep), one a draw, (chains * draws,) float64.
    """

    observed: float
    replicated: Tensor

    @property
    def p_value(self) -> float:
        """The fraction of replicates whose statistic is above the data's, ties by halves. Near 0
        or 1 the model does not make such data; it is not uniform if the model is right, but drawn
        towards 1/2, as the data were seen in training."""
        above = (self.replicated > self.observed).double() + 0.5 * (
            self.replicated == self.observed
        )
        return float(above.mean())

    def __repr__(self) -> str:
        return (
            f"PredictiveCheck: p-value {self.p_value:.3g}, statistic {self.observed:.4g} beside "
            f"{float(self.replicated.mean()):.4g} +- {float(self.replicated.std()):.2g} of "
            f"{len(self.replicated)} replicates"
        )


def predictive_check(
    tree: Any, statistic: Callable[[np.ndarray], float], site: str | None = None
) -> PredictiveCheck:
    r"""A posterior predictive check of one statistic T.

    .. math:: p = P(T(y^{\text{rep}}) > T(y) \mid y)

    tree:      of ``to_datatree``.
    statistic: from an array of all data, (n, ...), to a number.
    site:      the observed site; by default the only one.

    Masked data are not in the tree. Of data that are partly masked, the masked elements are NaN in
    the data and in the replicates alike: take a statistic that leaves them out, such as
    ``np.nanmean``.

    Raises ValueError where the tree has several observed sites and none is named, or no such site,
    and where the statistic is NaN.

    Source: Gelman, Meng and Stern (1996), "Posterior predictive assessment of model fitness via
    realized discrepancies", eq. 1.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(4, 3), ps.Gaussian(posterior="normal"))
    >>> data = (torch.randn(10, 4), torch.zeros(10, dtype=torch.int64))
    >>> tree = ps.to_datatree(bnn, ps.classifier(bnn, 10), data, draws=20)
    >>> predictive_check(tree, lambda y: (y == 0).mean()).observed
    1.0
    """
    sites = list(tree["observed_data"].data_vars) if "observed_data" in tree else []
    if site is None and len(sites) > 1:
        raise ValueError(f"the tree has several observed sites, {', '.join(sites)}: name one")
    if site is None and not sites:
        raise ValueError(
            "the tree has no observed site, only factors: there are no data to compare"
        )
    site = sites[0] if site is None else site
    if site not in sites:
        raise unknown_name("observed site", site, map(str, sites))
    replicated = tree["posterior_predictive"][site].to_numpy()
    flat = replicated.reshape(-1, *replicated.shape[2:])
    values = torch.tensor([float(statistic(one)) for one in flat], dtype=torch.float64)
    observed = float(statistic(tree["observed_data"][site].to_numpy()))
    if math.isnan(observed) or values.isnan().any():
        raise ValueError(
            f"the statistic of {site!r} is NaN. Elements of the data that are masked are NaN in "
            "the tree: use a statistic that ignores NaN, such as np.nanmean"
        )
    return PredictiveCheck(observed, values)
