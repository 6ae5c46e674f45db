"""CUDA graphs as far as a CPU can show them.

As on a GPU, recording changes nothing: no random generator, no tensor. A replay runs the recorded
operations on the memory that they were recorded with; a number on the host stays what it was when
they were recorded, as kernels take it by value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pyrosparse.captured.state import State


class EmulatedRecorder:
    """Stands in for ``CudaRecorder``; ``recorded`` and ``replayed`` count over all of them.

    numbers_on_host: tensors that are to be taken for such.
    """

    recorded = 0
    replayed = 0
    numbers_on_host: ClassVar[list[Tensor]] = []

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, run: Any, inputs: list[Tensor]) -> tuple[list[Any], Callable[[], None]]:
        type(self).recorded += 1
        before = State(inputs)
        by_value = [
            one.clone() if any(one is number for number in self.numbers_on_host) else one
            for one in inputs
        ]
        with torch.no_grad(), _Recording() as recording:
            results = run(by_value)
        before.restore()
        recording.forget_values()

        def replay() -> None:
            type(self).replayed += 1
            with torch.no_grad():
                recording.replay()

        return results, replay


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        self._calls.append((function, args, kwargs, result))
        return result

    def forget_values(self) -> None:
        """Leave no value where results will lie."""
        for function, args, _, result in self._calls:
            for tensor in _new(function, args, result):
                if tensor.is_floating_point():
                    tensor.fill_(torch.nan)

    def replay(self) -> None:
        for function, args, kwargs, result in self._calls:
            new = _new(function, args, result)
            found = function(*args, **kwargs)
            if new:
                pairs = zip(pytree.tree_leaves(result), pytree.tree_leaves(found), strict=True)
                for memory, value in pairs:
                    if isinstance(memory, Tensor):
                        memory.copy_(value)


def _new(function: Any, args: Any, result: Any) -> list[Tensor]:
    """The results of an operation that lie in memory of their own."""
    given = {
        tensor.untyped_storage().data_ptr()
        for tensor in pytree.tree_leaves(args)
        if isinstance(tensor, Tensor)
    }
    return [
        tensor
        for tensor in pytree.tree_leaves(result)
        if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in given
    ]
