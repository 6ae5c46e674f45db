"""Elementwise operations on two or three tensors, and tensors that are filled with a number."""

from __future__ import annotations

import torch
from torch import fx

from pyrosparse.compaction.rules.joining import Together
from pyrosparse.compaction.rules.pointwise import Pointwise
from pyrosparse.compaction.rules.rule import Features, Flow, arguments


class Three(Together):
    """Of three operands, tensors or numbers: ``where``, ``lerp``."""

    count = 3

    def combine(self, *operands: Features) -> Features:
        values = [one.value for one in operands]
        if _name(self.node) == "where":
            # The method is called on what is taken where the condition holds.
            place = 0 if self.node.target is torch.where else 1
            values[place] = values[place] != 0
        constant = torch.stack([one.constant for one in operands]).all(0)
        return Features.of(self.dim, constant, self.function(*values))


class Filled(Pointwise):
    """A tensor of the size of another, filled with a number."""

    def learn(self, flow: Flow) -> Features | None:
        x = flow.features.get(self.source)
        given = arguments(self.node, input=None, fill_value=None)["fill_value"]
        number = {"zeros_like": 0.0, "ones_like": 1.0}.get(_name(self.node), given)
        if x is None or not isinstance(number, int | float):
            return None
        value = torch.full_like(x.value, number)
        return Features.of(x.dim, torch.ones_like(x.constant), value)


class Reordered(Pointwise):
    """Positions in another order, of each feature alone: ``flip`` and ``roll``."""

    def learn(self, flow: Flow) -> Features | None:
        x = super().learn(flow)
        flips = _name(self.node) == "flip"
        defaults = {"dims": None} if flips else {"shifts": 0, "dims": None}
        dims = arguments(self.node, input=None, **defaults)["dims"]
        if flips and len(self.node.args) > 2:
            dims = self.node.args[1:]  # as in x.flip(1, 2)
        dims = [dims] if isinstance(dims, int) else dims
        if x is None or not isinstance(dims, list | tuple):
            return None
        rank = len(flow.shapes[self.source])
        if not all(isinstance(dim, int) and dim % rank != x.dim for dim in dims):
            return None
        return x


class Cumulated(Pointwise):
    """Sums along positions, which leave zeros zero: ``cumsum``."""

    def learn(self, flow: Flow) -> Features | None:
        x = flow.features.get(self.source)
        dim = arguments(self.node, input=None, dim=None)["dim"]
        if x is None or not isinstance(dim, int) or dim % len(flow.shapes[self.source]) == x.dim:
            return None
        return Features.of(x.dim, x.constant & (x.value == 0), torch.zeros_like(x.value))


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))
