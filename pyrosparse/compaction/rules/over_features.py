"""Sums, means and norms over the features, and division by their norm."""

from __future__ import annotations

import operator

import torch
from torch import fx

from pyrosparse.compaction.rules.rule import Features, Flow, Rule, arguments
from pyrosparse.compaction.rules.shaping import Mean, Total


class OverFeatures(Rule):
    r"""A mean, a sum or a norm over the features.

    What is zero adds nothing to sums and norms. To a mean, constants add a number: if k of d
    features remain, :math:`\bar x = \tfrac kd \bar x_{\text{kept}} + \tfrac 1d \sum c_i`. A
    maximum reads all.
    """

    def __init__(self, rule: Mean, x: Features) -> None:
        super().__init__(rule.node)
        self.averages = rule.node.target in ("mean", torch.mean)
        self.adds = isinstance(rule, Total)
        self.keeps_dimension = rule.keeps_dimension
        self.x = x

    def learn(self, flow: Flow) -> Features | None:
        return Features.varying(self.x.dim, 1) if self.keeps_dimension else None

    def want(self, flow: Flow) -> None:
        gone = self.x.constant & (self.averages | (self.adds & (self.x.value == 0)))
        self.kept = ~gone
        self.kept[0] |= not self.kept.any()
        flow.want(self.source, self.x.dim, self.kept)

    def rewrite(self, flow: Flow) -> fx.Node:
        operand = flow.take(self.source, self.x.dim, self.kept)
        new = flow.copy(self.node, {self.source: operand})
        if not self.averages or self.kept.all():
            return new
        share = float(self.kept.double().mean())
        new = flow.graph.call_function(operator.mul, (new, share))
        number = float(self.x.value[~self.kept].sum()) / len(self.kept)
        return flow.graph.call_function(operator.add, (new, number)) if number else new


class Normalize(Rule):
    """Division by a norm, ``F.normalize``: over the features, or over positions. Zero stays zero,
    and adds nothing to the norm."""

    def learn(self, flow: Flow) -> Features | None:
        x = flow.features.get(self.source)
        given = arguments(self.node, input=None, p=2.0, dim=1, eps=1e-12, out=None)
        power, dim = given["p"], given["dim"]
        if x is None or not isinstance(dim, int) or self.node.all_input_nodes != [self.source]:
            return None
        if not isinstance(power, (int, float)) or power <= 0:
            return None
        self.over_features = dim % len(flow.shapes[self.source]) == x.dim
        return Features.of(x.dim, x.constant & (x.value == 0), torch.zeros_like(x.value))

    def want(self, flow: Flow) -> None:
        x = flow.features[self.node]
        self.takes = flow.wanted[self.node].clone()
        if self.over_features:
            self.takes |= ~x.constant
        flow.want(self.source, x.dim, self.takes)

    def rewrite(self, flow: Flow) -> fx.Node:
        dim = flow.features[self.node].dim
        operand = flow.take(self.source, dim, self.takes)
        new = flow.copy(self.node, {self.source: operand})
        return flow.narrow(new, dim, self.takes, flow.wanted[self.node])


def with_reduction(rule: Rule, flow: Flow) -> Rule:
    """The rule for a mean, a sum or a norm that is taken over features too; else the given one."""
    x = flow.features.get(rule.source) if rule.node.all_input_nodes else None
    if x is None or not isinstance(rule, Mean):
        return rule
    over = rule.over(flow)
    return OverFeatures(rule, x) if over and x.dim in over else rule
