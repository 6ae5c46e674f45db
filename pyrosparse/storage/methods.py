"""Methods as JSON, class and options, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pyrosparse import methods, supports
from pyrosparse.lifting.method import Method, from_pyro
from pyrosparse.methods.dependent_beta_bernoulli import DependentBetaBernoulli
from pyrosparse.storage.modules import qualified_name
from pyrosparse.storage.storage import StorageError
from pyrosparse.storage.values import decode, encode

_CLASSES: dict[str, type[Any]] = {
    f"pyrosparse.{name}": value
    for room in (methods, supports)
    for name, value in vars(room).items()
    if isinstance(value, type) and dataclasses.is_dataclass(value)
} | {"pyrosparse.HorseshoePrior": methods.horseshoe.HorseshoePrior}
_NAME_OF = {value: name for name, value in _CLASSES.items()}
_FROM_PYRO: Any = type(methods.Horseshoe())


def describe_method(method: Any) -> dict[str, Any]:
    """A method's class and options as JSON.

    A class of one's own, a dataclass, is named by its module and name.

    Raises ValueError on options and classes that a file cannot hold.

    >>> describe_method(methods.LaplacePrior(scale=0.5))["options"]["scale"]
    0.5
    """
    if isinstance(method, DependentBetaBernoulli):
        first = {key: describe_method(one) for key, one in method.first.items()}
        return {"after": first, "scale": method.scale}
    if isinstance(method, _FROM_PYRO):
        if method.own_score is not None:
            raise ValueError(f"{method!r} has a score that is a function: write a Method for it")
        return {
            "prior": describe_method(method.fn),
            "threshold": method.threshold,
            "initial_scale": method.initial_scale,
        }
    kind = type(method)
    if not dataclasses.is_dataclass(method):
        raise ValueError(
            f"{method!r} is not a dataclass, so its options cannot be saved: write the prior, or "
            "the Method, as a frozen dataclass of its hyper-parameters"
        )
    options = {}
    for field in dataclasses.fields(method):
        value = getattr(method, field.name)
        if dataclasses.is_dataclass(value):
            options[field.name] = {"part": describe_method(value)}
            continue
        try:
            options[field.name] = encode(value, {})
        except ValueError as error:
            raise ValueError(
                f"{kind.__name__} cannot be saved: its option {field.name} is {error}"
            ) from error
    return {"class": _NAME_OF.get(kind, qualified_name(kind)), "options": options}


def build_method(description: Mapping[str, Any], trusted: Mapping[str, type[Any]]) -> Any:
    """The method that was described.

    trusted: classes beside those of pyrosparse, by name.

    Raises StorageError on classes that a file may not have, and on options out of range.

    >>> build_method(describe_method(methods.LaplacePrior(scale=0.5)), {}).scale
    0.5
    """
    if "after" in description:
        first = {key: build_method(one, {}) for key, one in description["after"].items()}
        return DependentBetaBernoulli.resumed(first, scale=description["scale"])
    if "prior" in description:
        return from_pyro(
            build_method(description["prior"], trusted),
            threshold=description["threshold"],
            initial_scale=description["initial_scale"],
        )
    name = description["class"]
    classes = {**trusted, **_CLASSES}
    if name not in classes:
        raise StorageError(
            f"it has a method of class {name!r}, which a file may not contain. If it is your own "
            "class, pass it: ps.load(path, trusted=[TheClass])"
        )
    options = {
        key: build_method(value["part"], trusted)
        if isinstance(value, dict) and value.keys() == {"part"}
        else decode(value, {})
        for key, value in description["options"].items()
    }
    try:
        return classes[name](**options)
    except Exception as error:
        # Whatever a constructor raises on options that it was not made for.
        raise StorageError(f"{name} cannot be made of {options}: {error}") from error


def check_method(method: Any, name: str) -> Method:
    """The method of a target; raises StorageError where it is a part of one."""
    if not isinstance(method, Method):
        raise StorageError(
            f"the target {name!r} has a {type(method).__name__}, which is not a method"
        )
    return method
