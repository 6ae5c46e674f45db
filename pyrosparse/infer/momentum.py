"""The optimizer's momentum of frozen elements."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrosparse.lifting.lift import Lifted


def forget_momentum(optimizer: torch.optim.Optimizer, lifted: Lifted) -> None:
    """Clear the optimizer's averages of elements frozen at zero, which would move them.

    >>> import pyrosparse as ps
    >>> bnn = ps.lift(torch.nn.Linear(2, 1), ps.Gaussian())
    >>> adam = torch.optim.Adam(bnn.parameters())
    >>> bnn.net.weight.sum().backward()
    >>> adam.step()
    >>> bnn.freeze({"weight": torch.tensor([[True, False]])})
    >>> forget_momentum(adam, bnn)
    >>> adam.state[bnn.net.weight]["exp_avg"]
    tensor([[0.1000, 0.0000]])
    """
    for entry in lifted.guide.entries:
        for _, module, leaf in entry.parameters if entry.frozen else ():
            memory = optimizer.state.get(module.get_parameter(leaf), {})
            for value in memory.values():
                if isinstance(value, Tensor) and value.shape == entry.mask.shape:
                    value.masked_fill_(~entry.mask, 0.0)
