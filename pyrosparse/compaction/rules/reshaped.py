"""Positions in other dimensions: the features stay what they are, and may stand elsewhere."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from pyrosparse.compaction.rules.rule import Features, Flow, arguments
from pyrosparse.compaction.rules.shaping import Moved, merged
from pyrosparse.compaction.rules.sizes import given_sizes, is_size_of


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
        if self.node.target in ("unflatten", torch.unflatten):
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
        return self._flattens() or self.node.target in ("unflatten", torch.unflatten)

    def _flattens(self) -> bool:
        return self.module is not None or self.node.target in ("flatten", torch.flatten)

    def _always(self, flow: Flow) -> bool:
        """Whether the features stay apart for every size of the input, not only the example's."""
        before, after = flow.shapes[self.source], flow.shapes[self.node]
        count = before[self.old_dim]
        fixed = self.sizes[self.dim] == count or self._is_size(flow, self.dim, self.old_dim)
        if not fixed and self.sizes[self.dim] != -1:
            return False
        behind = len(before) - self.old_dim
        same_lead = self.dim == self.old_dim and all(
            self._is_size(flow, dim, dim) for dim in range(self.dim)
        )
        # What is the network's own is on both sides as large as in the example.
        own_rest = all(isinstance(size, int) and size > 0 for size in self.sizes[self.dim + 1 :])
        same_rest = own_rest and flow.dimensions.own(
            self.source, *range(self.old_dim + 1, len(before))
        )
        same_rest |= len(after) - self.dim == behind and all(
            self._is_size(flow, len(after) - back, len(before) - back) for back in range(1, behind)
        )
        # The number of elements does not change: of three parts, two decide about the third.
        return same_lead + same_rest + fixed >= 2

    def _is_size(self, flow: Flow, dim: int, old: int) -> bool:
        return is_size_of(flow, self.sizes[dim], self.source, old)
