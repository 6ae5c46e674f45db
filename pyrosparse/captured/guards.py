"""The assumptions of a captured step, and whether they still hold."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import random
import site
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
_OPEN = (Messenger, ELBO, types.SimpleNamespace, argparse.Namespace)
"""Classes of libraries whose objects hold settings."""

_LONGEST = 1000
"""Entries of a container that are looked at one by one; a longer one counts as data."""

_LIBRARIES = {"torch", "pyro", "pyrosparse", "numpy", "scipy", *sys.stdlib_module_names}
"""Packages whose functions and classes hold no settings of a model; its objects may."""

_FOREIGN = _LIBRARIES - {"pyrosparse"}

_INSTALLED = tuple(
    f"{folder}{os.sep}"
    for folder in (
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
        *site.getsitepackages(),
        site.getusersitepackages(),
    )
)
"""Folders of installed packages."""

_TENSORS_AND_PARTS = ("_parameters", "_buffers", "_modules")

_MODULE_INTERNALS = set(nn.Module().__dict__) - {"training"}

_MISSING = object()


class Guards:
    """The Python values and tensors that a model and a guide refer to, as they were at a capture.

    Looks into modules, closures, global variables, attributes and containers, but not into the
    code of installed packages, other than those of the roots themselves. Guards numbers, strings,
    and the identity of objects, but not the values in tensors, which a captured step reads anew
    each time.

    modules: the modules found.
    tensors: the tensors found.
    generators: the random generators found, of numpy, Python or torch.
    """

    def __init__(self, roots: Mapping[str, Any]) -> None:
        self.modules: list[nn.Module] = []
        self.tensors: list[Tensor] = []
        self.generators: list[Any] = []
        self._values: list[tuple[Any, Any, Any]] = []
        self._names: list[str] = []
        self._lengths: list[tuple[Any, int, str]] = []
        self._types: list[tuple[Any, ...]] = []
        self._seen: dict[int, Any] = {}  # keeps the objects, so that their ids are not reused
        self._own_packages = {_package(getattr(root, "func", root)) for root in roots.values()}
        self._ahead: deque[tuple[Any, str]] = deque((root, name) for name, root in roots.items())
        while self._ahead:
            self._look_into(*self._ahead.popleft())

    def __len__(self) -> int:
        return len(self._values) + len(self._lengths) + len(self._types)

    def add(self, place: Any, key: Any, name: str) -> None:
        """Guard the value at ``place[key]``."""
        self._values.append((place, key, place[key]))
        self._names.append(name)

    def add_tensor(self, tensor: Tensor) -> None:
        """Guard the type of a tensor."""
        if not any(tensor is other for other in self.tensors):
            self.tensors.append(tensor)
            self._types.append((tensor, *_type_of(tensor)))

    def hold(self) -> bool:
        """Whether nothing has changed."""
        try:
            for place, key, value in self._values:
                if (now := place[key]) is not value and not _equal(now, value):
                    return False
        except (KeyError, IndexError, ValueError):
            return False
        for container, length, _ in self._lengths:
            if len(container) != length:
                return False
        for tensor, dtype, device, shape, requires_grad in self._types:
            if (
                tensor.dtype is not dtype
                or tensor.shape != shape
                or tensor.requires_grad is not requires_grad
                or tensor.device != device
            ):
                return False
        return True

    def forget_scratch(self) -> None:
        """Stop guarding objects that have been replaced by others, such as the plates that a guide
        makes anew in every run; numbers, strings and tensors stay guarded."""
        kept = [
            index
            for index, (place, key, value) in enumerate(self._values)
            if _equal(now := _get(place, key), value)
            or isinstance(value, (*_PLAIN, Tensor))
            or isinstance(now, (*_PLAIN, Tensor))
        ]
        self._values = [self._values[index] for index in kept]
        self._names = [self._names[index] for index in kept]

    def broken(self) -> list[str]:
        """The names of the values that have changed."""
        changed = [
            name
            for (place, key, value), name in zip(self._values, self._names, strict=True)
            if not _equal(_get(place, key), value)
        ]
        changed += [name for container, length, name in self._lengths if len(container) != length]
        types = [entry for entry in self._types if _type_of(entry[0]) != entry[1:]]
        return changed + [f"the type of a tensor of shape {tuple(one[3])}" for one in types]

    def _look(self, value: Any, name: str) -> None:
        """Queue a value to be looked into: not at once, as references can be a long chain."""
        self._ahead.append((value, name))

    def _is_library(self, value: Any) -> bool:
        """Whether a function, class or Python module is part of a library without settings."""
        package = _package(value)
        return package in _LIBRARIES or (
            package not in self._own_packages and _is_installed(package)
        )

    def _look_into(self, value: Any, name: str) -> None:
        """Guard everything that a value refers to."""
        if isinstance(value, _PLAIN) or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, _GENERATORS):
            self.generators.append(value)
            return
        if isinstance(value, type):
            if not self._is_library(value):
                self._look_into_class(value, value, name)
            return
        if isinstance(value, types.ModuleType):
            if not self._is_library(value):
                settings = [
                    (key, one)
                    for key, one in vars(value).items()
                    if isinstance(one, (*_PLAIN, Tensor)) and not key.startswith("__")
                ]
                self._look_at(vars(value), settings, name)
            return
        if isinstance(value, Tensor):
            self.add_tensor(value)
        elif isinstance(value, nn.Module):
            self._look_into_module(value, name)
        elif isinstance(value, functools.partial):
            for part in (value.func, value.args, value.keywords):
                self._look(part, name)
        elif isinstance(value, types.MethodType):
            self._look(value.__self__, name)
            self._look(value.__func__, name)
        elif isinstance(value, types.FunctionType):
            self._look_into_function(value, name)
        elif isinstance(value, dict | list):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            self._lengths.append((value, len(value), name))
            if len(value) <= _LONGEST:
                self._look_at(value, list(items), name)
        elif isinstance(value, tuple):
            for index, one in enumerate(value[:_LONGEST]):  # cannot change: no guards
                self._look(one, f"{name}[{index}]")
        elif isinstance(value, _OPEN) or _package(type(value)) not in _FOREIGN:
            self._look_into_object(value, name)

    def _look_at(self, place: Any, items: Iterable[tuple[Any, Any]], name: str) -> None:
        for key, value in items:
            inner = f"{name}.{key}".removeprefix(".") if isinstance(key, str) else f"{name}[{key}]"
            if not isinstance(value, types.ModuleType):
                self.add(place, key, inner)
            self._look(value, inner)

    def _look_into_module(self, module: nn.Module, name: str) -> None:
        self.modules.append(module)
        attributes = module.__dict__
        for part in _TENSORS_AND_PARTS:
            self._lengths.append((attributes[part], len(attributes[part]), f"{name}.{part}"))
            self._look_at(attributes[part], list(attributes[part].items()), name)
        for hooks in ("_forward_hooks", "_forward_pre_hooks"):
            self._lengths.append((attributes[hooks], len(attributes[hooks]), f"{name}.{hooks}"))
        own = [pair for pair in attributes.items() if pair[0] not in _MODULE_INTERNALS]
        self._look_at(attributes, own, name)
        self._look_into_class(type(module), module, name)

    def _look_into_object(self, value: Any, name: str) -> None:
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict):
            self._look_at(attributes, list(attributes.items()), name)
        self._look_into_class(type(value), value, name)

    def _look_into_class(self, kind: type, instance: Any, name: str) -> None:
        for base in kind.__mro__:
            if self._is_library(base):
                continue
            for attribute, value in vars(base).items():
                if attribute.startswith("__") and attribute != "__call__":
                    continue
                value = getattr(value, "fget", None) or getattr(value, "__func__", value)
                if isinstance(value, types.FunctionType):
                    self._look(value, f"{name}.{attribute}")
                elif isinstance(value, (*_PLAIN, list, dict, tuple, Tensor)):
                    # As the instance sees it, which may have its own value.
                    with contextlib.suppress(AttributeError):
                        now = getattr(instance, attribute)
                        self._look_at(_Attributes(instance), [(attribute, now)], name)

    def _look_into_function(self, function: types.FunctionType, name: str) -> None:
        if self._is_library(function):
            return
        variables = function.__code__.co_freevars
        for variable, cell in zip(variables, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # not assigned yet
                self._look_at(_Cell(cell), [(variable, cell.cell_contents)], "")
        for part in (function.__defaults__, function.__kwdefaults__):
            self._look(part, name)
        names = _global_names(function.__code__)
        for variable in sorted(names & function.__globals__.keys()):
            value = function.__globals__[variable]
            self._look_at(function.__globals__, [(variable, value)], "")
            self._look_into_python_module(value, names, variable, set())

    def _look_into_python_module(
        self, value: Any, names: set[str], name: str, visited: set[int]
    ) -> None:
        python_module = isinstance(value, types.ModuleType) and not self._is_library(value)
        if not python_module or id(value) in visited:
            return
        visited.add(id(value))  # modules refer to each other in circles
        used = sorted(names & vars(value).keys())
        self._look_at(vars(value), [(key, vars(value)[key]) for key in used], name)
        for key in used:
            self._look_into_python_module(vars(value)[key], names, f"{name}.{key}", visited)


class _Cell:
    """A variable of an enclosing function, read as if from a mapping."""

    def __init__(self, cell: types.CellType) -> None:
        self.cell = cell

    def __getitem__(self, key: str) -> Any:
        return self.cell.cell_contents


class _Attributes:
    """The attributes of an object, including those of its class, read as if from a mapping."""

    def __init__(self, instance: Any) -> None:
        self.instance = instance

    def __getitem__(self, key: str) -> Any:
        try:
            return getattr(self.instance, key)
        except AttributeError:
            raise KeyError(key) from None


def _get(place: Any, key: Any) -> Any:
    try:
        return place[key]
    except (KeyError, IndexError, ValueError):
        return _MISSING


def _equal(now: Any, value: Any) -> bool:
    if now is value:
        return True
    return type(now) is type(value) and isinstance(now, _PLAIN) and bool(now == value)


def _global_names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names


def _package(value: Any) -> str:
    """The name of the package of a function, a class, an object or a Python module."""
    module = getattr(value, "__module__", None) or getattr(value, "__name__", "")
    return str(module).partition(".")[0]


@functools.cache
def _is_installed(package: str) -> bool:
    """Whether a package is in an installation folder, not in a working copy."""
    file = getattr(sys.modules.get(package), "__file__", None) or ""
    return file.startswith(_INSTALLED)


def _type_of(tensor: Tensor) -> tuple[torch.dtype, torch.device, torch.Size, bool]:
    return tensor.dtype, tensor.device, tensor.shape, tensor.requires_grad
