"""Random numbers that do not change those of the caller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def generators_left_alone() -> Iterator[None]:
    """Restore torch's generators after a block, of the processor and of every CUDA device.

    >>> state = torch.get_rng_state()
    >>> with generators_left_alone():
    ...     _ = torch.manual_seed(0), torch.rand(3)
    >>> torch.equal(torch.get_rng_state(), state)
    True
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield
