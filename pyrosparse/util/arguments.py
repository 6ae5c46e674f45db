"""Positional arguments of a function from some by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from pyrosparse.util.errors import UsageError


def arguments(named: Mapping[str, Any], model: Callable[..., Any] | None) -> tuple[Any, ...]:
    """Positional arguments of a model from some by name, with its defaults between them.

    model: a function or module. One that takes any arguments may say itself which they are, by a
           method ``from_names(named)`` that returns them.

    Raises TypeError if the model has no argument of a name, or a needed one is not there.

    >>> arguments({"y": 2, "x": 1}, lambda x, mask=None, y=None: None)
    (1, None, 2)
    """
    if model is None:
        raise UsageError(
            f"data by name ({', '.join(named)}) are matched to a model's arguments, but there is "
            "no model here: give a tuple"
        )
    own = getattr(model, "from_names", None)
    if own is not None:
        return tuple(own(named))
    function: Any = model
    if isinstance(model, nn.Module) and type(model).__call__ is nn.Module.__call__:
        function = model.forward
    parameters = inspect.signature(function).parameters.values()
    known = [
        one.name
        for one in parameters
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    unknown = [name for name in named if name not in known]
    if unknown:
        raise UsageError(
            f"the data have {', '.join(map(repr, unknown))}, but the model's positional arguments "
            f"are {', '.join(known) or 'not named'}: name the data as the arguments, or give a "
            "tuple in their order"
        )
    defaults = {one.name: one.default for one in parameters}
    last = max(map(known.index, named), default=-1)
    missing = [
        name
        for place, name in enumerate(known)
        if name not in named and (place == 0 or defaults[name] is inspect.Parameter.empty)
    ]
    if missing:
        raise UsageError(
            f"the model needs {', '.join(map(repr, missing))}, which the data do not have: they "
            f"have {', '.join(map(repr, named))}"
        )
    return tuple(named.get(name, defaults[name]) for name in known[: last + 1])
