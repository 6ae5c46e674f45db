"""Several processes of one command, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher tells each process, so that they find each other."""


@contextmanager
def process_group() -> Iterator[bool]:
    """Within, the processes that a launcher has started are torch's default process group.

    Yields whether this process is the first of them, which shows the progress and prints; also
    where it was started alone, and then there is no group.
    """
    if any(name not in os.environ for name in _NEEDED) or int(os.environ["WORLD_SIZE"]) == 1:
        yield True
        return
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    dist.init_process_group()
    try:
        yield dist.get_rank() == 0
    finally:
        dist.destroy_process_group()
