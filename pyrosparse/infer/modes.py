"""Layers that a user has put in evaluation mode and training puts back into training mode."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd


def frozen_layers(networks: Iterable[nn.Module]) -> dict[str, nn.Module]:
    """The normalisation and dropout layers in evaluation mode within networks in training mode.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval(), nn.Dropout())
    >>> list(frozen_layers([net])), list(frozen_layers([net.eval()]))
    (['1'], [])
    """
    return {
        name: module
        for net in networks
        if net.training
        for name, module in net.named_modules()
        if isinstance(module, (_NormBase, _DropoutNd)) and not module.training
    }


def warn_where_trained(frozen: Mapping[str, nn.Module]) -> None:
    """Warn about layers that were in evaluation mode and no longer are."""
    trained = [name for name, module in frozen.items() if module.training]
    if trained:
        named = ", ".join(map(repr, trained[:3])) + (", ..." if len(trained) > 3 else "")
        warnings.warn(
            f"fit puts the whole network in training mode, also {len(trained)} layers that were "
            f"in evaluation mode ({named}): to keep their batch statistics, or to switch their "
            "dropout off, call their eval() in the on_start of a callback",
            stacklevel=4,
        )
