"""Tensors of which a process holds a part only, such as those of FSDP2."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a wrapper around parts of its values (``DTensor``), so that code that
    reads its storage would read something else.

    >>> import torch
    >>> sharded(torch.ones(2))
    False
    """
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    return is_traceable_wrapper_subclass(tensor)


def refuse_sharded(named: Iterable[tuple[str, Tensor]], what: str, advice: str) -> None:
    """Raise TypeError that names the sharded tensors among those given.

    what: is refused, and why; advice: what to do in its place."""
    names = [f"{name} ({type(tensor).__name__})" for name, tensor in named if sharded(tensor)]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise TypeError(f"{what}: {', '.join(names[:3])}{more} are sharded. {advice}")
