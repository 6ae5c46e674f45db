"""A captured step: its program and the tensors on which it runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pyrosparse.captured.graph import Run, StepGraph
from pyrosparse.captured.guards import Guards

_SMALL = 1 << 20
"""Elements up to which a tensor that is no module's is kept while a step is tried."""


@dataclass
class Captured:
    """One captured step: for arguments of one kind, while the values that it was traced with hold.

    same_stream: the program that makes all draws of the eager step.
    program:     the program of ``graph``.
    run:         the program that steps run: ``program``, or a faster one that computes the same.
    ways:        the optimisations that were applied.
    """

    parameters: dict[str, Tensor]
    graph: StepGraph
    same_stream: Run
    program: Run
    run: Run
    guards: Guards
    signature: Any
    ways: list[str] = field(default_factory=list)
    runs: int = 0
    checks: int = 1
    largest_loss: float = 0.0

    def inputs(self, arguments: list[Tensor]) -> list[Tensor]:
        graph = self.graph
        return [*self.parameters.values(), *arguments, *graph.outside, *graph.constants]

    def moving(self, arguments: list[Tensor]) -> range:
        """The positions of the inputs that differ in the next step."""
        return range(len(self.parameters), len(self.parameters) + len(arguments))

    def written(self, arguments: list[Tensor]) -> list[Tensor]:
        """The tensors that a step writes to."""
        inputs = self.inputs(arguments)
        return [inputs[position] for position in self.graph.written()]


def writable(guards: Guards, arguments: Iterable[Tensor]) -> list[Tensor]:
    """The tensors that a model may write to and that are worth keeping, without its data."""
    owned = [
        tensor
        for module in guards.modules
        for part in (module._parameters, module._buffers)
        for tensor in part.values()
        if tensor is not None
    ]
    small = [tensor for tensor in guards.tensors if tensor.numel() <= _SMALL]
    return list({id(tensor): tensor for tensor in (*owned, *small, *arguments)}.values())


def why_not_traced(error: Exception) -> str:
    """The reason for an error of tracing, in plain words."""
    text = str(error).strip().splitlines()
    first = text[0] if text else ""
    if "_local_scalar_dense" in str(error) or "item" in first:
        return (
            "the model reads a tensor's value in Python (item, float, a branch on a tensor), which "
            "a graph cannot hold"
        )
    return f"tracing it raises {type(error).__name__}: {first[:300]}"
