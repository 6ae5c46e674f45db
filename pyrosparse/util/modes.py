"""Training and evaluation mode, module by module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Networks in evaluation mode for a block; after it every module is in the mode it was in.

    Before it and after it modules drop what they keep between calls in evaluation mode: parameters
    may have changed, and modules notice no change of their modes that they are not told of.

    >>> net = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with evaluating(net):
    ...     net[0].training
    False
    >>> net[0].training, net[1].training
    (True, False)
    """
    modes = [(module, module.training) for net in networks for module in net.modules()]
    try:
        for net in networks:
            forget(net)
            net.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
        for net in networks:
            forget(net)


def forget(net: nn.Module) -> None:
    """Make modules drop what they keep from one call in evaluation mode to the next.

    timm's tables of attention biases are an example. By convention modules drop it when they are
    put in training mode, as their parameters then change. The modes stay as they are.

    >>> class Keeping(nn.Linear):
    ...     kept = None
    ...     def train(self, mode=True):
    ...         self.kept = None if mode else self.kept
    ...         return super().train(mode)
    >>> net = Keeping(2, 1).eval()
    >>> net.kept = net.weight.exp()
    >>> forget(net)
    >>> net.kept is None, net.training
    (True, False)
    """
    modes = {module: module.training for module in net.modules()}
    net.train()
    for module, training in modes.items():
        module.training = training


def copy_modes(source: nn.Module, target: nn.Module) -> None:
    """Put every module of a network in the mode of the module of the same name in another network,
    or of the whole other network where it has none of that name.

    >>> frozen = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval())
    >>> other = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1), nn.ReLU())
    >>> copy_modes(frozen, other)
    >>> [module.training for module in other]
    [True, False, True]
    """
    modes = {name: module.training for name, module in source.named_modules()}
    for name, module in target.named_modules():
        module.training = modes.get(name, source.training)
