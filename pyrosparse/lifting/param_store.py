"""Telling Pyro of parameters that stay a module's own."""

from __future__ import annotations

import weakref
from typing import Any
from weakref import WeakValueDictionary

import pyro
import pyro.poutine as poutine
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor
from torch.distributions import constraints

_announced: WeakValueDictionary[str, Tensor] = WeakValueDictionary()


def announce(name: str, parameter: Tensor | None) -> None:
    """Make a parameter a ``param`` site, so that SVI finds it; it stays the module's own.

    Where Pyro's param store holds the parameter of another lifted network under the name, as
    after training one network and making the next, this one takes its place: the store never
    shadows a module.

    Raises RuntimeError if the store holds a tensor from elsewhere, such as from a file, and
    if one program has two lifted networks under one name.
    """
    if parameter is None or not parameter.requires_grad:
        return
    _refuse_second(name, parameter)
    if not pyro.settings.get("module_local_params"):
        _store(name, parameter)
    # Pyro marks a site's value with a weak reference, which would keep the module's own
    # parameter from being pickled: the mark goes on an alias.
    alias = parameter.detach()
    alias.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]
    site = poutine.runtime.effectful(type="param")(lambda *_, **__: alias)
    site(name, parameter, constraint=constraints.real, event_dim=None, name=name)


def _store(name: str, parameter: Tensor) -> None:
    store = pyro.get_param_store()
    held = store._params.get(name)
    if held is parameter:
        return
    if held is not None:
        if held is not _announced.get(name):
            raise RuntimeError(
                f"Pyro's param store holds a tensor {name!r} that is not the lifted network's: use "
                "bnn.load_state_dict to load weights, or pyro.clear_param_store() to drop it"
            )
        del store[name]
    _announced[name] = parameter
    store._constraints[name] = constraints.real
    store._params[name] = parameter
    store._param_to_name[parameter] = name


def _refuse_second(name: str, parameter: Tensor) -> None:
    for handler in poutine.runtime._PYRO_STACK:
        if isinstance(handler, TraceMessenger) and name in handler.trace.nodes:
            value: Any = handler.trace.nodes[name]["value"]
            if value.unconstrained() is not parameter:
                raise RuntimeError(
                    f"two lifted networks in one program both have a parameter {name!r}: give each "
                    "network a name, lift(..., name=...)"
                )
