"""A device that is not the CPU, as far as a CPU can show one.

Its tensors compute what CPU tensors compute, with the same random numbers, and refuse, as a GPU
does, to be mixed with tensors of the CPU: so what runs on it creates its tensors where its
inputs are, and must return what the CPU returns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._python_dispatch import return_and_correct_aliasing

aten = torch.ops.aten

OTHER = "other"

# Between devices, as on a GPU; an index may lie on the CPU.
_COPIES = (aten.copy_.default, aten._to_copy.default)
_INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


class OtherTensor(Tensor):
    """A tensor on the other device; ``values`` is the one on the CPU that holds its values."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> OtherTensor:
        return Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=torch.device(OTHER, 0),
        )

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __repr__(self) -> str:
        return f"OtherTensor({self.values})"

    def __deepcopy__(self, memo: dict[int, Any]) -> OtherTensor:
        if id(self) not in memo:
            copy: Any = OtherTensor(self.values.clone()).requires_grad_(self.requires_grad)
            memo[id(self)] = nn.Parameter(copy) if isinstance(self, nn.Parameter) else copy
        return memo[id(self)]

    def new_tensor(self, data: Any, dtype: Any = None, device: Any = None) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or OTHER)

    def tolist(self) -> Any:
        return self.values.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _compute(function, args, kwargs or {})


def available() -> bool:
    """Whether this torch lets a device be written in Python."""
    return hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


@contextlib.contextmanager
def other_device() -> Iterator[torch.device]:
    """The device; within, functions that make tensors know it."""
    register()
    made_from_python = {
        name: getattr(torch, name) for name in ("arange", "eye", "full", "linspace", "tensor")
    }
    as_tensor = torch.as_tensor

    def as_tensor_here(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
        if isinstance(data, Tensor):
            return data.to(dtype=dtype or data.dtype, device=device or data.device)
        return torch.tensor(data, dtype=dtype, device=device)

    try:
        for name, make in made_from_python.items():
            setattr(torch, name, _placing(make))
        torch.as_tensor = as_tensor_here  # type: ignore[assignment]
        yield torch.device(OTHER, 0)
    finally:
        for name, make in made_from_python.items():
            setattr(torch, name, make)
        torch.as_tensor = as_tensor


_libraries: list[torch.library.Library] = []


def register() -> None:
    """Make the device known to torch, once: before the first backward pass of a process."""
    if _libraries:
        return
    backend_registration._setup_privateuseone_for_python_backend(OTHER)
    fallback = torch.library.Library("_", "IMPL")
    fallback.fallback(lambda function, *a, **k: _compute(function, a, k), "PrivateUse1")
    library = torch.library.Library("aten", "IMPL")

    def empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
        return OtherTensor(torch.empty(size, dtype=dtype))

    def empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
        return OtherTensor(torch.empty_strided(size, stride, dtype=dtype))

    library.impl("empty.memory_format", empty, "PrivateUse1")
    library.impl("empty_strided", empty_strided, "PrivateUse1")
    _libraries.extend([fallback, library])


def _is_other(device: Any) -> bool:
    return device is not None and torch.device(device).type == OTHER


def _placing(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def place(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        args = tuple(one.values if isinstance(one, OtherTensor) else one for one in args)
        if _is_other(device):
            return OtherTensor(make(*args, **kwargs))
        return make(*args, device=device, **kwargs)

    return place


def _compute(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = list(_tensors((*args, *kwargs.values())))
    here = [one for one in tensors if not isinstance(one, OtherTensor) and one.dim() > 0]
    there = any(isinstance(one, OtherTensor) for one in tensors)
    allowed = function in _COPIES or (function in _INDEXING and isinstance(args[0], OtherTensor))
    if here and there and not allowed:
        shapes = [tuple(one.shape) for one in here]
        raise RuntimeError(f"{function} takes tensors of the other device and of the CPU: {shapes}")
    stays = there
    if function is aten.copy_.default:
        stays = isinstance(args[0], OtherTensor)
    if kwargs.get("device") is not None:
        stays = _is_other(kwargs["device"])
        kwargs = {**kwargs, "device": torch.device("cpu")}
    found = function(*_values(args), **{name: _values(one) for name, one in kwargs.items()})
    if not stays:
        return args[0] if function is aten.copy_.default else found
    found = _wrapped(found)
    if any(result.alias_info is not None for result in function._schema.returns):
        return return_and_correct_aliasing(function, args, kwargs, found)
    return found


def _tensors(arguments: Any) -> Iterator[Tensor]:
    for one in arguments:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, list | tuple):
            yield from _tensors(one)


def _values(argument: Any) -> Any:
    if isinstance(argument, OtherTensor):
        return argument.values
    if isinstance(argument, list | tuple):
        return type(argument)(_values(one) for one in argument)
    return argument


def _wrapped(result: Any) -> Any:
    if isinstance(result, Tensor):
        return OtherTensor(result)
    if isinstance(result, list | tuple):
        return type(result)(_wrapped(one) for one in result)
    return result
