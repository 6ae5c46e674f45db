"""Which units of a layer are which input features of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyrosparse.compaction.compact import learn
from pyrosparse.compaction.cut import generic
from pyrosparse.compaction.layers import TRANSPOSED
from pyrosparse.compaction.rules import find
from pyrosparse.compaction.rules.mixing import Mixing
from pyrosparse.compaction.rules.rule import Flow
from pyrosparse.compaction.trace import shapes, trace


@dataclass(frozen=True)
class Tie:
    """The units of one layer that another layer reads.

    producer, consumer: names of dense or convolutional layers.
    units: int64, (input features of the consumer,): the producer's unit that each comes from, -1
           where it comes from elsewhere, or from several.

    >>> Tie("fc1", "fc2", torch.tensor([0, 1, -1])).units.max()
    tensor(1)
    """

    producer: str
    consumer: str
    units: Tensor


def unit_ties(net: nn.Module, inputs: tuple[Any, ...]) -> list[Tie]:
    """Find which input features of each layer vanish with which unit of another.

    Between the two there may be activations, normalisations, pools and changes of shape. A feature
    that more than one unit reaches (through a residual sum, say) is tied to none; neither are those
    of grouped transposed convolutions.

    net:    any module that torch.fx can trace; it is left as it is.
    inputs: what the network is called with.

    Raises ValueError where the network cannot be traced.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    >>> unit_ties(net, (torch.ones(1, 1, 4, 4),))
    [Tie(producer='0', consumer='3', units=tensor([0, 0, 0, 0, 1, 1, 1, 1]))]
    """
    plain = generic(net)
    inputs = tuple(x.detach().cpu().double() if isinstance(x, Tensor) else x for x in inputs)
    with torch.no_grad():
        graph = trace(plain, len(inputs))
        sizes = shapes(plain, graph, inputs)

    def constant_inputs() -> dict[str, Tensor]:
        """Of every layer, which of its input features are the same for all inputs."""
        rules, barriers = find(graph, plain)
        layers = [rule for rule in rules.values() if isinstance(rule, Mixing)]
        flow = Flow(plain, sizes)
        learn(graph, rules, barriers, flow)
        return {
            str(rule.node.target): flow.read(rule.source, rule.dim(flow)).constant
            for rule in layers
        }

    ties = []
    for producer in constant_inputs():
        layer = plain.get_submodule(producer)
        transposed = isinstance(layer, TRANSPOSED)
        if transposed and layer.groups != 1:
            continue
        weight = plain.get_parameter(f"{producer}.weight").detach()
        by_unit = weight.transpose(0, 1) if transposed else weight
        whole = by_unit.clone()
        codes = torch.arange(len(whole))
        units: dict[str, Tensor] = {}
        # A unit is known by the digits of its number: each is asked for with a half of the units
        # silent, and then with the other half.
        for digit in range(max(1, (len(whole) - 1).bit_length())):
            one = (codes >> digit) & 1 == 1
            by_unit[one] = 0
            with_one = constant_inputs()
            by_unit.copy_(whole)
            by_unit[~one] = 0
            with_zero = constant_inputs()
            by_unit.copy_(whole)
            for consumer, constant in with_one.items():
                known = units.setdefault(consumer, torch.zeros(len(constant), dtype=torch.int64))
                clear = (constant ^ with_zero[consumer]) & (known >= 0)
                units[consumer] = torch.where(clear, known + (constant.long() << digit), -1)
        ties += [
            Tie(producer, consumer, found)
            for consumer, found in units.items()
            if (found >= 0).any()
        ]
    return ties
