"""Classes of layers: does a layer compute as its class says, and how large is it?"""

from __future__ import annotations

from collections.abc import Container

from torch import Tensor, nn

from pyrosparse.util.hooks import hooks_of

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MIXING = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NORMS = (*BATCH_NORMS, nn.GroupNorm, nn.LayerNorm)


def is_plain(module: nn.Module, classes: Container[type[nn.Module]]) -> bool:
    """Whether a module computes what one of these classes computes from its own parameters.

    It must not be a subclass (parametrizations make one), its forward must not be replaced, no hook
    may change its input or output, and no parameter may be computed from others.

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
    """Whether anything is called before or after a module's forward."""
    return bool(hooks_of(module))


def parameter_count(module: nn.Module) -> int:
    """The number of trained values in a module.

    >>> parameter_count(nn.Linear(4, 2))
    10
    """
    return sum(parameter.numel() for parameter in module.parameters())
