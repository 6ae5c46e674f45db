"""The weights that can be pruned by setting the network's own parameters to zero."""

from __future__ import annotations

from torch import Tensor

from pyrosparse.lifting.lift import Lifted


def located_weights(bnn: Lifted) -> dict[str, Tensor]:
    """The network's own parameters of all targets that are weights, by name.

    Raises ValueError if there are none, and if a posterior is located elsewhere.

    >>> import torch, pyrosparse as ps
    >>> list(located_weights(ps.lift(torch.nn.Linear(2, 1), ps.Gaussian())))
    ['weight']
    """
    entries = [entry for entry in bnn.guide.entries if entry.target.kind == "weight"]
    if not entries:
        raise ValueError(
            "the lifted network has no weights among its targets: lift weights, "
            "ps.weights(net), to prune them"
        )
    names = [entry.target.name for entry in entries]
    apart = [name for name in names if name not in bnn.guide.shared]
    if apart:
        raise ValueError(
            f"the posterior of {', '.join(apart)} does not have the network's own weight as its "
            "mean, so setting the weight to zero does not prune it: use a prior whose site is "
            "the weight"
        )
    return {entry.target.key: entry.parameter() for entry in entries}
