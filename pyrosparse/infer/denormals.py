"""Flushing denormal numbers, which make training on a CPU many times slower."""

from __future__ import annotations

import torch


class flush_denormals:
    """Treat numbers too small for a normalised float as zero, for a block, on the CPU.

    Gradients of weights that the prior has pulled to nearly zero, and an optimizer's averages of
    them, decay into the denormal range (below 1e-38 in float32), where processors compute tens of
    times slower. The end of the block restores the earlier setting; on a processor that cannot
    flush, nothing happens. It applies to the calling thread and to threads started later: in a
    program that computes on several threads, call ``torch.set_flush_denormal(True)`` first of all.

    >>> with flush_denormals():
    ...     flushing()
    True
    """

    def __enter__(self) -> None:
        self._before = flushing()
        torch.set_flush_denormal(True)

    def __exit__(self, *exception: object) -> None:
        torch.set_flush_denormal(self._before)


def flushing() -> bool:
    """Whether this thread flushes denormal numbers to zero."""
    return float(torch.tensor(1e-40) * torch.tensor(1.0)) == 0.0
