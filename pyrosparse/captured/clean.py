"""Rewriting a traced step into fewer operations that compute the same values.

No rule changes operations on memory that is written to: there, the order of reads matters.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from pyrosparse.captured.aliases import (
    LAYOUT,
    Aliases,
    is_empty,
    is_floating_point,
    is_random,
    layout_of,
    same_layout,
    written_by,
)

aten = torch.ops.aten

_LARGEST_CONSTANT = 1 << 16
"""Bytes; a larger constant is made anew in every step, so as not to be held all the time."""

_MODERATE = 2.0**20
"""Factors up to this size (and down to its inverse) are joined: products of larger ones may
overflow where the step's own order does not."""

_FACTORIES: dict[Any, float] = {
    aten.zeros_like.default: 0.0,
    aten.new_zeros.default: 0.0,
    aten.ones_like.default: 1.0,
    aten.new_ones.default: 1.0,
}
"""Operations whose value does not depend on that of their operand."""


def clean(graph: Graph, constants: dict[str, Tensor], storages: Mapping[str, int]) -> None:
    """Rewrite a step's graph; no rule changes a value, up to rounding.

    graph:     a graph of ATen operations; everything that it reads from outside is a placeholder.
    constants: the values of the placeholders that are constants of the program, by name; new
               constants are added here.
    storages:  by the name of a placeholder, an identifier of its memory.
    """
    _drop_aliases(graph)
    rules: list[Callable[[Graph, Aliases, dict[str, Tensor]], bool]] = [
        _use_numbers,
        _join_factors,
        _drop_identities,
        _fold_constants,
        _merge_equal,
    ]
    drop_unused(graph)
    aliases, unchanged = Aliases(graph, storages), 0
    for rule in itertools.cycle(rules):
        if rule(graph, aliases, constants):
            drop_unused(graph)
            aliases, unchanged = Aliases(graph, storages), 0
        else:
            unchanged += 1
        if unchanged == len(rules):
            break
    _fuse_products(graph, aliases)
    drop_unused(graph)
    for node in list(graph.nodes):
        if node.op == "placeholder" and node.name in constants and not node.users:
            del constants[node.name]
            graph.erase_node(node)


def drop_unused(graph: Graph) -> None:
    """Remove operations whose value nothing reads; draws and writes stay."""
    for node in reversed(graph.nodes):
        used = node.users or is_random(node) or written_by(node)
        if node.op == "call_function" and not used:
            graph.erase_node(node)


def drop_unused_draws(graph: Graph) -> None:
    """Remove draws that nothing reads, and operations that only they needed."""
    removed = True
    while removed:
        removed = False
        for node in reversed(graph.nodes):
            fresh = all(is_empty(one) and list(one.users) == [node] for one in written_by(node))
            if is_random(node) and not node.users and fresh:
                graph.erase_node(node)
                removed = True
        drop_unused(graph)


def _calls(graph: Graph, aliases: Aliases) -> list[Node]:
    """The operations that a rule may change."""
    return [
        node
        for node in graph.nodes
        if node.op == "call_function"
        and not is_random(node)
        and not is_empty(node)
        and not written_by(node)
        and not any(map(aliases.is_written, [node, *node.all_input_nodes]))
    ]


def _replace(graph: Graph, node: Node, other: Node) -> None:
    node.replace_all_uses_with(other)
    graph.erase_node(node)


def _drop_aliases(graph: Graph) -> None:
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in (aten.alias.default, aten.detach.default):
            _replace(graph, node, node.all_input_nodes[0])


def _use_numbers(graph: Graph, aliases: Aliases, constants: dict[str, Tensor]) -> bool:
    """x * c and x / c with a constant c of one value: c as a Python number."""
    changed = False
    for node in _calls(graph, aliases):
        if node.target not in (aten.mul.Tensor, aten.div.Tensor) or len(node.args) != 2:
            continue
        orders = [node.args, node.args[::-1]] if node.target is aten.mul.Tensor else [node.args]
        for one, other in orders:
            number = _number_of(other, constants)
            if number is not None and same_layout(one, node) and is_floating_point(node):
                node.args = (one, number)
                changed = True
                break
    return changed


def _number_of(node: Any, constants: dict[str, Tensor]) -> float | None:
    tensor = constants.get(node.name) if isinstance(node, Node) else None
    if tensor is None or not tensor.is_floating_point() or not tensor.is_cpu:
        return None
    values = tensor.flatten()
    if not len(values) or not bool((values == values[0]).all()):
        return None
    if len(values) > 1 and not values[0]:  # zeros may have both signs
        return None
    return float(values[0])


def _join_factors(graph: Graph, aliases: Aliases, constants: dict[str, Tensor]) -> bool:
    """Simplify the operations that autograd makes of a square: (x a) b = x (ab), y + y = 2 y,
    (x + y) + y = x + 2 y."""
    changed = False
    for node in _calls(graph, aliases):
        if node.kwargs or len(node.args) != 2 or not is_floating_point(node):
            continue
        first: Any = node.args[0]
        second: Any = node.args[1]
        single = isinstance(first, Node) and len(first.users) == 1 and not first.kwargs
        if node.target is aten.add.Tensor and first is second:
            node.target, node.args = aten.mul.Tensor, (first, 2.0)
        elif (
            node.target is aten.add.Tensor
            and single
            and first.target is aten.add.Tensor
            and second in first.args
            and not any(map(aliases.is_written, first.all_input_nodes))
            and all(same_layout(one, node) for one in (*first.args, second))
        ):
            rest = first.args[first.args[0] is second]
            node.args, node.kwargs = (rest, second), {"alpha": 2.0}
        elif (
            node.target is aten.mul.Tensor
            and single
            and first.target is aten.mul.Tensor
            and _is_moderate(second)
            and _is_moderate(first.args[1])
            and not any(map(aliases.is_written, first.all_input_nodes))
        ):
            node.args = (first.args[0], first.args[1] * second)
        else:
            continue
        changed = True
    return changed


