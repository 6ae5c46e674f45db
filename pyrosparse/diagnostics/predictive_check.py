"""Posterior predictive checks: do data that the model generates look like the observed data?"""

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
    r"""A statistic of the data and of data that the model replicates.

    observed:   T(y).
    replicated: T(y_rep), one for each draw, (chains * draws,) float64.
    """

    observed: float
    replicated: Tensor

    @property
    def p_value(self) -> float:
        """The share of replicates whose statistic is larger than the data's, with half of the ties.
        If it is near 0 or 1, the model does not generate such data. For a correct model it is not
        uniform but nearer to 1/2, because the model was trained on the data."""
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

    tree:      from ``to_datatree``.
    statistic: a function from an array of all data, (n, ...), to a number.
    site:      the observed site; by default the only one.

    Masked data are not in the tree. In partly masked data, the masked elements are NaN both in the
    data and in the replicates: use a statistic that ignores NaN, such as ``np.nanmean``.

    Raises ValueError if the tree has several observed sites and ``site`` is None, if there is no
    such site, and if the statistic is NaN.

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
