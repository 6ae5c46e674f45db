"""Rewriting a traced step into fewer operations that compute the same values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

aten = torch.ops.aten

_SMALL = 4096
"""Elements below which a tensor's memory is not worth reusing."""

_BATCH_NORMS = ("running_mean", "running_var")


def clean(graph: Graph, literals: dict[str, Tensor]) -> None:
    """Rewrite a step's graph in place; each rule leaves every value as it was, up to rounding.

    graph:    of ATen operations; all that it reads from outside are placeholders.
    literals: placeholders that hold a constant of the program, by name; constants found
              here are added to it.
    """
    _drop_aliases(graph)
    while True:
        size = len(graph.nodes)
        changed = _simplify(graph, literals)
        changed |= _fold_constants(graph, literals)
        changed |= _merge_equal(graph)
        _drop_unused(graph)
        if not changed and len(graph.nodes) == size:
            break
    _fuse(graph, literals)
    _drop_unused(graph)
    _drop_unused_literals(graph, literals)
    graph.lint()


def drop_unused_draws(graph: Graph) -> int:
    """Remove draws that nothing reads, and what only they needed; returns how many there were."""
    count = 0
    for node in reversed(graph.nodes):
        if _is_random(node) and not _mutates_outside(node) and not node.users:
            made = _mutated(node)
            if any(other is not node for value in made for other in value.users):
                continue
            graph.erase_node(node)
            count += 1
    _drop_unused(graph)
    return count


def reuse_memory(graph: Graph) -> None:
    """Let elementwise operations write over operands that nothing reads any more."""
    aliases = _Aliases(graph)
    position = {node: index for index, node in enumerate(graph.nodes)}

    def last_use(node: Node) -> int:
        members = aliases.members(node)
        return max((position[user] for member in members for user in member.users), default=-1)

    for node in list(graph.nodes):
        variant = _IN_PLACE.get(node.target) if node.op == "call_function" else None
        if variant is None or _numel(node) < _SMALL:
            continue
        operand = next(
            (
                candidate
                for candidate in _operands_to_overwrite(node)
                if _same_layout(candidate, node)
                and not aliases.is_outside(candidate)
                and last_use(candidate) == position[node]
                and not any(
                    other is not candidate and aliases.same(other, candidate)
                    for other in node.all_input_nodes
                )
            ),
            None,
        )
        if operand is None:
            continue
        if node.args[0] is not operand:  # a commutative operation, written the other way round
            node.args = (node.args[1], node.args[0], *node.args[2:])
        node.target = variant
        aliases.join(node, operand)


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


def _operands_to_overwrite(node: Node) -> Iterator[Node]:
    first = node.args[0]
    if isinstance(first, Node):
        yield first
    swappable = node.target in _COMMUTATIVE and not node.kwargs and len(node.args) == 2
    if swappable and isinstance(node.args[1], Node):
        yield node.args[1]


# What a value is, and what it shares memory with.


def _value(node: Node) -> Any:
    return node.meta.get("val")


def _numel(node: Any) -> int:
    value = _value(node) if isinstance(node, Node) else None
    return value.numel() if isinstance(value, Tensor) else 0


def _same_layout(one: Node, other: Node) -> bool:
    a, b = _value(one), _value(other)
    return (
        isinstance(a, Tensor)
        and isinstance(b, Tensor)
        and a.shape == b.shape
        and a.dtype == b.dtype
        and a.device == b.device
        and a.stride() == b.stride()
        and 0 not in a.stride()
    )


def _same_value_type(one: Any, node: Node) -> bool:
    a, b = _value(one) if isinstance(one, Node) else None, _value(node)
    return (
        isinstance(a, Tensor)
        and isinstance(b, Tensor)
        and a.shape == b.shape
        and a.dtype == b.dtype
        and a.device == b.device
    )


def _schema(node: Node) -> Any:
    return getattr(node.target, "_schema", None) if node.op == "call_function" else None


def _is_random(node: Node) -> bool:
    return node.op == "call_function" and torch.Tag.nondeterministic_seeded in getattr(
        node.target, "tags", ()
    )


