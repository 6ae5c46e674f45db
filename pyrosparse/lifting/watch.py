"""Which layers a forward pass calls, and whose parameters it reads past them."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from pyrosparse.lifting.attention import no_fast_path, projecting
from pyrosparse.util.generators import generators_left_alone
from pyrosparse.util.modes import evaluating

_READS_NO_VALUES = {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"}
_READS_THE_FIRST = {"to", "type_as", "expand_as", "view_as", "reshape_as"}


class Watch(TorchFunctionMode):
    """Counts the operations of a forward pass that take certain tensors.

    tensors: those to be watched.

    Raises ValueError if one is taken within ``torch.utils.checkpoint``: it runs the layers
    again in the backward pass, when the drawn weights and gates are no longer in place.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self._tensors = {id(tensor): tensor for tensor in tensors}
        self._uses = dict.fromkeys(self._tensors, 0)
        self._may_recompute = torch.is_grad_enabled()

    def uses(self, tensor: Tensor) -> int:
        """How many operations took a tensor."""
        return self._uses.get(id(tensor), 0)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in _READS_NO_VALUES or name.startswith("new_"):
            return result
        taken = args[:1] if name in _READS_THE_FIRST else (args, kwargs)
        used = {id(one) for one in pytree.tree_leaves(taken) if id(one) in self._tensors}
        # What gives no tensor asks for a shape or a type.
        if used and any(isinstance(one, Tensor) for one in pytree.tree_leaves(result)):
            if self._may_recompute and _in_checkpoint():
                raise ValueError(
                    "the network uses torch.utils.checkpoint, which runs layers again in the "
                    "backward pass, without the weights and gates that were drawn: turn gradient "
                    "checkpointing off in a lifted network"
                )
            for one in used:
                self._uses[one] += 1
        return result


def _in_checkpoint() -> bool:
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename == torch.utils.checkpoint.__file__:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def read_past(
    run: Callable[[dict[str, Tensor]], Any], net: nn.Module, tensors: Mapping[str, list[Tensor]]
) -> set[str]:
    """The modules that a network does not call, but of which it reads parameters.

    run:     runs the network with some of its tensors replaced, by name.
    tensors: the tensors of the modules in question as the run sees them, by the module's name.

    The caller's generators and the network's buffers stay as they are.
    """
    called: set[str] = set()
    handles = [
        net.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: called.add(name))
        for name in tensors
    ]
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    try:
        with _same_randomness(), Watch(one for some in tensors.values() for one in some) as watch:
            run(buffers)
    finally:
        for handle in handles:
            handle.remove()
    return {
        name for name, some in tensors.items() if name not in called and any(map(watch.uses, some))
    }


def read_without_calls(
    net: nn.Module, names: Collection[str], example: tuple[Any, ...]
) -> set[str]:
    """The modules that a network never calls, but of which it reads parameters, as
    ``F.linear(x, self.layer.weight)`` does: gates and noise of such layers would do nothing.

    names:   of the modules in question.
    example: what the network is called with, once, in evaluation mode.

    >>> class Past(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer, self.other = nn.Linear(3, 2), nn.Linear(2, 1)
    ...     def forward(self, x):
    ...         return self.other(x @ self.layer.weight.T)
    >>> read_without_calls(Past(), ["layer", "other"], (torch.ones(1, 3),))
    {'layer'}
    """
    attentions = [one for one in net.modules() if isinstance(one, nn.MultiheadAttention)]
    tensors: dict[str, list[Tensor]] = {
        name: [*net.get_submodule(name).parameters(recurse=False)] for name in names
    }
    with torch.no_grad(), evaluating(net), no_fast_path(), projecting(attentions):
        return read_past(lambda buffers: functional_call(net, buffers, example), net, tensors)


@contextmanager
def _same_randomness() -> Iterator[None]:
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with generators_left_alone():
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
