"""Networks that choose by the sizes of their inputs: what they choose on an example."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from pyrosparse.compaction.calls import call_name
from pyrosparse.compaction.rules.rule import attribute
from pyrosparse.compaction.rules.sizes import is_shape

BRANCH = (
    "the forward of this network chooses by the sizes of its inputs, and for these sizes it "
    "chooses other operations than for those with which it was compacted: compact the original "
    "with an example of these sizes"
)
"""The message of conditions on sizes that must hold for a graph to be that of the network."""
_SIZED_BY_VALUES = (
    "argwhere", "bincount", "item", "masked_select", "nonzero", "repeat_interleave", "tolist",
    "unique", "unique_consecutive",
)  # fmt: skip


def is_branch(node: fx.Node) -> bool:
    """Whether a node asserts a condition on sizes by which the network chose a branch."""
    return node.target is torch._assert and BRANCH in node.args


class ExampleValues:
    """The values of the nodes of a graph in the making; nothing is computed twice.

    root:    the network that is traced; example: its inputs.
    running: whether something is being computed, with modules that are not to be traced.
    """

    def __init__(self, root: nn.Module, example: tuple[Any, ...]) -> None:
        self.running = False
        self._root = root
        self._example = example
        self._values: dict[fx.Node, Any] = {}

    def of(self, node: fx.Node) -> Any:
        """The value of a node for the example."""
        needed, stack = set(), [node]
        while stack:
            one = stack.pop()
            if one not in self._values and one not in needed:
                needed.add(one)
                stack += one.all_input_nodes
        inputs = [one for one in node.graph.nodes if one.op == "placeholder"]
        self.running = True
        try:
            with torch.no_grad():
                for one in node.graph.nodes:
                    if one in needed and one in inputs:
                        given = self._example[inputs.index(one)]
                        self._values[one] = given.clone() if isinstance(given, Tensor) else given
                    elif one in needed:
                        self._values[one] = self._result(one)
        finally:
            self.running = False
        return self._values[node]

    def _result(self, node: fx.Node) -> Any:
        args, kwargs = fx.map_arg((node.args, node.kwargs), self._values.__getitem__)
        if node.op == "get_attr":
            return attribute(self._root, str(node.target))
        if node.op == "call_module":
            return self._root.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)


def whole_shape(node: fx.Node) -> fx.Node | None:
    """The node that reads the shape of a tensor of which a node is the whole or a part."""
    while node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node if is_shape(node) else None


def reads_only_sizes(node: fx.Node) -> bool:
    """Whether a number is computed from sizes of tensors, and not from what is in them."""
    return _is_number(node) and not _depends_on_values(node)


def _is_number(node: fx.Node) -> bool:
    """Whether a node is computed by Python from sizes of tensors."""
    stack = [node]
    while stack:
        one = stack.pop()
        read = one.target is getattr and one.args[1] in ("shape", "ndim")
        read |= one.op == "call_method" and one.target in ("size", "dim", "numel", "ndimension")
        plain = getattr(one.target, "__module__", None) in ("_operator", "builtins", "math")
        if not read and (one.op != "call_function" or not plain):
            return False
        stack += [] if read else one.all_input_nodes
    return True


def _depends_on_values(number: fx.Node) -> bool:
    """Whether a tensor behind a number may have a size that depends on what is in tensors, as that
    of ``unique``."""
    seen, stack = {number}, [number]
    while stack:
        one = stack.pop()
        picks = one.target is operator.getitem and not all(map(_is_number, one.all_input_nodes[1:]))
        if call_name(one) in _SIZED_BY_VALUES or picks:
            return True
        stack += [x for x in one.all_input_nodes if x not in seen]
        seen |= {*one.all_input_nodes}
    return False
