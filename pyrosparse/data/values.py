"""Data sets for regression, split anew by the seed and normalised by the training part."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from pyrosparse.data.examples import DataSet, Examples

TEST = 0.1
"""The share that is test data, of each split."""

_Arrays = tuple[np.ndarray, np.ndarray]

# For generated data: their number, and the seed that generates them, whatever the split.
_COUNT, _GENERATED = 500, 0


def load_values(name: str, *, validation: float, seed: int) -> DataSet:
    """One split of a data set for regression: the seed chooses a tenth as test data, and the share
    ``validation`` of the others is held out.

    Inputs and targets have mean 0 and variance 1 on the training part; a target was divided by
    ``DataSet.target_scale``.

    Source: Hernández-Lobato and Adams (2015), "Probabilistic backpropagation for scalable learning
    of Bayesian neural networks", section 5.1, for the splits of 90 and 10 %.

    >>> data = load_values("diabetes", validation=0, seed=0)
    >>> len(data.train), len(data.test), data.train.y.shape
    (398, 44, torch.Size([398, 1]))
    """
    x, y = (torch.from_numpy(part).double() for part in VALUES[name]())
    y = y.reshape(len(y), -1)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    tested = max(1, round(TEST * len(x)))
    held_out = max(1, round(validation * (len(x) - tested))) if validation else 0
    parts = order[:tested], order[tested : tested + held_out], order[tested + held_out :]
    test, validated, train = (part.sort().values for part in parts)
    mean, scale = x[train].mean(0), x[train].std(0, correction=0)
    scale = scale.where(scale > 0, 1.0)
    target_mean, target_scale = y[train].mean(0), y[train].std(0, correction=0)
    x, y = ((x - mean) / scale).float(), ((y - target_mean) / target_scale).float()
    return DataSet(
        name.capitalize(),
        Examples(x[train], y[train]),
        Examples(x[validated], y[validated]) if held_out else None,
        Examples(x[test], y[test]),
        (),
        target_scale=float(target_scale[0]) if len(target_scale) == 1 else 1.0,
    )


def _diabetes() -> _Arrays:
    from sklearn.datasets import load_diabetes  # type: ignore[import-untyped]

    return load_diabetes(return_X_y=True, scaled=False)  # type: ignore[no-any-return]


def _linnerud() -> _Arrays:
    from sklearn.datasets import load_linnerud

    return load_linnerud(return_X_y=True)  # type: ignore[no-any-return]


def _friedman1() -> _Arrays:
    from sklearn.datasets import make_friedman1

    return make_friedman1(_COUNT, noise=1.0, random_state=_GENERATED)  # type: ignore


def _friedman2() -> _Arrays:
    from sklearn.datasets import make_friedman2

    return make_friedman2(_COUNT, noise=125.0, random_state=_GENERATED)  # type: ignore


def _friedman3() -> _Arrays:
    from sklearn.datasets import make_friedman3

    return make_friedman3(_COUNT, noise=0.1, random_state=_GENERATED)  # type: ignore


VALUES: dict[str, Callable[[], _Arrays]] = {
    "diabetes": _diabetes,
    "linnerud": _linnerud,
    "friedman1": _friedman1,
    "friedman2": _friedman2,
    "friedman3": _friedman3,
}
"""Inputs (n, d) and targets (n,) or (n, targets) by name; generated ones with Friedman's noise."""
