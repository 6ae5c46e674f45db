"""One optimizer for all parameters, even if Pyro keeps one for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer

Optim = PyroOptim | Optimizer | Callable[[Mapping[str, Tensor]], Optimizer]

_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad)


class Update:
    """An optimizer's step for all parameters of a model at once.

    optim: a ``PyroOptim``, whose torch optimizers then take one fused step together and keep their
           states and rates; a torch optimizer; or a function from the parameters by name to one.

    Raises TypeError for anything else.
    """

    def __init__(self, optim: Optim) -> None:
        if not isinstance(optim, PyroOptim | Optimizer) and not callable(optim):
            raise TypeError(
                "optim must be a pyro.optim.PyroOptim, a torch optimizer, or a function from "
                f"parameters by name to a torch optimizer; got {type(optim).__name__}"
            )
        self.optim = optim
        self._merged: Optimizer | None = None
        self._merged_from: list[tuple[Any, ...]] = []

    def step(self, parameters: Mapping[str, Tensor], *, merge: bool = True) -> None:
        """Update the parameters with their gradients.

        merge: let the optimizers of a ``PyroOptim`` take one step together, with other rounding.
        """
        if isinstance(self.optim, PyroOptim):
            for tensor in parameters.values():
                # As in SVI, which leaves zeros: momentum still moves a parameter.
                own = self.optim.optim_objs.get(tensor) if tensor.grad is None else None
                if own is not None and _unwrapped(own).state.get(tensor):
                    tensor.grad = torch.zeros_like(tensor)
        if isinstance(self.optim, PyroOptim) and not merge:
            self.optim(list(parameters.values()))
        elif isinstance(self.optim, PyroOptim):
            self._step_of_pyro(self.optim, list(parameters.values()))
        elif isinstance(self.optim, Optimizer):
            self.optim.step()
        else:
            self._step_of_built(parameters)

    def _step_of_built(self, parameters: Mapping[str, Tensor]) -> None:
        if self._merged is None:
            make: Any = self.optim
            self._merged = make(dict(parameters))
            if not isinstance(self._merged, Optimizer):
                raise TypeError(f"optim returned {type(self._merged).__name__}, not an optimizer")
            self._known = {id(p) for g in self._merged.param_groups for p in g["params"]}
        new = [tensor for tensor in parameters.values() if id(tensor) not in self._known]
        if new:
            raise ValueError(
                "the model has parameters that did not exist at the first step: use a PyroOptim, "
                "which can add parameters later"
            )
        self._merged.step()

    def _step_of_pyro(self, optim: PyroOptim, parameters: list[Tensor]) -> None:
        optimizers: list[Any] = [optim.optim_objs.get(tensor) for tensor in parameters]
        single = [_unwrapped(one) for one in optimizers]
        if not _can_merge(single):
            optim(parameters)
            return
        described = [_describe(one, tensor) for one, tensor in zip(single, parameters, strict=True)]
        if self._merged is None or described != self._merged_from:
            self._merged = _merge(single, parameters)
            self._merged_from = described
        for tensor in parameters:
            if (clip := optim.grad_clip[tensor]) is not None:
                clip(tensor)
        self._merged.step()


def _unwrapped(optimizer: Any) -> Any:
    """The optimizer itself, if Pyro keeps a scheduler of its rate."""
    return getattr(optimizer, "optimizer", optimizer)


def _can_merge(optimizers: list[Any]) -> bool:
    """Whether all are torch's own, of the same kind; before the first step there are none."""
    kind = type(optimizers[0]) if optimizers else None
    return kind in _FUSED and all(
        type(one) is kind and len(one.param_groups) == 1 for one in optimizers
    )


def _describe(optimizer: Optimizer, tensor: Tensor) -> tuple[Any, ...]:
    options = optimizer.param_groups[0]
    # The state as an object: loading a state dict replaces it.
    return (
        id(tensor),
        id(optimizer.state[tensor]),
        *(value for key, value in options.items() if key != "params"),
    )


def _merge(optimizers: list[Optimizer], parameters: list[Tensor]) -> Optimizer:
    """One optimizer whose state for each parameter is the same dict as in its own optimizer."""
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for optimizer, tensor in zip(optimizers, parameters, strict=True):
        options = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
        if options.get("fused") is None and options.get("foreach") is None:
            # The fused kernel for other devices keeps its count of steps elsewhere.
            plain = tensor.device.type == "cpu" and not options.get("differentiable")
            options["fused"] = (plain and tensor.is_floating_point()) or None
        key = tuple(str(value) for value in options.values())
        groups.setdefault(key, {**options, "params": []})["params"].append(tensor)
    kind: Any = type(optimizers[0])
    merged: Optimizer = kind(list(groups.values()))
    for optimizer, tensor in zip(optimizers, parameters, strict=True):
        merged.state[tensor] = optimizer.state[tensor]
    return merged
