"""Layers whose weights the network also uses outside the layer's own call."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from pyrosparse.compaction.in_place.called import Called
from pyrosparse.util.generators import generators_left_alone
from pyrosparse.util.modes import evaluating


def read_elsewhere(net: nn.Module, inputs: tuple[Any, ...]) -> set[str]:
    """The modules that a network calls and whose own parameters it also reads outside these calls,
    as ``F.linear(x, self.layer.weight)`` does: a gain in these parameters would act there too.

    inputs: the inputs of the network, one mapping for keyword arguments; it is run once, in
            evaluation mode.

    >>> class Tied(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.into = nn.Linear(3, 2)
    ...     def forward(self, x):
    ...         return self.into(x) @ self.into.weight
    >>> read_elsewhere(Tied(), (torch.ones(1, 3),))
    {'into'}
    """
    watch = _watched(net, inputs)
    return watch.found & watch.called


def refuse_gates_without_effect(
    masked: nn.Module, inputs: tuple[Any, ...], gated: Collection[str]
) -> None:
    """Refuse gates on layers that the network does not call and whose parameters it reads all the
    same: in the masked network they do nothing, and gains in these parameters would.

    masked: the masked network by its definition, from ``reference``.
    gated:  the names of the modules that have gates.

    Raises ValueError.
    """
    if not gated:
        return
    watch = _watched(masked, inputs)
    if names := sorted((watch.found - watch.called).intersection(gated)):
        listed = ", ".join(map(repr, names))
        raise ValueError(
            f"the gates on {listed} have no effect: the network reads the parameters of these "
            "layers without calling them, as F.linear(x, layer.weight) does. Leave them out of the "
            "masks, or call the layers in the network's forward"
        )


def _watched(net: nn.Module, inputs: tuple[Any, ...]) -> _Watch:
    watch = _Watch(net)
    handles = []
    for module in net.modules():
        handles += [
            module.register_forward_pre_hook(watch.enter),
            module.register_forward_hook(watch.leave, always_call=True),
        ]
    try:
        with generators_left_alone(), torch.no_grad(), evaluating(net), watch:
            Called(net)(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return watch


class _Watch(TorchFunctionMode):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.called: set[str] = set()
        self._calls: list[nn.Module] = []
        self._owners: dict[int, tuple[str, list[nn.Module]]] = {}
        self._names = {module: name for name, module in net.named_modules()}
        for module, name in self._names.items():
            for parameter in module.parameters(recurse=False):
                self._owners.setdefault(id(parameter), (name, []))[1].append(module)

    def enter(self, module: nn.Module, _: Any) -> None:
        self._calls.append(module)
        self.called.add(self._names[module])

    def leave(self, *_: Any) -> None:
        self._calls.pop()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        for one in pytree.tree_leaves((args, kwargs)):
            name, owners = self._owners.get(id(one), ("", []))
            if name and not any(owner is call for owner in owners for call in self._calls):
                self.found.add(name)
        return func(*args, **kwargs)
