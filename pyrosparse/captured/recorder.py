"""Recording the operations of a program while it runs, as nodes of a graph."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from pyrosparse.captured.aliases import LAYOUT, Layout

aten = torch.ops.aten


class Recorder(TorchDispatchMode):
    """Records in a graph the computations of a block, below automatic differentiation.

    It does what ``make_fx`` does for tensors with values, without its proxies and its second,
    symbolic execution of every operation, which take most of its time.

    inputs: the inputs of the graph, in this order; any other tensor that is read also becomes one.

    graph:    the graph, without an output.
    outside:  the tensors that were read and are not in ``inputs``, by the name of their node.
    literals: likewise, those that the program makes from its own numbers, as ``torch.tensor(0.5)``.
    count:    the number of operations recorded.

    An operation that returns a number in place of a tensor is computed if all its inputs are
    written in the program, or existed before it began; otherwise it raises RuntimeError.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.graph = Graph()
        self.outside: dict[str, Tensor] = {}
        self.literals: dict[str, Tensor] = {}
        self.count = 0
        self._nodes: Any = WeakTensorKeyDictionary()
        self._known: Any = WeakTensorKeyDictionary()  # computed from literals alone
        self._read: dict[int, tuple[Tensor, Node]] = {}
        self._last: Node | None = None
        for index, tensor in enumerate(inputs):
            self._nodes[tensor] = self._add_input(f"input_{index}", tensor)

    def node(self, tensor: Tensor) -> Node:
        """The node of a tensor; a tensor not seen before comes from outside."""
        found: Node | None = self._nodes.get(tensor)
        if found is None:
            if id(tensor) not in self._read:
                name = f"outside_{len(self._read)}"
                self._read[id(tensor)] = tensor, self._add_input(name, tensor)
            found = self._read[id(tensor)][1]
        return found

    def sort_inputs(self) -> None:
        """Separate literals from other tensors from outside, when recording is complete."""
        for tensor, node in self._read.values():
            literal = all(user.target is aten.lift_fresh_copy.default for user in node.users)
            (self.literals if literal else self.outside)[node.name] = tensor

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if types and not all(kind in (Tensor, torch.nn.Parameter) for kind in types):
            return NotImplemented  # a tensor class with its own operations, built on ordinary ones
        operands = _tensors_in((args, kwargs))
        depends = [one for one in operands if one in self._nodes]
        known = all(one in self._known for one in depends)
        if torch.Tag.data_dependent_output in func.tags:
            if known:
                return func(*args, **kwargs)
            raise RuntimeError(f"{func} reads the value of a tensor in Python")
        if func is aten.lift_fresh.default:  # for a tensor that the program may write to later
            func = aten.lift_fresh_copy.default
        node = self.graph.call_function(func, *self._noted((args, kwargs)))
        self.count += 1
        result = func(*args, **kwargs)
        fresh = func is aten.lift_fresh_copy.default and result.numel() == 1
        random = torch.Tag.nondeterministic_seeded in func.tags
        self._note(result, node, fresh or (bool(depends) and known and not random))
        return result

    def _note(self, result: Any, node: Node, known: bool) -> None:
        if isinstance(result, Tensor):
            node.meta[LAYOUT] = Layout.of(result)
            self._nodes[result] = node
            if known and result.numel() == 1:
                self._known[result] = True
            else:
                self._known.pop(result, None)
        elif isinstance(result, list | tuple):
            node.meta[LAYOUT] = [Layout.of(one) for one in result if isinstance(one, Tensor)]
            for index, one in enumerate(result):
                if isinstance(one, Tensor):
                    item = self.graph.call_function(operator.getitem, (node, index))
                    self._note(one, item, known)

    def _noted(self, value: Any) -> Any:
        """Arguments with nodes in place of tensors."""
        if isinstance(value, Tensor):
            return self.node(value)
        if isinstance(value, dict):
            return {key: self._noted(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(self._noted, value)) if type(value) in (list, tuple) else value
        return value

    def _add_input(self, name: str, tensor: Tensor) -> Node:
        """Add an input after those so far, before all operations."""
        if self._last is None:
            self._last = self.graph.placeholder(name)
        else:
            with self.graph.inserting_after(self._last):
                self._last = self.graph.placeholder(name)
        self._last.meta[LAYOUT] = Layout.of(tensor)
        return self._last


def _tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for one in value for tensor in _tensors_in(one)]
    return []
