"""Tracing a step of inference into a graph of ATen operations, and running it."""

from __future__ import annotations

import contextlib
import math
import operator
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pyro
import pyro.infer.trace_elbo
import torch
from pyro.infer.util import Dice
from torch import Tensor
from torch.distributions import Distribution
from torch.fx import Graph, Node

from pyrosparse.captured import clean, memory
from pyrosparse.captured.aliases import Aliases, layout_of, written_by
from pyrosparse.captured.recorder import Recorder

Run = Callable[[list[Tensor]], list[Tensor | None]]

aten = torch.ops.aten


@dataclass(frozen=True)
class StepGraph:
    """The loss of a step and its gradients, as operations on tensors alone.

    graph:     takes parameters, arguments, outside tensors and constants, in this order; returns
               the loss and for each parameter its gradient or None.
    outside:   tensors that the step reads besides parameters and arguments, such as buffers: the
               same objects, so that the step sees values changed in place.
    constants: tensors that do not change from step to step.
    traced:    the number of operations in the trace before it was cleaned.
    """

    graph: Graph
    outside: list[Tensor]
    constants: list[Tensor]
    traced: int

    @property
    def operations(self) -> list[str]:
        """The names of its operations, in order."""
        return [
            str(node.target).removeprefix("aten.")
            for node in self.graph.nodes
            if node.op == "call_function"
        ]

    def without_unused_draws(self) -> StepGraph:
        """The same step without the draws that nothing reads."""
        graph = self.copied_graph()
        clean.drop_unused_draws(graph)
        return StepGraph(graph, self.outside, self.constants, self.traced)

    def written(self) -> list[int]:
        """The positions of the inputs that a step writes to."""
        aliases = Aliases(self.graph)
        inputs = [node for node in self.graph.nodes if node.op == "placeholder"]
        targets = [operand for node in self.graph.nodes for operand in written_by(node)]
        return [
            index
            for index, node in enumerate(inputs)
            if any(aliases.same(node, operand) for operand in targets)
        ]

    def program(self) -> Run:
        """The step as a Python function over its inputs, which returns its outputs."""
        graph = self.copied_graph()
        memory.reuse_memory(graph)
        return _as_function(graph)

    def copied_graph(self) -> Graph:
        """A copy of the graph, which may be changed."""
        graph = Graph()
        graph.output(graph.graph_copy(self.graph, {}))
        return graph


def trace(
    differentiable_loss: Callable[[], Tensor], parameters: list[Tensor], arguments: list[Tensor]
) -> StepGraph:
    """Run a step once and record its operations.

    differentiable_loss: runs model and guide eagerly on the arguments, the objects given here.
    parameters: the tensors by which the loss is differentiated; the objects that the model uses.
    arguments:  the tensors that differ in the next step.

    Raises the errors of tracing: RuntimeError if the step reads the value of a tensor in Python.
    """

    recorder = Recorder([*parameters, *arguments])
    # Weights that autocast has cast before would come from outside, with their old values.
    with _values_stay_on_tensors(), _no_autocast_cache(), recorder, torch.enable_grad():
        loss = differentiable_loss()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        results = [loss.detach(), *gradients]
    graph = recorder.graph
    graph.output(tuple(None if one is None else recorder.node(one) for one in results))
    recorder.sort_inputs()
    outside, constants = recorder.outside, recorder.literals
    for node in graph.nodes:
        if _has_shape_by_value(node):
            raise ValueError(f"the shape of a result of {node.target} depends on values")
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    given = [*parameters, *arguments]
    tensors = {node.name: tensor for node, tensor in zip(inputs, given, strict=False)} | outside
    storages = {name: tensor.untyped_storage().data_ptr() for name, tensor in tensors.items()}
    clean.clean(graph, constants, storages)
    memory.own_outputs(graph, parameters)
    _sort_inputs(graph, [*tensors, *constants])
    graph.lint()
    return StepGraph(graph, list(outside.values()), list(constants.values()), recorder.count)


