"""The state that a step changes besides its parameters, kept and put back around a trial."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor


class State:
    """The random generators and the values of tensors at one moment."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._generators = _generators()
        with torch.no_grad():
            self._values = [
                (tensor, tensor.clone())
                for tensor in tensors
                if 0 not in tensor.stride()  # expanded: nothing can write to it
            ]

    def covers(self, tensor: Tensor) -> bool:
        """Whether the value of a tensor is kept."""
        return any(tensor is kept for kept, _ in self._values)

    def restore(self) -> None:
        """Put everything back."""
        generator, devices, numpy_state, python_state = self._generators
        torch.set_rng_state(generator)
        for device, state in enumerate(devices):
            torch.cuda.set_rng_state(state, device)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        with torch.no_grad():
            for tensor, value in self._values:
                tensor.copy_(value)

    def drawn_in_python(self) -> str | None:
        """Whose generator, other than torch's, has been used since: numpy's or Python's."""
        _, _, numpy_state, python_state = self._generators
        now = np.random.get_state(legacy=False)
        if str(now) != str(numpy_state):
            return "numpy's"
        return "Python's" if random.getstate() != python_state else None


def _generators() -> tuple[Tensor, list[Tensor], Any, Any]:
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    numpy_state = np.random.get_state(legacy=False)
    return torch.get_rng_state(), devices, numpy_state, random.getstate()
