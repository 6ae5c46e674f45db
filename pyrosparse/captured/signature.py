"""The arguments and surroundings on which a captured step depends."""

from __future__ import annotations

from typing import Any

import pyro.poutine as poutine
import torch
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor
from torch.utils import _pytree as pytree


def signature(args: Any, kwargs: Any) -> tuple[Any, list[Tensor]]:
    """The properties of the arguments on which a capture depends, and the tensors among them."""
    leaves, tree = pytree.tree_flatten((args, kwargs))
    arguments: list[Tensor] = []
    described: list[Any] = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            if leaf.requires_grad or leaf.layout is not torch.strided:
                return None, arguments
            described.append((leaf.dtype, leaf.shape, leaf.stride(), leaf.device))
            arguments.append(leaf)
        elif isinstance(leaf, bool | int | float | str | type(None)):
            described.append((type(leaf), leaf))
        else:
            return None, arguments
    handlers = tuple(map(_describe, poutine.runtime._PYRO_STACK))
    setting = (torch.get_default_dtype(), torch.is_autocast_enabled("cpu"), handlers)
    return (tree, tuple(described), setting), arguments


def same_kind(one: Any, other: Any) -> bool:
    """Whether two signatures have the same tensors, and differ at most in numbers."""
    if type(one) is tuple and type(other) is tuple:
        return len(one) == len(other) and all(map(same_kind, one, other))
    numbers = type(one) is type(other) and type(one) in (int, float)
    return numbers or one == other


def _describe(handler: Any) -> tuple[Any, ...]:
    """A handler by its contents: one made anew in every step equals the last."""
    parts = vars(handler).items()
    plain = (bool, int, float, str, type(None))
    return type(handler), *((k, v if isinstance(v, plain) else id(v)) for k, v in parts)


def is_recorded() -> bool:
    """Whether a handler around the step records its sites, which a captured step does not visit."""
    return any(isinstance(handler, TraceMessenger) for handler in poutine.runtime._PYRO_STACK)