def _mutated(node: Node) -> list[Node]:
    """The arguments that an operation writes to."""
    schema = _schema(node)
    if schema is None:
        return []
    written = []
    for index, argument in enumerate(schema.arguments):
        writes = argument.alias_info is not None and argument.alias_info.is_write
        # The schemas of batch normalisation do not say that they update the running statistics.
        if writes or argument.name in _BATCH_NORMS:
            value = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)
            written += [value] if isinstance(value, Node) else _nodes_of(value)
    return written


def _nodes_of(value: Any) -> list[Node]:
    return (
        [one for one in value if isinstance(one, Node)] if isinstance(value, list | tuple) else []
    )


def _mutates_outside(node: Node) -> bool:
    return any(_root(argument).op == "placeholder" for argument in _mutated(node))


def _viewed(node: Node) -> Node | None:
    """The argument whose memory a result shares, if any."""
    schema = _schema(node)
    if schema is None or not node.args:
        return None
    if node.target is aten._unsafe_view.default or any(
        result.alias_info is not None for result in schema.returns
    ):
        first = node.args[0]
        return first if isinstance(first, Node) else None
    return None


def _root(node: Node) -> Node:
    while (viewed := _viewed(node)) is not None:
        node = viewed
    if node.op == "call_function" and _schema(node) is None and node.args:  # getitem
        container = node.args[0]
        if isinstance(container, Node) and (viewed := _viewed(container)) is not None:
            return _root(viewed)
    return node


class _Aliases:
    """Which nodes share memory, and where in the program it was last written."""

    def __init__(self, graph: Graph) -> None:
        self._members: dict[Node, list[Node]] = {}
        self._written: dict[Node, int] = {}
        self._class: dict[Node, Node] = {}
        for index, node in enumerate(graph.nodes):
            root = self._class.get(found := _root(node), found)
            self._class[node] = root
            self._members.setdefault(root, []).append(node)
            for argument in _mutated(node):
                self._written[self._class[argument]] = index

    def members(self, node: Node) -> list[Node]:
        return self._members[self._class[node]]

    def root(self, node: Node) -> Node:
        return self._class[node]

    def same(self, one: Node, other: Node) -> bool:
        return self._class[one] is self._class[other]

    def is_outside(self, node: Node) -> bool:
        return self._class[node].op != "call_function"

    def last_written(self, node: Node) -> int:
        return self._written.get(self._class[node], -1)

    def join(self, node: Node, other: Node) -> None:
        old, new = self._class[node], self._class[other]
        for member in self._members.pop(old):
            self._class[member] = new
            self._members[new].append(member)


# The rules.


