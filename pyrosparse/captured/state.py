"""The state that a step changes besides its parameters, saved and restored around a trial."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor


class State:
    """The random generators and the values of tensors at one moment.

    generators: a model's own generators, of numpy, Python or torch.
    """

    def __init__(self, tensors: Iterable[Tensor], generators: Iterable[Any] = ()) -> None:
        self._own = [(get(), get, put) for get, put in map(_access, generators)]
        self._generators = _generators()
        with torch.no_grad():
            self._values = [
                (tensor, tensor.clone())
                for tensor in tensors
                if 0 not in tensor.stride()  # expanded: nothing can write to it
            ]

    def covers(self, tensor: Tensor) -> bool:
        """Whether the value of a tensor is saved."""
        return any(tensor is kept for kept, _ in self._values)

    def restore(self) -> None:
        """Restore everything."""
        generator, devices, numpy_state, python_state = self._generators
        torch.set_rng_state(generator)
        for device, state in enumerate(devices):
            torch.cuda.set_rng_state(state, device)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        for state, _, put in self._own:
            put(state)
        self.restore_tensors()

    def restore_tensors(self) -> None:
        """Restore the values of tensors, not the random generators."""
        with torch.no_grad():
            for tensor, value in self._values:
                tensor.copy_(value)

    def drawn_in_python(self) -> str | None:
        """The generator, other than torch's global one, that has been used since; None for none."""
        _, _, numpy_state, python_state = self._generators
        now = np.random.get_state(legacy=False)
        if str(now) != str(numpy_state):
            return "numpy's"
        if random.getstate() != python_state:
            return "Python's"
        return "its own" if any(str(get()) != str(state) for state, get, _ in self._own) else None


def _access(generator: Any) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    if isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        return lambda: bits.state, lambda state: setattr(bits, "state", state)
    if isinstance(generator, random.Random):
        return generator.getstate, generator.setstate
    return generator.get_state, generator.set_state


def _generators() -> tuple[Tensor, list[Tensor], Any, Any]:
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    numpy_state = np.random.get_state(legacy=False)
    return torch.get_rng_state(), devices, numpy_state, random.getstate()
