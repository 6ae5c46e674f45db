"""What the nodes of a graph stand for, and which of them share memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

_BATCH_NORMS = ("running_mean", "running_var")


def value_of(node: Any) -> Any:
    """The shape, type and strides of a node's value, as a tensor without memory."""
    return node.meta.get("val") if isinstance(node, Node) else None


def same_type(one: Any, other: Any) -> bool:
    """Whether two nodes are tensors of one shape, dtype and device."""
    a, b = value_of(one), value_of(other)
    return (
        isinstance(a, Tensor)
        and isinstance(b, Tensor)
        and a.shape == b.shape
        and a.dtype == b.dtype
        and a.device == b.device
    )


def same_layout(one: Any, other: Any) -> bool:
    """Whether two nodes are tensors of one type and of the same strides."""
    return same_type(one, other) and value_of(one).stride() == value_of(other).stride()


def is_floating_point(node: Any) -> bool:
    value = value_of(node)
    return isinstance(value, Tensor) and value.is_floating_point()


def is_random(node: Node) -> bool:
    """Whether a node draws random numbers."""
    tags = getattr(node.target, "tags", ()) if node.op == "call_function" else ()
    return torch.Tag.nondeterministic_seeded in tags


def is_empty(node: Node) -> bool:
    """Whether a node makes memory without a value."""
    return node.op == "call_function" and "empty" in str(node.target)


def written_by(node: Node) -> list[Node]:
    """The operands that a node writes to."""
    return [
        operand
        for argument, operand in _operands(node)
        # The schemas of batch normalisation do not say that they update the running statistics.
        if (argument.alias_info is not None and argument.alias_info.is_write)
        or argument.name in _BATCH_NORMS
    ]


def shared_by(node: Node) -> list[Node]:
    """The operands whose memory a node's value may lie in."""
    if node.op == "call_function" and _schema(node) is None:  # getitem, of a list of results
        return node.all_input_nodes
    if node.target is torch.ops.aten._unsafe_view.default:
        return node.all_input_nodes
    return [operand for argument, operand in _operands(node) if argument.alias_info is not None]


def _schema(node: Node) -> Any:
    return getattr(node.target, "_schema", None) if node.op == "call_function" else None


def _operands(node: Node) -> list[tuple[Any, Node]]:
    """The arguments that are nodes, with what the operation's schema says of them."""
    schema = _schema(node)
    found: list[tuple[Any, Node]] = []
    for index, argument in enumerate(schema.arguments if schema is not None else ()):
        given = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)
        for one in given if isinstance(given, list | tuple) else (given,):
            if isinstance(one, Node):
                found.append((argument, one))
    return found


class Aliases:
    """Which nodes of a graph may share memory.

    storages: by the name of an input, what tells its memory from others', where it is known.
    """

    def __init__(self, graph: Graph, storages: Mapping[str, int] | None = None) -> None:
        self._members: dict[Node, list[Node]] = {}
        self._root: dict[Node, Node] = {}
        self._writes: dict[Node, list[Node]] = {}
        owners: dict[int, Node] = {}
        for node in graph.nodes:
            self._root[node] = node
            self._members[node] = [node]
            for operand in shared_by(node):
                self.join(node, operand)
            if storages and node.op == "placeholder" and node.name in storages:
                self.join(node, owners.setdefault(storages[node.name], node))
            for operand in written_by(node):
                self._writes.setdefault(operand, []).append(node)

    def members(self, node: Node) -> list[Node]:
        """All nodes that may share memory with one."""
        return self._members[self._root[node]]

    def same(self, one: Node, other: Node) -> bool:
        return self._root[one] is self._root[other]

    def is_outside(self, node: Node) -> bool:
        """Whether memory may belong to an input."""
        return any(member.op == "placeholder" for member in self.members(node))

    def is_written(self, node: Node) -> bool:
        """Whether memory is written to after it has a value: reads of it must stay in their place.

        Filling empty memory that nothing else has read, as drawing does, is how it gets its value.
        """
        writes = [
            (operand, writer)
            for operand in self.members(node)
            for writer in self._writes.get(operand, ())
        ]
        if not writes:
            return False
        (operand, writer), *more = writes
        return bool(more) or not (is_empty(operand) and list(operand.users) == [writer])

    def join(self, one: Node, other: Node) -> None:
        """Note that two nodes share memory."""
        old, new = self._root[one], self._root[other]
        if old is not new:
            for member in self._members.pop(old):
                self._root[member] = new
                self._members[new].append(member)
