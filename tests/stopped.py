"""Training that is stopped on the way, as by Ctrl-C."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pyrosparse.infer import checkpoint, resuming


@contextmanager
def stopped_after(saves: int) -> Iterator[None]:
    """Within, training is interrupted where it would write one more checkpoint than that; it is an
    error if it does not come to that."""
    save, left = checkpoint.save, saves

    def save_some(*arguments: Any) -> Any:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        return save(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", save_some)
        patch.setattr(resuming, "TIMES_AS_LONG", 0)  # a checkpoint after every epoch
        with pytest.raises(KeyboardInterrupt):
            yield
