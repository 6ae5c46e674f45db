"""The families of layers, which of them compute as their class says, and their size."""

from __future__ import annotations

from collections.abc import Container

from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MIXING = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NORMS = (*BATCH_NORMS, nn.GroupNorm, nn.LayerNorm)


def is_plain(module: nn.Module, classes: Container[type[nn.Module]]) -> bool:
    """Whether a module computes what one of these classes computes from its own parameters.

    It is no subclass (parametrizations make one), its forward is not replaced, no hook changes what
    enters or leaves it, and none of its parameters is computed from others.

    >>> is_plain(nn.Linear(2, 1), MIXING)
    True
    >>> is_plain(nn.utils.parametrizations.weight_norm(nn.Linear(2, 1)), MIXING)
    False
    """
    own = vars(module)
    return (
        type(module) in classes
        and "forward" not in own
        and not has_hooks(module)
        and not any(isinstance(value, Tensor) for value in own.values())
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether something is called before or behind a module's forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def parameter_count(module: nn.Module) -> int:
    """The number of trained values in a module.

    >>> parameter_count(nn.Linear(4, 2))
    10
    """
    return sum(parameter.numel() for parameter in module.parameters())
