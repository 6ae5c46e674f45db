"""``einops.rearrange`` and ``repeat``, and ``einsum``, as operations that have rules."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import fx, nn


def write_patterns_out(
    graph: fx.Graph, net: nn.Module, shapes: Mapping[fx.Node, torch.Size]
) -> bool:
    """Put operations of torch in place of those that are given as a pattern of axes.

    ``rearrange`` and ``repeat`` become ``unflatten``, ``permute``, ``expand`` and ``flatten``;
    ``einsum`` of two tensors with one axis to sum over becomes a product of matrices.

    shapes: of the graph's tensors. Those of the new nodes are not among them.

    Returns whether there was one.
    """
    ranks = {node: len(shape) for node, shape in shapes.items()}
    wrote = False
    for node in list(graph.nodes):
        with graph.inserting_before(node):
            new = _rearranged(graph, node, net, ranks) or _product(graph, node, ranks)
        if new is not None:
            ranks[new] = ranks[node]
            node.replace_all_uses_with(new)
            graph.erase_node(node)
            wrote = True
    return wrote


def _rearranged(
    graph: fx.Graph, node: fx.Node, net: nn.Module, ranks: Mapping[fx.Node, int]
) -> fx.Node | None:
    einops = sys.modules.get("einops")
    x = node.args[0] if node.args else None
    if einops is None or not isinstance(x, fx.Node) or x not in ranks:
        return None
    if node.op == "call_function" and node.target in (einops.rearrange, einops.repeat):
        pattern: Any = node.args[1] if len(node.args) == 2 else None
        sizes: dict[str, Any] = dict(node.kwargs)
    elif node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
        layer: Any = net.get_submodule(str(node.target))
        if (type(layer).__module__, type(layer).__name__) != ("einops.layers.torch", "Rearrange"):
            return None
        pattern, sizes = layer.pattern, dict(layer.axes_lengths)
    else:
        return None
    if not isinstance(pattern, str) or pattern.count("->") != 1:
        return None
    return rearranged(graph, x, pattern, sizes, ranks[x])


def rearranged(
    graph: fx.Graph, x: fx.Node, pattern: str, sizes: Mapping[str, Any], rank: int
) -> fx.Node | None:
    """A tensor with its axes as a pattern of einops says; None for patterns that are not known.

    sizes: of axes, by name: numbers, or nodes that read them.
    rank:  the number of the tensor's dimensions.

    >>> graph = fx.Graph()
    >>> y = rearranged(graph, graph.placeholder("x"), "b n (h d) -> b h n d", {"h": 2}, 3)
    >>> _ = graph.output(y)
    >>> fx.GraphModule({}, graph)(torch.zeros(1, 5, 8)).shape
    torch.Size([1, 2, 5, 4])
    """
    left, right = (_groups(side) for side in pattern.split("->"))
    rest = [[f"_{number}"] for number in range(rank - len(left) + 1)]
    left, right = (
        [*chain(*(rest if group == ["..."] else [group] for group in side))]
        for side in (left, right)
    )
    before, after = [*chain(*left)], [*chain(*right)]
    named = [axis for axis in after if axis != "1"]
    new = [axis for axis in named if axis not in before]
    known = len(left) == rank and [] not in left and [] not in right
    if not known or not all(axis.isidentifier() or axis == "1" for axis in before + after):
        return None
    old = [axis for axis in before if axis != "1"]
    if {*old} != {*named} - {*new} or len({*named}) + len({*old}) != len(named) + len(old):
        return None
    if any(axis not in sizes for axis in new):
        return None
    lengths = [tuple(1 if axis == "1" else sizes.get(axis, -1) for axis in g) for g in left]
    if any(len(group) > 1 and group.count(-1) > 1 for group in lengths):
        return None
    for dim, group in reversed(list(enumerate(lengths))):
        if len(group) > 1:
            x = graph.call_function(torch.unflatten, (x, dim, group))
    for dim, axis in reversed(list(enumerate(before))):
        if axis == "1":
            x = graph.call_method("squeeze", (x, dim))
    order = [old.index(axis) for axis in named if axis not in new]
    if order != sorted(order):
        x = graph.call_method("permute", (x, *order))
    for dim, axis in enumerate(after):
        if axis == "1" or axis in new:
            x = graph.call_method("unsqueeze", (x, dim))
    if new:
        x = graph.call_method("expand", (x, *(sizes[a] if a in new else -1 for a in after)))
    at = len(after)
    for group in reversed(right):
        at -= len(group)
        if len(group) > 1:
            x = graph.call_method("flatten", (x, at, at + len(group) - 1))
    return x


def _groups(side: str) -> list[list[str]]:
    """The axes in each dimension: "b (h w)" is [["b"], ["h", "w"]]."""
    found = re.findall(r"\(([^()]*)\)|(\S+)", side)
    return [[single] if single else composed.split() for composed, single in found]


def _product(graph: fx.Graph, node: fx.Node, ranks: Mapping[fx.Node, int]) -> fx.Node | None:
    einops = sys.modules.get("einops")
    if node.op != "call_function" or len(node.args) != 3 or node.kwargs:
        return None
    if node.target is torch.einsum:
        equation, *operands = node.args
        split: Any = _letters
    elif einops is not None and node.target is einops.einsum:
        *operands, equation = node.args
        split = str.split
    else:
        return None
    if not isinstance(equation, str) or equation.count("->") != 1 or equation.count(",") != 1:
        return None
    if not all(isinstance(x, fx.Node) and x in ranks for x in operands):
        return None
    inputs, result = equation.split("->")
    first, second = (split(side) for side in inputs.split(","))
    return product(graph, operands, (first, second), split(result))


def _letters(axes: str) -> list[str]:
    return list(axes.replace(" ", ""))


def product(
    graph: fx.Graph,
    operands: Sequence[Any],
    axes: tuple[Sequence[str], Sequence[str]],
    result: Sequence[str],
) -> fx.Node | None:
    """An ``einsum`` as a product of matrices; None where it is none.

    axes: of the two operands, by name; result: those of the result.

    >>> graph = fx.Graph()
    >>> q, k = graph.placeholder("q"), graph.placeholder("k")
    >>> _ = graph.output(product(graph, [q, k], ("bihd", "bjhd"), "bhij"))
    >>> fx.GraphModule({}, graph)(torch.ones(1, 2, 3, 4), torch.ones(1, 5, 3, 4)).shape
    torch.Size([1, 3, 2, 5])
    """
    first, second = axes
    everything = [*first, *second, *result]
    if not all(axis.isalnum() for axis in everything):
        return None
    if any(len({*side}) != len(side) for side in (first, second, result)):
        return None
    batch = [axis for axis in result if axis in first and axis in second]
    summed = [axis for axis in first if axis in second and axis not in result]
    rows = [axis for axis in first if axis not in second]
    columns = [axis for axis in second if axis not in first]
    if len(summed) != 1 or len(rows) != 1 or len(columns) != 1 or not batch:
        return None
    if {*result} != {*batch, *rows, *columns}:
        return None
    left = _ordered(graph, operands[0], first, [*batch, *rows, *summed])
    right = _ordered(graph, operands[1], second, [*batch, *summed, *columns])
    new = graph.call_function(torch.matmul, (left, right))
    return _ordered(graph, new, [*batch, *rows, *columns], result)


def _ordered(graph: fx.Graph, x: Any, axes: Sequence[str], wanted: Sequence[str]) -> Any:
    order = [list(axes).index(axis) for axis in wanted]
    return x if order == sorted(order) else graph.call_method("permute", (x, *order))
