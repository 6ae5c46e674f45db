"""Ties between layers: which unit of a layer is which input feature of another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from pyrosparse.compaction.cut import exact_inputs, generic
from pyrosparse.compaction.graph import learn
from pyrosparse.compaction.rules import find
from pyrosparse.compaction.rules.mixing import Mixing
from pyrosparse.compaction.rules.rule import Features, Flow, Heads, Rule
from pyrosparse.compaction.trace import refuse_other_programs, trace
from pyrosparse.compaction.written_out import written_out


@dataclass(frozen=True)
class Tie:
    """The units of one layer that another layer reads.

    producer, consumer: names of dense or convolutional layers.
    units: int64, (input features of the consumer,): the producer's unit of each feature, -1 if it
           comes from elsewhere, or from several units.

    >>> Tie("fc1", "fc2", torch.tensor([0, 1, -1])).units.max()
    tensor(1)
    """

    producer: str
    consumer: str
    units: Tensor

    def __repr__(self) -> str:
        tied = int((self.units >= 0).sum())
        return (
            f"Tie: {tied} of {len(self.units)} inputs of {self.consumer!r} are units of "
            f"{self.producer!r}"
        )


def unit_ties(net: nn.Module, inputs: tuple[Any, ...]) -> list[Tie]:
    """Find which input features of each layer vanish with which unit of another.

    Between the two layers there may be activations, normalisations, pools and changes of shape. A
    feature that depends on more than one unit (through a residual sum, for example) is not tied;
    neither are features of grouped transposed convolutions.

    Constant features are propagated once through the network; with units of a layer silent, only as
    far as that makes a difference.

    net:    any module that torch.fx can trace; it does not change.
    inputs: the inputs of the network.

    Raises ValueError if the network cannot be traced.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    >>> (tie,) = unit_ties(net, (torch.ones(1, 1, 4, 4),))
    >>> tie, tie.units
    (Tie: 8 of 8 inputs of '3' are units of '0', tensor([0, 0, 0, 0, 1, 1, 1, 1]))
    """
    plain = generic(net)
    inputs = exact_inputs(inputs)
    refuse_other_programs(net, inputs)
    with torch.no_grad():
        graph = trace(plain, len(inputs))
        sizes = written_out(plain, graph, inputs)
    rules, barriers = find(graph, plain)
    flow = Flow(plain, sizes)
    learn(graph, rules, barriers, flow)
    layers = [rule for rule in rules.values() if isinstance(rule, Mixing)]
    whole = {rule.node: _constant_inputs(rule, flow) for rule in layers}
    ties = []
    for producer in layers:
        count = len(flow.features[producer.node].constant)
        codes = torch.arange(count)
        units: dict[fx.Node, Tensor] = {}
        # The bits of its number identify a unit: for each bit, one half of the units is silent,
        # and then the other half.
        for digit in range(max(1, (count - 1).bit_length())):
            one = (codes >> digit) & 1 == 1
            with_one = _without(producer, one, rules, flow)
            with_zero = _without(producer, ~one, rules, flow)
            for node in with_one.keys() | with_zero.keys() | units.keys():
                constant = with_one.get(node, whole[node])
                clear = constant ^ with_zero.get(node, whole[node])
                known = units.get(node, torch.full(clear.shape, -1 if digit else 0))
                clear &= known >= 0
                units[node] = torch.where(clear, known + (constant.long() << digit), -1)
        ties += [
            Tie(str(producer.node.target), str(consumer.node.target), units[consumer.node])
            for consumer in layers
            if consumer.node in units and (units[consumer.node] >= 0).any()
        ]
    return ties


def _constant_inputs(layer: Mixing, flow: Flow) -> Tensor:
    """Which input features of a layer are the same for all inputs of the network."""
    return flow.read(layer.source, layer.dim(flow)).constant


def _without(
    producer: Mixing, silent: Tensor, rules: Mapping[fx.Node, Rule], flow: Flow
) -> dict[fx.Node, Tensor]:
    """The constant inputs of the layers for which it makes a difference if some units of a layer
    have no weights. The flow does not change.

    silent: bool, (units,).
    """
    before: dict[fx.Node, Features | Heads | None] = {}
    known = flow.features[producer.node]
    bias = torch.where(silent, producer.bias(), known.value)
    changed: Features | Heads | None = Features.of(known.dim, known.constant | silent, bias)
    for node, rule in rules.items():
        if node is not producer.node:
            if before.keys().isdisjoint(node.all_input_nodes):
                continue
            changed = rule.learn(flow)
        old = flow.features.get(node) or flow.heads.get(node)
        if not _same(old, changed):
            before[node] = old
            _set(flow, node, changed)
    found = {
        node: _constant_inputs(rule, flow)
        for node, rule in rules.items()
        if isinstance(rule, Mixing) and rule.source in before
    }
    for node, old in before.items():
        _set(flow, node, old)
    return found


def _same(one: Features | Heads | None, other: Features | Heads | None) -> bool:
    if one is None or other is None or type(one) is not type(other):
        return one is other
    where = [(x.dims, x.sizes) if isinstance(x, Heads) else x.dim for x in (one, other)]
    return (
        where[0] == where[1]
        and torch.equal(one.constant, other.constant)
        and torch.equal(one.value, other.value)
    )


def _set(flow: Flow, node: fx.Node, features: Features | Heads | None) -> None:
    flow.features.pop(node, None)
    flow.heads.pop(node, None)
    if features is not None:
        flow.learn(node, features)
