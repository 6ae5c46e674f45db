"""The memory of a graph's results: their own, or that of operands no longer needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from pyrosparse.captured.aliases import LAYOUT, Aliases, Layout, layout_of, same_layout

aten = torch.ops.aten

_SMALL = 4096
"""Elements below which a tensor's memory is not worth reusing."""

_IN_PLACE: dict[Any, Any] = {
    aten.add.Tensor: aten.add_.Tensor,
    aten.sub.Tensor: aten.sub_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.div.Tensor: aten.div_.Tensor,
    aten.addcmul.default: aten.addcmul_.default,
    aten.exp.default: aten.exp_.default,
    aten.log.default: aten.log_.default,
    aten.neg.default: aten.neg_.default,
    aten.sqrt.default: aten.sqrt_.default,
    aten.rsqrt.default: aten.rsqrt_.default,
    aten.reciprocal.default: aten.reciprocal_.default,
    aten.relu.default: aten.relu_.default,
    aten.tanh.default: aten.tanh_.default,
    aten.sigmoid.default: aten.sigmoid_.default,
    aten.clamp_min.default: aten.clamp_min_.default,
    aten.pow.Tensor_Scalar: aten.pow_.Scalar,
}
_COMMUTATIVE = {aten.mul.Tensor, aten.add.Tensor}


def reuse_memory(graph: Graph) -> None:
    """Let elementwise operations overwrite operands that nothing reads any more."""
    aliases = Aliases(graph)
    position = {node: index for index, node in enumerate(graph.nodes)}

    def last_use(node: Node) -> int:
        members = aliases.members(node)
        return max((position[user] for member in members for user in member.users), default=-1)

    for node in list(graph.nodes):
        variant = _IN_PLACE.get(node.target) if node.op == "call_function" else None
        layout = layout_of(node)
        if variant is None or layout is None or layout.elements < _SMALL:
            continue
        for operand in _operands_to_overwrite(node):
            others = [one for one in node.all_input_nodes if one is not operand]
            if (
                same_layout(operand, node)
                and 0 not in layout.strides
                and not aliases.is_outside(operand)
                and last_use(operand) == position[node]
                and not any(aliases.same(one, operand) for one in others)
            ):
                if node.args[0] is not operand:
                    node.args = (operand, node.args[0])
                node.target = variant
                aliases.join(node, operand)
                break


def _operands_to_overwrite(node: Node) -> Iterator[Node]:
    first = node.args[0]
    if isinstance(first, Node):
        yield first
    swappable = node.target in _COMMUTATIVE and not node.kwargs and len(node.args) == 2
    if swappable and isinstance(node.args[1], Node):
        yield node.args[1]


def own_outputs(graph: Graph, parameters: Iterable[Tensor]) -> None:
    """Give loss and gradients memory of their own; gradients get the layout of their parameters."""
    aliases = Aliases(graph)
    (output,) = [node for node in graph.nodes if node.op == "output"]
    loss, *gradients = output.args[0]
    taken: list[Node] = []
    results: list[Any] = []
    layouts = [layout_of(loss), *map(Layout.of, parameters)]
    for result, like in zip([loss, *gradients], layouts, strict=True):
        if isinstance(result, Node):
            own = layout_of(result)
            assert own is not None and like is not None  # loss and gradients are tensors
            shared = aliases.is_outside(result) or any(aliases.same(result, o) for o in taken)
            taken.append(result)
            if shared or own.strides != like.strides:
                sizes = (list(like.shape), list(like.strides))
                options: dict[str, Any] = {"dtype": own.dtype, "device": own.device}
                with graph.inserting_before(output):
                    empty = graph.call_function(aten.empty_strided.default, sizes, options)
                    result = graph.call_function(aten.copy_.default, (empty, result))
                empty.meta[LAYOUT] = result.meta[LAYOUT] = like
        results.append(result)
    output.args = (tuple(results),)
