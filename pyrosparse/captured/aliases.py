"""The values of a graph's nodes, and which nodes share memory."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Graph, Node

_BATCH_NORMS = ("running_mean", "running_var")


LAYOUT = "layout"
"""The key of a node's ``meta`` under which the layout of its value stands."""


@dataclass(frozen=True)
class Layout:
    """The properties of a tensor except its values."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    contiguous: bool

    @classmethod
    def of(cls, tensor: Tensor) -> Layout:
        """The layout of a tensor, without a reference to the tensor.

        >>> Layout.of(torch.zeros(2, 3)).elements
        6
        """
        strides = tensor.stride()
        return cls(tensor.shape, strides, tensor.dtype, tensor.device, tensor.is_contiguous())

    @property
    def elements(self) -> int:
        return self.shape.numel()

    @property
    def bytes(self) -> int:
        return self.elements * self.dtype.itemsize


def layout_of(node: Any) -> Layout | None:
    """The layout of a node's value; None for numbers, and for nodes with several tensors."""
    found = node.meta.get(LAYOUT) if isinstance(node, Node) else None
    return found if isinstance(found, Layout) else None


def same_type(one: Any, other: Any) -> bool:
    """Whether two nodes are tensors of the same shape, dtype and device."""
    a, b = layout_of(one), layout_of(other)
    return (
        a is not None
        and b is not None
        and a.shape == b.shape
        and a.dtype == b.dtype
        and a.device == b.device
    )


def same_layout(one: Any, other: Any) -> bool:
    """Whether two nodes are tensors of the same type and the same strides."""
    a, b = layout_of(one), layout_of(other)
    return same_type(one, other) and a is not None and b is not None and a.strides == b.strides


def is_floating_point(node: Any) -> bool:
    layout = layout_of(node)
    return layout is not None and layout.dtype.is_floating_point


def is_random(node: Node) -> bool:
    """Whether a node draws random numbers."""
    return node.op == "call_function" and _operation(node.target).random


def is_empty(node: Node) -> bool:
    """Whether a node allocates memory without a value."""
    return node.op == "call_function" and _operation(node.target).empty


def written_by(node: Node) -> list[Node]:
    """The operands that a node writes to."""
    return [operand for argument, operand in _operands(node) if argument.written]


def shared_by(node: Node) -> list[Node]:
    """The operands whose memory a node's value may use."""
    if node.op == "call_function" and not _operation(node.target).known:
        return node.all_input_nodes  # getitem of a list of results
    if node.target is torch.ops.aten._unsafe_view.default:
        return node.all_input_nodes
    return [operand for argument, operand in _operands(node) if argument.shared]


class _Argument(NamedTuple):
    position: int
    name: str
    shared: bool
    written: bool


class _Operation(NamedTuple):
    known: bool
    random: bool
    empty: bool
    arguments: tuple[_Argument, ...]


@functools.cache
def _operation(target: Any) -> _Operation:
    """The properties of an operation by its schema; asked often, and slow to compute."""
    schema = getattr(target, "_schema", None)
    arguments = tuple(
        _Argument(
            index,
            argument.name,
            argument.alias_info is not None,
            # The schemas of batch normalisation do not say that it updates the running statistics.
            (argument.alias_info is not None and argument.alias_info.is_write)
            or argument.name in _BATCH_NORMS,
        )
        for index, argument in enumerate(schema.arguments if schema is not None else ())
    )
    return _Operation(
        known=schema is not None,
        random=torch.Tag.nondeterministic_seeded in getattr(target, "tags", ()),
        empty="empty" in str(target),
        arguments=tuple(one for one in arguments if one.shared or one.written),
    )


def _operands(node: Node) -> list[tuple[_Argument, Node]]:
    """The node arguments whose memory a value may share or write to, with their properties."""
    if node.op != "call_function":
        return []
    found: list[tuple[_Argument, Node]] = []
    for argument in _operation(node.target).arguments:
        here = argument.position < len(node.args)
        given = node.args[argument.position] if here else node.kwargs.get(argument.name)
        for one in given if isinstance(given, list | tuple) else (given,):
            if isinstance(one, Node):
                found.append((argument, one))
    return found


class Aliases:
    """Which nodes of a graph may share memory.

    storages: by the name of an input, an identifier of its memory, if it is known.
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
        """All nodes that may share memory with a node."""
        return self._members[self._root[node]]

    def same(self, one: Node, other: Node) -> bool:
        return self._root[one] is self._root[other]

    def is_outside(self, node: Node) -> bool:
        """Whether a node's memory may belong to an input."""
        return any(member.op == "placeholder" for member in self.members(node))

    def is_written(self, node: Node) -> bool:
        """Whether memory is written to after it has a value: reads of it must keep their place.

        Filling empty memory that nothing else has read, as drawing does, does not count.
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
        """Record that two nodes share memory."""
        old, new = self._root[one], self._root[other]
        if old is not new:
            for member in self._members.pop(old):
                self._root[member] = new
                self._members[new].append(member)
