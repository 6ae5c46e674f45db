"""Sizes of tensors that the network reads: which depend on the input, and which are its own."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx, nn

from pyrosparse.compact.rules.rule import Flow, Rule

_ARITHMETIC: tuple[Callable[..., Any], ...] = (
    operator.add,
    operator.sub,
    operator.mul,
    operator.floordiv,
    operator.truediv,
    operator.pow,
)
_WIDTHS = (nn.Linear, nn.LayerNorm, nn.Embedding)


class Size(Rule):
    """The size of another dimension than those of the features, which nothing here changes."""

    def want(self, flow: Flow) -> None:
        source = self.source
        if source not in flow.wanted:
            return
        if self._reads(flow, set(_own_dimensions(flow, source))):
            flow.want_all(source)
        elif not flow.wanted[source].any():
            flow.wanted[source][0] = True  # any of them has that size

    def _reads(self, flow: Flow, dims: set[int]) -> bool:
        """Whether the size of one of those dimensions is used."""
        rank = len(flow.shapes[self.source])
        if self.node.target == "dim" or self.node.args[1:] in (("device",), ("dtype",), ("ndim",)):
            return False
        if self.node.target == "size" and len(self.node.args) == 2:
            read = [self.node.args[1]]
        elif _is_shape(self.node):
            # The whole shape: look at what is taken from it.
            users = [user for user in self.node.users if user in flow.live]
            if not all(user.target is operator.getitem for user in users):
                return True
            read = [user.args[1] for user in users]
        else:
            return True
        return any(not isinstance(d, int) or d % rank in dims for d in read)


def write_own_numbers(flow: Flow, node: fx.Node) -> bool:
    """Put numbers where a call reads the width of a layer; True where it did.

    Such a size is the same for every input, so the number holds, and the tensor that it was read
    from may become smaller.
    """
    before = (node.args, node.kwargs)

    def number(operand: fx.Node) -> Any:
        found = _number(flow, operand)
        return operand if found is None else found

    node.args = fx.map_arg(node.args, number)
    node.kwargs = fx.map_arg(node.kwargs, number)
    return (node.args, node.kwargs) != before


def keeps_leading(flow: Flow, node: fx.Node, given: tuple[Any, ...], leading: int) -> bool:
    """Whether sizes that a ``view`` is given keep its first dimensions, at every size of them.

    A number would hold for this example alone: a leading size is -1, or the size of that same
    dimension, read from some tensor; those behind are numbers.
    """
    source = node.args[0]
    assert isinstance(source, fx.Node)
    before, after = flow.shapes[source], flow.shapes[node]
    if before[:leading] != after[:leading] or len(given) != len(after):
        return False
    same = all(size == -1 or _position(flow, size) == n for n, size in enumerate(given[:leading]))
    return same and all(isinstance(size, int) for size in given[leading:])


def _number(flow: Flow, size: Any) -> Any:
    """A number that is the network's own: it does not depend on how large the input is."""
    if isinstance(size, (int, float)):
        return size
    if not isinstance(size, fx.Node):
        return None
    if size.op == "call_function" and size.target in _ARITHMETIC:
        assert callable(size.target)
        parts = [_number(flow, part) for part in size.args]
        return None if None in parts else size.target(*parts)
    tensor, dim = _read(flow, size)
    if tensor is None or dim not in _own_dimensions(flow, tensor):
        return None
    return flow.shapes[tensor][dim]


def _position(flow: Flow, size: Any) -> int | None:
    """The dimension whose size a node is, where that depends on the input."""
    tensor, dim = _read(flow, size) if isinstance(size, fx.Node) else (None, 0)
    return dim if tensor is not None and dim not in _own_dimensions(flow, tensor) else None


def _own_dimensions(flow: Flow, tensor: fx.Node) -> tuple[int, ...]:
    """The dimensions of a tensor whose sizes are numbers of units."""
    if tensor in flow.heads:
        return flow.heads[tensor].dims
    if tensor in flow.features:
        return (flow.features[tensor].dim,)
    for node in (tensor, *tensor.users):
        if node.op == "call_module":
            module = flow.net.get_submodule(str(node.target))
            if isinstance(module, nn.Embedding if node is tensor else _WIDTHS):
                return (len(flow.shapes[tensor]) - 1,)
    return ()


def _read(flow: Flow, size: fx.Node) -> tuple[fx.Node | None, int]:
    """The tensor and the dimension that a node reads the size of; None where it is no size."""
    tensor: Any = None
    dim: Any = None
    if size.target == "size" and len(size.args) == 2:
        tensor, dim = size.args
    elif size.target is operator.getitem:
        shape, dim = size.args
        if isinstance(shape, fx.Node) and _is_shape(shape):
            tensor = shape.args[0]
    if tensor not in flow.shapes or not isinstance(dim, int):
        return None, 0
    return tensor, dim % len(flow.shapes[tensor])


def _is_shape(node: fx.Node) -> bool:
    if node.target == "size":
        return len(node.args) == 1
    return node.target is getattr and node.args[1:] == ("shape",)