@contextlib.contextmanager
def _no_autocast_cache() -> Iterator[None]:
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def _has_shape_by_value(node: Node) -> bool:
    if torch.Tag.dynamic_output_shape not in getattr(node.target, "tags", ()):
        return False
    if node.target is not aten.index.Tensor:
        return True
    layouts = map(layout_of, node.all_input_nodes[1:])
    return any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in layouts)


@contextlib.contextmanager
def _values_stay_on_tensors() -> Iterator[None]:
    """Let Pyro's losses leave values on the tensors: no ``item``, no warning about NaN."""

    def keep(value: Any) -> Any:
        return value.detach() if isinstance(value, Tensor) else value

    def is_traced() -> bool:
        # Pyro has its own branches for traced programs; torch's are for its old tracer.
        return str(sys._getframe(1).f_globals.get("__name__", "")).startswith("pyro.")

    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(pyro.infer.trace_elbo, "torch_item", keep))
        patches.enter_context(mock.patch.object(torch._C, "_get_tracing_state", is_traced))
        for name in ("torch_isnan", "torch_isinf"):
            patches.enter_context(mock.patch.object(pyro.util, name, lambda value: False))
        # Distributions made while validation was enabled keep it enabled.
        unchecked = mock.patch.object(Distribution, "_validate_sample", lambda self, value: None)
        patches.enter_context(unchecked)
        patches.enter_context(mock.patch.object(Dice, "compute_expectation", _expectation))
        patches.enter_context(pyro.validation_enabled(False))
        yield


_expectation_of_dice = Dice.compute_expectation


def _expectation(dice: Dice, costs: Any) -> Any:
    """Pyro's expectation of costs, with zeros for the entries that a mask leaves out."""

    def select(value: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, value, 0.0)

    with mock.patch.object(Tensor, "masked_select", select):  # its result has a shape by value
        return _expectation_of_dice(dice, costs)


def _sort_inputs(graph: Graph, names: list[str]) -> None:
    nodes = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    for name in reversed(names):
        graph._root.append(nodes[name])


def _as_function(graph: Graph) -> Run:
    """A Python function with one statement an operation, which frees values after last use."""
    namespace: dict[str, Any] = {}

    def bound(value: Any) -> str:
        name = f"_{len(namespace)}"
        namespace[name] = value
        return name

    def written(value: Any) -> str:
        if isinstance(value, Node):
            return value.name
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(written, value))}]"
        plain = value is None or type(value) in (bool, int, str)
        plain = plain or (type(value) is float and math.isfinite(value))
        return repr(value) if plain else bound(value)

    last_use: dict[Node, Node] = {}
    for node in graph.nodes:
        for operand in node.all_input_nodes:
            last_use[operand] = node
    inputs = [node.name for node in graph.nodes if node.op == "placeholder"]
    lines = ["def step(inputs):", f"    [{', '.join(inputs)}] = inputs"]
    for node in graph.nodes:
        if node.op == "output":
            lines.append(f"    return {written(node.args[0])}")
        if node.op != "call_function":
            continue
        if node.target is operator.getitem:
            value = f"{written(node.args[0])}[{node.args[1]}]"
        else:
            arguments = [written(one) for one in node.args]
            arguments += [f"{key}={written(one)}" for key, one in node.kwargs.items()]
            # The operator itself: the overload's Python call is half the cost of a small one.
            value = f"{bound(getattr(node.target, '_op', node.target))}({', '.join(arguments)})"
        freed = [one.name for one in node.all_input_nodes if last_use[one] is node]
        freed += [] if node.users else [node.name]
        free = f"; {' = '.join(freed)} = None" if freed else ""
        lines.append(f"    {node.name} = {value}{free}")
    source = "\n".join(lines)
    exec(compile(source, "<captured step>", "exec"), namespace)
    return namespace["step"]
