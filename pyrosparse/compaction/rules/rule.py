"""Rules: which features of an operation are constant, which are wanted, and what remains."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from pyrosparse.compaction.parts import Select
from pyrosparse.compaction.rules.dimensions import Dimensions


@dataclass(frozen=True)
class Multiples:
    r"""Features that follow from one of them: :math:`y_j = s_j y_r + o_j`.

    among:         (features,) bool; which features these are.
    one:           r, one of them.
    slope, offset: (features,) float64.
    """

    among: Tensor
    one: int
    slope: Tensor
    offset: Tensor


@dataclass
class Features:
    """The known properties of a tensor's features.

    dim:       the dimension that indexes them.
    constant:  (features,) bool; the same number for all inputs and at all positions.
    value:     (features,) float64; that number, 0 for features that are not constant.
    multiples: some that follow from one of them, if there are any.

    >>> Features.varying(1, 3).constant
    tensor([False, False, False])
    """

    dim: int
    constant: Tensor
    value: Tensor
    multiples: Multiples | None = None

    @classmethod
    def varying(cls, dim: int, count: int) -> Features:
        """Features none of which is constant."""
        zeros = torch.zeros(count, dtype=torch.float64)
        return cls(dim, torch.zeros(count, dtype=torch.bool), zeros)

    @classmethod
    def of(cls, dim: int, constant: Tensor, value: Tensor) -> Features:
        """Features some of which are constant; one whose value is not finite is not constant."""
        constant, value = constant & value.isfinite(), value.double()  # of comparisons, it is bool
        return cls(dim, constant, torch.where(constant, value, 0.0))


@dataclass
class Heads:
    """The known properties of features in several dimensions of a tensor: heads times features.

    dims:            the dimensions that index them, the outer ones first.
    sizes:           the sizes of those dimensions.
    constant, value: as in ``Features``, (features,) in row-major order of the sizes.

    >>> Heads((1, 3), (4, 8), torch.zeros(32).bool(), torch.zeros(32)).sizes
    (4, 8)
    """

    dims: tuple[int, ...]
    sizes: tuple[int, ...]
    constant: Tensor
    value: Tensor


class Flow:
    """The graph during its conversion from the masked network to the compact one.

    In the compact graph, every tensor with known ``features`` has exactly those that are
    ``wanted``. A tensor without known features stays whole. Rules that do not support ``heads``
    know nothing about a tensor that has them.

    shapes:   shapes of the old graph's tensors, on the example.
    features: filled in the forward direction, like ``heads``; ``wanted`` (bool masks) and ``live``
              (the remaining nodes) backward, ``new`` (the compact graph's nodes) forward again.
    inputs:   the network's inputs on which a tensor depends; parameters depend on none.
    dimensions: which sizes are the network's own, and which are always equal.
    averages: tensors that sum to 1 over their last dimension.
    sized:    tensors whose sizes are read, so that at least one feature must remain.
    spare:    the number of ``wanted`` features that remain only because heads must have one size.
    parts:    the compact network's modules and tensors by name.
    at_least: the smallest number of inputs and outputs of each layer.
    round_to: the number of features that a layer reads is a multiple of this number, if there are
              enough.
    trained:  whether parameters will still change, so that only zeros are constants.
    """

    def __init__(
        self,
        net: nn.Module,
        shapes: Mapping[fx.Node, torch.Size],
        at_least: int = 0,
        trained: bool = False,
        round_to: int = 1,
    ) -> None:
        self.net = net
        self.shapes = shapes
        self.at_least = at_least
        self.trained = trained
        self.round_to = round_to
        self.features: dict[fx.Node, Features] = {}
        self.heads: dict[fx.Node, Heads] = {}
        self.inputs: dict[fx.Node, set[fx.Node]] = {}
        for node in shapes:
            known = [self.inputs[x] for x in node.all_input_nodes if x in shapes]
            self.inputs[node] = {node} if node.op == "placeholder" else set().union(*known)
        self.dimensions = Dimensions()
        self.averages: set[fx.Node] = set()
        self.wanted: dict[fx.Node, Tensor] = {}
        self.spare: Counter[fx.Node] = Counter()
        self.live: set[fx.Node] = set()
        self.sized: set[fx.Node] = set()
        self.new: dict[fx.Node, fx.Node] = {}
        self.graph = fx.Graph()
        self.parts: dict[str, Any] = {}
        parameters = [p for p in net.parameters() if p.is_floating_point()]
        self.like = parameters[0].detach() if parameters else torch.zeros(())

    def learn(self, node: fx.Node, features: Features | Heads) -> None:
        """Record the known features of a tensor; none of them is wanted yet."""
        if self.trained:
            # Weights stay apart, and only zeros are known.
            known = features.constant & (features.value == 0)
            features = replace(features, constant=known, value=torch.zeros_like(features.value))
            if isinstance(features, Features):
                features.multiples = None
        if isinstance(features, Heads):
            self.heads[node] = features
        else:
            self.features[node] = features
        self.wanted[node] = torch.zeros_like(features.constant)

    def read(self, node: fx.Node, dim: int) -> Features:
        """The features of a tensor along a dimension."""
        known = self.features.get(node)
        if known is not None and known.dim == dim:
            return known
        return Features.varying(dim, self.shapes[node][dim])

    def want(self, node: fx.Node, dim: int, mask: Tensor) -> None:
        """Want features along a dimension; if it is not the known one, want all features."""
        known = self.features.get(node)
        if known is not None and known.dim == dim:
            self.wanted[node] |= mask
        else:
            self.want_all(node)

    def want_all(self, node: fx.Node) -> None:
        """Want a whole tensor."""
        if node in self.wanted:
            self.wanted[node].fill_(True)

    def take(self, node: fx.Node, dim: int, mask: Tensor) -> fx.Node:
        """The new node with exactly these features, all of them wanted before."""
        known = self.features.get(node)
        whole = known is None or known.dim != dim
        present = torch.ones_like(mask) if whole else self.wanted[node]
        return self.narrow(self.new[node], self.from_end(node, dim), present, mask)

    def from_end(self, node: fx.Node, dim: int) -> int:
        """The last dimension as -1: after ``squeeze()`` of one datum a dimension is missing."""
        return -1 if dim == len(self.shapes[node]) - 1 else dim

    def narrow(self, new: fx.Node, dim: int, present: Tensor, mask: Tensor) -> fx.Node:
        """Select some of the features that are present in a new node."""
        if torch.equal(present, mask):
            return new
        positions = (present.cumsum(0) - 1)[mask]
        return self.call(Select(positions.to(self.like.device), dim), [new], f"{new.name}_select")

    def call(self, module: nn.Module, operands: list[fx.Node], name: str) -> fx.Node:
        """Call a module of the compact network, under a new name."""
        taken = {key.partition(".")[0] for key in self.parts} | dict(
            self.net.named_children()
        ).keys()
        stem, number = name, 1
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        self.parts[name] = module
        return self.graph.call_module(name, tuple(operands))

    def copy(self, node: fx.Node, operands: Mapping[fx.Node, fx.Node] | None = None) -> fx.Node:
        """The old operation on new operands: the given ones, otherwise whole tensors."""
        if node.op == "call_module":
            self.parts.setdefault(str(node.target), self.net.get_submodule(str(node.target)))
        elif node.op == "get_attr":
            self.parts[str(node.target)] = attribute(self.net, str(node.target))
        operands = operands or {}
        return self.graph.node_copy(node, lambda old: operands.get(old) or self.new[old])

    def place(self, node: fx.Node, module: nn.Module, *operands: fx.Node) -> fx.Node:
        """Call a module in place of the old one, under the old name."""
        self.parts[str(node.target)] = module
        return self.graph.call_module(str(node.target), operands)

    def tensor(self, values: Tensor) -> Tensor:
        """Numbers with the network's dtype and device."""
        return values.to(self.like)


class Rule:
    """One operation. This base class is the barrier: it knows nothing, and everything stays."""

    def __init__(self, node: fx.Node, module: nn.Module | None = None) -> None:
        self.node = node
        self.module = module

    @property
    def source(self) -> fx.Node:
        """The first operand."""
        return self.node.all_input_nodes[0]

    def learn(self, flow: Flow) -> Features | Heads | None:
        """The known features of the result; None if nothing is known."""
        return None

    def reads(self, operand: fx.Node) -> bool:
        """Whether the new operation still has that operand."""
        return True

    def want(self, flow: Flow) -> None:
        """Want the features of the operands that the wanted part of the result needs."""
        for operand in self.node.all_input_nodes:
            flow.want_all(operand)

    def rewrite(self, flow: Flow) -> fx.Node:
        """The new operation, whose result has exactly the wanted features."""
        return flow.copy(self.node)


def arguments(node: fx.Node, **defaults: Any) -> dict[str, Any]:
    """The arguments of a call by name: positional ones in the order of the defaults.

    >>> graph = fx.Graph()
    >>> node = graph.call_function(torch.flatten, (graph.placeholder("x"), 1))
    >>> arguments(node, input=None, start_dim=0, end_dim=-1)
    {'input': x, 'start_dim': 1, 'end_dim': -1}
    """
    return defaults | dict(zip(defaults, node.args, strict=False)) | dict(node.kwargs)


def with_parameters(module: nn.Module, weight: Tensor | None, bias: Tensor | None) -> nn.Module:
    """A copy of a module with other parameters, trained if the old ones are."""
    # Do not copy the old tensors, which are replaced.
    old = {"weight": module.weight, "bias": module.bias}
    memo: dict[int, Any] = {id(t): None for t in old.values() if t is not None}
    new = copy.deepcopy(module, memo)
    for name, values in (("weight", weight), ("bias", bias)):
        before = old[name] if isinstance(old[name], Tensor) else old["weight"]
        trained = before.requires_grad if isinstance(before, Tensor) else True
        parameter = None
        if values is not None:
            layout = _layout(before) if isinstance(before, Tensor) else torch.preserve_format
            parameter = nn.Parameter(values.detach().clone(memory_format=layout), trained)
        new._parameters[name] = parameter
    return new


def _layout(tensor: Tensor) -> torch.memory_format:
    plain = tensor.dim() != 4 or tensor.is_contiguous()
    if not plain and tensor.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def attribute(net: nn.Module, target: str) -> Any:
    """The object at a dotted name in a network."""
    owner, _, name = target.rpartition(".")
    return getattr(net.get_submodule(owner), name)
