"""R-hat in function space: do several runs make the same predictions?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def rhat(tree: Any, group: str = "log_likelihood") -> dict[str, Tensor]:
    r"""Rank-normalised split R-hat over the chains of a tree, for every element of a group.

    .. math:: \hat R = \sqrt{\frac{L - 1}{L} + \frac{B}{L\,W}}

    with B and W the variances between and within half chains of L draws. It is near 1 if the runs
    agree. By default it is computed for log p(y_i | w) of every datum, so it depends only on the
    function that the network computes. Weights may be permuted from run to run without any effect,
    and then have an R-hat near 2.

    tree:  from ``to_datatree`` with several runs, on data not used for training; each run is a
           chain.
    group: ``posterior`` for the R-hat of the variables there.

    Returns R-hat by variable, float64, of the variable's shape; NaN if a variable is constant.

    Raises ValueError for one chain: the draws of one guide are always independent, and say nothing
    about convergence; and for fewer than 4 draws.

    Source: Vehtari et al. (2021), "Rank-normalization, folding, and localization: an improved
    R-hat", eq. 4 and section 4.

    >>> import pyrosparse as ps
    >>> runs = [ps.lift(torch.nn.Linear(4, 3), ps.Gaussian(posterior="normal")) for _ in range(2)]
    >>> data = (torch.randn(10, 4), torch.zeros(10, dtype=torch.int64))
    >>> tree = ps.to_datatree(runs, [ps.classifier(bnn, 10) for bnn in runs], data, draws=20)
    >>> rhat(tree)["y"].shape
    torch.Size([10])
    """
    # Here, not at the top: arviz_stats takes as long to import as pyrosparse.
    import arviz_stats

    dataset = tree[group].to_dataset()
    chains, draws = dataset.sizes["chain"], dataset.sizes["draw"]
    if chains < 2:
        raise ValueError(
            "the tree has one chain, but R-hat needs several: fit the network several times from "
            "different starts, and give to_datatree the lists of networks and guides"
        )
    if draws < 4:
        raise ValueError(f"R-hat needs at least 4 draws from every run; the tree has {draws}")
    with np.errstate(invalid="ignore"):  # for constant variables, as the norm under a point guide
        values = arviz_stats.rhat(dataset)
    return {str(name): torch.from_numpy(values[name].to_numpy().copy()) for name in values}
