"""Rules for your own layers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from pyrosparse.compaction.parts import PARTS
from pyrosparse.compaction.rules.rule import Rule

_registered: dict[type[nn.Module], type[Rule]] = {}

REGISTERED: Mapping[type[nn.Module], type[Rule]] = MappingProxyType(_registered)
"""The rules that ``register`` was given, by layer."""


def register(layer: type[nn.Module], rule: type[Rule]) -> None:
    """Register a rule by which ``compact`` cuts layers of your own class.

    From then on a layer of exactly that class, not of a subclass, is one operation, whose
    ``forward`` is not traced. ``compact`` compares the result with the masked network as always, so
    a rule that is wrong on the example raises CompactionError. ``ps.save`` writes such a layer by
    the name of its class, and ``ps.load(path, trusted=[MyLayer])`` reads it.

    layer: a subclass of ``nn.Module``, not a class of torch or pyrosparse. To be saved, it must
           keep its constructor's arguments as attributes of the same names.
    rule:  a subclass of ``Rule``: ``Elementwise`` for an activation, ``Mixing`` for a layer that
           inherits from a dense layer or convolution without changing what it computes, or your own
           subclass.

    Raises TypeError if either has another type, and ValueError for classes of torch and pyrosparse.

    >>> import torch
    >>> from pyrosparse.compaction import Elementwise, compact
    >>> class Cubed(nn.Module):
    ...     def forward(self, x):
    ...         return x * x.square() if x.sum() > 0 else x ** 3  # torch.fx cannot trace this
    >>> register(Cubed, Elementwise)
    >>> net = nn.Sequential(nn.Linear(4, 3), Cubed(), nn.Linear(3, 2))
    >>> net[0].weight.data[0] = 0
    >>> compact(net).get_submodule("2")
    Linear(in_features=2, out_features=2, bias=True)
    """
    if not (isinstance(layer, type) and issubclass(layer, nn.Module)):
        raise TypeError(f"register takes a class of layers, a subclass of nn.Module, got {layer!r}")
    if not (isinstance(rule, type) and issubclass(rule, Rule)):
        raise TypeError(
            f"a rule is a subclass of pyrosparse.compaction.Rule, the class itself, got {rule!r}"
        )
    if layer.__module__.startswith("torch.nn.") or layer in PARTS:
        raise ValueError(
            f"{layer.__name__} is a layer of {layer.__module__}: register a subclass of your own, "
            "and use that in the network"
        )
    _registered[layer] = rule
