"""Heads: features of a tensor in several dimensions, and operations on them."""

from __future__ import annotations

import operator
from dataclasses import replace

import torch
from torch import Tensor, fx

from pyrosparse.compaction.parts import Select
from pyrosparse.compaction.rules.pointwise import Elementwise, Pointwise
from pyrosparse.compaction.rules.regular import block, regular
from pyrosparse.compaction.rules.rule import Features, Flow, Heads, Rule, arguments
from pyrosparse.compaction.rules.shaping import (
    Flatten,
    Permute,
    Slice,
    added_dimensions,
    is_fixed,
    merged,
    order,
)
from pyrosparse.compaction.rules.sizes import given_sizes, keeps_leading


def with_heads(rule: Rule, flow: Flow) -> Rule:
    """The rule for an operation if its operand has heads, or gets them; else the given rule."""
    node = rule.node
    source = node.args[0] if node.args else None
    if (
        type(rule) is Flatten
        and source in flow.features
        and _more_dimensions(flow, node)
        and not added_dimensions(flow, node)
    ):
        return Split(node, rule.module)
    if type(rule) in _ON_HEADS and source in flow.heads:
        return _ON_HEADS[type(rule)](node, rule.module)
    return rule


def take_heads(flow: Flow, node: fx.Node, mask: Tensor) -> fx.Node:
    """The new node with exactly these elements of a tensor's heads, all of them wanted."""
    return narrow_heads(flow, node, flow.new[node], flow.wanted[node], mask)


def narrow_heads(flow: Flow, node: fx.Node, new: fx.Node, present: Tensor, mask: Tensor) -> fx.Node:
    """Select some of the elements of a tensor's heads that are present in a new node."""
    if torch.equal(present, mask):
        return new
    known = flow.heads[node]
    count, rank = len(known.dims), len(flow.shapes[node])
    last = tuple(range(rank - count, rank))
    positions = (present.cumsum(0) - 1)[mask].to(flow.like.device)
    new = flow.graph.call_function(torch.movedim, (new, known.dims, last))
    new = flow.graph.call_function(torch.flatten, (new, rank - count))
    new = flow.call(Select(positions, rank - count), [new], f"{new.name}_select")
    new = flow.graph.call_function(torch.unflatten, (new, -1, block(mask, known.sizes)))
    return flow.graph.call_function(torch.movedim, (new, last, known.dims))


class HeadsRule(Rule):
    """An operation whose result has heads: all remaining heads have the same number of features."""

    def learn(self, flow: Flow) -> Heads | None:
        raise NotImplementedError

    def wanted(self, flow: Flow) -> Tensor:
        """The wanted features of the result, and those that complete them to heads of one size."""
        wanted = regular(flow.wanted[self.node], flow.heads[self.node].sizes)
        flow.spare[self.node] += int((wanted & ~flow.wanted[self.node]).sum())
        flow.wanted[self.node] = wanted
        return wanted


class Split(HeadsRule):
    """(..., features) -> (..., heads, features of each): ``view``, ``reshape``, ``unflatten``."""

    def learn(self, flow: Flow) -> Heads | None:
        x = flow.features.get(self.source)
        before, after = flow.shapes[self.source], flow.shapes[self.node]
        leading = len(before) - 1
        if x is None or x.dim != leading or before[:leading] != after[:leading]:
            return None
        if self.node.target in ("unflatten", torch.unflatten):
            given = arguments(self.node, input=None, dim=None, sizes=None)
            if given["dim"] not in (-1, leading) or self.node.all_input_nodes != [self.source]:
                return None
        elif not keeps_leading(flow, self.node, given_sizes(self.node), leading):
            return None
        dims = tuple(range(leading, len(after)))
        return Heads(dims, tuple(after[leading:]), x.constant, x.value)

    def reads(self, operand: fx.Node) -> bool:
        return operand is self.source

    def want(self, flow: Flow) -> None:
        wanted = self.wanted(flow)
        flow.want(self.source, len(flow.shapes[self.source]) - 1, wanted)
        flow.spare[self.source] += flow.spare[self.node]

    def rewrite(self, flow: Flow) -> fx.Node:
        wanted, sizes = flow.wanted[self.node], flow.heads[self.node].sizes
        operand = flow.take(self.source, len(flow.shapes[self.source]) - 1, wanted)
        return flow.graph.call_function(torch.unflatten, (operand, -1, block(wanted, sizes)))


class Merge(Rule):
    """(..., heads, features of each) -> (..., features): ``view``, ``reshape``, ``flatten``."""

    def learn(self, flow: Flow) -> Features | None:
        x, shape = flow.heads[self.source], flow.shapes[self.source]
        leading = len(shape) - len(x.dims)
        if x.dims != tuple(range(leading, len(shape))):
            return None
        if self.module is not None or self.node.target in ("flatten", torch.flatten):
            if merged(self.node, self.module, len(shape)) != (leading, len(shape) - 1):
                return None
        elif not keeps_leading(flow, self.node, given_sizes(self.node), leading):
            return None
        if len(flow.shapes[self.node]) != leading + 1:
            return None
        return Features.of(leading, x.constant, x.value)

    def reads(self, operand: fx.Node) -> bool:
        return operand is self.source

    def want(self, flow: Flow) -> None:
        flow.wanted[self.source] |= flow.wanted[self.node]

    def rewrite(self, flow: Flow) -> fx.Node:
        dim, wanted = flow.features[self.node].dim, flow.wanted[self.node]
        flat = flow.graph.call_function(torch.flatten, (flow.new[self.source], dim))
        return flow.narrow(flat, dim, flow.wanted[self.source], wanted)


