"""Sizes of tensors that the network reads: some depend on the input, others are fixed."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from pyrosparse.compaction.rules.pointwise import Pointwise
from pyrosparse.compaction.rules.rule import Features, Flow, Rule

_WHOLE: tuple[Callable[..., Any], ...] = (  # from integers these return an integer
    operator.add,
    operator.sub,
    operator.mul,
    operator.floordiv,
    operator.mod,
    operator.neg,
)
_ARITHMETIC = (*_WHOLE, operator.truediv, operator.pow)
_NO_SIZES = ("device", "dtype", "ndim")


class Size(Rule):
    """The size of a dimension other than the features'; no rule changes such a size."""

    def want(self, flow: Flow) -> None:
        source = self.source
        if source not in flow.wanted:
            return
        if self._reads(flow, range(len(flow.shapes[source]))) & set(_of_features(flow, source)):
            flow.want_all(source)
        flow.sized.add(source)

    def _reads(self, flow: Flow, dims: range) -> set[int]:
        """The dimensions whose sizes are used."""
        node = self.node
        if node.target == "dim" or (node.target is getattr and node.args[1] in _NO_SIZES):
            return set()
        place = read_size(flow, node)
        if place is not None:
            return {place[1]}
        return _taken(flow, node, dims) if is_shape(node) else set(dims)


class WithSize(Pointwise):
    """Arithmetic of a tensor and a number that the network computes from a size when it runs."""

    def __init__(self, node: fx.Node, tensor: fx.Node) -> None:
        super().__init__(node)
        self.tensor = tensor

    @property
    def source(self) -> fx.Node:
        return self.tensor

    def learn(self, flow: Flow) -> Features | None:
        x = super().learn(flow)
        if x is None or self.node.kwargs:
            return None
        scaled = self.node.target in ("mul", operator.mul, torch.mul)
        if self.node.target in ("div", operator.truediv, torch.div):
            # A size is not 0, but a difference of two may be.
            scaled = self.node.args[0] is self.tensor
            scaled = scaled and _is_positive(flow, self.node.args[1])
        return Features.of(x.dim, x.constant & (x.value == 0) & scaled, torch.zeros_like(x.value))


def with_size(rule: Rule, flow: Flow) -> Rule:
    """The rule for arithmetic of two operands if one of them is a number; else the given rule."""
    node = rule.node
    tensors = [x for x in node.all_input_nodes if x in flow.shapes]
    if node in flow.shapes and len(tensors) == 1 < len(node.all_input_nodes):
        return WithSize(node, tensors[0])
    return rule


def write_own_numbers(flow: Flow, node: fx.Node) -> bool:
    """Replace the widths of layers that a call reads by numbers; returns whether it did.

    Such a size is the same for every input, so the number is correct, and the tensor from which it
    was read may become smaller.
    """
    before = (node.args, node.kwargs)

    def written(operand: fx.Node) -> Any:
        found = number(flow, operand)
        return operand if found is None else found

    node.args = fx.map_arg(node.args, written)
    node.kwargs = fx.map_arg(node.kwargs, written)
    return (node.args, node.kwargs) != before


def write_sizes_out(graph: fx.Graph, shapes: Mapping[fx.Node, torch.Size]) -> None:
    """Give a ``view`` its sizes one by one where it takes the shape of a tensor, ``view(x.shape)``,
    and in place of ``reshape_as(x)``.

    shapes: of the graph's tensors.
    """
    for node in list(graph.nodes):
        if len(node.args) != 2 or node.kwargs or not isinstance(node.args[1], fx.Node):
            continue
        like = node.args[1]
        with graph.inserting_before(node):
            if node.target in ("view_as", "reshape_as") and like in shapes:
                sizes = [graph.call_method("size", (like, dim)) for dim in range(len(shapes[like]))]
                node.target = node.target.removesuffix("_as")
            elif node.target in ("view", "reshape", torch.reshape) and _shaped(like) in shapes:
                rank = len(shapes[_shaped(like)])
                sizes = [graph.call_function(operator.getitem, (like, dim)) for dim in range(rank)]
            else:
                continue
        node.args = (node.args[0], tuple(sizes))


def keeps_leading(flow: Flow, node: fx.Node, given: tuple[Any, ...], leading: int) -> bool:
    """Whether the sizes passed to a ``view`` keep its first dimensions, whatever their sizes.

    A number would be correct only for this example. Therefore a leading size must be read from a
    dimension that always has the same size as the one it stands for, and the sizes after it must be
    the network's own. One of them may be -1 or any other, because the number of elements does not
    change.
    """
    source = node.args[0]
    assert isinstance(source, fx.Node)
    before, after = flow.shapes[source], flow.shapes[node]
    if before[:leading] != after[:leading] or len(given) != len(after):
        return False
    proven = [is_size_of(flow, size, source, dim) for dim, size in enumerate(given[:leading])]
    behind = range(leading, len(after))
    numbers = all(isinstance(size, int) for size in given[leading:])
    guessed = [dim for dim in behind if given[dim] == -1 and not flow.dimensions.own(node, dim)]
    return numbers and proven.count(False) + len(guessed) <= 1


