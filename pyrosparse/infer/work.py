"""The number of threads that the steps of a training are worth."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from pyrosparse.util.threads import threads

ELEMENT = 50
"""Floating-point operations of a product that take as long as one element of any other result."""

WORTH_THREADS = 1_000_000_000
"""Work of a forward pass above which several threads are faster; about 20 ms on one core."""


class Work(TorchDispatchMode):
    """Counts the work of the computations in a block: the floating-point operations of products and
    convolutions, and ``ELEMENT`` for each element of all other results.

    >>> with Work() as work:
    ...     _ = torch.ones(2, 3) @ torch.ones(3, 4)
    >>> work.operations, work.elements, work.total
    (48, 18, 948)
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.elements = 0

    @property
    def total(self) -> int:
        """The work, as a number of floating-point operations of products."""
        return self.operations + ELEMENT * self.elements

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.operations += count(*args, **kwargs, out_val=result)
        elif isinstance(result, torch.Tensor) and not func.is_view:
            self.elements += math.prod(result.shape)
        return result


@contextmanager
def worthwhile_threads(work: Work) -> Iterator[None]:
    """For a block, run steps on one thread if their work is small, else on as many as before.

    Threads wait for each other by spinning, hundreds of times in a step. If another program uses
    one of their cores, each wait can take a time slice, and a small step a hundred times as long.
    The choice depends on the work, not on a clock: sums depend on the number of threads, and a seed
    must give the same numbers again.

    work: the work of a forward pass.

    >>> with worthwhile_threads(Work()):
    ...     torch.get_num_threads()
    1
    """
    small = work.total < WORTH_THREADS
    with threads(1 if small else torch.get_num_threads()):
        yield