class PointwiseHeads(HeadsRule):
    """Operations that change no element: dropout in evaluation mode, ``contiguous``."""

    def learn(self, flow: Flow) -> Heads | None:
        return flow.heads[self.source]

    def want(self, flow: Flow) -> None:
        flow.wanted[self.source] |= self.wanted(flow)
        flow.spare[self.source] += flow.spare[self.node]

    def rewrite(self, flow: Flow) -> fx.Node:
        operand = take_heads(flow, self.source, flow.wanted[self.node])
        return flow.copy(self.node, {self.source: operand})


class ElementwiseHeads(PointwiseHeads):
    """The same function of every element, usually a scaling by a number."""

    def learn(self, flow: Flow) -> Heads | None:
        if self.node.all_input_nodes != [self.source]:
            return None
        x = flow.heads[self.source]
        value = Elementwise(self.node, self.module).apply(x.value)
        known = Features.of(0, x.constant, value)
        return replace(x, constant=known.constant, value=known.value)


class PermutedHeads(PointwiseHeads):
    """Dimensions in another order."""

    def learn(self, flow: Flow) -> Heads | None:
        x = flow.heads[self.source]
        places = order(self.node, len(flow.shapes[self.source]))
        return None if places is None else replace(x, dims=tuple(map(places.index, x.dims)))


class PartOfHeads(HeadsRule):
    """Indexing with slices and numbers, in at most one of the dimensions of the heads.

    It separates queries, keys and values: (3, N, heads, T, features)[0] -> (N, heads, ...).
    """

    def learn(self, flow: Flow) -> Heads | None:
        x, index = flow.heads[self.source], self.node.args[1]
        given = index if isinstance(index, tuple) else (index,)
        if not all(isinstance(i, int) or is_fixed(i) for i in given):
            return None
        rank = len(flow.shapes[self.source])
        self.index = [*given, *[slice(None)] * (rank - len(given))]
        chosen = [n for n, dim in enumerate(x.dims) if self.index[dim] != slice(None)]
        if len(chosen) > 1 or len(given) > rank:
            return None
        self.at = chosen[0] if chosen else None
        places = torch.arange(len(x.constant)).view(*x.sizes)
        places = places[tuple(self.index[dim] for dim in x.dims)]
        self.places = places.flatten()
        if not len(self.places):
            return None
        dims = tuple(
            dim - sum(isinstance(i, int) for i in self.index[:dim])
            for dim in x.dims
            if not isinstance(self.index[dim], int)
        )
        return Heads(dims, tuple(places.shape), x.constant[self.places], x.value[self.places])

    def want(self, flow: Flow) -> None:
        wanted = self.wanted(flow)
        self.takes = torch.zeros_like(flow.wanted[self.source])
        self.takes[self.places[wanted]] = True
        flow.wanted[self.source] |= self.takes
        flow.spare[self.source] += flow.spare[self.node]

    def rewrite(self, flow: Flow) -> fx.Node:
        x, present = flow.heads[self.source], flow.wanted[self.source]
        index = list(self.index)
        where = None if self.at is None else self._where(x, present)
        if where is None:
            operand = take_heads(flow, self.source, self.takes)
            if self.at is not None:
                dim = x.dims[self.at]
                index[dim] = 0 if isinstance(index[dim], int) else slice(None)
            return flow.graph.call_function(operator.getitem, (operand, tuple(index)))
        # Take the whole part, and select from it: usually it is all wanted, and needs no copy.
        index[x.dims[self.at or 0]] = where
        part = flow.graph.call_function(operator.getitem, (flow.new[self.source], tuple(index)))
        wanted = flow.wanted[self.node]
        return narrow_heads(flow, self.node, part, present[self.places], wanted)

    def _where(self, x: Heads, present: Tensor) -> int | slice | None:
        """The position of the part among the present elements, if it is the same in every head."""
        assert self.at is not None
        given, size = self.index[x.dims[self.at]], x.sizes[self.at]
        places = torch.arange(size)[given].reshape(-1)
        if len(places) != places[-1] - places[0] + 1:
            return None
        # (heads, members): those above this dimension, and the present elements of each.
        members = present.view(*x.sizes, 1).flatten(self.at + 1).any(-1).reshape(-1, size)
        members = members[members.any(1)]
        starts, counts = members[:, : places[0]].sum(1), members[:, places].sum(1)
        if (starts != starts[0]).any() or (counts != counts[0]).any():
            return None
        start = int(starts[0])
        return start if isinstance(given, int) else slice(start, start + int(counts[0]))


_ON_HEADS: dict[type[Rule], type[Rule]] = {
    Flatten: Merge,
    Pointwise: PointwiseHeads,
    Elementwise: ElementwiseHeads,
    Permute: PermutedHeads,
    Slice: PartOfHeads,
}


def _more_dimensions(flow: Flow, node: fx.Node) -> bool:
    source = node.all_input_nodes[0]
    return node in flow.shapes and len(flow.shapes[node]) > len(flow.shapes[source])
