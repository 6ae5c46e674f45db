"""The families of layers, and their size."""

from __future__ import annotations

from torch import nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MIXING = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def parameter_count(module: nn.Module) -> int:
    """The number of trained values in a module.

    >>> parameter_count(nn.Linear(4, 2))
    10
    """
    return sum(parameter.numel() for parameter in module.parameters())
