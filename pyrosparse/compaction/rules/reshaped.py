"""Positions in other dimensions: the features stay what they are, and may stand elsewhere."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from pyrosparse.compaction.rules.dimensions import Dimension
from pyrosparse.compaction.rules.rule import Features, Flow, arguments
from pyrosparse.compaction.rules.shaping import Moved, merged
from pyrosparse.compaction.rules.sizes import given_sizes, is_size_of, read_size


class Reshaped(Moved):
    """``(N, T, C) -> (N * T, C)`` and ``(N, C, T) -> (N, C, H, W)``.

    A tensor's elements stay in order, so that its features stay apart from each other where the
    numbers of elements before them and behind them do not change.
    """

    def learn(self, flow: Flow) -> Features | None:
        x = flow.features.get(self.source)
        if x is None or self.source is not self.node.args[0]:
            return None
        before, after = flow.shapes[self.source], flow.shapes[self.node]
        places = [
            dim
            for dim in range(len(after))
            if (after[:dim].numel(), after[dim]) == (before[: x.dim].numel(), before[x.dim])
        ]
        if len(places) != 1:
            return None  # with sizes of 1 it may be this dimension or that
        self.old_dim, self.dim = x.dim, places[0]
        if self._unflattens():
            at = arguments(self.node, input=None, dim=None, sizes=None)["dim"]
            known = isinstance(at, int) and at % len(before) != x.dim
        elif self._flattens():
            start, end = merged(self.node, self.module, len(before))
            known = not start <= x.dim <= end
        else:
            self.sizes = given_sizes(self.node)
            known = len(self.sizes) == len(after) and self._always(flow)
        return replace(x, dim=self.dim) if known else None

    def reads(self, operand: fx.Node) -> bool:
        if self._keeps_arguments() or operand is self.source:
            return True
        others = [size for dim, size in enumerate(self.sizes) if dim != self.dim]
        return operand in others

    def rewrite(self, flow: Flow) -> fx.Node:
        if self._keeps_arguments():
            return super().rewrite(flow)
        wanted = flow.wanted[self.node]
        operand = flow.take(self.source, self.old_dim, wanted)
        sizes = list(self.sizes)
        sizes[self.dim] = int(wanted.sum())
        sizes = fx.map_arg(sizes, lambda size: flow.new[size])
        return flow.graph.call_method("reshape", (operand, *sizes))

    def _keeps_arguments(self) -> bool:
        return self._flattens() or self._unflattens()

    def _unflattens(self) -> bool:
        return self.node.target in ("unflatten", torch.unflatten)

    def _flattens(self) -> bool:
        return self.module is not None or self.node.target in ("flatten", torch.flatten)

    def _always(self, flow: Flow) -> bool:
        """Whether the features stay apart for every size of the input, not only the example's."""
        count = flow.shapes[self.source][self.old_dim]
        old = [(self.source, dim) for dim in range(len(flow.shapes[self.source]))]
        known = self.sizes[self.dim] == count
        known |= is_size_of(flow, self.sizes[self.dim], self.source, self.old_dim)
        if not known and self.sizes[self.dim] != -1:
            return False
        # The number of elements does not change: of three parts, two decide about the third.
        pairs = (
            (self.sizes[: self.dim], old[: self.old_dim]),
            (self.sizes[self.dim + 1 :], old[self.old_dim + 1 :]),
        )
        counts = [[_elements(flow, part) for part in pair] for pair in pairs]
        return known + sum(new is not None and new == old for new, old in counts) >= 2


def _elements(flow: Flow, sizes: Iterable[Any]) -> tuple[int, Counter[Dimension]] | None:
    """A product of sizes, as a number times sizes that depend on the input; None if not known.

    sizes: numbers, nodes that read them, and dimensions of tensors.
    """
    own, others = 1, Counter[Dimension]()
    for size in sizes:
        place = read_size(flow, size) if isinstance(size, fx.Node) else size
        if isinstance(place, int) and place > 0:
            own *= place
        elif isinstance(place, tuple):
            for factor in flow.dimensions.factors(place):
                if flow.dimensions.own(*factor):
                    own *= flow.shapes[factor[0]][factor[1]]
                else:
                    others[factor] += 1
        elif isinstance(size, fx.Node) and size.target is operator.mul:
            inner = _elements(flow, size.args)
            if inner is None:
                return None
            own, others = own * inner[0], others + inner[1]
        else:
            return None
    return own, others
