"""Parameter groups: one optimizer for all parameters, with rates by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer

from pyrosparse.util.errors import unknown_name
from pyrosparse.util.globs import first_match

Rates = float | Mapping[str, float]


def fused_adam(groups: list[dict[str, Any]]) -> Optimizer:
    """Adam in one kernel for all parameters."""
    return torch.optim.Adam(groups, fused=True)


def made(optimizer: Any, groups: list[dict[str, Any]]) -> Optimizer:
    """The torch optimizer that a class or function makes from parameter groups; by default Adam.

    Raises TypeError if it is a ``PyroOptim`` or an optimizer instance, if it returns no optimizer,
    or one whose step calls a closure, such as LBFGS.

    >>> made(torch.optim.SGD, [{"params": [torch.ones(2)], "lr": 0.1}]).defaults["momentum"]
    0
    """
    if isinstance(optimizer, PyroOptim):
        raise TypeError(
            f"fit needs a torch optimizer, but got a {type(optimizer).__name__} of Pyro: give "
            "optimizer=torch.optim.Adam (or lambda groups: torch.optim.Adam(groups, ...)) with "
            "learning_rate=... and schedule=...; SVI and ps.captured.CapturedSVI take those of Pyro"
        )
    if isinstance(optimizer, Optimizer):
        kind = type(optimizer).__name__
        raise TypeError(
            f"this {kind} is already built, with parameters that fit does not know: give the "
            "class, "
            f"optimizer=torch.optim.{kind}, or a function from parameter groups to an optimizer"
        )
    if optimizer is not None and not callable(optimizer):
        raise TypeError(
            "optimizer is a class or a function from parameter groups to an optimizer, such as "
            f"torch.optim.SGD; got {optimizer!r}"
        )
    result = fused_adam(groups) if optimizer is None else optimizer(groups)
    if not isinstance(result, Optimizer):
        raise TypeError(
            f"optimizer returned a {type(result).__name__} instead of a torch optimizer"
        )
    closure = inspect.signature(result.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TypeError(
            f"fit draws new noise in every step, but {type(result).__name__} computes the same "
            "loss several times in one: give an optimizer for stochastic gradients, such as "
            "torch.optim.Adam"
        )
    return result


def parameter_groups(parameters: Mapping[str, Tensor], rates: Rates) -> list[dict[str, Any]]:
    """One group for each rule of the rates, so that a fused optimizer needs few launches.

    rates: one rate, or rates by glob on names; the first rule that matches counts.

    Raises ValueError if no rule matches a parameter, a rule matches none, or a rate is negative or
    not finite.

    >>> import torch
    >>> w = torch.ones(2)
    >>> [group["lr"] for group in parameter_groups({"a": w, "b": w}, {"a": 0.1, "*": 0.2})]
    [0.1, 0.2]
    """
    if not isinstance(rates, Mapping):
        rates = {"*": rates}
    for rate_of, rate in rates.items():
        if not isinstance(rate, Real) or not 0 <= rate < math.inf:
            of = "" if rate_of == "*" else f" of {rate_of!r}"
            raise ValueError(f"the learning rate{of} must be a number of 0 or more, got {rate!r}")
    grouped: dict[str, list[Tensor]] = {rule: [] for rule in rates}
    for name, tensor in parameters.items():
        rule = first_match(rates, name)
        if rule is None:
            raise ValueError(
                f"no learning rate is given for {name!r}; add a rule for it, or '*' for all others"
            )
        grouped[rule].append(tensor)
    for rule, tensors in grouped.items():
        if not tensors and not any(fnmatchcase(name, rule) for name in parameters):
            raise unknown_name("parameter in learning_rate", rule, parameters)
    return [
        {"params": tensors, "lr": rates[rule], "name": rule}
        for rule, tensors in grouped.items()
        if tensors
    ]