def _is_moderate(number: Any) -> bool:
    return isinstance(number, float) and 1 / _MODERATE <= abs(number) <= _MODERATE


def _drop_identities(graph: Graph, aliases: Aliases, constants: dict[str, Tensor]) -> bool:
    """Remove operations that return their input, and views of views."""
    changed = False
    for node in _calls(graph, aliases):
        changed |= _view_at_once(node)
        same = _same_as(node)
        if same is not None and same_layout(same, node) and not aliases.is_written(same):
            _replace(graph, node, same)
            changed = True
    return changed


def _view_at_once(node: Node) -> bool:
    first: Any = node.args[0] if node.args else None
    if not isinstance(first, Node) or first.target is not node.target:
        return False
    inner: Any = first.args[0]
    views = node.target is aten.view.default and _is_contiguous(inner)
    expands = node.target is aten.expand.default and -1 not in node.args[1]  # type: ignore[operator]
    if views or expands:
        node.args = (inner, *node.args[1:])
    return views or expands


def _is_contiguous(node: Any) -> bool:
    layout = layout_of(node)
    return layout is not None and layout.contiguous


def _same_as(node: Node) -> Node | None:
    first: Any = node.args[0] if node.args else None
    if not isinstance(first, Node) or node.kwargs:
        return None
    second = node.args[1] if len(node.args) > 1 else None
    number = second if isinstance(second, int | float) and not isinstance(second, bool) else None
    match node.target:
        case aten.t.default | aten.neg.default | aten.view.default | aten._unsafe_view.default:
            inner = first.args[0] if first.target is node.target else None
            if same_layout(first, node) and second is not None:  # a view of the same shape
                return first
            return inner if isinstance(inner, Node) else None
        case aten.expand.default:
            return first
        case aten.mul.Tensor | aten.div.Tensor | aten.pow.Tensor_Scalar if number == 1:
            return first if is_floating_point(node) else None
        case aten.add.Tensor | aten.sub.Tensor if number == 0:
            return first if is_floating_point(node) else None
        case aten.sum.default | aten.sum.dim_IntList:
            layout = layout_of(first)
            return first if layout is not None and not layout.shape else None
    return None


def _fold_constants(graph: Graph, aliases: Aliases, constants: dict[str, Tensor]) -> bool:
    """Compute now the values that are the same in every step."""
    changed = False
    for node in _calls(graph, aliases):
        layout = layout_of(node)
        if layout is None or layout.bytes > _LARGEST_CONSTANT:
            continue
        fill: Any = _FACTORIES.get(node.target)
        if node.target is aten.full_like.default:
            fill = node.args[1]
        if fill is not None:
            memory = torch.empty_strided(
                layout.shape, layout.strides, dtype=layout.dtype, device=layout.device
            )
            result = memory.fill_(fill)
        elif all(one.name in constants for one in node.all_input_nodes):
            arguments = (node.args, node.kwargs)
            args, kwargs = torch.fx.node.map_arg(arguments, lambda one: constants[one.name])
            result = node.target(*args, **kwargs)  # type: ignore[operator]
        else:
            continue
        name = next(name for i in itertools.count() if (name := f"constant_{i}") not in constants)
        with graph.inserting_before(next(iter(graph.nodes))):
            constant = graph.placeholder(name)
        constant.meta[LAYOUT] = layout
        constants[constant.name] = result
        _replace(graph, node, constant)
        changed = True
    return changed


def _merge_equal(graph: Graph, aliases: Aliases, constants: dict[str, Tensor]) -> bool:
    """Compute once the values that are computed twice from the same operands."""
    changed = False
    seen: dict[Any, Node] = {}
    for node in _calls(graph, aliases):
        found = seen.setdefault(_key((node.target, node.args, sorted(node.kwargs.items()))), node)
        if found is not node:
            _replace(graph, node, found)
            changed = True
    return changed


def _key(value: Any) -> Any:
    # With its type: 1, 1.0 and True are equal, but not the same argument.
    if isinstance(value, list | tuple):
        return tuple(_key(one) for one in value)
    return type(value), repr(value) if isinstance(value, float) else value


def _fuse_products(graph: Graph, aliases: Aliases) -> None:
    """x + a b in one pass over memory."""
    for node in _calls(graph, aliases):
        if node.target is not aten.add.Tensor or node.kwargs or len(node.args) != 2:
            continue
        for rest, product in (node.args, node.args[::-1]):
            if not (
                isinstance(product, Node)
                and product.target is aten.mul.Tensor
                and len(product.users) == 1
                and product is not rest
                and same_layout(rest, node)
                and same_layout(product, node)
                and is_floating_point(node)
                and not any(map(aliases.is_written, product.all_input_nodes))
            ):
                continue
            one, other = product.args[0], product.args[1]
            if _is_moderate(other) and same_layout(one, node):
                node.args, node.kwargs = (rest, one), {"alpha": other}
            elif same_layout(one, node) and same_layout(other, node):
                node.target, node.args = aten.addcmul.default, (rest, one, other)
            else:
                continue
            break