def _drop_aliases(graph: Graph) -> None:
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in (aten.alias.default, aten.detach.default):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _is_number(value: Any, number: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == number


def _simplify(graph: Graph, literals: dict[str, Tensor]) -> bool:
    """Remove operations that return what they are given, and turn constants into numbers."""
    changed = False
    aliases = _Aliases(graph)
    for index, node in enumerate(list(graph.nodes)):
        if node.op != "call_function":
            continue
        changed |= _use_number(node, literals) or _join_factors(graph, node)
        same = _same_as(node)
        # A copy of memory that is written to later must stay a copy.
        if same is not None and (aliases.last_written(same) < index or _viewed(node) is not None):
            node.replace_all_uses_with(same)
            graph.erase_node(node)
            changed = True
    return changed


def _use_number(node: Node, literals: dict[str, Tensor]) -> bool:
    """x * c and x / c with a constant c of no dimensions: c as a Python number."""
    if node.target not in (aten.mul.Tensor, aten.div.Tensor) or len(node.args) != 2:
        return False
    first, second = node.args
    for one, other in ((first, second), (second, first)):
        number = _number_of(other, literals)
        if number is None or not _same_value_type(one, node):
            continue
        if one is second and node.target is aten.div.Tensor:
            continue
        node.args = (one, number)
        return True
    return False


def _number_of(value: Any, literals: dict[str, Tensor]) -> float | None:
    tensor = literals.get(value.name) if isinstance(value, Node) else None
    if tensor is None or not tensor.is_floating_point() or tensor.device.type != "cpu":
        return None
    if tensor.numel() != 1 and any(tensor.stride()):
        return None
    return float(tensor.flatten()[0]) if tensor.numel() else None


def _join_factors(graph: Graph, node: Node) -> bool:
    """(x * a) * b = x * (ab), and y + y = y * 2, which autograd leaves behind for a square."""
    if node.kwargs or len(node.args) != 2:
        return False
    first, second = node.args
    if node.target is aten.add.Tensor and isinstance(first, Node) and first is second:
        node.target, node.args = aten.mul.Tensor, (first, 2.0)
        return True
    if node.target is aten.add.Tensor and isinstance(first, Node) and isinstance(second, Node):
        # (x + y) + y, where autograd adds up the two halves of a square one by one.
        sums = first.target is aten.add.Tensor and not first.kwargs and len(first.users) == 1
        if sums and second in first.args and _same_value_type(second, node):
            rest = first.args[0] if first.args[1] is second else first.args[1]
            if _same_value_type(rest, node):
                node.args, node.kwargs = (rest, second), {"alpha": 2.0}
                return True
    inner = first.args if isinstance(first, Node) and first.target is aten.mul.Tensor else ()
    if (
        node.target is aten.mul.Tensor
        and isinstance(second, float)
        and len(inner) == 2
        and isinstance(inner[1], float)
        and len(first.users) == 1
        and math.isfinite(product := inner[1] * second)
    ):
        node.args = (inner[0], product)
        return True
    return False


def _same_as(node: Node) -> Node | None:
    target, args = node.target, node.args
    first = args[0] if args else None
    if not isinstance(first, Node) or node.kwargs:
        return None
    second = args[1] if len(args) > 1 else None
    inner = first.args[0] if first.op == "call_function" and first.args else None
    match target:
        case aten.t.default | aten.neg.default | aten.reciprocal.default:
            twice = first.target is target and isinstance(inner, Node)
            return inner if twice and _same_value_type(inner, node) else None
        case aten.view.default | aten.expand.default | aten._unsafe_view.default:
            if _same_value_type(first, node):
                return first
            if first.target is target and isinstance(inner, Node):
                node.args = (inner, *args[1:])
            return inner if _same_value_type(inner, node) and first.target is target else None
        case aten.mul.Tensor | aten.div.Tensor:
            if _is_number(second, 1) and _same_value_type(first, node):
                return first
        case aten.add.Tensor | aten.sub.Tensor:
            if _is_number(second, 0) and _same_value_type(first, node):
                return first
        case aten.pow.Tensor_Scalar:
            if _is_number(second, 1) and _same_value_type(first, node):
                return first
        case aten.sum.default | aten.sum.dim_IntList:
            value = _value(first)
            if isinstance(value, Tensor) and not value.dim() and _same_value_type(first, node):
                return first
    return None


_FACTORIES: dict[Any, float] = {
    aten.zeros_like.default: 0.0,
    aten.new_zeros.default: 0.0,
    aten.ones_like.default: 1.0,
    aten.new_ones.default: 1.0,
}
"""Operations whose value does not depend on that of their operand."""

_LARGEST_CONSTANT = 1 << 16
"""Bytes; a larger constant is made anew in every step, so as not to be held all the time."""


def _fold_constants(graph: Graph, literals: dict[str, Tensor]) -> bool:
    changed = False
    aliases = _Aliases(graph)
    for node in list(graph.nodes):
        value = _value(node)
        if (
            node.op != "call_function"
            or not isinstance(value, Tensor)
            or _is_random(node)
            or _mutated(node)
            or "empty" in str(node.target)
            or aliases.last_written(node) >= 0
        ):
            continue
        fill = _FACTORIES.get(node.target)
        inputs = node.all_input_nodes
        if fill is None and any(one.name not in literals for one in inputs):
            continue
        if fill is not None:
            result = _filled(value, fill)
        else:
            args, kwargs = torch.fx.node.map_arg(
                (node.args, node.kwargs), lambda one: literals[one.name]
            )
            result = node.target(*args, **kwargs)
        if result.untyped_storage().nbytes() > _LARGEST_CONSTANT:
            continue
        with graph.inserting_before(node):
            constant = graph.placeholder(f"constant_{len(literals)}")
        literals[constant.name] = result
        constant.meta["val"] = value
        node.replace_all_uses_with(constant)
        graph.erase_node(node)
        changed = True
    _placeholders_first(graph)
    return changed


def _filled(like: Tensor, value: float) -> Tensor:
    empty = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=like.device)
    return empty.fill_(value)


