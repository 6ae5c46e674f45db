"""Running statistics of batch normalisation, taken anew after weights have gone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from pyrosparse.evidence.batches import batches
from pyrosparse.models.calls import Called, separated
from pyrosparse.util.modes import evaluating


def recalibrate(net: nn.Module, data: Any, *, batch_size: int = 256) -> None:
    """Replace the running mean and variance of every batch normalisation by their averages over
    the batches of the data, in place; no weight is changed.

    Pruning a trained network changes the activations, so the running statistics are wrong
    afterwards. This alone causes much of the loss of accuracy.

    net:        the network. It is called with all parts of a batch except the last, the labels, if
                there are several. Its other modules are in evaluation mode during the call; all
                modes are restored.
    data:       training data: ``Examples``, a tuple of tensors, or an iterable of batches.
    batch_size: the batch size, if data are tensors. A smaller last batch is left out, unless it is
                the only one.

    Raises ValueError if there are no data.

    >>> net = nn.BatchNorm1d(1)
    >>> recalibrate(net, (torch.tensor([[1.0], [3.0]]), torch.zeros(2)))
    >>> net.running_mean
    tensor([2.])
    """
    norms = [module for module in net.modules() if isinstance(module, BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    seen = 0
    try:
        with torch.no_grad(), evaluating(net):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a cumulative average
                norm.train()
            for x, *more in batches(data, batch_size, Called(net)):
                if seen and len(x) < seen:
                    continue
                inputs, _ = separated(x, more, None)
                net(*inputs)
                seen = len(x)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    if not seen:
        raise ValueError(
            "there are no data to compute the statistics: give data that are not empty"
        )
