"""The weights that can be pruned by setting the network's own parameters to zero."""

from __future__ import annotations

from torch import Tensor

from pyrosparse.lifting.lift import Lifted


def located_weights(bnn: Lifted) -> dict[str, Tensor]:
    """The network's own parameters of all targets that are weights, by name.

    Raises ValueError where there are none, and where a posterior is located elsewhere.

    >>> import torch, pyrosparse as ps
    >>> list(located_weights(ps.lift(torch.nn.Linear(2, 1), ps.Gaussian())))
    ['weight']
    """
    entries = [entry for entry in bnn.guide.entries if entry.target.kind == "weight"]
    if not entries:
        raise ValueError("the lifted network has no weight among its targets: nothing to prune")
    names = [entry.target.name for entry in entries]
    apart = [name for name in names if name not in bnn.guide.shared]
    if apart:
        raise ValueError(
            f"the posterior of {', '.join(apart)} is not located at the network's own weight, "
            "so that setting it to zero prunes nothing: use a prior whose site is the weight"
        )
    return {entry.target.key: entry.parameter() for entry in entries}