def _placeholders_first(graph: Graph) -> None:
    first = next(iter(graph.nodes))
    for node in list(graph.nodes):
        if node.op == "placeholder" and node is not first:
            first.append(node)
            first = node


def _merge_equal(graph: Graph) -> bool:
    """Compute once what is computed twice from the same operands."""
    changed = False
    seen: dict[Any, tuple[Node, int]] = {}
    aliases = _Aliases(graph)
    for index, node in enumerate(list(graph.nodes)):
        if node.op != "call_function" or _is_random(node) or _mutated(node):
            continue
        if aliases.last_written(node) >= 0 or "empty" in str(node.target):
            continue
        key = _key((node.target, node.args, tuple(sorted(node.kwargs.items()))))
        found = seen.get(key)
        if found is None:
            seen[key] = (node, index)
        elif all(aliases.last_written(one) < found[1] for one in node.all_input_nodes):
            node.replace_all_uses_with(found[0])
            graph.erase_node(node)
            changed = True
    return changed


def _key(value: Any) -> Any:
    # With its type: 1, 1.0 and True are equal, but not the same argument.
    if isinstance(value, list | tuple):
        return tuple(_key(one) for one in value)
    return type(value), str(value) if isinstance(value, float) else value


def _fuse(graph: Graph, literals: dict[str, Tensor]) -> None:
    """x + a * b in one pass over memory."""
    for node in list(graph.nodes):
        if node.target is not aten.add.Tensor or node.kwargs or len(node.args) != 2:
            continue
        for rest, product in (node.args, node.args[::-1]):
            if not (
                isinstance(product, Node)
                and product.target is aten.mul.Tensor
                and len(product.users) == 1
                and product is not rest
                and len(product.args) == 2
                and _same_value_type(rest, node)
                and _same_value_type(product, node)
                and _value(node).is_floating_point()
            ):
                continue
            one, other = product.args
            if isinstance(other, float) and _same_value_type(one, node):
                node.args, node.kwargs = (rest, one), {"alpha": other}
            elif _same_value_type(one, node) and _same_value_type(other, node):
                node.target, node.args = aten.addcmul.default, (rest, one, other)
            else:
                continue
            break


def _drop_unused(graph: Graph) -> None:
    for node in reversed(graph.nodes):
        if node.op == "call_function" and not node.users:
            if not _is_random(node) and not _mutated(node):
                graph.erase_node(node)


def written_inputs(graph: Graph) -> list[Node]:
    """The inputs of a graph that it writes to."""
    roots = [_root(argument) for node in graph.nodes for argument in _mutated(node)]
    return [root for root in dict.fromkeys(roots) if root.op == "placeholder"]


def _drop_unused_literals(graph: Graph, literals: dict[str, Tensor]) -> None:
    for node in list(graph.nodes):
        if node.op == "placeholder" and node.name in literals and not node.users:
            del literals[node.name]
            graph.erase_node(node)


def own_outputs(graph: Graph, parameters: Iterable[Tensor]) -> None:
    """Give every gradient memory of its own, laid out as its parameter."""
    aliases = _Aliases(graph)
    (output,) = [node for node in graph.nodes if node.op == "output"]
    loss, *gradients = output.args[0]
    taken = {aliases.root(loss)}
    owned: list[Any] = [loss]
    for gradient, parameter in zip(gradients, parameters, strict=True):
        if not isinstance(gradient, Node):
            owned.append(gradient)
            continue
        shared = aliases.is_outside(gradient) or aliases.root(gradient) in taken
        taken.add(aliases.root(gradient))
        if shared or _value(gradient).stride() != parameter.stride():
            value = _value(gradient)
            options = {"dtype": value.dtype, "device": value.device}
            layout = (list(parameter.shape), list(parameter.stride()))
            with graph.inserting_before(output):
                empty = graph.call_function(aten.empty_strided.default, layout, options)
                gradient = graph.call_function(aten.copy_.default, (empty, gradient))
        owned.append(gradient)
    output.args = (tuple(owned),)
