"""Telling Pyro of parameters that stay a module's own."""

from __future__ import annotations

import pyro
import pyro.poutine as poutine
from torch import Tensor
from torch.distributions import constraints


def announce(name: str, parameter: Tensor | None) -> None:
    """Make a parameter a ``param`` site, so that SVI finds it; it stays the module's own.

    Where Pyro's param store holds the parameter of another lifted network under the name, as
    after training one network and making the next, this one takes its place: the store never
    shadows a module.

    Raises RuntimeError where the store holds a tensor from elsewhere, such as from a file.
    """
    if parameter is None or not parameter.requires_grad:
        return
    if pyro.settings.get("module_local_params"):
        site = poutine.runtime.effectful(type="param")(lambda *_, **__: parameter)
        site(name, parameter, name=name)
        return
    store = pyro.get_param_store()
    held = store._params.get(name)
    if held is not parameter:
        if held is not None and not getattr(held, "_announced", False):
            raise RuntimeError(
                f"Pyro's param store holds a tensor {name!r} that is not the lifted network's: use "
                "bnn.load_state_dict to load weights, or pyro.clear_param_store() to drop it"
            )
        if held is not None:
            del store[name]
        parameter._announced = True  # type: ignore[attr-defined]
        store._constraints[name] = constraints.real
        store._params[name] = parameter
        store._param_to_name[parameter] = name
    pyro.param(name)