def is_size_of(flow: Flow, size: Any, tensor: fx.Node, dim: int) -> bool:
    """Whether a size passed to a ``view`` is that of a dimension, for every input."""
    if isinstance(size, int):
        return flow.dimensions.own(tensor, dim) and size == flow.shapes[tensor][dim]
    place = read_size(flow, size)
    return place is not None and flow.dimensions.same(place, (tensor, dim))


def is_own(flow: Flow, tensor: fx.Node, dim: int) -> bool:
    """Whether the size of a dimension is the network's own: no input changes it."""
    return dim in _of_features(flow, tensor) or flow.dimensions.own(tensor, dim)


def number(flow: Flow, size: Any) -> Any:
    """A number that is the network's own, None if it depends on the size of the input."""
    if isinstance(size, (int, float)):
        return size
    if not isinstance(size, fx.Node):
        return None
    if size.op == "call_function" and size.target in _ARITHMETIC and size not in flow.shapes:
        assert callable(size.target)
        parts = [number(flow, part) for part in size.args]
        return None if None in parts else size.target(*parts)
    place = read_size(flow, size)
    return flow.shapes[place[0]][place[1]] if place is not None and is_own(flow, *place) else None


def read_size(flow: Flow, size: Any) -> tuple[fx.Node, int] | None:
    """The tensor and the dimension whose size a node reads; None if it does not read a size."""
    if not isinstance(size, fx.Node):
        return None
    shape, at = _taken_from(size)
    tensor = shape.args[0] if shape is not None else None
    if not isinstance(tensor, fx.Node) or tensor not in flow.shapes:
        return None
    dims: Any = range(len(flow.shapes[tensor]))
    for step in at:
        dims = dims[step]
    return (tensor, dims) if isinstance(dims, int) else None


def _taken_from(size: fx.Node) -> tuple[fx.Node | None, list[Any]]:
    """The node with a shape, and the numbers and slices with which a size is read from it."""
    if is_shape(size):
        return size, []
    if size.target == "size":
        dim = size.args[1] if len(size.args) == 2 else size.kwargs.get("dim")
        return (size, [dim]) if isinstance(dim, int) else (None, [])
    if size.target is not operator.getitem or not isinstance(size.args[0], fx.Node):
        return None, []
    shape, at = _taken_from(size.args[0])
    step: Any = size.args[1]
    return (shape, [*at, step]) if isinstance(step, int) or _is_plain(step) else (None, [])


def is_made_of_sizes(flow: Flow, number: Any) -> bool:
    """Whether a number is a size of a tensor, or a sum or product of sizes and integers."""
    if isinstance(number, int):
        return True
    if not isinstance(number, fx.Node) or number in flow.shapes:
        return False
    if number.op == "call_function" and number.target in _WHOLE:
        return all(is_made_of_sizes(flow, part) for part in number.args)
    return read_size(flow, number) is not None


def given_sizes(node: fx.Node) -> tuple[Any, ...]:
    """The sizes passed to ``view`` or ``reshape``."""
    sizes = node.args[1:]
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes


def _of_features(flow: Flow, tensor: fx.Node) -> tuple[int, ...]:
    """The dimensions of a tensor that index its features."""
    if tensor in flow.heads:
        return flow.heads[tensor].dims
    return (flow.features[tensor].dim,) if tensor in flow.features else ()


def _taken(flow: Flow, shape: fx.Node, dims: range) -> set[int]:
    """The dimensions in a shape, or in a part of one, whose sizes are used."""
    found: set[int] = set()
    for user in shape.users:
        if user in flow.live:
            at: Any = user.args[1] if user.target is operator.getitem else None
            if _is_plain(at):
                found |= _taken(flow, user, dims[at])
            else:
                found |= {dims[at]} if isinstance(at, int) else set(dims)
    return found


def _is_positive(flow: Flow, size: Any) -> bool:
    """Whether a number that is read is a size, or computed from sizes, so that it is not 0."""
    if isinstance(size, fx.Node) and size.target in (operator.add, operator.mul, operator.pow):
        return size not in flow.shapes and all(_is_positive(flow, part) for part in size.args)
    return read_size(flow, size) is not None or (isinstance(size, (int, float)) and size > 0)


def _is_plain(step: Any) -> bool:
    if not isinstance(step, slice):
        return False
    return all(end is None or isinstance(end, int) for end in (step.start, step.stop, step.step))


def _shaped(node: fx.Node) -> Any:
    """The tensor whose whole shape a node reads; None if it reads none."""
    return node.args[0] if is_shape(node) else None


def is_shape(node: fx.Node) -> bool:
    """Whether a node reads the whole shape of a tensor."""
    if node.target == "size":
        return len(node.args) == 1 and not node.kwargs
    return node.target is getattr and node.args[1:] == ("shape",)
